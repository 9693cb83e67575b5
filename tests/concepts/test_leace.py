"""LEACE: what was decodable is not any more, nothing else is changed, and the reference implementation agrees."""

import pytest
import torch
from concept_erasure import LeaceFitter as PeerFitter
from sklearn.linear_model import LinearRegression, LogisticRegression

from physteer.concepts import LeaceEraser, LeaceFitter, RidgeFitter
from physteer.errors import PhysteerError
from physteer.interventions import Edit, Erase, attached

NAMES = ("vorticity", "log_viscosity")


def samples(n=4000, d=24, seed=0, dtype=torch.float64):
    """Correlated activations with a mean, two targets of very different units that depend on each other, a class."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + 3).to(dtype)
    z = x @ torch.randn(d, 2, generator=g).to(dtype) + torch.randn(n, 2, generator=g)
    z[:, 1] = 1e-6 * (z[:, 0] + z[:, 1])
    return x, z, (z[:, 0] > z[:, 0].median()).long()


def fitted(x, z, names=NAMES):
    fitter = LeaceFitter(names)
    for first in range(0, len(x), 777):
        fitter.update(x[first : first + 777], z[first : first + 777])
    return fitter.fit(site="blocks.3", model="walrus", data="shear_flow/train")


def test_no_linear_probe_beats_the_mean_after_erasure():
    x, z, _ = samples()
    erased = fitted(x, z).replacement()(x)
    assert LinearRegression().fit(x, z).score(x, z) > 0.9  # it was there before
    assert LinearRegression().fit(erased, z).score(erased, z) < 1e-9
    centred = z - z.mean(0)
    covariance = (erased - erased.mean(0)).mT @ centred / len(x)
    assert (covariance / (erased.std(0)[:, None] * centred.std(0))).abs().max() < 1e-9
    ridge = RidgeFitter(NAMES)
    ridge.update(erased, z)
    assert ridge.fit([1.0]).weights.abs().max() < 1e-9


def test_no_linear_classifier_beats_chance_after_erasure():
    x, _, label = samples()
    one_hot = torch.nn.functional.one_hot(label).double()  # of rank 1: the columns add up to 1
    eraser = fitted(x, one_hot)
    erased = eraser.replacement()(x)
    assert eraser.rank == 1
    assert LogisticRegression(max_iter=500).fit(x, label).score(x, label) > 0.9
    after = LogisticRegression(max_iter=500).fit(erased, label).score(erased, label)
    assert after <= max(label.double().mean(), 1 - label.double().mean()) + 0.01


def test_the_change_is_oblique_idempotent_and_the_smallest():
    x, z, _ = samples()
    eraser = fitted(x, z)
    erase = eraser.replacement()
    erased = erase(x)
    torch.testing.assert_close(eraser.read.mT @ eraser.write, torch.eye(2).double())
    torch.testing.assert_close(erase(erased), erased)
    torch.testing.assert_close(erased.mean(0), x.mean(0))
    aside = x + torch.linalg.qr(eraser.read, "complete").Q[:, 2:].sum(1)  # along what is not read
    torch.testing.assert_close(erase(aside) - aside, erased - x)
    # The orthogonal projection off Cov(x, z) erases the same and moves activations farther.
    directions = torch.linalg.qr((x - x.mean(0)).mT @ (z - z.mean(0))).Q
    orthogonal = x - (x - x.mean(0)) @ directions @ directions.mT
    assert LinearRegression().fit(orthogonal, z).score(orthogonal, z) < 1e-9
    assert 0 < (erased - x).square().sum() < 0.9 * (orthogonal - x).square().sum()


def test_equals_the_reference_on_standardised_targets():
    x, z, _ = samples()
    peer = PeerFitter(x.shape[1], 2, dtype=x.dtype, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-9)
    peer.update(x, (z - z.mean(0)) / z.std(0))
    torch.testing.assert_close(fitted(x, z).replacement()(x), peer.eraser(x), rtol=1e-7, atol=1e-7)


def test_processes_do_not_matter_and_channels_may_be_redundant():
    x, z, _ = samples()
    x = torch.cat([x, x[:, :4]], 1)
    whole, one, other = (LeaceFitter(NAMES) for _ in range(3))
    whole.update(x, z)
    one.update(x[:1000], z[:1000])
    other.update(x[1000:], z[1000:])
    one.merge(other)
    erased = one.fit().replacement()(x)
    torch.testing.assert_close(erased, whole.fit().replacement()(x))
    assert LinearRegression().fit(erased, z).score(erased, z) < 1e-9


def test_one_of_the_targets_of_a_probe_can_be_erased():
    x, z, _ = samples()
    ridge, alone = RidgeFitter(NAMES), LeaceFitter(NAMES[1:])
    ridge.update(x, z)
    alone.update(x, z[:, 1:])
    leace = LeaceFitter(NAMES)
    leace.load_state_dict(ridge.state_dict())
    eraser = leace.fit(["log_viscosity"])
    assert eraser.targets == ("log_viscosity",) and eraser.rank == 1
    torch.testing.assert_close(eraser.replacement()(x), alone.fit().replacement()(x))
    with pytest.raises(PhysteerError, match="no target 'viscosity' was seen, only vorticity, log_viscosity"):
        leace.fit(["viscosity"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_an_edit_of_a_network(dtype):
    x, z, _ = samples(dtype=torch.float32)
    eraser = fitted(x, z)
    model = torch.nn.Sequential(torch.nn.Identity())
    h = x[:96].view(2, 3, 4, 4, 1, -1).to(dtype)
    with attached(model, [Edit("0", eraser.replacement())]):
        out = model(h)
    assert out.dtype == dtype
    expected = h.double() - (h.double() - eraser.mean) @ eraser.read @ eraser.write.mT
    scale = h.abs().max().double()
    assert (out.double() - expected).abs().max() < (1e-5 if dtype == torch.float32 else 1e-2) * scale


def test_files_and_what_cannot_be_erased(tmp_path):
    x, z, _ = samples()
    eraser = fitted(x, z)
    eraser.save(tmp_path / "eraser.safetensors")
    read = LeaceEraser.load(tmp_path / "eraser.safetensors")
    assert torch.equal(read.replacement()(x), eraser.replacement()(x))
    assert (read.targets, read.count, read.site, read.data) == (NAMES, 4000, "blocks.3", "shear_flow/train")
    with pytest.raises(PhysteerError, match="no target varies, so there is nothing to erase"):
        fitted(x, torch.ones(len(x), 2))
    with pytest.raises(PhysteerError, match="do not fit"):
        Erase(torch.zeros(3), torch.zeros(3, 1), torch.zeros(4, 1))
    with pytest.raises(PhysteerError, match="not finite"):
        Erase(torch.zeros(3), torch.full((3, 1), torch.nan), torch.zeros(3, 1))
    with pytest.raises(PhysteerError, match=r"of width 24 does not fit \[2, 5\]"):
        eraser.replacement()(torch.zeros(2, 5))
    nothing = Erase(torch.zeros(3), torch.zeros(3, 0), torch.zeros(3, 0))
    h = torch.ones(2, 3)
    assert nothing(h) is h
