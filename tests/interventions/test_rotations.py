"""Learned subspaces: orthonormal whatever is done to them, evaluated once, shared among variables, reloaded exactly."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.forecast.optimizer import adamw
from physteer.interventions import (
    BoundlessRotation,
    Edit,
    Interchange,
    InterchangeMean,
    Locus,
    LowRankRotation,
    OrthonormalColumns,
    Span,
    apply_edits,
    attached,
    check_gradient,
    evaluated_once,
)

D = 12
GRID = (3, 2, 1)


def activation(seed: int, grid=GRID, rows=4) -> Tensor:
    return torch.randn(rows, 2, *grid, D, generator=torch.Generator().manual_seed(seed))


def subspaces(k=3) -> dict[str, nn.Module]:
    return {
        "low rank": LowRankRotation(D, k),
        "group": LowRankRotation(D, k + 1).split([1, k])[1],
        "full rank": LowRankRotation(D, D),
        "boundless": BoundlessRotation(D),
        "boundless, hard": BoundlessRotation(D).eval(),
    }


def departure(basis: Tensor) -> float:
    """Largest entry of |RᵀR − I|."""
    gram = basis.detach().double().mT @ basis.detach().double()
    return float((gram - torch.eye(len(gram)).double()).abs().max())


# --- orthonormal columns


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["ours", "decays everything"])
def test_a_hundred_steps_with_decay_keep_rotations_orthonormal(weight_decay, optimizer):
    model = nn.ModuleDict({"low": LowRankRotation(D, 4), "full": BoundlessRotation(D), "other": nn.Linear(D, D)})
    make = (
        adamw
        if optimizer == "ours"
        else lambda model, lr, decay: torch.optim.AdamW(model.parameters(), lr, (0.9, 0.95), 1e-8, decay)
    )
    optimizer = make(model, 0.05, weight_decay)
    target = activation(1)
    for _ in range(100):
        optimizer.zero_grad()
        (model["low"](target).square().sum() - model["full"](target)[..., 0].sum()).backward()
        optimizer.step()
    for rotation in (model["low"].rotation, model["full"].rotation):
        assert departure(rotation()) < 1e-5
        assert torch.linalg.cond(rotation.raw.detach()) < 100


def test_decay_is_for_matrices_that_are_no_subspace():
    model = nn.ModuleDict({"edit": Edit("a", Interchange(), LowRankRotation(D, 4)), "linear": nn.Linear(D, D)})
    model["linear"].bias.requires_grad_(False)
    decayed, kept = adamw(model, 1e-3, 0.1).param_groups
    assert [decayed["weight_decay"], kept["weight_decay"]] == [0.1, 0.0]
    assert decayed["params"] == [model["linear"].weight]
    assert kept["params"] == [model["edit"].subspace.rotation.raw]


def test_a_multiple_of_the_numbers_is_the_same_rotation_and_a_small_change_a_close_one():
    columns = OrthonormalColumns(D, 4)
    before = columns().detach()
    with torch.no_grad():
        columns.raw.mul_(1e-3)
    torch.testing.assert_close(columns(), before)
    with torch.no_grad():
        columns.raw[0] *= -1  # entries that LAPACK's signs follow
    flipped = before.clone()
    flipped[0] *= -1
    torch.testing.assert_close(columns(), flipped)


def test_gradients_are_right_and_lead_out_of_the_span_only():
    columns, x = OrthonormalColumns(6, 2).double(), torch.randn(5, 6, dtype=torch.float64)
    raw = columns.raw.detach() @ torch.tensor([[2.0, 0.3], [0.0, 0.1]]).double()  # a less tidy basis of the same span

    def columns_of(raw: Tensor) -> Tensor:
        return torch.func.functional_call(columns, {"raw": raw}, ())

    assert torch.autograd.gradcheck(columns_of, [raw.requires_grad_()])
    R = columns_of(raw)
    (gradient,) = torch.autograd.grad(((x @ R) @ R.mT).pow(4).sum(), raw)
    assert gradient.abs().max() > 0.1
    torch.testing.assert_close(R.mT @ gradient, torch.zeros(2, 2).double(), atol=1e-12, rtol=0)


def test_equal_seeds_give_equal_rotations_whatever_the_global_state():
    torch.manual_seed(1)
    first = LowRankRotation(D, 3, seed=5).basis
    torch.manual_seed(2)
    torch.set_default_dtype(torch.float64)
    try:
        second = LowRankRotation(D, 3, seed=5).basis
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(first, second)
    assert not torch.equal(first, LowRankRotation(D, 3, seed=6).basis)


@pytest.mark.parametrize("make", [lambda: LowRankRotation(D, 3, 1), lambda: BoundlessRotation(D, 1)])
def test_a_reloaded_rotation_is_equal_to_the_saved_one(make, tmp_path):
    trained, fresh = make(), type(make())(*([D, 3] if isinstance(make(), LowRankRotation) else [D]))
    optimizer = torch.optim.Adam(trained.parameters(), 0.1)
    for _ in range(3):
        trained(activation(2)).square().sum().backward()
        optimizer.step()
    if isinstance(trained, BoundlessRotation):
        trained.anneal(0.5)
    torch.save(trained.state_dict(), tmp_path / "rotation.pt")
    fresh.load_state_dict(torch.load(tmp_path / "rotation.pt", weights_only=True))
    assert torch.equal(fresh.rotation(), trained.rotation())
    assert torch.equal(fresh(activation(3)), trained(activation(3)))
    assert torch.equal(copy.deepcopy(trained).rotation(), trained.rotation())


# --- precision


@pytest.mark.parametrize("name", subspaces())
@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16().cpu()])
def test_a_cast_model_keeps_its_rotations(name, cast):
    subspace = subspaces()[name]
    before = {key: value.clone() for key, value in subspace.state_dict().items()}
    model = cast(nn.ModuleDict({"edit": Edit("a", Interchange(), subspace), "linear": nn.Linear(D, D)}))
    assert model["linear"].weight.dtype != torch.float32
    for key, value in subspace.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])
    h, source = activation(0).bfloat16(), activation(1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        edited = Edit("a", Interchange(source), subspace)(h)
        assert subspace.basis.dtype == torch.float32
    exact = Edit("a", Interchange(source.float()), subspace)(h.float())
    assert torch.equal(edited, exact.bfloat16())  # rounded once, at the end
    if name == "full rank":
        return  # everything is exchanged: no gradient
    edited.float().square().sum().backward()
    for rotation in (part for part in subspace.modules() if isinstance(part, OrthonormalColumns)):
        assert rotation.raw.grad.dtype == torch.float32


# --- one evaluation per step


def decompositions(run) -> int:
    with torch.profiler.profile() as profile:
        run()
    return sum(event.count for event in profile.key_averages() if event.key == "aten::linalg_qr")


def test_one_decomposition_per_step_however_many_edits_share_it():
    rotation = LowRankRotation(D, 3)
    edits = nn.ModuleList(
        Edit("a", Interchange(activation(i)), group) for i, group in enumerate(rotation.split([1, 2]))
    )
    h = activation(9)

    def step() -> Tensor:
        return apply_edits(apply_edits(h, edits), [Edit("a", Interchange(activation(3)), rotation)]).square().sum()

    def once() -> None:
        with evaluated_once(edits):
            step().backward()

    assert decompositions(lambda: step().backward()) == 3
    plain = rotation.rotation.raw.grad.clone()
    rotation.rotation.raw.grad = None
    assert decompositions(once) == 1
    torch.testing.assert_close(rotation.rotation.raw.grad, plain, atol=1e-4, rtol=1e-3)
    assert decompositions(once) == 1  # nothing is left of the step before: its graph is gone


def test_an_evaluation_is_never_stale():
    rotation = LowRankRotation(D, 3)
    optimizer = torch.optim.AdamW(rotation.parameters(), 0.1)
    with evaluated_once(rotation):
        first = rotation.basis
        with torch.no_grad():
            assert not rotation.basis.requires_grad
        assert rotation.basis.requires_grad
        with evaluated_once(rotation):
            assert torch.equal(rotation.basis, first)
        assert rotation.basis is rotation.basis
        rotation(activation(0)).square().sum().backward()
        optimizer.step()
        after = rotation.basis
        assert not torch.equal(first, after)
        rotation.load_state_dict(LowRankRotation(D, 3, seed=7).state_dict())
        assert torch.equal(rotation.basis, LowRankRotation(D, 3, seed=7).basis)
    assert rotation.basis is not rotation.basis
    with pytest.raises(ZeroDivisionError), evaluated_once(rotation):
        raise ZeroDivisionError
    assert rotation.basis is not rotation.basis


# --- what is exchanged


@pytest.mark.parametrize("name", subspaces())
@pytest.mark.parametrize("replacement", [Interchange, InterchangeMean])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_equal_to_source_is_a_no_op_for_every_rotation(name, replacement, dtype):
    h = activation(0).to(dtype)
    for locus in (Locus(), Locus(frames=[-1]), Locus(rows=[1, 2])):
        edit = Edit("a", replacement(locus.take(h).clone()), subspaces()[name], locus)
        assert torch.equal(edit(h), h)


def test_a_rotation_of_full_rank_exchanges_everything_exactly():
    source = activation(1)
    torch.testing.assert_close(Edit("a", Interchange(source), LowRankRotation(D, D))(activation(0)), source)


def test_coordinates_in_the_subspace_are_the_sources_and_the_rest_the_bases():
    h, source, rotation = activation(0), activation(1), LowRankRotation(D, 3)
    U = rotation.basis.detach()
    edited = Edit("a", Interchange(source), rotation)(h)
    torch.testing.assert_close(edited @ U, source @ U, atol=1e-5, rtol=0)
    torch.testing.assert_close(edited - (edited @ U) @ U.mT, h - (h @ U) @ U.mT, atol=1e-5, rtol=0)
    torch.testing.assert_close(edited, Edit("a", Interchange(source), Span(U))(h))


def test_groups_at_one_site_add_up_whatever_their_order():
    h, sources = activation(0), [activation(i) for i in (1, 2, 3)]
    rotation = LowRankRotation(D, 6)
    groups = rotation.split([1, 2, 3])
    assert [group.basis.shape[1] for group in groups] == [1, 2, 3]
    edits = [Edit("a", Interchange(s), group) for s, group in zip(sources, groups, strict=True)]
    U = rotation.basis
    parts = U.split([1, 2, 3], dim=1)
    expected = h + sum(((s - h) @ R) @ R.mT for s, R in zip(sources, parts, strict=True))
    for order in ([0, 1, 2], [2, 0, 1]):
        torch.testing.assert_close(apply_edits(h, [edits[i] for i in order]), expected, atol=1e-5, rtol=0)
    together = Edit("a", Interchange(sources[0]), rotation)(h)
    for edit in edits:
        edit.replacement.source = sources[0]
    torch.testing.assert_close(apply_edits(h, edits), together, atol=1e-5, rtol=0)
    assert len(list(nn.ModuleList(edits).parameters())) == 1  # one rotation, shared


def test_only_the_spatial_mean_comes_from_another_initial_condition():
    h, U = activation(0), LowRankRotation(D, 2).basis.detach()
    source = activation(1, grid=(5, 4, 1))  # even of another grid
    edited = Edit("a", InterchangeMean(source), Span(U))(h)
    space = (2, 3, 4)
    torch.testing.assert_close((edited @ U).mean(space), (source @ U).mean(space), atol=1e-6, rtol=0)
    departures = h - h.mean(space, keepdim=True)
    torch.testing.assert_close(edited - edited.mean(space, keepdim=True), departures, atol=1e-5, rtol=0)
    shuffled = source.flatten(2, 4)[:, :, torch.randperm(20)].unflatten(2, (5, 4, 1))
    torch.testing.assert_close(Edit("a", InterchangeMean(shuffled), Span(U))(h), edited)
    with pytest.raises(PhysteerError, match="no axes of space"):
        Edit("a", InterchangeMean(torch.zeros(4, 2, D)))(torch.zeros(4, 2, D))
    with pytest.raises(PhysteerError, match=r"site a: a source .* does not fit"):
        Edit("a", InterchangeMean(activation(1, rows=3)))(h)


# --- boundless


def test_the_mask_is_one_for_all_rows_and_as_published():
    rotation = BoundlessRotation(D)
    assert rotation.temperature == pytest.approx(0.05 * D)
    rotation.anneal(0.5)
    tau = D * math.sqrt(0.05 * 1e-4)
    assert rotation.temperature == pytest.approx(tau)
    i = torch.arange(D)
    expected = ((i + 0.5) / tau).sigmoid() * ((0.5 * D - i - 0.5) / tau).sigmoid()
    torch.testing.assert_close(rotation.mask, expected)
    h = activation(0, rows=D)  # as many rows as columns: a mask over rows would not be noticed by its shape
    torch.testing.assert_close(rotation(h)[:1], rotation(h[:1]))
    rotation.anneal(1.0)
    assert rotation.temperature == pytest.approx(1e-4 * D)
    assert rotation.eval().rank == 6
    assert rotation.basis.shape == (D, 6)
    torch.testing.assert_close(rotation(h), (h @ rotation.basis) @ rotation.basis.mT)
    with pytest.raises(PhysteerError, match="between 0 and 1"):
        rotation.anneal(1.1)


@pytest.mark.parametrize("training", [True, False])
def test_the_first_column_is_fully_exchanged_even_by_the_smallest_subspace(training):
    rotation = BoundlessRotation(D).train(training)
    rotation.anneal(1.0)
    with torch.no_grad():
        rotation.boundary.fill_(1 / D if training else -3.0)
    h, source = activation(0), activation(1)
    first = rotation.rotation()[:, 0]
    edited = Edit("a", Interchange(source), rotation)(h)
    torch.testing.assert_close(edited @ first, source @ first, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        (edited - h) @ rotation.rotation()[:, 1:], torch.zeros(4, 2, *GRID, D - 1), atol=1e-5, rtol=0
    )
    assert rotation.rank == 1


def test_the_share_comes_back_from_outside_its_bounds():
    for start, wanted in ((1.2, 0.3), (-0.2, 0.3), (0.5, 2.0), (0.5, -2.0)):
        rotation = BoundlessRotation(D)
        with torch.no_grad():
            rotation.boundary.fill_(start)
        optimizer = torch.optim.SGD([rotation.boundary], 0.1)
        for _ in range(100):
            optimizer.zero_grad()
            (rotation.share - wanted).square().backward()
            optimizer.step()
        assert rotation.share.item() == pytest.approx(min(max(wanted, 1e-3), 1.0), abs=1e-3)
        assert abs(rotation.boundary.item()) < 1.5


def test_the_temperature_is_kept_but_never_trained():
    rotation = BoundlessRotation(D)
    assert {name for name, _ in rotation.named_parameters()} == {"rotation.raw", "boundary"}
    rotation.anneal(0.3)
    resumed = BoundlessRotation(D)
    resumed.load_state_dict(rotation.state_dict())
    assert resumed.temperature == rotation.temperature
    with pytest.raises(TypeError):  # a number: there is nothing for an optimiser to move
        torch.optim.AdamW([{"params": rotation.temperature}])
    with pytest.raises(KeyError):
        rotation.temperature = nn.Parameter(torch.tensor(1.0))


# --- mistakes


@pytest.mark.parametrize(("rank", "found"), [(0, 0), (-1, -1), (D + 1, 13)])
def test_a_rank_below_one_or_above_the_width_is_refused(rank, found):
    with pytest.raises(PhysteerError, match=f"rank from 1 to the width 12 of its site; found {found}"):
        LowRankRotation(D, rank)


@pytest.mark.parametrize("ranks", [[], [2, 2], [3, 0], [4, -1]])
def test_groups_that_do_not_divide_the_columns_are_refused(ranks):
    with pytest.raises(PhysteerError, match="do not divide a rotation of rank 3"):
        LowRankRotation(D, 3).split(ranks)


@pytest.mark.parametrize("name", subspaces())
def test_another_width_names_the_site(name):
    edit = Edit("blocks.3", Interchange(torch.zeros(1, 1, 1, 1, 1, 5)), subspaces()[name])
    with pytest.raises(PhysteerError, match=r"site blocks.3: the rotation has width 12, the activation has 5"):
        edit(torch.ones(1, 1, 1, 1, 1, 5))


class Suffix(nn.Module):
    """Two sites, of which the loss reads one."""

    def __init__(self):
        super().__init__()
        self.read, self.unread = nn.Identity(), nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        self.unread(h)
        return self.read(h)


@pytest.mark.parametrize(
    ("site", "rank", "same", "dead"),
    [("read", 3, False, False), ("unread", 3, False, True), ("read", D, False, True), ("read", 3, True, True)],
)
def test_a_rotation_without_a_gradient_is_an_error(site, rank, same, dead):
    h, model = activation(0), Suffix()
    edit = Edit(site, Interchange(h.clone() if same else activation(1)), LowRankRotation(D, rank))
    with attached(model, [edit]):
        loss = model(h).square().sum()
    if dead:
        with pytest.raises(PhysteerError, match=f"site {site}: the rotation of rank {rank} has no gradient"):
            check_gradient([edit], loss)
    else:
        check_gradient([edit], loss)
        loss.backward()  # still possible


def test_one_rotation_without_a_gradient_among_others_is_found():
    h, model = activation(0), Suffix()
    edits = [Edit(site, Interchange(activation(1)), LowRankRotation(D, 2)) for site in ("read", "unread")]
    with attached(model, edits):
        loss = model(h).square().sum()
    with pytest.raises(PhysteerError, match="site unread"):
        check_gradient(edits, loss)
