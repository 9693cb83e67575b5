"""Shipped networks have the circuit they are said to have, and training plants one."""

import lightning as L
import pytest
import torch
from torch import nn

from physteer.errors import PhysteerError
from physteer.testing.planted_losses import StrictInterchange
from physteer.testing.planted_patches import LeafPatches
from physteer.testing.planted_scores import planted_scores
from physteer.testing.planted_tasks import TASKS, Recall, RunningFraction
from physteer.testing.planted_training import (
    PlantedSamples,
    PlantedTraining,
    held_out,
    train_planted,
    training_batches,
    untrained,
)
from physteer.testing.planted_weights import load_planted, planted_file, read_planted, write_planted

FRESH = 7_000
"""A seed that no shipped network was trained or validated with."""


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_shipped_networks_have_a_clean_circuit(task):
    network = load_planted(task.name)
    assert sum(weight.numel() for weight in network.parameters()) < 27_000
    scores = planted_scores(network, task, *held_out(task, FRESH))
    assert scores.accuracy >= 0.999
    assert set(scores.iia) == set(task.planted) and min(scores.iia.values()) >= 0.99
    assert len(scores.kept) + len(scores.iia) == 10
    assert min(scores.kept.values()) >= 0.98
    assert scores.kept_together >= 0.98


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_untrained_networks_have_none(task):
    scores = planted_scores(untrained(task, 0), task, *held_out(task, FRESH, 256))
    assert scores.accuracy < 0.3 and max(scores.iia.values()) < 0.3


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_training_lowers_every_loss(task):
    (tokens,) = training_batches(task, FRESH, 1)

    def losses(network: nn.Module) -> torch.Tensor:
        measured = StrictInterchange(network, task, torch.Generator().manual_seed(0))(network, tokens)
        return torch.stack([measured.behaviour, measured.interchange, measured.strict])

    trained = train_planted(task, seed=0, steps=30)
    assert not any(weight.requires_grad for weight in trained.parameters())
    with torch.no_grad():
        assert (losses(trained) < 0.97 * losses(untrained(task, 0))).all()


def test_losses_are_those_of_separate_patched_passes():
    task, network = Recall(), untrained(Recall(), 0)
    (tokens,) = training_batches(task, 0, 1)
    losses = StrictInterchange(network, task, torch.Generator().manual_seed(3))
    measured = losses(network, tokens)
    patches, generator = LeafPatches(network), torch.Generator().manual_seed(3)
    variable = torch.randint(2, (128,), generator=generator)
    half = torch.rand(128, 10, generator=generator) < 0.5
    outside = ~patches.select(task.planted.values())
    sources = tokens.roll(1, 0)
    activations = patches.activations(network, sources)
    torch.testing.assert_close(measured.behaviour, task.loss(network(tokens)[:, -1:], task.answers(tokens)))
    strictly = patches.output(network, tokens, activations, half & outside)[:, -1:]
    torch.testing.assert_close(measured.strict, task.loss(strictly, task.answers(tokens)))
    interchange = 0.0
    for i, (name, node) in enumerate(task.planted.items()):
        rows = variable == i
        patched = patches.output(network, tokens, activations, patches.select([node]).expand(128, -1))[rows, -1:]
        wanted = task.interchanged(name, tokens, sources)[rows]
        interchange += task.loss(patched, wanted) * rows.float().mean()
    torch.testing.assert_close(measured.interchange, interchange)


def test_fit_trains_the_same_network(tmp_path):
    task = RunningFraction()
    training = PlantedTraining(task, seed=3)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(training, datamodule=PlantedSamples(steps=12, n_val=64))
    assert {"val/accuracy", "val/iia/count", "val/kept/together"} <= set(trainer.logged_metrics)
    written = read_planted(tmp_path / planted_file("regression"))
    for name, weight in train_planted(task, seed=3, steps=12).state_dict().items():
        torch.testing.assert_close(written.state_dict()[name], weight)


def test_samples_need_the_training_and_networks_their_files(tmp_path):
    with pytest.raises(PhysteerError, match="take PlantedTraining as model"):
        PlantedSamples().train_dataloader()
    with pytest.raises(PhysteerError, match="a batch of 1 has no sample and source"):
        PlantedSamples(batch_size=1)
    with pytest.raises(PhysteerError, match="did you mean 'recall'"):
        load_planted("recal")
    network = untrained(Recall(), 0)
    with pytest.raises(PhysteerError, match=r"is no leaf node; did you mean 'blocks\.0\.attention\.heads"):
        LeafPatches(network).select(["blocks.0.attention.head[0]"])
    network.sizes["n_outputs"] = 5
    write_planted(tmp_path / "other.safetensors", network)
    with pytest.raises(PhysteerError, match="does not hold a whole planted network"):
        read_planted(tmp_path / "other.safetensors")
