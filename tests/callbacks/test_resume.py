"""A run of predict that is killed goes on where it was, and ends as if it had never been stopped."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pytest
import torch
from helpers.experiments import callback, experiment, finished, weights, weights_and_concept
from helpers.small_disk import small_disk

from physteer.cli import main
from physteer.concepts import Concept
from physteer.files import temporary_name
from physteer.tensor_files import read_tensors

KILLED = """
# Start a run in processes that are killed, each when the run folder has some files more, and once more to its end.
import json, os, signal, sys, time
from pathlib import Path

import physteer.commands.trainer_cli  # once, for all of them
from physteer.cli import main

config, moments = sys.argv[1], json.loads(sys.argv[2])
run, before = Path(config).parent / "run", []
for moment in [*moments, None]:
    child = os.fork()
    if child == 0:
        os._exit(main(["predict", "--config", config]))
    if moment is None:
        assert os.waitpid(child, 0)[1] == 0
        break
    files, seconds = moment
    present = len(list(run.rglob("*")))
    while len(list(run.rglob("*"))) < present + files and os.waitpid(child, os.WNOHANG)[0] == 0:
        time.sleep(0.002)
    time.sleep(seconds)
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it had ended
    rollouts = {str(p): [p.stat().st_ino, p.stat().st_mtime_ns] for p in run.rglob("*.hdf5")}
    before.append([sorted(map(str, run.glob("journal/*.safetensors"))), rollouts])
print(json.dumps(before))
"""


def results(run: Path) -> dict[str, bytes]:
    """What a run has found, and not how it came to it."""
    paths = [path for path in run.rglob("*") if path.is_file() and path.parent.name != "journal"]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths if path.name not in OF_THE_RUN}


OF_THE_RUN = {"config.yaml", "environment.json"}


@contextmanager
def one_thread() -> Iterator[None]:
    """Several round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return weights_and_concept(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def write(folder, tiny_well):
    """Write the configuration of a run in a folder of its own: twelve windows, and callbacks of every kind."""

    def written(name, *, data=None, strengths=(-0.2, 0.2), **trainer):
        settings = {"path": str(tiny_well), "predict_split": "train", "rollout_steps": 2, "batch_size": 2}
        return experiment(
            folder / name / "run.yaml",
            model={"checkpoint": str(folder / "walrus.safetensors"), "jitter_seed": 3},
            data=settings | (data or {}),
            callbacks=[
                callback("Capture", name="c", sites=["blocks.1"], feature="Reynolds >= 2000", control="Reynolds < 500"),
                callback("Steer", concept=str(folder / "concept.safetensors"), strengths=list(strengths)),
                "Diagnostics",
                "RolloutWriter",
            ],
            default_root_dir=str(folder / name / "run"),
            **trainer,
        )

    return written


@pytest.fixture(scope="module")
def whole(write):
    """A run that nothing stopped."""
    config = write("whole")
    with one_thread():
        assert main(["predict", "--config", str(config)]) == 0
    run = config.parent / "run"
    assert sorted(set(finished(run))) == sorted(finished(run)) and len(finished(run)) == 12
    return run


def test_killed_at_any_moment(write, whole):
    """Files are the same bit for bit, and those of finished windows are not written again."""
    config = write("killed")
    draw = random.Random(5)
    moments = [(draw.randrange(60), 0.05 * draw.random()) for _ in range(6)]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, config, json.dumps(moments)],
        cwd=config.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    run = config.parent / "run"
    assert sorted(finished(run)) == sorted(finished(whole))  # each once, whatever was killed
    found, wanted = results(run), results(whole)
    assert found.keys() == wanted.keys()
    concept = "concepts/c_blocks.1.safetensors"
    assert [name for name in wanted if name != concept and found[name] != wanted[name]] == []
    one, other = Concept.load(run / concept), Concept.load(whole / concept)
    torch.testing.assert_close(one.direction, other.direction, rtol=1e-6, atol=1e-7)
    assert one.counts == other.counts == {"feature": 6, "control": 6}

    states = json.loads(ended.stdout.splitlines()[-1])
    assert any(rollouts for _, rollouts in states), "no start was killed after its first rollouts"
    for parts, rollouts in states:
        done = set()
        for part in parts:  # of a start that is over: as it was then
            done |= set(read_tensors(part, "journal", 1)[1]["windows"])
        for path, (inode, written) in rollouts.items():
            if Path(path).stem in done:
                assert [Path(path).stat().st_ino, Path(path).stat().st_mtime_ns] == [inode, written]


def test_a_finished_run_is_not_run_again(write, whole, capfd):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.hdf5")}
    found = results(whole)
    capfd.readouterr()
    assert main(["predict", "--config", str(whole.parent / "run.yaml")]) == 0
    assert capfd.readouterr().err == f"physteer: going on in {whole}: 12 of 12 windows are done\n"
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.hdf5")} == before
    assert results(whole) == found


def test_after_a_full_disk_it_goes_on(write, whole, capfd):
    config = write("full")
    run = config.parent / "run"
    for size in (1000, 100_000):  # not even for the configuration; not for rollouts
        with small_disk(size), one_thread():
            assert main(["predict", "--config", str(config)]) == 2
        assert "File too large" in capfd.readouterr().err.splitlines()[-1]
    assert list(run.glob("tables/parts/*")) and not finished(run)
    assert not list(run.rglob(".*.tmp"))
    with one_thread():
        assert main(["predict", "--config", str(config)]) == 0
    assert results(run) == results(whole)


def test_what_a_killed_process_left_is_removed(write, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    ours = temporary_name(run / "rollouts/unsteered/data/train/a.hdf5")
    theirs = run / "rollouts/.notes.tmp"
    for path in (ours, theirs):
        path.touch()
    words = ["--config", str(whole.parent / "run.yaml"), "--trainer.default_root_dir", str(run)]
    assert main(["predict", *words]) == 0
    assert theirs.exists() and not ours.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data.rollout_steps", "3"], "data.rollout_steps was 2, now 3"),
        (["--model.jitter_seed", "null"], "model.jitter_seed was 3, now null"),
        (["--trainer.precision", "bf16-true"], 'trainer.precision was null, now "bf16-true"'),
        (["--trainer.limit_predict_batches", "2"], "trainer.limit_predict_batches was 1.0, now 2"),
        (["--trainer.callbacks+=Controls"], 'callbacks.Controls was null, now "Controls"; callbacks.Controls.random'),
        (["--data.include", "[Reynolds_2e3]"], 'data.include was [], now ["Reynolds_2e3"]; file shear_flow_Reynolds_2'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_another_experiment_is_refused(whole, words, told, capfd):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert main(["predict", "--config", str(whole.parent / "run.yaml"), *words]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"physteer: error: {whole} holds results of another experiment: {told}"), said
    assert said.endswith("set another trainer.default_root_dir, or delete that folder\n") and said.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_other_weights_concepts_and_data_are_another_experiment(folder, write, whole, tiny_well, capfd):
    """By what is in the files, not by where they lie."""
    run = ["--trainer.default_root_dir", str(whole)]
    well = folder / "moved" / "well"
    shutil.copytree(tiny_well, well)
    moved = write("moved", data={"path": str(well), "batch_size": 5, "num_workers": 1})
    text = moved.read_text()
    for name in ("walrus", "concept"):
        shutil.copy(folder / f"{name}.safetensors", folder / "moved")
        text = text.replace(str(folder / name), str(folder / "moved" / name))
    moved.write_text(text)
    more = ["--trainer.logger", "false", "--model.conditions_per_forward", "1", "--trainer.callbacks+=RolloutProgress"]
    assert main(["predict", "--config", str(moved), *run, *more]) == 0

    weights(folder / "moved/walrus.safetensors", seed=1)
    Concept(torch.ones(8, 8, 1, 32), "blocks.0").save(folder / "moved/concept.safetensors")
    with h5py.File(sorted((well / "data/train").glob("*.hdf5"))[0], "r+") as file:
        file["t0_fields/tracer"][:] *= 1.5
    capfd.readouterr()
    assert main(["predict", "--config", str(moved), *run]) == 2
    said = capfd.readouterr().err
    assert "weights was" in said and 'callbacks.Steer.concept was "concept ' in said and "file shear_flow" in said, said


def test_a_folder_with_results_of_unknown_origin_is_refused(write, tmp_path, capfd):
    config = write("unknown")
    rollout = config.parent / "run/rollouts/unsteered/data/train/a.hdf5"
    rollout.parent.mkdir(parents=True)
    rollout.touch()
    assert main(["predict", "--config", str(config)]) == 2
    assert f"{rollout} is from a run that left no " in capfd.readouterr().err


def test_a_run_that_found_nothing_is_no_experiment(write, capfd):
    """A mistake that shows late is put right in the same folder."""
    config = write("late", data={"fields": {"tracer": "density"}})
    assert main(["predict", "--config", str(config)]) == 2
    assert "density" in capfd.readouterr().err
    config = write("late", data={"trajectories": [0], "rollout_steps": 1})
    assert main(["predict", "--config", str(config)]) == 0


def test_a_trial_of_some_batches_begins_anew(write):
    config = write("trial", limit_predict_batches=4, data={"rollout_steps": 1})
    written = []
    for _ in range(2):
        assert main(["predict", "--config", str(config)]) == 0
        assert not finished(config.parent / "run")
        written.append({path.stat().st_ino for path in (config.parent / "run/rollouts/unsteered").rglob("*.hdf5")})
    assert [len(inodes) for inodes in written] == [8, 8] and written[0] != written[1]


def test_windows_that_two_runs_have_counted_are_told(whole, tmp_path, capfd):
    """Sums over both parts would count them twice."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    part = next(run.glob("journal/*.safetensors"))
    shutil.copy(part, part.with_name(part.name.replace("start_001", "start_002")))
    words = ["--config", str(whole.parent / "run.yaml"), "--trainer.default_root_dir", str(run)]
    assert main(["predict", *words]) == 2
    said = capfd.readouterr().err
    assert "start_002_process_0000.safetensors and start_001_process_0000.safetensors both count the window " in said
    assert f"delete {run} and start again" in said and said.count("\n") == 1


def test_a_broken_journal_is_told(whole, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    part = next(run.glob("journal/*.safetensors"))
    part.write_bytes(part.read_bytes()[:40])
    words = ["--config", str(whole.parent / "run.yaml"), "--trainer.default_root_dir", str(run)]
    assert main(["predict", *words]) == 2
    assert f"{part} is not a whole safetensors file" in capfd.readouterr().err
