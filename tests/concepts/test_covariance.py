"""The one streaming covariance: exact for any batches, processes and parts, whatever the mean."""

import pytest
import torch

from physteer.concepts import Covariance
from physteer.errors import PhysteerError

D = 70  # more than one block of columns


def samples(n=2500, mean=0.0, dtype=torch.float32):
    """Return correlated samples [n, D] of unequal variances; more than two blocks of rows."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, D, generator=g) @ torch.randn(D, D, generator=g) * torch.logspace(-1, 1, D) + mean
    return x.to(dtype)


def covariance(*batches):
    sums = Covariance()
    for x in batches:
        sums.update(x)
    return sums


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_equals_the_covariance_of_all_at_once(mean, dtype):
    x = samples(mean=mean, dtype=dtype)
    sums, wide = covariance(*x.split(700)), x.double()
    torch.testing.assert_close(sums.mean, wide.mean(0), rtol=1e-12, atol=1e-12)
    assert sums.count == len(x) and sums.width == D
    for unbiased in (True, False):
        found, truth = sums.covariance(unbiased), wide.mT.cov(correction=int(unbiased))
        assert float((found - truth).norm() / truth.norm()) < 1e-12
        assert torch.equal(found, found.mT)
    torch.testing.assert_close(sums.squares, sums.scatter.diagonal(), rtol=0, atol=0)


@pytest.mark.parametrize("split", [[2500], [1, 2499], [0, 1200, 1300]])
def test_processes_and_parts_do_not_matter(split):
    x, whole, merged = samples(mean=50), covariance(samples(mean=50)), Covariance()
    for part in reversed(x.split(split)):
        sent, process = Covariance(), Covariance()
        process.update(part[:, :10], part[:, 10:])  # columns side by side
        sent.load_state_dict(process.state_dict())
        merged.merge(sent)
    assert merged.count == whole.count
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-10, atol=1e-7)
    merged.update(x)  # goes on after a merge
    assert merged.count == 2 * len(x)
    torch.testing.assert_close(merged.covariance(False), whole.covariance(False), rtol=1e-10, atol=1e-10)


def test_merging_changes_only_the_sum_and_states_are_copies():
    first, second = covariance(samples()[:900]), covariance(samples()[900:])
    state = second.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    loaded = Covariance()
    loaded.load_state_dict(state)
    loaded.merge(first)
    loaded.update(samples())
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    assert torch.equal(first.scatter, covariance(samples()[:900]).scatter)


def test_principal_directions_are_those_of_the_covariance_and_whiten_it():
    x = samples()
    sums = covariance(x)
    variances, directions = sums.principal()
    assert (variances.diff() > 0).all() and len(variances) == D
    torch.testing.assert_close(directions * variances @ directions.mT, sums.covariance())
    whitened = (x.double() - sums.mean) @ (directions * variances.rsqrt())
    torch.testing.assert_close(whitened.mT.cov(), torch.eye(D).double())


def test_directions_that_do_not_vary_are_left_out():
    x = samples()
    sums = covariance(torch.cat([x, 2 * x, torch.ones(len(x), 3)], 1))
    variances, directions = sums.principal()
    assert len(variances) == D and directions.shape == (2 * D + 3, D)
    few, _ = sums.principal(smallest=0.1)
    assert torch.equal(few, variances[variances > 0.1 * variances[-1]]) and 0 < len(few) < D
    assert len(covariance(torch.ones(5, 4)).principal()[0]) == 0


def test_gradients_are_not_followed():
    sums = covariance(samples().requires_grad_())
    assert not sums.covariance().requires_grad and not sums.mean.requires_grad


def test_what_has_no_covariance_is_refused():
    with pytest.raises(PhysteerError, match="0 tokens were seen: a covariance needs two or more"):
        _ = Covariance().mean
    with pytest.raises(PhysteerError, match="1 tokens were seen"):
        covariance(samples()[:1]).covariance()
    for value in (torch.nan, torch.inf):
        x = samples()
        x[1700, 3] = value
        with pytest.raises(PhysteerError, match="an activation is not finite"):
            covariance(x).principal()
    with pytest.raises(PhysteerError, match="width 5 cannot join those of width 70"):
        covariance(samples(), samples()[:, :5])
    with pytest.raises(PhysteerError, match="width 5 cannot join those of width 70"):
        covariance(samples()).merge(covariance(samples()[:, :5]))
    with pytest.raises(PhysteerError, match=r"samples \[n, d\]; found \[2, 3, 4\]"):
        Covariance().update(torch.zeros(2, 3, 4))
    with pytest.raises(PhysteerError, match=r"found \[2, 3\], \[3, 3\]"):
        Covariance().update(torch.zeros(2, 3), torch.zeros(3, 3))
