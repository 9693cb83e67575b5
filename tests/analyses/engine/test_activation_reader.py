"""Activations of stored windows and of rollouts: those of a whole pass, from passes that stop at the deepest site."""

import pytest
import torch
from helpers.experiments import weights

from physteer import WalrusModule
from physteer.analyses.engine import ActivationReader
from physteer.data.batch import collate
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.forecast import steered_rollout
from physteer.interventions import Condition, Edit, Scale, Site, captured, observed

STEPS = 3
HALF = Condition("half", (Edit("encoder", Scale(0.5)),))


@pytest.fixture(scope="module")
def batch(tiny_well):
    with WindowDataset(f"{tiny_well}/data/test", WindowSpec(3, STEPS, every=None)) as windows:
        return collate([windows[i] for i in (0, 3, 5)], n_input=3, metadata=windows.metadata)


@pytest.fixture(scope="module", params=[None, 0], ids=["", "jitter"])
def forecaster(tmp_path_factory, request):
    path = weights(tmp_path_factory.mktemp("weights") / "walrus.safetensors")
    return WalrusModule(str(path), jitter_seed=request.param).eval().requires_grad_(False).forecaster


def modules_called(forecaster, work) -> set[str]:
    """Run something and return the stages that were computed."""
    stages, called = ["encoder", "blocks.0", "blocks.1", "decoder"], set()
    with observed(forecaster.network, stages, lambda site, h: called.add(str(site))):
        work()
    return called


@pytest.mark.parametrize(
    ("names", "stages"),
    [
        (["encoder"], {"encoder"}),
        (["blocks.0.time.heads[1]"], {"encoder"}),  # stops inside block 0, whose output is never there
        (["blocks.0", "encoder"], {"encoder", "blocks.0"}),
        (["blocks.0", "blocks.1"], {"encoder", "blocks.0", "blocks.1"}),
    ],
)
def test_nothing_behind_the_deepest_site_is_computed(forecaster, batch, names, stages):
    sites, seen = [Site.parse(name) for name in names], {}

    def read() -> None:
        ActivationReader(forecaster, sites).read(batch, lambda site, h: seen.update({str(site): h.clone()}))

    with torch.no_grad(), captured(forecaster.network, sites) as truth:
        forecaster.run(forecaster.inputs(batch.context, batch)[0])
    reader = ActivationReader(forecaster, sites)
    keep = {}
    assert (
        modules_called(forecaster, lambda: reader.read(batch, lambda s, h: keep.update({str(s): h.clone()}))) == stages
    )
    seen |= keep
    assert seen.keys() == truth.keys()
    assert all(torch.equal(seen[name], truth[name]) for name in seen)
    assert not any(module._forward_hooks for module in forecaster.network.modules())


def test_the_last_block_computes_the_last_frame_alone_where_that_is_enough(forecaster, batch):
    site, shapes = Site.parse("blocks.1"), {}
    for all_frames in (True, False):
        reader = ActivationReader(forecaster, [site], all_frames=all_frames)
        reader.read(batch, lambda _, h, key=all_frames: shapes.update({key: h.clone()}))
    assert shapes[True].shape[1] == 3 and shapes[False].shape[1] == 1
    torch.testing.assert_close(shapes[False], shapes[True][:, -1:])


@pytest.mark.parametrize("condition", [Condition("unsteered"), HALF], ids=["unsteered", "steered"])
def test_rollouts_are_read_at_the_steps_that_were_chosen(forecaster, batch, condition):
    """After the edits, with the jitter of the step; the pass of the last chosen step stops early."""
    site, truth = Site.parse("blocks.0"), []
    with observed(forecaster.network, [site], lambda _, h: truth.append(h.clone())), torch.no_grad():
        list(steered_rollout(forecaster, batch, STEPS, [condition]))
    seen, decoded = {}, []
    with observed(forecaster.network, ["decoder"], lambda _, h: decoded.append(1)):
        ActivationReader(forecaster, [site]).read_rollout(
            batch, lambda step, _, h: seen.update({step: h.clone()}), [0, 2], condition
        )
    assert seen.keys() == {0, 2} and len(decoded) == 2
    for step, h in seen.items():
        torch.testing.assert_close(h, truth[step])
    assert (seen[2] - seen[0]).abs().max() > 1e-4


def test_the_jitter_of_other_windows_can_be_taken(forecaster, batch):
    reader, seen = ActivationReader(forecaster, [Site.parse("encoder")]), []
    for jitter_of in (None, batch.windows, batch.windows[::-1]):
        reader.read(batch, lambda _, h: seen.append(h.clone()), jitter_of=jitter_of)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2]) == (forecaster.jitter_seed is None)
