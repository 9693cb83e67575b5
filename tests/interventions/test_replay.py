"""Replay: a pass gone on with from a snapshot is the whole pass, outputs and gradients, at the suffix's cost."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from helpers.experiments import CONFIG
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from physteer.errors import PhysteerError
from physteer.interventions import (
    Clock,
    Edit,
    Interchange,
    LastFrameSnapshot,
    Locus,
    LowRankRotation,
    Resample,
    Scale,
    Site,
    Snapshot,
    Zero,
    all_tensors,
    attached,
    captured,
    interchanged,
    join_snapshots,
    replayed,
    select_rows,
    take_last_frame_snapshot,
    take_last_frame_snapshots,
    take_snapshot,
    take_snapshots,
)
from physteer.walrus import Walrus

LABELS = CONFIG.labels(["pressure", "velocity_x", "tracer"])
PERIODIC, MIXED = ((2, 2), (2, 2), (2, 2)), ((0, 1), (2, 2), (2, 2))
SHAPE, FRAMES, WIDTH = (32, 32, 1), 3, CONFIG.hidden_dim
LAST = Locus(frames=[-1])
SITES = ["encoder", "blocks.0", "blocks.2", "blocks.2.time.heads[1]"]


def make(**changes) -> Walrus:
    """A frozen Walrus of three blocks in which every parameter matters."""
    torch.manual_seed(0)
    walrus = Walrus(dataclasses.replace(CONFIG, n_blocks=3, **changes)).eval().requires_grad_(False)
    for parameter in walrus.parameters():
        parameter += 0.1 * torch.randn(parameter.shape) * parameter.std().nan_to_num(1).clamp(min=0.1)
    return walrus


WALRUS = make()
SITES += [name for name in WALRUS.site_names() if name.startswith("blocks.1")]


def inputs(seed: int, rows: int = 2, jitter: bool = False, walrus: Walrus = WALRUS, boundaries=MIXED) -> tuple:
    """Arguments of a forward: random fields and, with jitter, shifts of each row's own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, FRAMES, len(LABELS), *SHAPE, generator=generator)
    shifts = None
    if jitter:
        draws = [torch.Generator().manual_seed(100 * seed + row) for row in range(rows)]
        shifts = walrus.draw_shifts(SHAPE, boundaries, draws)
        assert shifts.pixels.any() and (walrus.config.variant != "released" or shifts.tokens.any())
    return x, LABELS, boundaries, shifts


def close(found: torch.Tensor, truth: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Compare by the error's norm over the truth's."""
    assert found.shape == truth.shape
    error = float(((found - truth).norm() / truth.norm()).detach())
    assert error <= tolerance, error


# ---------------------------------------------------------------- the whole pass, gone on with


@pytest.mark.parametrize("variant", ["released", "preview"])
@pytest.mark.parametrize("jitter", [False, True])
@torch.no_grad()
def test_unedited_replay_is_the_pass_bit_for_bit(variant, jitter):
    walrus = make(variant=variant, fields=() if variant == "preview" else CONFIG.fields, projection_dim=6)
    args = inputs(1, jitter=jitter, walrus=walrus)
    whole, last = walrus(*args), walrus(*args, last_frame_only=True)
    for site in ("encoder", "blocks.0", "blocks.1", "blocks.2", "blocks.1.time", "blocks.2.space.heads[1]"):
        taken = take_snapshot(walrus, site, *args)
        assert torch.equal(replayed(walrus, taken), whole)
        close(replayed(walrus, taken, last_frame_only=True), last)


@pytest.mark.parametrize("jitter", [False, True])
@torch.no_grad()
def test_edits_anywhere_behind_the_snapshot_act_as_in_the_whole_pass(jitter):
    base, source = inputs(1, jitter=jitter), inputs(2, jitter=jitter)
    plain = WALRUS(*base)
    for name in SITES:
        taken, other = take_snapshot(WALRUS, name, *base), take_snapshot(WALRUS, name, *source)
        with captured(WALRUS, [name]) as seen:
            WALRUS(*source)
        assert torch.equal(other.activation, seen[name])
        edits = [Edit(name, Interchange(other.activation)), Edit("blocks.2", Scale(1.5), locus=LAST)]
        with attached(WALRUS, edits):
            whole = WALRUS(*base)
        assert not torch.equal(whole, plain)
        assert torch.equal(replayed(WALRUS, taken, edits), whole)
        assert torch.equal(interchanged(WALRUS, taken, other.activation), replayed(WALRUS, taken, edits[:1]))
    assert not any(module._forward_hooks for module in WALRUS.modules())


@torch.no_grad()
def test_edits_at_the_border_before_an_inner_site_act_too():
    args = inputs(1)
    taken = take_snapshot(WALRUS, "blocks.1.time", *args)
    edits = [Edit("blocks.0", Scale(2.0), locus=Locus(steps=[3])), Edit("blocks.1.time", Zero())]
    clock = Clock(3)
    with attached(WALRUS, edits, clock):
        whole = WALRUS(*args)
    assert torch.equal(replayed(WALRUS, taken, edits, clock), whole)
    assert not torch.equal(replayed(WALRUS, taken, edits[1:]), replayed(WALRUS, taken))
    assert torch.equal(replayed(WALRUS, taken, edits, Clock(2)), replayed(WALRUS, taken, edits[1:]))


def test_a_snapshot_of_a_pass_under_edits_and_under_inference_mode_can_be_trained_on():
    args, edit = inputs(1), Edit("encoder", Scale(0.5))
    with attached(WALRUS, [edit]):
        whole = WALRUS(*args)
    with torch.inference_mode(), attached(WALRUS, [edit]):
        taken = take_snapshot(WALRUS, "blocks.1", *args)
    rotation = LowRankRotation(WIDTH, 2)
    y = interchanged(WALRUS, taken, taken.activation, rotation)
    close(y.detach(), whole)
    y.sum().backward()
    assert rotation.rotation.raw.grad is not None


# ---------------------------------------------------------------- gradients


def gradient(rotation: LowRankRotation, y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Gradient of the mean absolute error with respect to the rotation's free numbers."""
    rotation.zero_grad()
    (y - target).abs().mean().backward()
    return rotation.rotation.raw.grad.clone()


@pytest.mark.parametrize("frames", [None, [-1]], ids=["all frames", "last frame"])
@pytest.mark.parametrize("jitter", [False, True], ids=["", "jitter"])
@pytest.mark.parametrize("site", ["encoder", "blocks.0", "blocks.1", "blocks.2", "blocks.1.time.heads"])
def test_gradients_are_those_of_the_double_forward(site, jitter, frames):
    base, source = inputs(1, jitter=jitter), inputs(2, jitter=jitter)
    target = inputs(3)[0][:, -1:]
    rotation, locus = LowRankRotation(WIDTH, 3), Locus(frames=frames)
    # base and source run whole, side by side, the edit attached
    with captured(WALRUS, [site], detach=False) as seen:
        WALRUS(*source)
    edit = Edit(site, Interchange(locus.take(seen[site])), rotation, locus)
    with attached(WALRUS, [edit]):
        whole = WALRUS(*base)[:, -1:]
    truth = gradient(rotation, whole, target)
    assert truth.norm() > 0
    taken, other = take_snapshot(WALRUS, site, *base), take_snapshot(WALRUS, site, *source)
    y = interchanged(WALRUS, taken, other.activation, rotation, locus, last_frame_only=True)
    close(y, whole)
    close(gradient(rotation, y, target), truth)
    if frames is not None:
        taken, other = (take_last_frame_snapshot(WALRUS, site, *args) for args in (base, source))
        y = interchanged(WALRUS, taken, other.activation, rotation, locus)
        close(y, whole)
        close(gradient(rotation, y, target), truth)


# ---------------------------------------------------------------- the last frame alone


@pytest.mark.parametrize("jitter", [False, True])
@torch.no_grad()
def test_the_last_frame_alone_is_the_whole_suffix(jitter):
    base, source = inputs(1, jitter=jitter), inputs(2, jitter=jitter)
    for name in SITES:
        whole, other = take_snapshot(WALRUS, name, *base), take_snapshot(WALRUS, name, *source)
        alone = take_last_frame_snapshot(WALRUS, name, *base)
        close(alone.activation, whole.activation[:, -1:])  # inside a block, of that frame alone
        replacement = Interchange(other.activation[:, -1:])
        for frames in ([-1], [FRAMES - 1], slice(-1, None)):
            edits = [Edit(name, replacement, locus=Locus(frames=frames)), Edit("blocks.2", Scale(1.5), locus=LAST)]
            truth = replayed(WALRUS, whole, edits)[:, -1:]
            close(replayed(WALRUS, alone, edits), truth)
        assert not torch.allclose(truth, replayed(WALRUS, alone), rtol=1e-3)


@torch.no_grad()
def test_the_last_frame_alone_computes_one_frame():
    args = inputs(1)
    whole, alone = take_snapshot(WALRUS, "encoder", *args), take_last_frame_snapshot(WALRUS, "encoder", *args)
    # time attention has the same score per pair of frames; all else is one frame of three
    assert flops(lambda: replayed(WALRUS, alone)) < 1.05 / FRAMES * flops(lambda: replayed(WALRUS, whole))
    past = 2 * (FRAMES - 1) * alone.state[0, 0].nbytes
    assert [kept.nbytes for kept in alone.kv_cache] == [past * len(args[0])] * 3


def test_edits_of_other_frames_and_acausal_models_are_refused():
    alone = take_last_frame_snapshot(WALRUS, "blocks.0", *inputs(1))
    for locus in (Locus(), Locus(frames=[0]), Locus(frames=[1, 2])):
        with pytest.raises(PhysteerError, match=r"site blocks.1: .* last frame alone; write Locus\(frames=\[-1\]\)"):
            replayed(WALRUS, alone, [Edit("blocks.1", Zero(), locus=locus)])
    with pytest.raises(PhysteerError, match="not causal in time"):
        take_last_frame_snapshot(make(causal_in_time=False), "blocks.0", *inputs(1))


# ---------------------------------------------------------------- many sites of one pass


ORDERS = [
    ["encoder", "blocks.0", "blocks.2"],
    ["blocks.2", "blocks.0"],
    ["blocks.1", "blocks.1.time", "blocks.1.space.heads[0]", "blocks.1.space.heads[1]"],
    ["blocks.2.time.heads", "blocks.0.space.ff_hidden", "blocks.1", "encoder"],
]


@pytest.mark.parametrize("sites", ORDERS, ids=str)
@pytest.mark.parametrize("jitter", [False, True])
@torch.no_grad()
def test_one_pass_gives_what_a_pass_per_site_gives(sites, jitter):
    args = inputs(1, jitter=jitter)
    together = take_snapshots(WALRUS, sites, *args)
    assert [str(site) for site in together] == sites
    for site, found in together.items():
        alone = take_snapshot(WALRUS, site, *args)
        assert (found.site, found.start, found.shared) == (alone.site, alone.start, alone.shared)
        assert torch.equal(found.activation, alone.activation)
        named = found.tensors()
        assert named.keys() == alone.tensors().keys()
        assert all(torch.equal(tensor, named[name]) for name, tensor in alone.tensors().items())
    for site, found in take_last_frame_snapshots(WALRUS, sites, *args).items():
        alone = take_last_frame_snapshot(WALRUS, site, *args)
        assert (found.site, found.start, found.n_frames) == (alone.site, alone.start, alone.n_frames)
        close(found.activation, alone.activation)
        named = found.tensors()
        assert named.keys() == alone.tensors().keys()
        for name, tensor in alone.tensors().items():
            close(named[name].double(), tensor.double()) if tensor.any() else torch.equal(named[name], tensor)
        close(replayed(WALRUS, found), replayed(WALRUS, alone))
        edits = [Edit(site, Scale(0.5), locus=LAST)]
        close(replayed(WALRUS, found, edits), replayed(WALRUS, alone, edits))


@pytest.mark.parametrize("sites", ORDERS, ids=str)
@torch.no_grad()
def test_last_frames_replayed_from_any_site_of_a_pass_are_one(sites):
    """To the bit: the last frame goes up to a site as replays go on from it."""
    found = take_last_frame_snapshots(WALRUS, sites, *inputs(1)).values()
    first, *others = (replayed(WALRUS, snapshot) for snapshot in found)
    assert all(torch.equal(other, first) for other in others)


@pytest.mark.parametrize("take", [take_snapshots, take_last_frame_snapshots])
@pytest.mark.parametrize("sites", ORDERS, ids=str)
@torch.no_grad()
def test_many_sites_cost_one_pass(take, sites):
    """The operations of the costliest site alone; beside them, for last frames, keys and values of blocks between."""
    args = inputs(1)
    alone = [flops(lambda site=site: take(WALRUS, [site], *args)) for site in sites]
    together = flops(lambda: take(WALRUS, sites, *args))
    assert together <= max(alone) * (1 if take is take_snapshots else 1.06)


@pytest.mark.parametrize("take", [take_snapshots, take_last_frame_snapshots])
@torch.no_grad()
def test_sites_share_memory_and_so_do_their_rows(take):
    sites = ["encoder", "blocks.0", "blocks.1.time", "blocks.1.space.heads[1]", "blocks.1"]
    snapshots = take(WALRUS, sites, *inputs(1, jitter=True))
    for some in (snapshots, select_rows(snapshots, [1])):
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for snapshot in some.values()
            for tensor in snapshot.tensors().values()
        }
        assert sum(storages.values()) == sum(tensor.nbytes for tensor in all_tensors(some).values())
    frame, last = snapshots[Site("encoder")].state[:, -1:].nbytes, take is take_last_frame_snapshots
    states, inner = 3 * (1 if last else FRAMES) * frame, 1.5 * (1 if last else FRAMES) * frame  # one head of two
    past = 3 * 2 * (FRAMES - 1) * frame if last else 0
    rows = sum(row.nbytes for row in snapshots[Site("encoder")].rows)
    assert sum(tensor.nbytes for tensor in all_tensors(snapshots).values()) == states + inner + past + rows


# ---------------------------------------------------------------- rows


def rows_of(snapshot: Snapshot, rows: list[int]) -> Snapshot:
    """Select rows of one site's snapshot."""
    return select_rows({snapshot.site: snapshot}, rows)[snapshot.site]


@pytest.mark.parametrize("take", [take_snapshot, take_last_frame_snapshot])
@torch.no_grad()
def test_rows_of_several_windows_are_selected_and_joined(take):
    first, second = inputs(1, jitter=True), inputs(2, rows=3, jitter=True)
    pairs = rows_of(join_snapshots([take(WALRUS, "blocks.0", *first), take(WALRUS, "blocks.0", *second)]), [4, 1, 1, 2])
    assert len(pairs.state) == len(pairs.rows[0]) == 4
    whole = torch.cat([WALRUS(*first, last_frame_only=True), WALRUS(*second, last_frame_only=True)])[[4, 1, 1, 2]]
    close(replayed(WALRUS, pairs, last_frame_only=True), whole)
    away = pairs.to("meta")
    assert away.activation.is_meta and away.rows[0].device.type == "cpu"


def test_what_differs_in_more_than_rows_is_not_joined():
    taken = take_snapshot(WALRUS, "blocks.0", *inputs(1))
    x, _, boundaries, _ = inputs(1)
    labels = CONFIG.labels(["pressure", "velocity_x", "velocity_y"])
    for other, what in (
        (take_snapshot(WALRUS, "blocks.1", *inputs(1)), "sites .*: blocks.0 and blocks.1"),
        (take_snapshot(WALRUS, "blocks.0", x, labels, boundaries), "fields, boundaries or grids"),
        (take_snapshot(WALRUS, "blocks.0", x, LABELS, PERIODIC), "fields, boundaries or grids"),
        (take_snapshot(WALRUS, "blocks.0", x[:, 1:], LABELS, boundaries), "shapes"),
        (take_snapshot(WALRUS, "blocks.0", *inputs(1, jitter=True)), "shapes"),
        (take_last_frame_snapshot(WALRUS, "blocks.0", *inputs(1)), "kinds .*: Snapshot and LastFrameSnapshot"),
    ):
        with pytest.raises(PhysteerError, match=what):
            join_snapshots([taken, other])
    with pytest.raises(PhysteerError, match="no snapshots"):
        join_snapshots([])


# ---------------------------------------------------------------- cost


def flops(work) -> int:
    """Operations of products, attentions and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_a_training_step_costs_the_suffix_and_its_activation_gradient():
    args = inputs(1)
    context = WALRUS.encode(*args)[1]

    def suffix(h, start):
        return WALRUS.decode(WALRUS.run_blocks(h, context, start), context)

    for block in range(3):
        base = take_snapshot(WALRUS, f"blocks.{block}", *args)
        forward = flops(lambda taken=base, start=block + 1: suffix(taken.state, start))
        assert flops(lambda taken=base: replayed(WALRUS, taken)) == forward
        h = base.state.clone().requires_grad_()
        ideal = flops(lambda h=h, start=block + 1: suffix(h, start).sum().backward())
        assert ideal < 2.1 * forward  # a product has one gradient, not two
        rotation, source = LowRankRotation(WIDTH, 2), base.activation.flip(0)
        step = flops(lambda taken=base, r=rotation, s=source: interchanged(WALRUS, taken, s, r).sum().backward())
        assert step < 1.02 * ideal
    assert all(parameter.grad is None for parameter in WALRUS.parameters())


def test_frozen_weights_keep_no_inputs_for_their_gradients():
    """A frozen Linear needs its weight alone for the backward pass; a trainable one keeps its input as well."""
    base = take_snapshot(WALRUS, "blocks.0", *inputs(1))
    trainable = make().requires_grad_(True)

    def kept(walrus: Walrus) -> int:
        weights = {parameter.data_ptr() for parameter in walrus.parameters()}
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = interchanged(walrus, base, base.activation.flip(0), LowRankRotation(WIDTH, 2))
        assert y.requires_grad
        return sum(storages.values())

    # of two blocks, the normed activation of time and of space mixing, and the hidden one of twice the width
    assert kept(trainable) - kept(WALRUS) >= 2 * (1 + 1 + 2) * base.state.nbytes


# ---------------------------------------------------------------- another model


class Layer(nn.Module):
    """Causal attention over frames and a feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.hidden, self.out = nn.Linear(16, 48), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, h: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(h).chunk(3, -1)
        h = h + gain[:, None, None] * F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return h + self.out(self.hidden(h).tanh())


class Toy(nn.Module):
    """Another emulator behind the adapter's methods: no space, and a gain of each row's own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 16), nn.Linear(16, 3)
        self.encoder = nn.Identity()
        self.blocks = nn.ModuleList(Layer() for _ in range(3))

    def encode(self, x, gain):
        return self.encoder(self.embed(x)), gain

    def run_blocks(self, h, context, start=0, stop=None, *, last_frame_only=False):
        for block in self.blocks[start:stop]:
            h = block(h, context)
        return h[:, -1:] if last_frame_only else h

    def decode(self, h, context, *, last_frame_only=False):
        return self.head(h[:, -1:] if last_frame_only else h)

    def pack_context(self, context):
        return (context,), ""

    def unpack_context(self, rows, shared):
        return rows[0]

    def forward(self, x, gain):
        h, context = self.encode(x, gain)
        return self.decode(self.run_blocks(h, context), context)


def test_another_model_joins_by_an_adapter():
    torch.manual_seed(0)
    toy = Toy().eval().requires_grad_(False)
    x, gain = torch.randn(4, 5, 3), torch.tensor([1.0, 2.0, 3.0, 4.0])
    for site in ("encoder", "blocks.1", "blocks.1.hidden", "blocks.2.out"):
        width = 32 if site.endswith("hidden") else 16
        rotation = LowRankRotation(width, 2)
        with captured(toy, [site]) as seen:
            toy(x[2:], gain[2:])
        edit = Edit(site, Interchange(seen[site]), rotation)
        with attached(toy, [edit]):
            whole = toy(x[:2], gain[:2])
        truth = gradient(rotation, whole, torch.zeros(()))
        windows = take_snapshot(toy, site, x, gain)
        y = interchanged(toy, rows_of(windows, [0, 1]), rows_of(windows, [2, 3]).activation, rotation)
        close(y, whole)
        close(gradient(rotation, y, torch.zeros(())), truth)


# ---------------------------------------------------------------- what cannot be


def test_sites_where_no_pass_can_be_stopped_or_changed():
    args = inputs(1)
    for site, message in (
        ("block.1", "did you mean 'blocks"),
        ("decoder", "not at the border of a stage: .* 'encoder', at 'blocks.i', and inside a block"),
        ("blocks.3", "site 'blocks.3' not found"),
        ("stem.embed", "not at the border"),
    ):
        with pytest.raises(PhysteerError, match=message):
            take_snapshot(WALRUS, site, *args)
    taken = take_snapshot(WALRUS, "blocks.1", *args)
    for site in ("encoder", "blocks.0", "blocks.1.time", "stem"):
        with pytest.raises(PhysteerError, match=f"site {site} is not computed after the snapshot, .* 'blocks.1'"):
            replayed(WALRUS, taken, [Edit(site, Zero() if site != "stem" else Resample())])
    assert str(taken.site) == "blocks.1" and taken.site == Site("blocks.1")
    assert not isinstance(taken, LastFrameSnapshot)
