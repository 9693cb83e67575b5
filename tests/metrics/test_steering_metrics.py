"""What steering did to a rollout: alignment, recovery, nearness, damage, on cases whose answers are known exactly."""

import math

import pytest
import torch

from physteer.errors import PhysteerError
from physteer.metrics import (
    Geometry,
    alignment,
    blow_up_step,
    movement,
    nearness_terms,
    reference_spectrum,
    spectrum_distance,
    tracer_mass,
    true_change,
)

UNIT = Geometry((1.0, 1.0, 1.0), (True, True, True))


def fields(*shape, seed=0):
    """Random fields [B, T, C, H, W, D] in float64."""
    return torch.randn(*(shape or (2, 3, 2, 8, 6, 1)), generator=torch.Generator().manual_seed(seed)).double()


# --- alignment


@pytest.mark.parametrize("gain", [2.0, 1.0, 0.3, -0.5])
def test_a_multiple_of_the_true_change_has_cosine_one_and_that_gain(gain):
    base, target, unsteered = fields(seed=1), fields(seed=2), fields(seed=3)
    found = alignment(unsteered + gain * (target - base), unsteered, true_change(target, base))
    assert found.cosine.shape == found.gain.shape == (2, 3, 2)
    torch.testing.assert_close(found.cosine, torch.full((2, 3, 2), math.copysign(1, gain)).double())
    torch.testing.assert_close(found.gain, torch.full((2, 3, 2), gain).double())
    assert (found.cosine.abs() <= 1).all()


def test_what_is_orthogonal_to_the_true_change_lowers_the_cosine_and_not_the_gain():
    x = torch.arange(8).double() * (2 * math.pi / 8)
    true, other = (f(x).view(1, 1, 1, 8, 1, 1).expand(1, 1, 1, 8, 6, 1) for f in (torch.sin, torch.cos))
    zero = torch.zeros(1, 1, 1, 8, 6, 1)
    found = alignment(0.6 * true + 0.8 * other, zero, true_change(true, zero))
    assert found.cosine.item() == pytest.approx(0.6)
    assert found.gain.item() == pytest.approx(0.6)
    assert alignment(other, zero, true_change(true, zero)).cosine.item() == pytest.approx(0, abs=1e-12)


def test_alignment_is_per_row_step_and_field_and_conditions_broadcast():
    base, target, unsteered = fields(seed=1), fields(seed=2), fields(seed=3)
    steered = fields(4, 2, 3, 2, 8, 6, 1, seed=4)  # conditions first

    def part(t):
        return t[..., 1:2, 2:3, 1:2, :, :, :]

    together = alignment(steered, unsteered, true_change(target, base))
    assert together.gain.shape == together.truth.shape == (4, 2, 3, 2)
    one = alignment(*(part(t) for t in (steered[3], unsteered)), true_change(part(target), part(base)))
    assert one.cosine.item() == together.cosine[3, 1, 2, 1].item()
    assert one.gain.item() == together.gain[3, 1, 2, 1].item()


def test_a_field_without_a_true_change_has_no_alignment_and_an_unmoved_one_no_gain():
    base, target = fields(seed=1), fields(seed=2)
    target[:, :, 1] = base[:, :, 1]  # such as velocity, where only the tracer's diffusivity changes
    found = alignment(fields(seed=3), fields(seed=4), true_change(target, base))
    assert (
        found.gain[..., 1].isinf().logical_or(found.gain[..., 1].isnan()).all() and found.cosine[..., 1].isnan().all()
    )
    assert found.cosine[..., 0].isfinite().all()
    still = alignment(base, base, true_change(target, base))
    assert not still.gain[..., 0].any() and still.cosine[..., 0].isnan().all()


def test_sums_of_terms_pool_and_a_mean_of_ratios_does_not():
    base = torch.zeros(2, 1, 1, 8, 6, 1)
    target = fields(2, 1, 1, 8, 6, 1)
    target[1] *= 1e-3  # a row where next to nothing truly changes
    steered = target.clone()
    steered[1] *= 1e4
    found = alignment(steered, base, true_change(target, base))
    assert found.gain.mean().item() == pytest.approx(5000.5)
    pooled = (found.product.sum() / found.truth.sum()).item()
    assert pooled == pytest.approx(float((steered * target).sum() / target.square().sum()))
    assert pooled < 1.1


def test_small_changes_of_large_fields_keep_their_digits():
    base = torch.full((1, 1, 1, 8, 6, 1), 1e5)
    change = 2.0 ** torch.randint(-3, 3, base.shape, generator=torch.Generator().manual_seed(0))  # exact in float32
    found = alignment(base + change, base, true_change(base + 2 * change, base))
    assert found.gain.item() == pytest.approx(0.5, rel=1e-12)
    assert found.cosine.item() == pytest.approx(1, rel=1e-12)


def test_recovery_is_of_the_change_whatever_the_model_s_own_error_is():
    base, target, error = fields(seed=1), fields(seed=2), 10 * fields(seed=3)
    for share, recovery in ((0.0, 0.0), (0.5, 0.75), (1.0, 1.0), (2.0, 0.0), (-1.0, -3.0)):
        found = alignment(base + error + share * (target - base), base + error, true_change(target, base))
        torch.testing.assert_close(found.recovery, torch.full((2, 3, 2), recovery).double())
    mended = alignment(base, base + error, true_change(target, base))  # nearer to y(θ') without its change
    assert (nearness_terms(base, base + error, target).nearness > 0.9).all() and (mended.recovery < -9).all()


def test_fields_on_different_grids_are_refused():
    with pytest.raises(PhysteerError, match=r"grids \[8, 6, 1\] and \[8, 5, 1\] cannot be compared"):
        alignment(fields(), fields(), true_change(fields(), fields(1, 1, 1, 8, 5, 1)))


# --- nearness


def test_nearness_is_zero_for_no_steering_one_for_the_truth_and_three_quarters_half_way():
    unsteered, target = fields(seed=1), fields(seed=2)
    for share, nearness in ((0.0, 0.0), (0.5, 0.75), (1.0, 1.0), (2.0, 0.0), (3.0, -3.0)):
        terms = nearness_terms(unsteered + share * (target - unsteered), unsteered, target)
        torch.testing.assert_close(terms.nearness, torch.full((2, 3, 2), nearness).double())
    difference = (fields(seed=3) - target)[1, 2, 0]
    steered = nearness_terms(fields(seed=3), unsteered, target).error_steered[1, 2, 0]
    assert steered.item() == pytest.approx(difference.square().mean().item())


# --- movement


def test_movement_is_in_units_of_the_spread():
    u = fields(seed=1)
    spread = 2.5 * torch.ones(3, 2).double()
    torch.testing.assert_close(movement(u + 0.5, u, spread), torch.full((2, 3, 2), 0.2).double())
    assert not movement(u, u, spread).any()
    assert movement(u + 0.5, u, torch.zeros(3, 2)).isnan().all()  # a field without spread, such as an inflated one


# --- damage


def velocity(n=(16, 24, 1), seed=0):
    return fields(2, 3, *n, seed=seed)


def test_equal_spectra_are_at_distance_zero_wherever_they_are():
    u = velocity()
    assert not spectrum_distance(u, reference_spectrum(u, UNIT), UNIT).any()
    moved = torch.roll(u, (3, 5), (-3, -2)) + torch.tensor([0.7, -0.2, 0.0]).view(3, 1, 1, 1)  # a change of frame
    torch.testing.assert_close(
        spectrum_distance(moved, reference_spectrum(u, UNIT), UNIT), torch.zeros(2).double(), atol=1e-12, rtol=0
    )


def test_a_flow_of_c_times_the_velocity_is_at_the_logarithm_of_c_squared():
    u = velocity()
    for c in (0.5, 1.01, 3.0):
        torch.testing.assert_close(
            spectrum_distance(c * u, reference_spectrum(u, UNIT), UNIT),
            torch.full((2,), abs(2 * math.log(c))).double(),
            rtol=1e-5,
            atol=1e-6,
        )


def test_lost_small_scales_count_though_they_hold_no_energy():
    x = torch.arange(32).double() * (2 * math.pi / 32)
    waves = [k ** (-5 / 3) * torch.sin(k * x) for k in range(1, 17)]

    def flow(last):
        u = torch.zeros(3, 32, 32, 1).double()
        u[1] = sum(waves[:last]).view(32, 1, 1)
        return u

    whole = reference_spectrum(flow(15), UNIT)
    distances = [spectrum_distance(flow(last), whole, UNIT).item() for last in (15, 14, 10, 5)]
    assert distances == sorted(distances) and distances[0] == 0
    assert distances[1] > 1  # one shell of 16 is down by orders of magnitude; of the energy it held a thousandth


def test_shells_without_energy_in_either_flow_do_not_count():
    x = torch.arange(32).double() * (2 * math.pi / 32)
    u = torch.zeros(3, 32, 32, 1).double()
    u[1] = torch.sin(3 * x).view(32, 1, 1)
    noise = 1e-7 * velocity((32, 32, 1))[0]  # round-off of float32
    assert spectrum_distance(u + noise, reference_spectrum(u, UNIT), UNIT).item() < 1e-4
    assert spectrum_distance(torch.full_like(u, torch.nan), reference_spectrum(u, UNIT), UNIT).isnan()
    assert not spectrum_distance(u, reference_spectrum(torch.ones_like(u), UNIT), UNIT).isfinite()
    with pytest.raises(PhysteerError, match="two or more cells"):
        spectrum_distance(torch.ones(3, 1, 1, 1), torch.ones(1), UNIT)
    with pytest.raises(PhysteerError, match="of 24 shells cannot be compared with 12"):
        spectrum_distance(torch.ones(3, 32, 32, 1), reference_spectrum(torch.ones(3, 16, 16, 1), UNIT), UNIT)


def test_tracer_mass_is_conserved_by_moving():
    tracer = fields(2, 3, 8, 6, 1) - 0.1
    torch.testing.assert_close(tracer_mass(tracer.roll(3, -3), UNIT), tracer.mean((-3, -2, -1)))


def test_blow_up_is_the_first_step_that_is_not_finite_or_a_hundred_times_as_strong():
    initial = fields(3, 2, 8, 6, 1)
    frames = initial[:, None].repeat(1, 5, 1, 1, 1, 1)
    frames[0, 2:, 1, 0, 0, 0] = torch.nan
    frames[1, 1, 0] *= 101
    frames[1, 3:, 0, 2, 2, 0] = -torch.inf
    frames[2] *= 99.9
    never = math.inf
    assert blow_up_step(frames, initial).tolist() == [[never, 3], [2, never], [never, never]]
    assert blow_up_step(frames, initial).amin(-1).tolist() == [3, 2, never]
    assert blow_up_step(frames.float(), initial.float()).tolist() == [[never, 3], [2, never], [never, never]]
    huge = frames.float() * 1e30  # squares beyond float32
    assert blow_up_step(huge, initial.float() * 1e30).tolist() == [[never, 3], [2, never], [never, never]]


def test_a_field_that_is_zero_at_first_blows_up_only_when_it_is_not_finite():
    initial = torch.zeros(1, 1, 4, 4, 1)
    frames = torch.ones(1, 3, 1, 4, 4, 1)
    assert blow_up_step(frames, initial).item() == math.inf
    frames[0, 2, 0, 0, 0, 0] = math.inf
    assert blow_up_step(frames, initial).item() == 3
