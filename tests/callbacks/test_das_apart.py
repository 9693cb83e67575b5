"""A rotation that is learned beside others is the one that is learned alone, whatever the trainer's settings."""

import pytest
import torch
from helpers.experiments import callback, weights
from helpers.searches import fit, search
from torch import nn

from physteer.cli import main
from physteer.forecast.trained_apart import clip_each_norm

ALONE = {"sites": ["blocks.0"], "ranks": [2], "random": 0, "shuffled": False}
BESIDE = {"sites": ["blocks.0", "blocks.1"], "ranks": [2, 3], "random": 0, "boundless": True}
KEY = "interventions.blocks_0_learned_rank_2.subspaces.0.rotation.raw"
EMA = callback("lightning.pytorch.callbacks.EMAWeightAveraging", decay=0.5)


@pytest.fixture(scope="module")
def walrus(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("walrus") / "walrus.safetensors")


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_learned_beside_others_as_alone(tiny_well, walrus, tmp_path, algorithm):
    """Gradients are clipped to the size of AdamW's ε, below which their length matters to a step."""
    trainer = {"accumulate_grad_batches": 2, "gradient_clip_algorithm": algorithm, "limit_test_batches": 0}
    trainer |= {"limit_val_batches": 0, "callbacks": [EMA]}
    found = {}
    for name, das in (("alone", ALONE), ("beside", BESIDE), ("free", ALONE)):
        clip = {} if name == "free" else {"gradient_clip_val": 1e-8}
        settings = {"das": das, "data": {"batch_size": 3}, **trainer, **clip}  # of 3 batches, the last is a step alone
        fit(search(tmp_path / name, tiny_well, walrus, **settings))
        (path,) = (tmp_path / name / "run/checkpoints").glob("*.ckpt")
        found[name] = torch.load(path, weights_only=True)["state_dict"][KEY]
    assert torch.equal(found["beside"], found["alone"])
    assert not torch.allclose(found["free"], found["alone"], atol=1e-4)


def test_each_part_is_clipped_by_its_own_norm():
    parts = [nn.Linear(2, 2, bias=False) for _ in range(3)]
    for part, size in zip(parts, (0.1, 10.0, float("inf")), strict=True):
        part.weight.grad = torch.full((2, 2), size / 2)  # of norm `size`
    other = nn.Parameter(torch.zeros(4))
    other.grad = torch.full((4,), 2.0)
    clip_each_norm(parts, [other], 1.0)
    norms = [float(p.grad.norm()) for p in (*(part.weight for part in parts[:2]), other)]
    assert norms == pytest.approx([0.1, 1.0, 1.0], rel=1e-5)


def test_a_loss_scaler_is_refused(tiny_well, walrus, tmp_path, capsys):
    half = {"precision": "16-mixed", "device": "cpu"}
    plugin = callback("lightning.pytorch.plugins.precision.MixedPrecision", **half)
    config = search(tmp_path, tiny_well, walrus, plugins=[plugin])
    assert main(["fit", "--config", str(config)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("physteer: error: trainer.precision 16-mixed skips a step of all 2 parts"), line
    assert not (tmp_path / "run/checkpoints").exists()
