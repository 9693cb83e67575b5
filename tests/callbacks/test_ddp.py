"""Two processes (gloo, on the CPU) through the real command line: the same results as one."""

import contextlib
import csv
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.experiments import (
    NETWORK,
    callback,
    experiment,
    finished,
    forget,
    in_two_processes,
    two_processes,
    weights_and_concept,
)

from physteer.cli import main
from physteer.concepts import Concept
from physteer.run_folder import LOCK


def arrays(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        found |= {f"@{name}": np.asarray(value) for name, value in file.attrs.items()}
    return found


def scores(path: Path) -> dict[tuple, float]:
    with path.open() as file:
        return {tuple(row.values())[:4]: float(row["vrmse"]) for row in csv.DictReader(file)}


def metrics(run: Path) -> dict[tuple, float]:
    """The values of a run's table by the rest of their rows."""
    with (run / "tables/metrics.csv").open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    found = {row[:-1]: float(row[-1] or "nan") for row in rows}
    assert len(found) == len(rows)  # each once
    return found


def check_same_results(run: Path, other: Path) -> None:
    """Rollouts, tables and the concept of two runs agree."""
    names = {str(path.relative_to(run)) for path in run.rglob("*.hdf5")}
    assert names == {str(path.relative_to(other)) for path in other.rglob("*.hdf5")}
    for name in names:
        one, two = arrays(run / name), arrays(other / name)
        assert one.keys() == two.keys()
        for key, value in one.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(two[key], value, rtol=1e-4, atol=1e-5, err_msg=f"{name} {key}")
            else:
                assert np.array_equal(value, two[key]), f"{name} {key}"
    one, two = metrics(run), metrics(other)
    assert one.keys() == two.keys() and len({key[0] for key in one}) == 9
    far = {k: (v, two[k]) for k, v in one.items() if not math.isclose(v, two[k], rel_tol=1e-5, abs_tol=1e-5)}
    assert not {key: pair for key, pair in far.items() if not all(map(math.isnan, pair))}
    one, two = (Concept.load(where / "concepts/c_blocks.1.safetensors") for where in (run, other))
    assert one.counts == two.counts == {"feature": 6, "control": 2}
    assert (one.direction - two.direction).abs().max() <= 1e-6 * one.direction.abs().max()
    assert (one.site, one.model, one.data, one.classes) == (two.site, two.model, two.data, two.classes)


def stopped(folder: Path, run: Path, words: list, pattern: str, stop: Callable[[int], None]) -> tuple[int, str]:
    """Start two processes, and stop them when there is a new file.

    `stop` gets the number of the first process. Returns the exit status, and what was said but for "going on".
    """
    present = set(run.glob(pattern))
    process = subprocess.Popen(
        in_two_processes(*words),
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while set(run.glob(pattern)) <= present and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        stop(process.pid)
        said = process.communicate(timeout=30)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, "".join(line for line in said.splitlines(True) if "going on" not in line)


def launched_by(pid: int) -> int:
    """The process that another has launched."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return weights_and_concept(tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def config(folder, tiny_well):
    """Nine windows: the second process has one less, and batches of other sizes than a single process has."""
    classes = {"feature": "Reynolds >= 2000", "control": "Reynolds <= 500 and trajectory < 2"}  # one is in neither
    return experiment(
        folder / "predict.yaml",
        model={"checkpoint": str(folder / "walrus.safetensors"), "jitter_seed": 3},
        data={
            "path": str(tiny_well),
            "predict_split": "train",
            "exclude": ["Reynolds_2e2_Schmidt_2e0"],
            "rollout_steps": 2,
            "batch_size": 2,
        },
        callbacks=[
            callback("Capture", name="c", sites=["blocks.1"], match_initial_conditions=False, **classes),
            callback("Steer", concept=str(folder / "concept.safetensors"), strengths=[-0.2, 0.2]),
            callback("Controls", random=2),
            "Diagnostics",
            "RolloutWriter",
        ],
    )


@pytest.fixture(scope="module")
def one(folder, config):
    """The run folder of one process."""
    assert main(["predict", "--config", str(config), "--trainer.default_root_dir", str(folder / "one")]) == 0
    return folder / "one"


def test_predict_writes_each_trajectory_once_and_finds_the_same(folder, config, one):
    said = two_processes(folder, "predict", "--config", config, "--trainer.default_root_dir", folder / "two")
    assert said.stderr.count("\n") == 1 and said.stdout == "", said.stderr  # the first process alone reports progress
    files = {str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()}
    assert len([name for name in files if name.endswith(".hdf5")]) == 4 * 9
    journal = {f"journal/start_001_process_000{rank}.safetensors" for rank in (0, 1)}
    assert {str(p.relative_to(folder / "two")) for p in (folder / "two").rglob("*") if p.is_file()} == files | journal
    check_same_results(one, folder / "two")


def test_killed_in_two_processes_it_goes_on_in_one_and_the_other_way_round(folder, config, one, capfd):
    run = folder / "changing"
    words = ["predict", "--config", config, "--trainer.default_root_dir", run]
    status, said = stopped(folder, run, words, "rollouts/**/*.hdf5", lambda first: os.kill(first, signal.SIGTERM))
    assert status == 143 and said == "physteer: stopping after this step\nphysteer: stopped by SIGTERM\n"

    # one process is killed: the first has no word from it, and most of the time waits for none
    status, said = stopped(
        folder, run, words, "journal/*.safetensors", lambda first: os.kill(launched_by(first), signal.SIGKILL)
    )
    assert status == 137 and said.startswith("physteer: error: process 1 of this run was killed by SIGKILL "), said
    assert said.count("\n") == 1 and not (run / LOCK).exists()
    before = {path: path.stat().st_ino for path in run.rglob("*.hdf5") if path.stem in finished(run)}
    assert main(list(map(str, words))) == 0
    assert "going on" in capfd.readouterr().err
    check_same_results(one, run)

    # one window is left for two processes: of those that are in no class, and so in no sum
    left = "shear_flow_Reynolds_2e2_Schmidt_5e-1_trajectory0002_start0000"
    forget(run, left)
    assert len(finished(run)) == 8
    said = two_processes(folder, *words).stderr
    assert "8 of 9 windows are done" in said, said
    assert sorted(finished(run)) == sorted({key[0] for key in metrics(one)})  # each once
    check_same_results(one, run)
    assert all(path.stat().st_ino == inode for path, inode in before.items() if path.stem != left)


def test_fit_and_scores(folder, tiny_well):
    config = experiment(
        folder / "fit.yaml",
        model={"network": NETWORK, "warmup_steps": 2},
        data={"path": str(tiny_well), "rollout_steps": 4, "batch_size": 3, "one_step_every": 4},
        callbacks=["ExportWeights"],
        max_steps=4,
        val_check_interval=4,
        default_root_dir=str(folder / "fit"),
    )
    words = ["--config", config, "--ckpt_path", folder / "fit/checkpoints/last.ckpt"]
    tested = ["test", *words, "--trainer.default_root_dir", folder / "two"]
    said = two_processes(folder, "fit", "--config", config, then=tested)
    assert said.stdout.startswith("step 4: VRMSE one step ")
    assert len([line for line in said.stdout.splitlines() if line.startswith("step ")]) == 1
    validated = scores(folder / "fit/tables/scores_val.csv")

    # the trained weights, scored by one process and by two
    assert main(["validate", *map(str, words), "--trainer.default_root_dir", str(folder / "one")]) == 0
    alone = scores(folder / "one/tables/scores_val.csv")
    assert alone.keys() == validated.keys() and len(alone) == 75
    assert all(validated[key] == pytest.approx(value, rel=1e-5) for key, value in alone.items())
    assert main(["test", *map(str, words), "--trainer.default_root_dir", str(folder / "one")]) == 0
    alone, both = (scores(folder / run / "tables/scores_test.csv") for run in ("one", "two"))
    assert alone.keys() == both.keys()
    assert all(both[key] == pytest.approx(value, rel=1e-5) for key, value in alone.items())


def test_a_mistake_ends_both_processes(folder, tiny_well):
    config = experiment(
        folder / "mistake.yaml",
        model={"checkpoint": str(folder / "walrus.safetensors")},
        data={"path": str(tiny_well), "rollout_steps": 1},
        callbacks=[callback("Capture", name="c", sites=["blocks.0"], feature="Reynold > 1", control="Reynolds < 1")],
        default_root_dir=str(folder / "mistake"),
    )
    lines = two_processes(folder, "predict", "--config", config, status=2).stderr.splitlines()
    assert 1 <= len(lines) <= 2 and all("there is no 'Reynold', only" in line for line in lines), lines
