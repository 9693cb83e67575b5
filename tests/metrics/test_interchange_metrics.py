"""Scores of interchange interventions: pooled over pairs and processes, with intervals over initial conditions."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from physteer.errors import PhysteerError
from physteer.metrics import (
    ChangeRecovery,
    InterchangeAccuracy,
    Movement,
    Nearness,
    Resampling,
    bootstrap_recovery,
    largest_principal_angle,
)

FIELDS = ("tracer", "velocity_x")
NAMES = ("ic 0", "ic 1", "ic 2")
OF_PAIR = ("ic 0", "ic 2", "ic 0", "ic 1", "ic 2", "ic 2")
FEW = Resampling(resamples=500)


def predictions(n=6) -> dict[str, Tensor]:
    """Random fields [n, C, H, W, D]; pairs differ a hundredfold in size, so that means of ratios would differ."""
    generator = torch.Generator().manual_seed(0)
    truth, base, edited, own_future = (torch.randn(n, 2, 5, 4, 1, generator=generator) for _ in range(4))
    size = torch.logspace(-1, 1, n).view(-1, 1, 1, 1, 1)
    return {
        "edited": (truth + 0.5 * edited) * size,
        "base": (truth + base) * size,
        "truth": truth * size,
        "own_future": (truth + base + 0.1 * own_future) * size,
    }


def rows(tensors: dict[str, Tensor], index) -> dict[str, Tensor]:
    return {name: tensor[index] for name, tensor in tensors.items()}


def test_nearness_is_pooled_over_pairs_then_averaged_over_fields():
    p = predictions()
    metric = Nearness(FIELDS, NAMES)
    metric.update(**p, initial_conditions=OF_PAIR)
    found = metric.nearness(FEW)

    def squares(prediction: Tensor) -> Tensor:
        return (prediction - p["truth"]).double().square().mean((2, 3, 4))

    expected = 1 - squares(p["edited"]).sum(0) / squares(p["base"]).sum(0)
    assert found.mean.value == pytest.approx(expected.mean().item())
    own_error = (p["base"] - p["own_future"]).double().square().mean((2, 3, 4))
    ceiling = 1 - own_error.sum(0) / squares(p["base"]).sum(0)
    assert found.ceiling.value == pytest.approx(ceiling.mean().item())
    for i, field in enumerate(FIELDS):
        table = bootstrap_recovery(squares(p["edited"])[:, i], squares(p["base"])[:, i], OF_PAIR, FEW)
        assert found.per_field[field].value == pytest.approx(expected[i].item())
        assert found.per_field[field].low == pytest.approx(table.low)
        assert found.per_field[field].high == pytest.approx(table.high)
        assert found.per_field[field].initial_conditions == 3
    assert not math.isclose(
        found.mean.value, (1 - squares(p["edited"]) / squares(p["base"])).mean().item(), abs_tol=0.01
    )


def test_recovery_of_the_change_does_not_count_the_models_error():
    """An edit that changes the prediction as the truth changes has 1, whatever the prediction's own error."""
    p = predictions()
    own_future, error = p["own_future"], p["base"]
    base = own_future + error
    exact = base + (p["truth"] - own_future)
    for edited, value in ((base, 0.0), (exact, 1.0), (base + 0.5 * (p["truth"] - own_future), 0.75)):
        metric, nearness = ChangeRecovery(FIELDS, NAMES), Nearness(FIELDS, NAMES)
        metric.update(edited, base, p["truth"], own_future, OF_PAIR)
        mean, each = metric.recovery(FEW)
        assert mean.value == pytest.approx(value, abs=1e-5) and mean.initial_conditions == 3
        assert all(interval.value == pytest.approx(value, abs=1e-5) for interval in each.values())
    nearness.update(exact, base, p["truth"], p["truth"], OF_PAIR)
    assert nearness.nearness(FEW).mean.value < 0.9  # which its definition does not know


@pytest.mark.parametrize("rounding", [0.0, 1e-6])
def test_fields_that_never_change_are_left_out_of_the_mean_recovery(rounding):
    """A simulator that starts again from a stored frame comes to the stored frames but for rounding."""
    p = predictions()
    own_future = p["own_future"].clone()
    own_future[:, 1] = p["truth"][:, 1] * (1 + rounding)
    metric = ChangeRecovery(FIELDS, NAMES)
    metric.update(p["base"], p["base"], p["truth"], own_future, OF_PAIR)
    mean, each = metric.recovery(FEW)
    assert mean.value == each["tracer"].value == 0 and math.isnan(each["velocity_x"].value)
    metric = ChangeRecovery(FIELDS, NAMES)
    metric.update(p["base"], p["base"], p["truth"], p["truth"] * (1 + rounding), OF_PAIR)
    assert math.isnan(metric.recovery(FEW)[0].value)  # nothing changes at all


def test_differences_are_paired():
    """Scores that differ by the same amount for every initial condition differ by it in every resample."""
    p = predictions()
    change = p["truth"] - p["own_future"]
    scores = {}
    for share in (0.5, 0.9):
        scores[share] = ChangeRecovery(FIELDS, NAMES)
        scores[share].update(p["base"] + share * change, p["base"], p["truth"], p["own_future"], OF_PAIR)
    mean, each = scores[0.9].above(scores[0.5], FEW)
    for interval in (mean, *each.values()):
        assert (interval.value, interval.low, interval.high) == pytest.approx((0.24, 0.24, 0.24), abs=1e-5)
    hits = torch.tensor([1, 0, 1, 1, 1, 1])
    first, second = InterchangeAccuracy(NAMES), InterchangeAccuracy(NAMES)
    first.update(hits, torch.ones(6).long(), OF_PAIR)
    second.update(hits, torch.ones(6).long(), OF_PAIR)
    assert first.accuracy(FEW).low < first.accuracy(FEW).high
    same = first.above(second, FEW)
    assert same.value == same.low == same.high == 0


@pytest.mark.parametrize(("prediction", "value"), [("base", 0.0), ("truth", 1.0)])
def test_no_edit_recovers_nothing_and_the_truth_everything(prediction, value):
    p = predictions()
    metric = Nearness(FIELDS, NAMES)
    metric.update(p[prediction], p["base"], p["truth"], p["base"], OF_PAIR)
    found = metric.nearness(FEW)
    assert (found.mean.value, found.mean.low, found.mean.high, found.ceiling.value) == (value, value, value, 1.0)


def test_initial_conditions_without_pairs_are_not_resampled():
    p = predictions()
    metric = Nearness(FIELDS, (*NAMES, "ic 3"))
    metric.update(**p, initial_conditions=OF_PAIR)
    same = Nearness(FIELDS, NAMES)
    same.update(**p, initial_conditions=OF_PAIR)
    assert metric.nearness(FEW) == same.nearness(FEW)


def test_accuracy_is_the_share_of_pairs_with_its_interval_over_initial_conditions():
    metric = InterchangeAccuracy(NAMES)
    edited, counterfactual = torch.tensor([1, 0, 2, 2, 1, 1]), torch.tensor([1, 0, 2, 0, 1, 0])
    for split in (slice(0, 1), slice(1, 6)):
        metric.update(edited[split], counterfactual[split], OF_PAIR[split])
    found = metric.accuracy(FEW)
    assert found.value == pytest.approx(4 / 6)
    assert found.initial_conditions == 3
    assert found.low < found.value < found.high
    metric.reset()
    metric.update(edited, edited, OF_PAIR)
    assert metric.accuracy(FEW).low == 1.0


def test_movement_is_in_units_of_the_scale_and_zero_for_fields_that_do_not_move():
    p = predictions()
    scale = torch.rand(6, 2) + 0.5
    edited = p["base"].clone()
    edited[:, 1] += 0.3 * scale[:, 1, None, None, None]
    metric = Movement(FIELDS, NAMES)
    metric.update(edited, p["base"], scale, OF_PAIR)
    found = metric.movement(FEW)
    assert found["tracer"].value == found["tracer"].high == 0.0
    assert found["velocity_x"].value == pytest.approx(0.3, rel=1e-4)


def scored(pairs: slice) -> list[Metric]:
    """Score some of the pairs, one at a time."""
    p = rows(predictions(), pairs)
    accuracy, recovery = InterchangeAccuracy(NAMES), ChangeRecovery(FIELDS, NAMES)
    nearness, movement = Nearness(FIELDS, NAMES), Movement(FIELDS, NAMES)
    for i, name in enumerate(OF_PAIR[pairs]):
        one = rows(p, slice(i, i + 1))
        accuracy.update((one["edited"][:, 0, 0, 0, 0] > 0).long(), (one["truth"][:, 0, 0, 0, 0] > 0).long(), [name])
        recovery.update(**one, initial_conditions=[name])
        nearness.update(**one, initial_conditions=[name])
        movement.update(one["edited"], one["base"], torch.ones(1, 2), [name])
    return [accuracy, recovery, nearness, movement]


def test_two_processes_score_as_one():
    everything, parts = scored(slice(0, 6)), (scored(slice(0, 2)), scored(slice(2, 6)))  # one initial condition on both
    for one, mine, other in zip(everything, *parts, strict=True):
        mine.merge_state(other)  # by the reductions that torchmetrics applies over processes
        torch.testing.assert_close(mine.compute(), one.compute(), rtol=1e-12, atol=0)


def test_what_does_not_fit_is_refused():
    p = predictions()
    metric = Nearness(FIELDS, NAMES)
    with pytest.raises(PhysteerError, match=r"'ic 9' is not one that is scored; did you mean 'ic 2'"):
        metric.update(**p, initial_conditions=[*OF_PAIR[:5], "ic 9"])
    with pytest.raises(PhysteerError, match="6 pairs come with 2 initial conditions"):
        metric.update(**p, initial_conditions=OF_PAIR[:2])
    with pytest.raises(PhysteerError, match="a score of 2 fields got"):
        metric.update(**(p | {"base": p["base"][:, :1]}), initial_conditions=OF_PAIR)
    with pytest.raises(PhysteerError, match="not one of each for every pair"):
        InterchangeAccuracy(NAMES).update(torch.zeros(6), torch.zeros(5), OF_PAIR)


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 0.01, 1.0, 45.0, 89.9, 90.0])
def test_the_largest_principal_angle_is_exact_for_small_and_large_angles(degrees):
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64))[0]
    angle = math.radians(degrees)
    turned = torch.stack([Q[:, 0], Q[:, 1] * math.cos(angle) + Q[:, 2] * math.sin(angle)], dim=1)
    mixed = turned @ torch.randn(2, 2, generator=generator, dtype=torch.float64)  # another basis of that span
    assert largest_principal_angle(Q[:, :2], mixed) == pytest.approx(degrees, abs=1e-8)
    assert largest_principal_angle(mixed, Q[:, [1, 3, 0]]) == pytest.approx(degrees, abs=1e-8)  # nearest part of three
