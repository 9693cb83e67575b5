"""The lock of a run folder: one process at a time, and no lock that nobody holds keeps others out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.paths import importing

from physteer.cli import main
from physteer.errors import PhysteerError, Terminated
from physteer.files import temporary_name
from physteer.run_folder import LOCK, lock, locked, remove_temporaries


def refused(folder: Path) -> str:
    with pytest.raises(PhysteerError) as error, locked(folder, "second"):
        pass
    return str(error.value)


def left_behind(folder: Path, **changed: object) -> Path:
    """Write the lock of a run that goes on nowhere; as this process would write it, but for what is changed."""
    with locked(folder, "predict"):
        owner = json.loads((folder / LOCK).read_text())
        (folder / "kept").touch()
    (folder / LOCK).write_text(json.dumps(owner | changed))
    return folder / LOCK


def test_one_process_at_a_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    folder = tmp_path / "runs/a"
    with pytest.raises(ZeroDivisionError), locked(folder, "predict"):
        said = refused(folder)
        assert said.startswith(f"{folder} is in use by `physteer predict` (process {os.getpid()} on ")
        assert ", SLURM job 77, for 0 s)" in said and f"delete {folder / LOCK} if it has ended" in said
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []  # what was made for the lock alone is gone
    with locked(folder, "predict"):
        (folder / "result").touch()
    assert os.listdir(folder) == ["result"]


def test_another_host_is_believed_while_it_shows_signs_of_life(tmp_path: Path, capfd) -> None:
    lock = left_behind(tmp_path, host="node7", pid=12)
    said = refused(tmp_path)
    assert "(process 12 on node7, for 0 s); its last sign of life is " in said and str(lock) in said
    os.utime(lock, (lock.stat().st_mtime - 400,) * 2)
    with locked(tmp_path, "predict"):
        pass
    assert "it has shown no sign of life for 7 min" in capfd.readouterr().err


@pytest.mark.parametrize("how", ["ended", "other start", "requeued", "empty"])
def test_a_lock_that_was_left_behind_is_taken_over_and_told(tmp_path: Path, capfd, monkeypatch, how: str) -> None:
    if how == "ended":
        with subprocess.Popen(["true"]) as process:
            process.wait()
        left_behind(tmp_path, pid=process.pid)
    elif how == "other start":  # the number of a process is given again
        left_behind(tmp_path, process_start="1")
    elif how == "requeued":
        lock = left_behind(tmp_path, host="node7", job="77", restarts=0)
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        assert "SLURM job 77" in refused(tmp_path)  # another step of the same start
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    else:
        lock = left_behind(tmp_path)
        lock.write_text("")
        assert "in use by another run;" in refused(tmp_path)  # perhaps it is about to be written
        os.utime(lock, (lock.stat().st_mtime - 400,) * 2)
    with locked(tmp_path, "predict"):
        assert "in use by `physteer predict`" in refused(tmp_path)
    said = capfd.readouterr().err
    assert said.startswith(f"physteer: taking over {tmp_path} from ") and said.count("\n") == 1
    assert os.listdir(tmp_path) == ["kept"]


RACE = """
import sys, time
from pathlib import Path
from physteer.errors import PhysteerError
from physteer.run_folder import locked
while time.time() < float(sys.argv[2]):
    pass
try:
    with locked(Path(sys.argv[1]), "predict"):
        print("holds", flush=True)
        time.sleep(1)
except PhysteerError:
    print("refused")
"""


@pytest.mark.parametrize("stale", [False, True])
def test_one_of_many_gets_it(tmp_path: Path, stale: bool) -> None:
    if stale:
        left_behind(tmp_path, process_start="1")
    command = [sys.executable, "-c", RACE, str(tmp_path), str(time.time() + 0.7)]
    several = [subprocess.Popen(command, env=importing(__file__), stdout=subprocess.PIPE, text=True) for _ in range(5)]
    assert sorted(process.communicate()[0] for process in several) == ["holds\n", *["refused\n"] * 4]


def test_a_holder_that_was_taken_over_stops(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "_SIGN_OF_LIFE", 0.02)

    def terminated(*args: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with pytest.raises(Terminated), locked(tmp_path, "predict"):
            content = json.loads((tmp_path / LOCK).read_text()) | {"token": "another"}
            (tmp_path / LOCK).write_text(json.dumps(content))
            signal.pause()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads((tmp_path / LOCK).read_text()) == content  # not ours to remove


def test_temporaries_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    ours = [temporary_name(tmp_path / name) for name in ("a.yaml", "tables/deep/b.csv", "elsewhere/c.csv")]
    others = [tmp_path / "tables/.notes.tmp", tmp_path / "a.yaml"]
    for path in (*ours, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_temporaries(tmp_path, ("tables", "none"))
    assert [path.exists() for path in (*ours, *others)] == [False, False, True, True, True]


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "report", "demo", "data"])
def test_every_command_that_writes_a_folder_keeps_to_the_lock(tmp_path: Path, tiny_well: Path, capsys, command) -> None:
    run = tmp_path / "run"
    words = {"report": [str(run)], "demo": ["--out", str(run)], "data": ["diffusion", str(run)]}.get(command)
    if words is None:
        network = {"hidden_dim": 32, "intermediate_dim": 8, "n_blocks": 1, "n_heads": 2, "tokens_2d": 8}
        settings = {"model.network": json.dumps(network), "data.path": tiny_well, "trainer.default_root_dir": run}
        words = [f"--{name}={value}" for name, value in settings.items()]
    with locked(run, "fit"):
        assert main([command, *words]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"physteer: error: {run} is in use by `physteer fit`") and said.count("\n") == 1
        assert os.listdir(run) == [LOCK]
