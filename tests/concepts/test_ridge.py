"""Ridge probes against scikit-learn, their sums over processes, their scores, and what cannot be probed."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score

from physteer.concepts import RidgeFitter, RidgeProbes
from physteer.errors import PhysteerError
from physteer.metrics import ProbeScores, best_match

NAMES = ("vorticity", "shear_rate", "log_viscosity")
ALPHAS = (1e-3, 1.0, 1e2, 1e5)


def samples(n=3000, d=70, mean=0.0, seed=0):
    """Activations of unequal variances around a mean, and three targets that depend on them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) * torch.logspace(-1, 1, d) + mean
    y = 0.1 * (x - mean) @ torch.randn(d, len(NAMES), generator=g) + torch.randn(n, len(NAMES), generator=g) + 2
    return x, y


def fitted(*batches, alphas=ALPHAS, names=NAMES):
    fitter = RidgeFitter(names)
    for x, y in batches:
        fitter.update(x, y)
    return fitter.fit(alphas)


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_equals_scikit_learn(mean):
    x, y = samples(mean=mean)
    probes = fitted(*zip(x.split(1300), y.split(1300), strict=True))
    for i, alpha in enumerate(ALPHAS):
        peer = Ridge(alpha, solver="cholesky").fit(x.double().numpy(), y.double().numpy())
        for j in range(len(NAMES)):
            assert np.allclose(probes.weights[i, :, j], peer.coef_[j], rtol=1e-6, atol=1e-6 * abs(peer.coef_[j]).max())
        assert np.allclose(probes.bias[i], peer.intercept_, rtol=1e-6, atol=1e-6 * abs(peer.intercept_).max())
        predicted = probes.predict(x.double())[i]
        assert np.allclose(predicted, peer.predict(x.double().numpy()), rtol=0, atol=1e-6)


def test_no_penalty_and_activations_that_do_not_vary_in_every_direction():
    x, y = samples(d=20)
    twice = torch.cat([x, x], 1)  # only sums of weights are determined
    once, doubled = fitted((x, y), alphas=[0.0]), fitted((twice, y), alphas=[0.0, 1e-12])
    for i in range(2):
        assert torch.allclose(doubled.weights[i, :20] + doubled.weights[i, 20:], once.weights[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_processes_and_batches_do_not_matter(dtype):
    x, y = samples(mean=5)
    x = x.to(dtype)
    whole = RidgeFitter(NAMES)
    whole.update(x, y)
    parts = [RidgeFitter(NAMES) for _ in range(4)]  # the last one sees nothing
    for part, rows in zip(parts, torch.arange(len(x)).tensor_split([100, 2000]), strict=False):
        for some in rows.split(333):
            part.update(x[some], y[some])
    merged = RidgeFitter(NAMES)
    for part in reversed(parts):
        other = RidgeFitter(NAMES)
        other.load_state_dict(part.state_dict())
        merged.merge(other)
    merged.update(x[:0], y[:0])
    assert merged.count == whole.count == len(x)
    assert torch.allclose(merged.scatter_xx, whole.scatter_xx, rtol=1e-10)
    assert torch.allclose(merged.fit(ALPHAS).predict(x.double()), whole.fit(ALPHAS).predict(x.double()), atol=1e-9)
    centred = x.double() - x.double().mean(0)
    assert torch.allclose(whole.scatter_xx, centred.mT @ centred, rtol=1e-10)
    assert torch.allclose(whole.scatter_yy, (y.double() - y.double().mean(0)).square().sum(0))


def test_scores_are_those_of_scikit_learn_and_choose_the_penalty():
    x, y = samples(d=60, n=150)
    unseen, truth = samples(d=60, n=400)
    unseen, truth = unseen[150:], truth[150:]
    probes = fitted((x, y))
    scores, other = ProbeScores(NAMES, centre=y.mean(0)), ProbeScores(NAMES, centre=y.mean(0))
    windows = zip(unseen.view(5, 50, -1).split(2), truth.view(5, 50, -1).split(2), strict=True)
    for part, (h, t) in zip((scores, other, scores), windows, strict=True):
        part.update(probes.predict(h), t, ["a", "b"][: len(h)])
    scores.merge(other)
    predicted = probes.predict(unseen)
    for i in range(len(ALPHAS)):
        assert np.allclose(scores.r2()[i], r2_score(truth, predicted[i], multioutput="raw_values"), atol=1e-6)
        assert np.allclose(scores.mae()[i], mean_absolute_error(truth, predicted[i], multioutput="raw_values"))
    again = ProbeScores(NAMES)
    again.load_state_dict(scores.state_dict())
    assert torch.equal(again.r2(), scores.r2()) and list(again.terms()) == ["a", "b"]

    best = probes.best(scores.r2())
    assert len(set(best.alphas.flatten().tolist())) >= 1 and best.weights.shape == (1, 60, 3)
    alone = ProbeScores(NAMES)
    alone.update(best.predict(unseen)[:, None], truth[None], ["a"])
    assert torch.allclose(alone.r2()[0], scores.r2().amax(0), atol=1e-6)


def test_a_constant_target_is_skipped_with_a_warning():
    x, y = samples()
    y[:, 1] = 0.1
    with pytest.warns(UserWarning, match="constant are skipped: shear_rate"):
        probes = fitted((x, y))
    assert probes.targets == ("vorticity", "log_viscosity")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = fitted((x, y[:, [0, 2]]), names=probes.targets)
    assert torch.allclose(kept.weights, probes.weights)
    with pytest.raises(PhysteerError, match="no target varies, so there is nothing to probe for: vorticity"):
        fitted((x, torch.ones(len(x), 1)), names=["vorticity"])


def test_what_cannot_be_probed_is_told():
    x, y = samples()
    broken = y.clone()
    broken[7, 2] = torch.nan
    with pytest.raises(PhysteerError, match="target 'log_viscosity' has values that are not finite"):
        fitted((x, broken))
    with pytest.raises(PhysteerError, match="target 'log_viscosity' has values that are not finite"):
        ProbeScores(NAMES).update(broken[None, None], broken[None], ["a"])
    with pytest.raises(PhysteerError, match="an activation is not finite"):
        fitted((x / 0, y))
    with pytest.raises(PhysteerError, match=r"activations \[3000, 70\] and targets \[3000, 2\] do not fit"):
        fitted((x, y[:, :2]))
    with pytest.raises(PhysteerError, match="width 30 cannot join those of width 70"):
        fitted((x, y), (x[:, :30], y))
    with pytest.raises(PhysteerError, match="1 tokens were seen"):
        fitted((x[:1], y[:1]))
    with pytest.raises(PhysteerError, match="numbers of at least 0"):
        fitted((x, y), alphas=[-1])
    with pytest.raises(PhysteerError, match="cannot join"):
        RidgeFitter(NAMES).merge(RidgeFitter(["pressure"]))
    with pytest.raises(PhysteerError, match="width 70 cannot read an activation of width 3"):
        fitted((x, y)).predict(x[:, :3])
    with pytest.raises(PhysteerError, match="different names"):
        RidgeFitter(["a", "a"])


def test_files(tmp_path):
    x, y = samples(d=8)
    fitter = RidgeFitter(NAMES)
    fitter.update(x, y)
    units = {"vorticity": "1/length"}
    probes = fitter.fit(ALPHAS, site="blocks.3", model="walrus", data="shear_flow/train", units=units)
    path = tmp_path / "probe.safetensors"
    probes.save(path)
    read = RidgeProbes.load(path)
    assert torch.equal(read.weights, probes.weights) and torch.equal(read.bias, probes.bias)
    assert torch.equal(read.alphas, probes.alphas)
    for name in ("targets", "count", "site", "model", "data", "units"):
        assert getattr(read, name) == getattr(probes, name)
    assert read.units == {"vorticity": "1/length", "shear_rate": "1", "log_viscosity": "1"}
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(PhysteerError, match="not a whole safetensors file"):
        RidgeProbes.load(path)
    with pytest.raises(PhysteerError, match="there is no probe file"):
        RidgeProbes.load(tmp_path / "absent")


def test_best_match_is_the_nearest_token():
    prediction = torch.tensor([[[1.0, 5.0], [2.0, 7.0], [3.5, 6.0]]])
    assert best_match(prediction, torch.tensor([[[2.25, 10.0]]])).tolist() == [[0.25, 3.0]]
    assert best_match(prediction, prediction.flip(1)).tolist() == [[0.0, 0.0]]
