"""Probes of classes against scikit-learn, over processes, their files, and what cannot be told apart."""

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn.functional import cross_entropy

from physteer.concepts import ClassFitter, ClassProbe, RidgeFitter
from physteer.errors import PhysteerError

VALUES = (250.0, 500.0, 2000.0)


def samples(n=600, d=12, seed=0):
    """Activations whose mean depends on the class, around a large common mean, in unequal numbers."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(6, (n,), generator=g).clamp_max(2)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64) + 50
    return x + torch.randn(3, d, generator=g, dtype=torch.float64)[labels], labels


def fitter(*batches, values=VALUES):
    one = ClassFitter("Reynolds", values)
    for x, labels in batches:
        one.update_classes(x, labels)
    return one


def test_equals_scikit_learn():
    x, labels = samples()
    probe = fitter(*zip(x.split(250), labels.split(250), strict=True)).fit([0.0])
    peer = LinearDiscriminantAnalysis(solver="lsqr").fit(x.numpy(), labels.numpy())
    new, _ = samples(seed=1)
    ours = probe.scores(new)[0].softmax(-1)
    torch.testing.assert_close(ours, torch.from_numpy(peer.predict_proba(new.numpy())), rtol=0, atol=1e-8)


def test_a_penalty_is_added_to_the_covariance():
    x, labels = samples()
    alpha = 40.0
    means = torch.stack([x[labels == c].mean(0) for c in range(3)])
    within = (x - means[labels]).mT @ (x - means[labels]) + alpha * torch.eye(x.shape[1], dtype=torch.float64)
    wanted = len(x) * torch.linalg.solve(within, (means - x.mean(0)).mT)
    found = fitter((x, labels)).fit([alpha]).weights[0]
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_processes_and_order_do_not_matter():
    x, labels = samples()
    whole, first, second = fitter((x, labels)), fitter((x[:100], labels[:100])), fitter((x[100:], labels[100:]))
    second.merge(first)
    for one, other in zip(whole.fit([1.0, 9.0]).weights, second.fit([1.0, 9.0]).weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_gradients_reach_the_activation():
    x, labels = samples()
    probe = fitter((x, labels)).fit([1.0])
    at = x[:4].float().requires_grad_()
    cross_entropy(probe.scores(at)[0], probe.labels([500.0, 250.0, 2000.0, 2000.0])).backward()
    assert at.grad is not None and bool((at.grad != 0).any())


def test_a_file_comes_back(tmp_path):
    x, labels = samples()
    fit = fitter((x, labels)).fit([0.0, 5.0], site="blocks.2", model="abc", data="some/train")
    probe = fit.chosen(1, {"valid": 0.75})
    probe.save(tmp_path / "p.safetensors")
    back = ClassProbe.load(tmp_path / "p.safetensors")
    assert torch.equal(back.weights, probe.weights) and torch.equal(back.bias, probe.bias)
    assert (back.parameter, back.classes, back.site, back.model, back.accuracy) == (
        "Reynolds",
        VALUES,
        "blocks.2",
        "abc",
        {"valid": 0.75},
    )
    assert back.alphas.tolist() == [5.0]


def test_what_cannot_be_told_apart(tmp_path):
    x, labels = samples()
    with pytest.raises(PhysteerError, match="one value only"):
        ClassFitter("Schmidt", [0.5, 0.5])
    with pytest.raises(PhysteerError, match="no sample of Reynolds 2000"):
        fitter((x[labels < 2], labels[labels < 2])).fit([1.0])
    with pytest.raises(PhysteerError, match="alphas"):
        fitter((x, labels)).fit([-1.0])
    probe = fitter((x, labels)).fit([1.0], site="blocks.2")
    with pytest.raises(PhysteerError, match="width 12 cannot read an activation of width 7"):
        probe.scores(torch.zeros(2, 7))
    with pytest.raises(PhysteerError, match="Reynolds 4000 is no class of the probe"):
        probe.labels([250.0, 4000.0])
    ridge = RidgeFitter(["y"])
    ridge.update(x, labels[:, None].double())
    ridge.fit([1.0]).save(tmp_path / "ridge.safetensors")
    with pytest.raises(PhysteerError, match="is not a class probe"):
        ClassProbe.load(tmp_path / "ridge.safetensors")
