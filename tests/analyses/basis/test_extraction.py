"""The search: its certificate, going on after a kill, energies from the file, any torch model, and what is refused."""

import pytest
import torch
from helpers.bases import K, PlantedReader, correlated, extracted, white

from physteer.analyses.basis import (
    MODES,
    AblationData,
    AblationEnergy,
    BasisPlan,
    CrossEntropyIncrease,
    ExtractionSettings,
    ExtractionState,
    FieldDivergence,
    KLDivergence,
    StoppedExtractionError,
    Targets,
    UnfinishedExtractions,
    fit_basis,
    parts_of,
    row_derangement,
    with_partners,
)
from physteer.analyses.basis.extraction import RESTARTS, extract
from physteer.analyses.basis.metric import metric_of
from physteer.analyses.basis.starts import starts_of
from physteer.concepts import CausalBasis, Covariance
from physteer.errors import PhysteerError
from physteer.testing.equality_task import EqualityTransformer, draw_questions

CPU = torch.device("cpu")


def tokens(n=256, seed=0):
    """Activations [n, 4, 32] whose tokens have different means."""
    h = correlated(4 * n, seed).view(n, 4, -1)
    return h + 0.3 * torch.randn(4, h.shape[-1], generator=torch.Generator().manual_seed(seed))


def over_tokens(reader):
    return lambda h: reader(h).flatten(1)


@pytest.mark.parametrize("metric", ["raw", "whitened"])
@pytest.mark.parametrize("mode", MODES)
def test_energies_can_be_recomputed_from_the_file(tmp_path, mode, metric):
    h, tail = tokens(), over_tokens(PlantedReader(0))
    fit, _ = extracted(h, tail, mode, metric=metric, k=3, batch=100)
    fit.basis.save(tmp_path / "basis.safetensors")
    basis = CausalBasis.load(tmp_path / "basis.safetensors")
    assert (basis.mode, basis.metric, basis.rows) == (mode, metric, len(h))
    targets = Targets(basis.mode, basis.mean, basis.row_order, basis.token_order)
    parts = with_partners(parts_of(h, tail, batch=64), basis.row_order)
    energy = AblationEnergy([AblationData.of(part, targets) for part in parts], FieldDivergence(), CPU)
    again = [energy.of(basis.read[:, [j]], basis.write[:, [j]]) for j in range(basis.k)]
    torch.testing.assert_close(torch.tensor(again).double(), basis.energies, rtol=1e-3, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_what_takes_a_components_place(mode):
    h = tokens(12)
    order = row_derangement(12, mode, 0)
    (part,) = with_partners(parts_of(h, lambda x: x), order)
    fit, _ = extracted(h, over_tokens(PlantedReader(0)), mode, k=1)
    t = fit.targets.of(part)
    if mode == "zero":
        expected = torch.zeros_like(h)
    elif mode.endswith("mean"):
        expected = h.mean((0, 1) if mode == "mean" else 0).expand_as(h)
    else:
        assert sorted(order.tolist()) == list(range(12)) and not bool((order == torch.arange(12)).any())
        expected = h[order]
        if mode == "resample":
            assert sorted(fit.targets.token_order.tolist()) == list(range(4))
            expected = expected[:, fit.targets.token_order]
    torch.testing.assert_close(t, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(fit.targets.deviation(part), h - expected, atol=1e-6, rtol=0)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("when", [1, 2, 4])
def test_an_extraction_that_was_killed_goes_on(tmp_path, when):
    h, tail, seen = white(2048, 0), PlantedReader(0), []
    parts, order = parts_of(h, tail, batch=1024), row_derangement(2048, "mean", 0)

    def fit(digest="", kill=None):
        seen.clear()

        def report(name, state):
            seen.append(name)
            if len(seen) == kill:
                raise Interrupted

        plan = BasisPlan("mean", ExtractionSettings(k=3))
        states = UnfinishedExtractions(tmp_path, digest)
        return fit_basis(
            "x", parts, order, FieldDivergence(), plan, halves=[[0], [1]], unfinished=states, report=report
        )

    whole = fit("another").basis
    with pytest.raises(Interrupted):
        fit("own", kill=when)
    resumed = fit("own").basis
    assert len(seen) == 9 - when  # nothing was searched twice
    assert torch.equal(resumed.read, whole.read) and torch.equal(resumed.energies, whole.energies)
    assert torch.equal(resumed.half_angles, whole.half_angles) and resumed.evaluations == whole.evaluations
    assert len(list(tmp_path.glob("partial_*"))) == 3
    UnfinishedExtractions(tmp_path, "own").remove()
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_begins_anew(tmp_path):
    states = UnfinishedExtractions(tmp_path, "own")
    (tmp_path / "partial_x.safetensors").write_bytes(b"no safetensors")
    with pytest.warns(UserWarning, match="begins anew: .*partial_x"):
        assert states.load("x", 3).count == 0


@pytest.mark.parametrize("restarts", [0, RESTARTS])
def test_a_later_direction_with_more_energy_restarts_the_earlier_one(restarts):
    """From a state whose first direction is a missed maximum. Where it may not be searched again, the rise is told."""
    h, matrix = white(512, 0, 3), torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    good, parts = extracted(h, lambda h: h @ matrix, k=3)
    assert good.basis.restarts == (0, 0, 0)
    covariance = Covariance()
    covariance.update(h)
    energy = AblationEnergy([AblationData.of(part, good.targets) for part in parts], FieldDivergence(), CPU)
    missed = torch.eye(3, dtype=torch.float64)[:, [2]]
    state = ExtractionState(missed, [energy.of(missed, missed)], [7], [restarts])
    starts, counts = starts_of(energy, good.metric, covariance, "x", 0), []
    extract(energy, good.metric, starts, ExtractionSettings(k=3), state, lambda state: counts.append(state.count))
    if restarts == RESTARTS:
        assert counts == [2, 3]
        torch.testing.assert_close(torch.tensor(state.energies), torch.tensor([1.0, 9.0, 4.0]), rtol=1e-4, atol=0)
        assert state.rises[1:] == pytest.approx([8, 3], rel=1e-3)
    else:
        assert counts == [0, 1, 2, 3] and state.restarts == [1, 0, 0]
        torch.testing.assert_close(torch.tensor(state.energies), torch.tensor([9.0, 4.0, 1.0]), rtol=1e-4, atol=0)
        assert max(state.rises) == 0 and state.evaluations[0] > 7  # those of the dropped direction count
        torch.testing.assert_close(state.directions.abs(), torch.eye(3).double(), atol=1e-3, rtol=0)


def test_candidates_lie_in_the_complement_and_do_not_depend_on_batches():
    h = white(512, 0, 8)
    covariance = Covariance()
    covariance.update(h)
    metric = metric_of("raw", covariance)
    basis = torch.eye(8).double()[:, :3]
    drawn = []
    for batch in (512, 100):
        data = [
            AblationData.of(part, Targets("zero", torch.zeros(8).double(), torch.empty(0), torch.empty(0)))
            for part in parts_of(h, lambda x: x[:, :4].sin(), batch=batch)
        ]
        energy = AblationEnergy(data, FieldDivergence(), CPU)
        drawn.append(starts_of(energy, metric, covariance, "x", 0).candidates(basis, 9, 0))
    assert drawn[0].shape == (8, 9)
    torch.testing.assert_close(drawn[0].norm(dim=0), torch.ones(9).double())
    assert (basis.mT @ drawn[0]).abs().max() < 1e-12
    torch.testing.assert_close(*drawn, rtol=1e-4, atol=1e-4)
    assert abs(drawn[0][3, 3]) > 0.99  # of what the output depends on, channel 3 alone is left


def test_min_energy_ends_an_extraction():
    fit, _ = extracted(white(4096, 0), PlantedReader(0), k=8, min_energy=0.01)
    assert fit.basis.k == K and fit.basis.energies[-1] > 0.01


def test_a_transformers_blocks_with_its_own_head_and_labels():
    """Any torch model: tokens in place of frames, logits in place of fields."""
    torch.manual_seed(0)
    model = EqualityTransformer().requires_grad_(False).eval()
    questions = draw_questions(64, torch.Generator().manual_seed(0))
    with torch.no_grad():
        h, context = model.encode(questions)
        h = model.run_blocks(h, context, 0, 2)

    def tail(h):
        return model.decode(model.run_blocks(h, context, 2), context)  # [rows, 3, 2]

    for divergence in (KLDivergence(), CrossEntropyIncrease()):
        labels = tail(h).argmax(-1)
        fit, parts = extracted(h, tail, "rows_mean", divergence=divergence, labels=labels, k=3, max_iter=20)
        basis = fit.basis
        assert basis.units == "nats" and basis.mean.shape == (5, 32) and basis.divergence == type(divergence).__name__
        assert bool((basis.energies > 0).all())
        # the first direction does more than any of the axes
        energy = AblationEnergy([AblationData.of(part, fit.targets) for part in parts], divergence, CPU)
        axes = torch.eye(32).double()
        assert basis.energies[0] > max(energy.of(axes[:, [i]], axes[:, [i]]) for i in range(32))


def test_bfloat16_activations_are_ablated_in_float32():
    h, reader = tokens().bfloat16(), PlantedReader(0)

    def tail(x):
        assert x.dtype == torch.bfloat16
        return reader(x.float()).flatten(1)

    low, _ = extracted(h, tail, k=2)
    exact, _ = extracted(h.float(), over_tokens(reader), k=2)
    torch.testing.assert_close(low.basis.energies, exact.basis.energies, rtol=2e-2, atol=0)


class Breaks(FieldDivergence):
    """Not finite from a number of calls on."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, ablated, base, labels=None):
        self.calls -= 1
        return super().forward(ablated, base) * (1 if self.calls >= 0 else torch.nan)


def test_an_energy_that_is_not_finite_stops_and_keeps_what_was_found():
    whole, _ = extracted(white(512, 0), PlantedReader(0), k=2)
    calls = 10 + whole.basis.evaluations[0] + 10 + 3  # screening and search of the first; and of the second a part
    with pytest.raises(StoppedExtractionError, match=r"site blocks\.1: direction 2, evaluation 4: .* not finite") as e:
        extracted(white(512, 0), PlantedReader(0), divergence=Breaks(calls), k=2)
    assert e.value.basis.k == 1
    assert torch.equal(e.value.basis.read, whole.basis.read[:, :1])
    with pytest.raises(StoppedExtractionError, match=r"direction 1, screening: .* not finite") as e:
        extracted(white(512, 0), PlantedReader(0), divergence=Breaks(2), k=2)
    assert e.value.basis is None


@pytest.mark.parametrize(
    ("h", "settings", "sentence"),
    [
        (white(64, 0), {"k": 33}, r"site blocks\.1: k is 33: 32 channels allow 1 to 32"),
        (white(64, 0)[:32], {"metric": "whitened"}, "whitened metric of 32 channels needs 33 samples .* there are 32"),
        (torch.ones(64, 32), {}, r"site blocks\.1: activations do not vary"),
        (torch.randn(4, 32).repeat(16, 1, 1), {"mode": "rows_mean"}, "activations do not vary"),
        (white(64, 0)[:1].expand(2, 32), {}, "activations do not vary"),
        (torch.full((8, 32), torch.nan), {}, "not finite"),
        (white(64, 0), {"metric": "cosine"}, "metric 'cosine' is not one of raw, whitened"),
        (white(64, 0), {"mode": "meen"}, "mode 'meen' is not one of mean, .*did you mean 'mean'"),
        (white(64, 0)[:1].repeat(1, 1), {"mode": "resample"}, "needs two or more; found 1"),
        (white(64, 0), {"min_energy": 1e9}, "no direction's energy reaches min_energy 1e"),
        (white(64, 0), {"max_iter": 0}, "max_iter must be at least 1; found 0"),
    ],
)
def test_what_cannot_be_extracted(h, settings, sentence):
    settings = dict(settings)
    mode = settings.pop("mode", "mean")
    with pytest.raises(PhysteerError, match=sentence):
        extracted(h, over_tokens(PlantedReader(0)), mode, **settings)


def test_a_whitened_metric_leaves_out_what_does_not_vary():
    h = white(256, 0) * (torch.arange(32) < 20)
    fit, _ = extracted(h, PlantedReader(0), metric="whitened", k=0)
    assert fit.basis.k == 20
    with pytest.raises(PhysteerError, match="32 channels, of which 20 vary enough to be whitened, allow 1 to 20"):
        extracted(h, PlantedReader(0), metric="whitened", k=21)


def test_divergences_are_what_they_say():
    ablated, base = torch.randn(2, 3, 4, 5, 1), torch.randn(2, 3, 4, 5, 1)
    expected = (ablated - base).square().mean((2, 3, 4)).sum(1)
    torch.testing.assert_close(FieldDivergence()(ablated, base), expected)
    p, q = torch.randn(2, 3, 7).softmax(-1), torch.randn(2, 3, 7).softmax(-1)
    torch.testing.assert_close(KLDivergence()(q.log(), p.log()), (p * (p / q).log()).sum(-1).mean(1))
    labels = torch.tensor([[0, 1, 2], [3, 4, 5]])
    rise = (p.gather(-1, labels[..., None]).log() - q.gather(-1, labels[..., None]).log())[..., 0].mean(1)
    torch.testing.assert_close(CrossEntropyIncrease()(q.log(), p.log(), labels), rise)
    with pytest.raises(PhysteerError, match="needs labels"):
        CrossEntropyIncrease()(q, p)
    with pytest.raises(PhysteerError, match="do not fit scores"):
        CrossEntropyIncrease()(q, p, labels[:, 0])
    with pytest.raises(PhysteerError, match=r"must be \[rows\]"):
        extracted(white(64, 0), PlantedReader(0), divergence=lambda a, b, y: (a - b).square())
