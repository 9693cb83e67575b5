"""Intervals over initial conditions, p values against controls, dose–response: exact values and theorems."""

import math

import numpy as np
import pytest

from physteer.errors import PhysteerError
from physteer.metrics import (
    Resampling,
    bootstrap,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_recovery,
    control_p_value,
    dose_response,
    slope,
)
from physteer.metrics.statistics import bootstrap_columns, bootstrap_mean_columns

# --- bootstrap


def test_windows_that_share_an_initial_condition_are_one_draw():
    rng = np.random.default_rng(0)
    values = rng.normal(size=12)
    names = [f"ic{i}" for i in range(12)]
    once = bootstrap_mean(values, names)
    repeated = bootstrap_mean(np.repeat(values, 50), np.repeat(names, 50))
    assert repeated.value == pytest.approx(once.value) and repeated.initial_conditions == once.initial_conditions == 12
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))  # 600 windows know no more than 12
    apart = bootstrap_mean(np.repeat(values, 50), [str(i) for i in range(600)])
    assert apart.high - apart.low < 0.3 * (once.high - once.low)


def test_every_initial_condition_weighs_the_same_in_a_mean():
    found = bootstrap_mean([1, 1, 1, 1, 5], ["a", "a", "a", "a", "b"])
    assert found.value == 3
    assert (found.low, found.high) == (1, 5)


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    rng = np.random.default_rng(1)
    values = rng.normal(size=400)
    found = bootstrap_mean(values, [str(i) for i in range(400)])
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, inside = np.random.default_rng(2), 0
    for seed in range(300):
        shared = rng.normal(size=30)  # what the three windows of an initial condition have in common
        values = (shared[:, None] + 0.3 * rng.normal(size=(30, 3))).ravel()
        names = np.repeat([f"{i}" for i in range(30)], 3)
        found = bootstrap_mean(values, names, Resampling(resamples=400, seed=seed))
        inside += found.low <= 0 <= found.high
    assert 0.90 <= inside / 300 <= 0.98


def test_ratios_are_pooled_and_resampled_together():
    numerators, denominators = [1.0, 2.0, 3e-6], [2.0, 4.0, 1e-6]
    found = bootstrap_ratio(numerators, denominators, ["a", "b", "c"])
    assert found.value == pytest.approx(sum(numerators) / sum(denominators))  # not the mean of ratios, 1.33
    proportional = bootstrap_ratio(0.3 * np.arange(1, 9), np.arange(1, 9), list("abcdefgh"))
    assert proportional.low == pytest.approx(0.3) and proportional.high == pytest.approx(0.3)
    recovery = bootstrap_recovery(0.3 * np.arange(1, 9), np.arange(1, 9), list("abcdefgh"))
    assert recovery.value == pytest.approx(0.7) and recovery.low == pytest.approx(0.7)


def test_any_function_of_sums_can_be_resampled():
    terms = np.array([[3.0, 9.0, 1.0], [3.0, 0.0, 8.0]])
    found = bootstrap(terms, ["a", "b"], lambda sums: sums[..., 0] / np.sqrt(sums[..., 1] * sums[..., 2]))
    assert found.value == pytest.approx(6 / math.sqrt(9 * 9))
    total = bootstrap([1.0, 2.0, 4.0], ["a", "a", "b"], lambda sums: sums[..., 0])
    assert (total.value, total.low, total.high) == (7, 6, 8)  # draws are a a, a b or b b


def test_resamples_depend_on_seed_and_initial_conditions_alone():
    rng = np.random.default_rng(3)
    values, names = rng.normal(size=20), [f"{i % 7}" for i in range(20)]
    order = rng.permutation(20)
    found = bootstrap_mean(values, names)
    again = bootstrap_mean(values[order], [names[i] for i in order])
    assert (found.low, found.high) == pytest.approx((again.low, again.high), abs=1e-12)
    other = bootstrap_mean(values, names, Resampling(seed=1))
    assert found.value == other.value and (found.low, found.high) != (other.low, other.high)
    wide = bootstrap_mean(values, names, Resampling(level=0.99))
    assert wide.low < found.low and wide.high > found.high
    shifted = bootstrap_mean(values + 1, names)  # paired with the first
    assert shifted.low - found.low == pytest.approx(1)


def test_columns_are_bootstrapped_as_if_alone():
    rng = np.random.default_rng(5)
    names = [f"{i % 5}" for i in range(12)]
    values = rng.normal(size=(12, 6))
    values[3, 2:] = math.nan  # the columns keep different windows
    values[:, 5] = math.nan
    for column, found in enumerate(bootstrap_mean_columns(values, names)):
        assert repr(found) == repr(bootstrap_mean(values[:, column], names))
    terms = rng.normal(size=(12, 6, 2)) + 5
    columns = bootstrap_columns(terms, names, lambda sums: sums[..., 0] / sums[..., 1])
    for column, found in enumerate(columns):
        alone = bootstrap_ratio(terms[:, column, 0], terms[:, column, 1], names)
        assert (found.value, found.low, found.high) == pytest.approx((alone.value, alone.low, alone.high), abs=1e-14)
    for found in bootstrap_mean_columns(values[:, :5], names, Resampling(resamples=0)):
        assert math.isfinite(found.value) and math.isnan(found.low) and math.isnan(found.high)


def test_what_is_not_finite_is_left_out_and_counted():
    found = bootstrap_mean([1, 2, math.nan, math.inf], ["a", "b", "b", "c"])
    assert (found.value, found.initial_conditions, found.left_out) == (1.5, 2, 2)
    assert bootstrap_ratio([1, math.nan], [1, 1], ["a", "b"]).left_out == 1
    one = bootstrap_mean([1, 3], ["a", "a"])
    assert one.value == 2 and math.isnan(one.low) and math.isnan(one.high) and one.initial_conditions == 1
    none = bootstrap_mean([math.nan], ["a"])
    assert math.isnan(none.value) and none.initial_conditions == 0 and none.left_out == 1
    assert math.isnan(bootstrap_ratio([0, 0], [0, 0], ["a", "b"]).value)


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(PhysteerError, match="2 initial conditions"):
        bootstrap_mean([1, 2, 3], ["a", "b"])
    with pytest.raises(PhysteerError, match="1 initial conditions"):
        bootstrap([[1, 2], [3, 4]], ["a"], lambda s: s[..., 0])
    with pytest.raises(PhysteerError, match="not rows"):
        dose_response([1, 2], [1, 2, 3], ["a", "b", "c"])


# --- p values


def test_p_values_by_hand():
    controls = np.arange(19.0)
    assert control_p_value(19, controls) == 1 / 20
    assert control_p_value(18, controls) == 2 / 20  # a tie counts against the concept
    assert control_p_value(-1, controls) == 1
    assert control_p_value(-1, controls, "less") == 1 / 20
    assert control_p_value(-18.5, controls, "two-sided") == 1 / 20
    assert control_p_value(3, [-5, 2, 3], "two-sided") == 3 / 4
    assert control_p_value(3, []) == 1


def test_values_that_are_not_finite_never_help_the_concept():
    assert control_p_value(math.nan, [0.0] * 19) == 1
    assert control_p_value(5, [0.0] * 18 + [math.nan]) == 2 / 20
    for alternative in ("greater", "less", "two-sided"):
        assert control_p_value(0.0, [math.nan] * 3, alternative) == 1
    with pytest.raises(PhysteerError, match="'both' is not one of greater, less, two-sided"):
        control_p_value(1, [1], "both")


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_p_values_are_uniform_when_the_concept_is_one_more_random_direction(alternative):
    rng = np.random.default_rng(4)
    p = np.array([control_p_value(*_split(rng.normal(size=20)), alternative) for _ in range(4000)])
    for k in range(1, 21):
        assert (p <= k / 20 + 1e-9).mean() == pytest.approx(k / 20, abs=0.03)


def _split(values):
    return float(values[0]), values[1:]


# --- dose–response


def test_a_linear_response_has_its_slope_and_is_monotone():
    alpha = np.tile([-0.4, -0.2, 0.0, 0.2, 0.4], 3)
    names = np.repeat(["a", "b", "c"], 5)
    gain = np.repeat([1.0, 2.0, 3.0], 5)
    found = dose_response(alpha, gain * alpha + 7, names)
    assert found.value == pytest.approx(2)
    assert 1 <= found.low < 2 < found.high <= 3
    assert found.initial_conditions == 3
    falling = dose_response(alpha, -gain * alpha, names)
    assert falling.value == pytest.approx(-2)


def test_an_even_response_has_no_slope():
    alpha = np.array([-0.4, -0.2, 0.0, 0.2, 0.4])
    found = dose_response(alpha, alpha**2, ["a"] * 5)  # damage, the same for both signs
    assert found.value == pytest.approx(0)
    still = dose_response(alpha, np.zeros(5), ["a"] * 5)
    assert still.value == 0


def test_initial_conditions_are_measured_one_by_one():
    """Within each the effect falls, though over all of them it rises with α."""
    alpha = [0.0, 0.1, 1.0, 1.1]
    found = dose_response(alpha, [0.0, -1.0, 10.0, 9.0], ["a", "a", "b", "b"])
    assert slope(alpha, [0.0, -1.0, 10.0, 9.0]) > 0
    assert found.value == pytest.approx(-10)


def test_windows_of_an_initial_condition_are_averaged_and_bad_rows_left_out():
    found = dose_response([0, 1, 1, 1, 0], [0, 1, 3, math.nan, math.nan], ["a"] * 5)
    assert found.value == 2
    none = dose_response([1, 1], [1, 2], ["a", "b"])  # one strength each: no slope
    assert math.isnan(none.value) and none.initial_conditions == 0
    with pytest.raises(PhysteerError, match="must be finite"):
        dose_response([math.nan], [1], ["a"])


def test_slope_by_hand():
    assert slope([1, 2, 3], [1, 2, 6]) == pytest.approx(np.polyfit([1, 2, 3], [1, 2, 6], 1)[0])
    assert math.isnan(slope([1, 1], [1, 2]))
