"""Rollouts: the window that moves, the scales, the draws, and edits that stay where they belong."""

import math

import pytest
import torch
from helpers.experiments import random_walrus, weights

from physteer import WalrusModule
from physteer.data.batch import collate
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.errors import PhysteerError
from physteer.forecast import NextStepMAE, steered_rollout
from physteer.forecast.rollout import jitter_generator, rollout, sample_scale
from physteer.interventions import UNSTEERED, Condition, Edit, Locus, Scale, Site, Zero


@pytest.fixture(scope="module")
def batch(tiny_well):
    with WindowDataset(f"{tiny_well}/data/test", WindowSpec(3, 2, every=None), include=["Reynolds_2e3"]) as windows:
        return collate([windows[i] for i in range(len(windows))], n_input=3, metadata=windows.metadata)


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory):
    path = weights(tmp_path_factory.mktemp("weights") / "walrus.safetensors")
    return WalrusModule(checkpoint=str(path)).eval().requires_grad_(False).forecaster


def hooks(forecaster):
    return [name for name, m in forecaster.network.named_modules() if m._forward_hooks]


ZERO = Condition("zero", (Edit("blocks.0.space.attention_update", Zero()),))
HALF = Condition("half", (Edit("blocks.1", Scale(0.5)),))


def test_the_window_moves_by_one_frame_a_step():
    window = torch.arange(3.0).view(1, 3, 1, 1, 1, 1)
    frames = list(rollout(lambda w, step: w.sum(1, keepdim=True) + 100 * step, window, 3))
    assert [float(frame) for frame in frames] == [3, 106, 311]  # 0+1+2, 1+2+3+100, 2+3+106+200


def test_scales_are_root_mean_squares_over_frames_and_space():
    x = torch.randn(2, 4, 3, 5, 6, 1, generator=torch.Generator().manual_seed(0)).double()
    x[0, :, 1] = 0  # a field that is 0 is divided by eps
    scale = sample_scale(x, 1e-5)
    for b in range(2):
        for c in range(3):
            r = math.sqrt(sum(v * v for v in x[b, :, c].flatten().tolist()) / 120)
            d = math.sqrt(sum(v * v for v in x[b, :, c].diff(dim=0).flatten().tolist()) / 90)
            assert float(scale.fields[b, 0, c]) == pytest.approx(max(r, 1e-5))
            assert float(scale.differences[b, 0, c]) == pytest.approx(max(d, 1e-5))


def test_jitter_draws_depend_on_seed_trajectory_and_step_alone():
    def draw(*address):
        return int(torch.randint(2**30, (), generator=jitter_generator(*address)))

    assert draw(0, "a", 1) == draw(0, "a", 1)
    assert len({draw(0, "a", 1), draw(1, "a", 1), draw(0, "b", 1), draw(0, "a", 2)}) == 4


def test_what_does_not_evolve_keeps_its_value(forecaster, batch):
    frames = torch.cat(list(steered_rollout(forecaster, batch, 2)), 1)
    z = batch.channels.index("velocity_z")
    assert not batch.channels.evolving[z] and not frames[:, :, z].any()
    assert frames.shape == (len(batch), 2, 5, 32, 64, 1)


def test_other_frames_do_not_matter_to_the_last(forecaster, batch):
    last = forecaster.predict_next(batch.context, batch)
    every = forecaster.predict_next(batch.context, batch, all_frames=True)
    torch.testing.assert_close(last, every)


def test_conditions_side_by_side_are_conditions_one_by_one(forecaster, batch):
    conditions = [UNSTEERED, ZERO, HALF]
    together = torch.cat(list(steered_rollout(forecaster, batch, 2, conditions)), 1).unflatten(0, (3, len(batch)))
    for condition, frames in zip(conditions, together, strict=True):
        alone = torch.cat(list(steered_rollout(forecaster, batch, 2, [condition])), 1)
        torch.testing.assert_close(frames, alone)
    assert (together[1] - together[0]).abs().max() > 1e-3


def test_two_rollouts_of_one_model_can_take_turns(forecaster, batch):
    """Edits are on the network during their own forwards alone, so a suspended rollout does not steer another."""
    alone = [torch.cat(list(steered_rollout(forecaster, batch, 2, [condition])), 1) for condition in (ZERO, HALF)]
    turns = zip(
        steered_rollout(forecaster, batch, 2, [ZERO]), steered_rollout(forecaster, batch, 2, [HALF]), strict=True
    )
    for taken, truth in zip(zip(*turns, strict=True), alone, strict=True):
        assert torch.equal(torch.cat(taken, 1), truth)


def test_a_rollout_that_is_suspended_closed_or_dropped_leaves_nothing(forecaster, batch):
    frames = steered_rollout(forecaster, batch, 2, [ZERO])
    next(frames)
    assert not hooks(forecaster)
    frames.close()
    assert not hooks(forecaster)
    frames = steered_rollout(forecaster, batch, 2, [ZERO])
    next(frames)
    del frames
    assert not hooks(forecaster)


def test_a_step_that_fails_leaves_nothing(forecaster, batch):
    misfit = Condition("misfit", (Edit("blocks.0", Scale(0.5), locus=Locus(frames=[7])),))
    with pytest.raises(PhysteerError, match="frame 7: the activation has 3"):
        list(steered_rollout(forecaster, batch, 2, [misfit]))
    assert not hooks(forecaster)


@pytest.mark.parametrize("site", ["blocks", "decoder.debed"])
def test_an_edit_that_no_forward_reaches_is_an_error(forecaster, batch, site):
    """`blocks` is a list: a hook on it would never be called, and the run would silently be unsteered."""
    with pytest.raises(PhysteerError, match=f"site '{site}' has no activation: the forward does not call"):
        list(steered_rollout(forecaster, batch, 2, [Condition("lost", (Edit(site, Zero()),))]))
    assert not hooks(forecaster)


def test_shapes_of_sites_are_those_of_a_forward(forecaster, batch):
    sites = [Site.parse(text) for text in ("encoder", "blocks.1.space.ff_hidden", "blocks.0.time.heads[1]")]
    shapes = forecaster.site_shapes(sites, batch.metadata, 3)
    assert {str(site): tuple(shape) for site, shape in shapes.items()} == {
        "encoder": (1, 3, 8, 8, 1, 32),
        "blocks.1.space.ff_hidden": (1, 3, 8, 8, 1, 64),
        "blocks.0.time.heads[1]": (1, 3, 8, 8, 1, 16),
    }
    with pytest.raises(PhysteerError, match=r"'blocks.2' not found; did you mean .*'blocks.1'.* lists all 17"):
        forecaster.site_shapes([Site("blocks.2")], batch.metadata, 3)
    with pytest.raises(PhysteerError, match="has no activation"):
        forecaster.site_shapes([Site("blocks")], batch.metadata, 3)
    with pytest.raises(PhysteerError, match=r"heads\[5\]: head 5 is asked for, but the activation has 2 heads"):
        forecaster.site_shapes([Site("blocks.0.time.heads", 5)], batch.metadata, 3)


def test_the_objective_is_the_error_of_normalised_differences(forecaster, tiny_well):
    with WindowDataset(f"{tiny_well}/data/train", WindowSpec(3, 1)) as windows:
        batch = collate([windows[0], windows[20]], n_input=3, metadata=windows.metadata)
    x, walrus = batch.context, random_walrus()
    r = x.square().mean((1, 3, 4, 5), keepdim=True).sqrt().clamp_min(1e-5)
    d = x.diff(dim=1).square().mean((1, 3, 4, 5), keepdim=True).sqrt().clamp_min(1e-5)
    y = walrus(x / r, walrus.config.labels(batch.channels.names), batch.grid.boundaries)
    error = (y - batch.fields.diff(dim=1) / d)[:, :, :4].abs().mean()
    torch.testing.assert_close(NextStepMAE()(forecaster, batch, 0), error)
