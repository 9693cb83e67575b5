"""Nothing that belongs to a window outlives its batch in a run of ``predict``, whatever callbacks do."""

import pytest
from helpers.experiments import callback, concept, experiment, weights
from helpers.living import Living

from physteer.cli import main

STEER = callback("Steer", concept="c.safetensors", strengths=[-0.3, 0.3])
CLASSES = {"feature": "Reynolds >= 2000", "control": "Reynolds <= 500"}
RUNS = {
    "nothing": [],
    "steered": [STEER, callback("Diagnostics"), "RolloutWriter"],
    "captured": [
        callback("Capture", name="c", sites=["blocks.0"], shuffles=2, **CLASSES),
        callback("ActivationStore", sites=["blocks.1"]),
    ],
}
WARM = 5
"""Batches in which what stays is made: running sums, tables of positions."""


@pytest.fixture
def counts(tiny_well, tmp_path, monkeypatch):
    """Run callbacks over 40 windows and return what was alive after each of 10 batches."""
    monkeypatch.chdir(tmp_path)

    def run(callbacks: list, **living: bool):
        checkpoint, _ = weights(tmp_path / "walrus.safetensors"), concept(tmp_path / "c.safetensors")
        config = experiment(
            tmp_path / "run.yaml",
            model={"checkpoint": str(checkpoint)},
            data={"path": str(tiny_well), "rollout_steps": 1, "rollout_every": 2, "batch_size": 4},
            callbacks=[*callbacks, callback("helpers.living.Living", **living)],
            default_root_dir="run",
        )
        assert main(["predict", "--config", str(config)]) == 0
        assert len(Living.counts) == 10
        return Living.counts

    return run


@pytest.mark.parametrize("name", RUNS)
def test_what_is_alive_does_not_grow(name, counts):
    found = counts(RUNS[name])[WARM:]
    for kind in ("tensors", "rows", "batches"):
        assert max(one[kind] for one in found) == found[0][kind], kind
    files, names = 2 * 60, 5 * len(found)  # that are opened, and that Lightning keeps of every batch
    assert found[-1]["others"] - found[0]["others"] < files + names


def test_what_is_kept_is_counted(counts):
    found = counts([], keep=True)[WARM:]
    assert found[-1]["batches"] - found[0]["batches"] == len(found) - 1
    assert found[-1]["tensors"] > found[0]["tensors"]
