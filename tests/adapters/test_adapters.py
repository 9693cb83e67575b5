"""Every adapter keeps the contract, and replays with the skips of a U-Net are whole passes."""

import copy
import pickle

import pytest
import torch
from helpers.emulators import FIELDS, KINDS, emulator, forecaster, pairs

from physteer.errors import PhysteerError
from physteer.forecast import FrameForecaster
from physteer.interventions import (
    Edit,
    Interchange,
    LowRankRotation,
    Span,
    Zero,
    attached,
    captured,
    join_snapshots,
    replayed,
    take_last_frame_snapshot,
    take_snapshots,
)
from physteer.testing import CHECKS, check_forecaster


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", KINDS)
def test_the_contract(name, tiny_well):
    report = check_forecaster(forecaster(name), pairs(tiny_well))
    assert report.passed == [*CHECKS] and not report.not_offered, str(report)


@pytest.mark.parametrize("name", KINDS)
def test_snapshots_survive_pickling_joining_and_other_rows(name):
    network, x, y = emulator(name).requires_grad_(False), drawn(2, 3, 4, 32, 64, 1), drawn(2, 3, 4, 32, 64, 1, seed=1)
    sites = ["encoder", *(f"blocks.{i}" for i in range(len(network.blocks)))]
    first, second = take_snapshots(network, sites, x), take_snapshots(network, sites, y)
    whole = network(torch.cat([x, y]))
    for a, b in zip(first.values(), second.values(), strict=True):
        joined = pickle.loads(pickle.dumps(join_snapshots([a, b])))
        torch.testing.assert_close(replayed(network, joined), whole, atol=1e-6, rtol=1e-5)


def test_skips_are_kept_only_where_blocks_ahead_read_them():
    network, x = emulator("UNet").requires_grad_(False), drawn(2, 3, 4, 32, 64, 1)
    snapshots = take_snapshots(network, [f"blocks.{i}" for i in range(5)], x)
    kept = {str(site): sorted(snapshot.skips) for site, snapshot in snapshots.items()}
    assert kept == {"blocks.0": [], "blocks.1": [1], "blocks.2": [1, 2], "blocks.3": [1], "blocks.4": []}
    # one tensor, however many snapshots hold it
    assert snapshots_share(snapshots, "state.1", ("blocks.0", "blocks.1", "blocks.2", "blocks.3"))


def snapshots_share(snapshots, name, sites) -> bool:
    tensors = [snapshot.tensors()[name] for site, snapshot in snapshots.items() if str(site) in sites]
    return len(tensors) == len(sites) and all(tensor is tensors[0] for tensor in tensors)


def test_an_edit_reaches_the_output_through_the_skip_alone():
    """Block 0's output is edited; what goes down is put back, so that only the skip to the last block carries it."""
    network, x = emulator("UNet").requires_grad_(False), drawn(2, 3, 4, 32, 64, 1)
    snapshots = take_snapshots(network, ["blocks.0", "blocks.1"], x)
    base, below = snapshots.values()
    erased = Edit("blocks.0", Zero(), Span(torch.linalg.qr(drawn(8, 3))[0]))
    edits = [erased, Edit("blocks.1", Interchange(below.activation))]
    with attached(network, edits):
        whole = network(x)
    assert torch.equal(replayed(network, base, edits), whole)
    assert float((whole - network(x)).abs().max()) > 1e-3
    # from behind the edited block the skip is the unedited one
    assert torch.equal(replayed(network, below, edits[1:]), network(x))


def test_gradients_of_a_rotation_flow_through_the_skips():
    network, x = emulator("UNet").requires_grad_(False), drawn(2, 3, 4, 32, 64, 1)
    (snapshot,) = take_snapshots(network, ["blocks.1"], x).values()
    edit = Edit("blocks.1", Interchange(snapshot.activation.flip(0)), LowRankRotation(16, 3))
    with attached(network, [edit]):
        whole = network(x)
    part = replayed(network, snapshot, [edit])
    assert torch.equal(whole, part)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), [*edit.parameters()]) for y in (whole, part)), strict=True):
        assert torch.equal(a, b) and a.any()


def test_heads_of_the_vit():
    network, x = emulator("ViT").requires_grad_(False), drawn(2, 3, 4, 32, 64, 1)
    with captured(network, ["blocks.0.attention.heads[1]", "blocks.0.attention.heads"]) as seen:
        network(x)
    assert seen["blocks.0.attention.heads[1]"].shape == (2, 1, 4, 8, 8)
    with attached(network, [Edit("blocks.0.attention.heads[1]", Zero())]):
        edited = network(x)
    without = copy.deepcopy(network)
    without.blocks[0].attention.mix.weight[:, 8:] = 0
    torch.testing.assert_close(edited, without(x))


def test_the_fno_is_neuralops_own():
    from neuralop.models import FNO as Operator

    torch.manual_seed(0)
    plain = {"positional_embedding": None}
    operator = Operator((6, 6), in_channels=12, out_channels=4, hidden_channels=8, n_layers=3, **plain)
    network, x = emulator("FNO", seed=1), drawn(2, 3, 4, 32, 64, 1)
    network.operator.load_state_dict(operator.state_dict())
    with torch.no_grad():
        assert torch.equal(network(x)[:, 0, ..., 0], operator(x[..., 0].flatten(1, 2)))
        with captured(network, ["operator.fno_blocks.convs.1"]) as seen:
            network(x)
    assert seen["operator.fno_blocks.convs.1"].shape == (2, 1, 32, 64, 8)
    three = KINDS["FNO"](fields=2, frames=1, modes=[4, 4, 4], width=4, depth=2)
    assert three(drawn(1, 1, 2, 8, 8, 8)).shape == (1, 1, 2, 8, 8, 8)
    assert FrameForecaster(three, ["a", "b"]).layout is not None


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("ViT", (1, 3, 4, 32, 60, 1), r"multiples of 8 cells; found \[32, 60, 1\]"),
        ("ViT", (1, 3, 4, 32, 64, 2), "two-dimensional fields"),
        ("UNet", (1, 3, 4, 30, 64, 1), r"multiples of 4 cells; found \[30, 64, 1\]"),
        ("FNO", (1, 3, 4, 32, 64, 2), "modes of two axes, and the fields have three"),
    ],
)
def test_fields_that_do_not_fit_are_refused(name, shape, message):
    with pytest.raises(PhysteerError, match=message):
        emulator(name)(torch.zeros(shape))


def test_last_frames_of_models_without_frames_are_refused():
    network, x = emulator("UNet"), drawn(1, 3, 4, 32, 64, 1)
    with pytest.raises(PhysteerError, match=r"the last frame alone can be run where .* UNet is otherwise"):
        take_last_frame_snapshot(network, "blocks.0", x)


def test_heads_must_share_out_the_width():
    with pytest.raises(PhysteerError, match="width must be a multiple of heads and of 4; found 18 and 4 heads"):
        KINDS["ViT"](fields=len(FIELDS), frames=3, width=18)
