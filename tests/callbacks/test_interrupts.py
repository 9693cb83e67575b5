"""Signals stop a run where it is safe, at once where no HDF5 is written, and in any case in the end."""

import os
import signal
import time

import pytest
from helpers.experiments import callback, experiment, weights

from physteer.callbacks import interrupts
from physteer.callbacks.interrupts import Interrupts
from physteer.cli import main
from physteer.errors import Terminated
from physteer.run_folder import LOCK


@pytest.mark.parametrize("event", ["on_predict_batch_end", "on_predict_end"])
@pytest.mark.parametrize(("signum", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_a_run_and_the_next_start_goes_on(tiny_well, tmp_path, capfd, event, signum, status):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    arguments = {"signum": signum, "event": event, "folder": str(tmp_path)}
    config = experiment(
        tmp_path / "run.yaml",
        model={"checkpoint": str(weights(tmp_path / "walrus.safetensors"))},
        data={"path": str(tiny_well), "predict_split": "test", "rollout_steps": 1, "batch_size": 4},
        callbacks=["RolloutWriter", callback("helpers.signals.Interrupted", **arguments)],
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["predict", "--config", str(config)]) == status
    said, lines = capfd.readouterr(), ["physteer: stopped by SIGTERM" if status == 143 else "physteer: interrupted"]
    in_a_step = event == "on_predict_batch_end"
    if in_a_step:
        lines.insert(0, "physteer: stopping after this step" + "; Ctrl+C again stops at once" * (signum == "SIGINT"))
    assert said.out == "goes on\n" * in_a_step  # to the end of the step, but not while reports are made
    assert said.err.splitlines() == lines
    assert not (tmp_path / "run" / LOCK).exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    assert main(["predict", "--config", str(config)]) == 0
    done = 4 if in_a_step else 8
    assert f"going on in {tmp_path / 'run'}: {done} of 8 windows are done" in capfd.readouterr().err


def test_what_nothing_has_raised_is_raised_at_the_end():
    with pytest.raises(Terminated), Interrupts().installed():
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_process_that_reaches_no_step_ends_after_a_while(monkeypatch):
    monkeypatch.setattr(interrupts, "_GRACE", 0.1)
    child = os.fork()
    if child == 0:
        with Interrupts().installed():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
