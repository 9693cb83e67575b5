"""The algebra of edits on a small module: h' = h + Π (r(h) − h), at a site, on a locus."""

from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions import (
    UNSTEERED,
    Clock,
    Complement,
    Condition,
    Edit,
    Interchange,
    Locus,
    Mean,
    Replacement,
    Resample,
    Scale,
    Site,
    Span,
    Steer,
    Zero,
    apply_edits,
    attached,
    captured,
    observed,
    separated,
    site_names,
    stack_conditions,
)

D, HEADS = 8, 2
GRID = (3, 4, 1)


class Heads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, D // HEADS))


class Block(nn.Module):
    """Mixes tokens, frames and channels a little, with a per-head tap and a residual changed in place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.heads = Heads()
        self.tap = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        update = self.tap(self.heads(self.linear(x)).flatten(-2))
        update += 0.1 * x.mean(dim=(2, 3, 4), keepdim=True)  # in place, on what an edit may have handed over
        return x + update.tanh()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(2, D)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.decoder = nn.Linear(D, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        for block in self.blocks:
            h = block(h)
        return self.decoder(h)

    def site_layout(self, module: str) -> str:
        return "b t h w δ n hd" if module.endswith("heads") else "b t h w δ d"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(4, 2, *GRID, 2, generator=torch.Generator().manual_seed(1))


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def basis(k: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(D, k, generator=torch.Generator().manual_seed(seed)))[0]


def activation(model: nn.Module, x: Tensor, site: str) -> Tensor:
    with captured(model, [site]) as h:
        model(x)
    return h[site]


def bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.int32)


# --- sites


@pytest.mark.parametrize("text", ["blocks.12", "encoder", "blocks.12.space.heads[5]"])
def test_a_site_is_written_as_it_is_read(text):
    assert str(Site.parse(text)) == text
    assert Site.parse(Site.parse(text)) == Site.parse(text)


@pytest.mark.parametrize("text", ["", "blocks.", "a[b]", "a b", "blocks[1].time"])
def test_what_is_not_an_address_is_refused(text):
    with pytest.raises(PhysteerError, match="is not a site"):
        Site.parse(text)


def test_an_unknown_site_names_close_ones_and_how_many_there_are(model, x):
    n = len(site_names(model))
    with (
        pytest.raises(
            PhysteerError,
            match=rf"'block.2' not found; did you mean 'blocks.2'.*\? 'physteer sites' lists all {n}",
        ),
        attached(model, [Edit("blocks.0", Zero()), Edit("block.2", Zero())]),
    ):
        pass
    assert n_hooks(model) == 0  # not even on the one that was found


def test_containers_are_no_sites_and_a_model_may_declare_its_own(model):
    assert "blocks" not in site_names(model)
    assert {"encoder", "blocks.1", "blocks.1.heads"} <= set(site_names(model))

    class Declaring(Model):
        def site_names(self):
            return ["encoder"]

    assert site_names(Declaring()) == ("encoder",)


def test_a_head_that_is_not_there_is_refused(model, x):
    with (
        pytest.raises(PhysteerError, match=r"blocks.0.heads\[7\].*2 heads"),
        attached(model, [Edit("blocks.0.heads[7]", Zero())]),
    ):
        model(x)


# --- attaching


def test_hooks_are_removed_after_success_and_after_an_error_and_others_survive(model, x):
    seen = []
    handle = model.blocks[1].register_forward_hook(lambda *_: seen.append("other"))
    plain = model(x)
    with attached(model, [Edit("blocks.1", Zero()), Edit("encoder", Scale(2.0))]), captured(model, ["blocks.0"]):
        assert not torch.equal(model(x), plain)
    assert n_hooks(model) == 1
    with pytest.raises(ZeroDivisionError), attached(model, [Edit("blocks.1", Zero())]):
        model.blocks[1].register_forward_hook(lambda *_: seen.append("later"))
        raise ZeroDivisionError
    assert n_hooks(model) == 2
    with pytest.raises(PhysteerError), attached(model, [Edit("blocks.1", Mean(torch.zeros(3)))]):
        model(x)
    assert n_hooks(model) == 2
    seen.clear()
    assert torch.equal(model(x), plain)
    assert seen == ["other", "later"]
    handle.remove()


def test_edits_at_one_site_compose_in_list_order(model, x):
    h = activation(model, x, "blocks.0")
    shift = Mean(torch.ones(D))
    with attached(model, [Edit("blocks.0", Scale(3.0)), Edit("blocks.0", shift)]), captured(model, ["blocks.0"]) as a:
        model(x)
    with attached(model, [Edit("blocks.0", shift), Edit("blocks.0", Scale(3.0))]), captured(model, ["blocks.0"]) as b:
        model(x)
    assert torch.equal(a["blocks.0"], torch.ones_like(h))
    assert torch.equal(b["blocks.0"], torch.full_like(h, 3.0))


def test_restricted_edits_see_what_the_ones_before_left(model, x):
    edits = [
        Edit("blocks.0", Scale(2.0), locus=Locus(rows=slice(0, 2))),
        Edit("blocks.0", Scale(5.0), locus=Locus(frames=[1])),
        Edit("blocks.0", Scale(7.0)),
        Edit("blocks.0", Scale(3.0), locus=Locus(rows=[0, 3])),
    ]
    h = activation(model, x, "blocks.0")
    expected = 7 * h
    expected[:2] *= 2
    expected[:, 1] *= 5
    expected[[0, 3]] *= 3
    with attached(model, edits), captured(model, ["blocks.0"]) as edited:
        model(x)
    torch.testing.assert_close(edited["blocks.0"], expected)


def test_an_edit_lasts_over_many_calls_and_over_a_module_called_twice(x):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x):
            return self.inner(self.inner(x))

    model = Twice()
    with attached(model, [Edit("inner", Mean(torch.tensor([1.0, 2.0])))]):
        for _ in range(3):
            assert torch.equal(model(x)[0, 0, 0, 0, 0], torch.tensor([1.0, 2.0]))
    seen = []
    with observed(model, ["inner"], lambda site, h: seen.append((site, h))):
        model(x)
    assert [site for site, _ in seen] == [Site("inner")] * 2


def test_one_module_under_two_names_keeps_the_list_order(x):
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": shared})
    edits = [Edit("a", Scale(3.0)), Edit("b", Mean(torch.ones(2))), Edit("a", Scale(2.0))]
    with attached(model, edits):
        assert torch.equal(shared(x), torch.full_like(x, 2.0))


def test_tuples_are_edited_in_their_first_part_and_other_outputs_refused(x):
    Pair = namedtuple("Pair", "h cache")

    class Returns(nn.Module):
        def __init__(self, make):
            super().__init__()
            self.make = make

        def forward(self, x):
            return self.make(x)

    model = nn.ModuleDict(
        {
            "tuple": Returns(lambda x: (x, "cache")),
            "named": Returns(lambda x: Pair(x, "cache")),
            "dict": Returns(lambda x: {"h": x}),
        }
    )
    with attached(model, [Edit(name, Zero()) for name in model]):
        h, cache = model["tuple"](x)
        assert torch.equal(h, torch.zeros_like(x)) and cache == "cache"
        named = model["named"](x)
        assert isinstance(named, Pair) and torch.equal(named.h, torch.zeros_like(x)) and named.cache == "cache"
        with pytest.raises(PhysteerError, match="site dict is a dict"):
            model["dict"](x)


def test_a_kept_value_is_never_written_to_by_the_network(model, x):
    source = activation(model, x.flip(0), "blocks.0.tap")
    before = source.clone()
    with attached(model, [Edit("blocks.0.tap", Interchange(source))]):
        model(x)
    assert torch.equal(source, before)


def test_captured_activations_are_copies_off_the_tape_or_live_ones(model, x):
    x.requires_grad_()
    with captured(model, ["encoder"]) as copies, captured(model, ["encoder"], detach=False) as live:
        assert copies == {}
        model(x).sum().backward()
    assert not copies["encoder"].requires_grad
    assert live["encoder"].requires_grad


@pytest.mark.parametrize("compiled", ["call", "wrapper", "forward", "model"])
def test_sites_inside_compiled_modules_are_refused_and_their_borders_work(model, x, compiled):
    plain = activation(model, x, "blocks.1")
    whole: nn.Module = model
    if compiled == "call":
        model.blocks[1].compile(backend="eager")
    elif compiled == "wrapper":
        model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    elif compiled == "forward":
        model.blocks[1].forward = torch.compile(model.blocks[1].forward, backend="eager")
    else:
        whole = torch.compile(model, backend="eager")
    whole(x)
    with pytest.raises(PhysteerError, match="compiled"), attached(whole, [Edit("blocks.1.tap", Zero())]):
        pass
    if compiled in ("wrapper", "forward"):
        with attached(whole, [Edit("blocks.1", Scale(2.0))]), captured(whole, ["blocks.1"]) as h:
            whole(x)
        torch.testing.assert_close(h["blocks.1"], 2 * plain)
    else:
        with pytest.raises(PhysteerError, match="compiled"), attached(whole, [Edit("blocks.1", Zero())]):
            pass
    assert n_hooks(model) == 0


# --- locus


@pytest.mark.parametrize("rows", [None, slice(1, 3), [2, 0], [-1], slice(0, None, 2)])
@pytest.mark.parametrize("frames", [None, [-1], slice(0, 1), [1, 0]])
@pytest.mark.parametrize("site", ["blocks.0", "blocks.0.heads[1]", "blocks.0.heads"])
def test_only_the_locus_changes(model, x, rows, frames, site):
    h = activation(model, x, site)
    with (
        attached(model, [Edit(site, Zero(), locus=Locus(frames=frames, rows=rows))]),
        captured(model, [site]) as edited,
    ):
        model(x)
    expected = h.clone()
    index_rows = torch.arange(4)[rows] if rows is not None else torch.arange(4)
    index_frames = torch.arange(2)[frames] if frames is not None else torch.arange(2)
    expected[index_rows[:, None], index_frames] = 0
    assert torch.equal(bits(edited[site]), bits(expected))


def test_one_head_leaves_the_others_and_all_heads_are_seen_as_channels(model, x):
    whole = activation(model, x, "blocks.0.heads")
    assert whole.shape == (4, 2, *GRID, D)
    assert torch.equal(activation(model, x, "blocks.0.heads[1]"), whole[..., D // HEADS :])
    with attached(model, [Edit("blocks.0.heads[1]", Zero())]), captured(model, ["blocks.0.heads"]) as edited:
        model(x)
    assert torch.equal(edited["blocks.0.heads"][..., : D // HEADS], whole[..., : D // HEADS])
    assert not edited["blocks.0.heads"][..., D // HEADS :].any()


def test_a_region_masks_tokens_while_the_replacement_sees_all(model, x):
    region = torch.zeros(GRID, dtype=torch.bool)
    region[1:, 2] = True
    direction = torch.randn(*GRID, D)
    everywhere, h = Edit("blocks.1", Steer(direction, 0.5)), activation(model, x, "blocks.1")
    masked = everywhere.at(Locus(region=region))
    full = everywhere(h)
    assert torch.equal(masked(h), torch.where(region[..., None], full, h))
    with pytest.raises(PhysteerError, match=r"region has shape \[3, 4, 1\], the token grid \[2, 4, 1\]"):
        masked(h[:, :, :2])


@pytest.mark.parametrize(
    ("locus", "message"),
    [
        (Locus(rows=slice(2, 6)), "rows 2:6 are not all there: the activation has 4"),
        (Locus(rows=[4]), "row 4: the activation has 4"),
        (Locus(frames=[0, -3]), "frame -3: the activation has 2"),
        (Locus(frames=[]), "list is empty"),
        (Locus(rows=slice(2, 2)), "not all there"),
        (Locus(rows=[1, 1]), "name one twice"),
    ],
)
def test_rows_and_frames_that_are_not_there_are_refused(model, x, locus, message):
    with (
        pytest.raises(PhysteerError, match=f"site encoder: .*{message}"),
        attached(model, [Edit("encoder", Zero(), locus=locus)]),
    ):
        model(x)


def test_steps_follow_the_clock(model, x):
    plain, zeroed = model(x), model.decoder(torch.zeros(4, 2, *GRID, D))
    clock = Clock()
    edits = [Edit("blocks.2", Zero(), locus=Locus(steps=steps)) for steps in ([1], slice(4, None))]
    with attached(model, edits, clock):
        for clock.step in range(6):
            assert torch.equal(model(x), zeroed if clock.step in (1, 4, 5) else plain)
        clock.step = None
        with pytest.raises(PhysteerError, match="no rollout step"):
            model(x)
    with pytest.raises(PhysteerError, match="no clock"), attached(model, edits):
        pass


# --- subspaces and replacements


def variants(h: Tensor) -> dict[str, Edit]:
    """An interchange with the activation itself in every variant of subspace and locus."""
    U = basis(3)
    region = torch.zeros(GRID, dtype=torch.bool)
    region[0] = True
    loci = {
        "everywhere": Locus(),
        "rows": Locus(rows=[0, 2]),
        "frames": Locus(frames=[-1]),
        "region": Locus(region=region),
    }
    subspaces = {"all": None, "span": Span(U), "complement": Complement(U), "rotation": Span(basis(D))}
    return {
        f"{s}/{at}": Edit("blocks.1", Interchange(locus.take(h)), subspace, locus)
        for s, subspace in subspaces.items()
        for at, locus in loci.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_equal_to_source_is_a_no_op_in_every_variant(model, x, dtype):
    model, x = model.to(dtype), x.to(dtype)
    plain, h = model(x), activation(model, x, "blocks.1")
    for name, edit in variants(h).items():
        with attached(model, [edit]):
            assert torch.equal(model(x), plain), name
    with attached(model, list(variants(h).values())):
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_precision_in_is_precision_out(dtype):
    h = torch.randn(4, 2, *GRID, D).to(dtype)
    direction = torch.randn(*GRID, D)
    for replacement in (Zero(), Mean(torch.ones(D)), Interchange(h.float().flip(0)), Resample(), Scale(0.5)):
        for subspace in (None, Span(basis(2)), Complement(basis(2))):
            assert Edit("a", replacement, subspace)(h).dtype == dtype
    for mode in ("drop", "pad", "interpolate", "none"):
        assert Edit("a", Steer(direction, 0.3, mode))(h).dtype == dtype


def test_low_precision_and_autocast_round_once():
    h, source = (torch.randn(4, 2, *GRID, D, generator=torch.Generator().manual_seed(i)).bfloat16() for i in (0, 1))
    U = basis(3)
    exact = Edit("a", Interchange(source.double()), Span(U))(h.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = Edit("a", Interchange(source), Span(U))(h)
    assert torch.equal(rounded, exact.to(torch.bfloat16))


def test_span_and_complement_divide_the_change():
    h, source = torch.randn(2, 4, 2, *GRID, D, dtype=torch.float64)
    U = torch.linalg.qr(basis(3).double())[0]
    inside = Edit("a", Interchange(source), Span(U))(h)
    outside = Edit("a", Interchange(source), Complement(U))(h)
    torch.testing.assert_close((inside - h) + (outside - h), source - h)
    torch.testing.assert_close(inside @ U, source @ U)  # the coordinates in the span are the source's
    torch.testing.assert_close(outside @ U, h @ U)  # the complement leaves them
    torch.testing.assert_close(Edit("a", Interchange(source), Span(torch.eye(D).double()))(h), source)


@pytest.mark.parametrize(
    ("U", "message"),
    [
        (2 * torch.eye(D)[:, :2], "not orthonormal"),
        (torch.full((D, 1), torch.nan), "not orthonormal"),
        (torch.eye(2, D), "1 ≤ k ≤ d"),
        (torch.ones(D), "1 ≤ k ≤ d"),
    ],
)
def test_a_basis_is_checked(U, message):
    with pytest.raises(PhysteerError, match=message):
        Span(U)


def test_a_basis_keeps_its_precision_in_a_model_cast_to_bfloat16():
    edit = Edit("a", Steer(torch.randn(*GRID, D), 0.2), Span(basis(2))).to(torch.bfloat16)
    assert edit.subspace.basis.dtype == torch.float32
    assert edit.replacement.direction.dtype == torch.float32
    assert edit.state_dict() == {}


@pytest.mark.parametrize(("shape", "what"), [((3,), "vector"), ((2, 4, 1, D), "field")])
def test_a_value_of_another_width_or_grid_names_the_site(model, x, shape, what):
    with (
        pytest.raises(PhysteerError, match=r"site blocks.1: a value \[.*\] does not fit"),
        attached(model, [Edit("blocks.1", Mean(torch.zeros(shape)))]),
    ):
        model(x)


def test_a_subspace_of_another_width_names_the_site(model, x):
    U = torch.eye(5)[:, :2]
    with (
        pytest.raises(PhysteerError, match=r"site blocks.1: the subspace has width 5, the activation has 8"),
        attached(model, [Edit("blocks.1", Zero(), Span(U))]),
    ):
        model(x)


def test_resampling_is_a_fixed_derangement():
    h = torch.arange(6.0).reshape(6, 1, 1, 1, 1, 1).expand(6, 2, *GRID, D)
    resample = Resample(seed=3)
    first = resample(h)
    assert torch.equal(first, resample(h))
    assert torch.equal(first, Resample(seed=3)(h))
    for seed in range(50):
        order = Resample(seed).order(6)
        assert not (order == torch.arange(6)).any()
        assert sorted(order.tolist()) == list(range(6))
    assert len({tuple(Resample(seed).order(6).tolist()) for seed in range(50)}) > 10
    with pytest.raises(PhysteerError, match="two rows or more"):
        resample(h[:1])


def test_nothing_is_copied_where_nothing_changes(model, x):
    model.encoder.register_forward_hook(lambda module, args, output: kept.append(output))
    kept: list[Tensor] = []
    edits = [Edit("encoder", Scale(1.0)), Edit("encoder", Steer(torch.ones(*GRID, D), 0.0), locus=Locus(rows=[1]))]
    with attached(model, edits), captured(model, ["encoder"], detach=False) as h:
        model(x)
    assert h["encoder"] is kept[0]


def test_gradients_pass_through_overlapping_edits(model, x):
    class Shift(Replacement):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.zeros(D, dtype=torch.float64))

        def forward(self, h):
            return h.square() * 0.1 + h + self.by

    shift = Shift()
    h = torch.randn(4, 2, *GRID, D, dtype=torch.float64, requires_grad=True)
    edits = [
        Edit("a", shift, Span(torch.linalg.qr(basis(3).double())[0]), Locus(rows=slice(0, 3))),
        Edit("a", Steer(torch.randn(*GRID, D).double(), 0.3), locus=Locus(frames=[1])),
        Edit("a", shift, locus=Locus(rows=[1, 3])),
    ]

    def edited(h):
        for edit in edits:
            h = edit(h)
        return h

    one_by_one = torch.autograd.grad(edited(h).sin().sum(), [h, shift.by])
    together = torch.autograd.grad(apply_edits(h, edits).sin().sum(), [h, shift.by])
    for a, b in zip(one_by_one, together, strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda h: apply_edits(h, edits), [h[:, :, :1, :1].detach().requires_grad_()])


# --- conditions


def test_stacked_conditions_give_what_each_gives_alone(model, x):
    direction = torch.randn(*GRID, D)
    conditions = [
        UNSTEERED,
        *(
            Condition(f"{a:+}", (Edit("blocks.0", Steer(direction, a)), Edit("blocks.2", Steer(direction, a, "none"))))
            for a in (0.4, -0.4, 0.0)
        ),
        Condition("one row", (Edit("blocks.1", Zero(), locus=Locus(rows=[-1])),)),
        Condition("rows", (Edit("blocks.1", Zero(), locus=Locus(rows=slice(1, None), frames=[0])),)),
    ]
    with attached(model, stack_conditions(conditions, 4)):
        together = separated(model(torch.cat([x] * len(conditions))), len(conditions))
    assert torch.equal(together[0], together[3])
    for condition, y in zip(conditions, together, strict=True):
        with attached(model, condition.edits):
            torch.testing.assert_close(y, model(x))
    assert not torch.equal(together[0], together[1])


def test_conditions_copy_an_activation_once(model, x):
    direction = torch.randn(*GRID, D)
    conditions = [Condition(str(a), (Edit("blocks.1", Steer(direction, 0.1 * a)),)) for a in range(5)]
    batch = torch.randn(5 * 4, 2, *GRID, D)
    edits = stack_conditions(conditions, 4)
    with torch.no_grad():
        apply_edits(batch, edits)  # fits the directions to the grid
        with torch.profiler.profile() as profile:
            apply_edits(batch, edits)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls.get("aten::clone", 0) == 1


def test_two_conditions_of_one_name_are_refused():
    with pytest.raises(PhysteerError, match="'unsteered'"):
        stack_conditions([UNSTEERED, UNSTEERED], 2)
