"""The command line itself: help, status, interruptions, and what a killed run leaves."""

import os
import signal
import subprocess
import sys
import time

import h5py
import pytest
from helpers.experiments import experiment, weights

from physteer import __version__
from physteer.cli import COMMANDS, TRAINER, main
from physteer.commands.user_errors import in_one_line
from physteer.run_folder import locked

REPO_WORDS = [sys.executable, "-m", "physteer"]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_usage_names_every_command(words, capsys):
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in (*TRAINER, *COMMANDS))


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"physteer {__version__}\n"


@pytest.mark.parametrize("command", TRAINER)
def test_help_of_trainer_commands_documents_settings(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "--trainer.default_root_dir" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([command, "--model.help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "null for no jitter" in said and "jitter_seed" in said


def test_arguments_of_the_process_are_left_alone(capsys, monkeypatch):
    """DDP starts its other processes from sys.argv."""
    words = ["physteer", "--config", "a b.yaml"]
    monkeypatch.setattr(sys, "argv", words)
    assert main(["predict", "--config", "none.yaml"]) == 2
    assert sys.argv is words and words == ["physteer", "--config", "a b.yaml"]


def test_a_closed_pipe_is_no_error(tmp_path, tiny_well):
    model = {"checkpoint": str(weights(tmp_path / "walrus.safetensors"))}
    config = experiment(tmp_path / "run.yaml", model=model, data={"path": str(tiny_well), "rollout_steps": 1})
    with subprocess.Popen(
        [*REPO_WORDS, "sites", "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (
            "unrecognized arguments: --trainer.devicess 3",
            "there is no setting 'trainer.devicess'; did you mean 'trainer.de",
        ),
        ("Option 'batchsize' is not accepted", "there is no setting 'batchsize'; did you mean 'batch_size'?"),
        ("Option 'zzz' is not accepted", "there is no setting 'zzz'; there are batch_size, path"),
        ("Parser key \"data.x\":\n  Expected a <class 'int'>. Got value: a\n", "data.x: expected int; found a"),
        (
            'Parser key "m":\n\n  - Does not validate against any of the Union subtypes\n  Subtypes: [int, None]\n'
            "  Errors:\n    - Expected a <class 'int'>\n    - Expected a <class 'NoneType'>\n"
            "  Given value type: <class 'str'>\n  Given value: x",
            "m: expected int; found x",
        ),
        ("something new\nin two lines", "something new"),
        ("", "the configuration cannot be read"),
    ],
)
def test_messages_of_the_parser_in_one_line(message, short):
    settings = {"trainer.devices", "batch_size", "path"}
    found = in_one_line(message, settings, ["Capture"])
    assert found.startswith(short) and "\n" not in found


@pytest.fixture
def long_run(tmp_path, tiny_well):
    """A run of some seconds that writes file after file."""
    return experiment(
        tmp_path / "run.yaml",
        model={"checkpoint": str(weights(tmp_path / "walrus.safetensors"))},
        data={
            "path": str(tiny_well),
            "predict_split": "train",
            "rollout_steps": 4,
            "rollout_every": 1,
            "batch_size": 1,
        },
        callbacks=["RolloutWriter"],
        default_root_dir=str(tmp_path / "run"),
    )


def started(config, n_files):
    """Start a run and wait until it has written some files."""
    process = subprocess.Popen(
        [*REPO_WORDS, "predict", "--config", str(config)],
        cwd=config.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while len(list((config.parent / "run").rglob("*.hdf5"))) < n_files:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_run_that_is_stopped_leaves_whole_files(long_run, how, capfd):
    process = started(long_run, 3)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    if how is signal.SIGINT:
        stopping = "physteer: stopping after this step; Ctrl+C again stops at once"
        assert process.returncode == 130 and said.splitlines() == [stopping, "physteer: interrupted"], said
    elif how is signal.SIGTERM:
        stopping = "physteer: stopping after this step"
        assert process.returncode == 143 and said.splitlines() == [stopping, "physteer: stopped by SIGTERM"], said
    else:
        assert process.returncode == -signal.SIGKILL
        with locked(long_run.parent / "run", "predict"):  # a next start takes over the lock
            assert f"(process {process.pid} on " in capfd.readouterr().err
    written = sorted((long_run.parent / "run").rglob("*.hdf5"))
    assert 3 <= len(written) < 120
    for path in written:
        with h5py.File(path) as file:
            assert file["t0_fields/tracer"].shape == (1, 7, 32, 64) and file.attrs["n_context"] == 3
    others = {p.name for p in (long_run.parent / "run").rglob("*") if p.is_file()} - {p.name for p in written}
    if how is not signal.SIGKILL:
        assert {name for name in others if not name.startswith("start_001_process")} == {
            "config.yaml",
            "environment.json",
            "experiment.json",
        }
    assert not [name for name in others if name.endswith((".hdf5", ".h5"))]
