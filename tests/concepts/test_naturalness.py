"""Naturalness: streams give the covariance of all at once, and percentiles mean what they say."""

import math

import pytest
import torch

from physteer.concepts import Covariance, NaturalDistances, NaturalSpace
from physteer.errors import PhysteerError
from physteer.interventions import Steer

D = 12
SCALES = torch.linspace(3, 0.5, D)


def natural(n=4, frames=2, grid=(3, 4, 1), seed=0, offset=2.0):
    """Gaussian tokens [n, frames, h, w, δ, d] with known covariance."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(99))).Q
    return torch.randn(n, frames, *grid, D, generator=generator) * SCALES @ rotation.mT + offset


def covariance(h):
    sums = Covariance()
    sums.update(h.flatten(0, -2))
    return sums


def fitted(h, directions=64):
    return NaturalSpace.of(covariance(h), directions)


# --- mean and covariance


@pytest.mark.parametrize("split", [[10], [1] * 10, [3, 0, 7]])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_any_batching_and_number_of_processes_give_the_covariance_of_all_at_once(split, offset):
    h = natural(10, offset=offset)
    merged = Covariance()
    for part in h.split(split):
        process, sent = Covariance(), Covariance()
        process.update(part.flatten(0, -2))
        sent.load_state_dict(process.state_dict())
        merged.merge(sent)
    space = NaturalSpace.of(merged, D)
    flat = h.double().flatten(0, 4)
    assert space.tokens == len(flat) == 240
    torch.testing.assert_close(space.mean, flat.mean(0))
    again = space.directions * space.variances @ space.directions.mT
    torch.testing.assert_close(again, flat.mT.cov(), rtol=1e-9, atol=1e-9)


def test_main_directions_are_orthonormal_and_sorted_and_the_rest_is_counted():
    h = natural(10)
    space = fitted(h, 5)
    torch.testing.assert_close(space.directions.mT @ space.directions, torch.eye(5).double())
    assert (space.variances.diff() < 0).all()
    total = h.double().flatten(0, 4).var(0).sum()
    assert float(space.variances.sum()) + space.residual_variance == pytest.approx(float(total))


def test_directions_in_which_nothing_varies_are_not_divided_by():
    h = natural(10)
    h[..., 4:] = 1.0
    space = fitted(h)
    assert len(space.variances) == 4
    away = natural(1)
    assert space.distances(away).mahalanobis.isfinite().all()
    assert (space.distances(away).residual > space.distances(h[:1]).residual + 1).all()


# --- distances


def test_distances_are_those_of_the_textbook():
    h, other = natural(10), natural(3, seed=5)
    space = fitted(h)  # 64 directions at most: all 12
    x = other.double().flatten(2, 4) - h.double().flatten(0, 4).mean(0)
    inverse = h.double().flatten(0, 4).mT.cov().inverse()
    truth = torch.einsum("btnd,de,btne->btn", x, inverse, x).mean(-1).sqrt()
    torch.testing.assert_close(space.distances(other).mahalanobis, truth)
    assert not space.distances(other).residual.any()  # nothing is left over
    few = fitted(h, 5)
    kept = (x @ few.directions).square().sum(-1)
    torch.testing.assert_close(few.distances(other).residual, (x.square().sum(-1) - kept).mean(-1).sqrt())


def test_natural_tokens_are_at_the_root_of_the_number_of_directions():
    h = natural(40)
    assert float(fitted(h, 7).distances(h).mahalanobis.square().mean()) == pytest.approx(7, rel=1e-2)


def test_distances_do_not_depend_on_the_basis_of_the_channels():
    h, other = natural(10), natural(2, seed=5)
    stretch = torch.randn(D, D, generator=torch.Generator().manual_seed(3)) + 4 * torch.eye(D)
    found = fitted(h @ stretch).distances(other @ stretch).mahalanobis
    torch.testing.assert_close(found, fitted(h).distances(other).mahalanobis, rtol=1e-4, atol=1e-4)


# --- percentiles


def known(directions=6, n=400):
    held_out = NaturalDistances(fitted(natural(n, seed=1), directions))
    for part in natural(n, seed=2).split(64):
        process = NaturalDistances(held_out.space)
        process.update(part)
        sent = NaturalDistances(held_out.space)
        sent.load_state_dict(process.state_dict())
        held_out.merge(sent)
    return held_out.fit()


def test_percentiles_of_natural_activations_are_uniform():
    found = known().percentiles(natural(400, seed=3))
    assert found.mahalanobis.shape == (400, 2)
    for percentiles in (found.mahalanobis, found.residual):
        ordered = percentiles.flatten().sort().values / 100
        uniform = (torch.arange(800) + 0.5) / 800
        # Kolmogorov–Smirnov of two samples of 800: above 0.09 once in 500
        assert float((ordered - uniform).abs().max()) < 0.09


def test_shifted_activations_are_at_high_percentiles_where_the_shift_is():
    naturalness, h = known(), natural(50, seed=3)
    space = naturalness.space
    along = space.directions[:, -1].float() * float(space.variances[-1].sqrt())
    inside = naturalness.percentiles(h + 3 * along)
    assert (inside.mahalanobis > 99).all()
    torch.testing.assert_close(inside.residual, naturalness.percentiles(h).residual, atol=1, rtol=0)
    rest = torch.linalg.svd(space.directions.mT).Vh[-1].float()  # orthogonal to the main directions
    outside = naturalness.percentiles(h + 6 * rest)
    assert (outside.residual > 99).all()
    torch.testing.assert_close(outside.mahalanobis, naturalness.percentiles(h).mahalanobis, atol=1, rtol=0)
    unvarying = naturalness.percentiles(h * 0 + 2)  # closer to the mean than anything natural
    assert (unvarying.mahalanobis < 1).all()


def test_stronger_steering_is_less_natural():
    naturalness, h = known(), natural(50, seed=3)
    direction = torch.randn(1, 1, 1, D, generator=torch.Generator().manual_seed(4))
    distances = [naturalness.space.distances(Steer(direction, a)(h)).mahalanobis.mean() for a in (0.0, 0.2, 0.5, 1.0)]
    assert distances == sorted(distances)
    assert (naturalness.percentiles(Steer(direction, 1.0)(h)).mahalanobis > 99).all()
    assert torch.equal(naturalness.percentiles(Steer(direction, 0.0)(h)).residual, naturalness.percentiles(h).residual)


def test_the_farthest_percentile_says_how_many_were_held_out():
    naturalness = known(n=5)
    found = naturalness.percentiles(natural(1) + 1e6)
    assert found.mahalanobis[0, 0].item() == pytest.approx(100 * 10.5 / 11)
    assert naturalness.percentiles(natural(1) * torch.nan).residual.isnan().all()
    assert naturalness.percentiles(natural(1) * torch.inf).mahalanobis.isnan().all()  # ∞ − ∞


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(PhysteerError, match="0 tokens were seen"):
        NaturalSpace.of(Covariance())
    with pytest.raises(PhysteerError, match="do not vary"):
        fitted(torch.ones(1, 1, 2, 2, 1, D))
    with pytest.raises(PhysteerError, match="an activation is not finite"):
        fitted(natural() * math.inf)
    with pytest.raises(PhysteerError, match=r"\[B, T, h, w, δ, 12\]"):
        fitted(natural()).distances(natural()[..., :5])
    with pytest.raises(PhysteerError, match="no held-out natural activation"):
        NaturalDistances(fitted(natural())).fit()
    held_out = NaturalDistances(fitted(natural()))
    held_out.update(natural() * math.nan)
    with pytest.raises(PhysteerError, match="held-out natural activation is not finite"):
        held_out.fit()
