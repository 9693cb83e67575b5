"""Controls of probes: shuffled truths are of other initial conditions and carry nothing; random features are fixed."""

import random

import pytest
import torch

from physteer.concepts import RandomFeatures, RidgeFitter, other_windows
from physteer.data import Window
from physteer.errors import PhysteerError
from physteer.metrics import ProbeScores, best_match


def windows(counts):
    """Windows of initial conditions with so many windows each."""
    return {Window("file", i, start): f"condition {i}" for i, n in enumerate(counts) for start in range(n)}


@pytest.mark.parametrize("counts", [[1, 1], [4, 4, 4], [5, 1, 2, 2], [1] * 7, [3, 3]])
def test_every_window_gets_the_truth_of_another_initial_condition(counts):
    units = windows(counts)
    partner = other_windows(units, seed=4)
    assert set(partner) == set(partner.values()) == set(units)
    assert all(units[one] != units[other] for one, other in partner.items())
    shuffled = list(units.items())
    random.Random(0).shuffle(shuffled)
    assert other_windows(dict(shuffled), seed=4) == partner
    if len(units) > 6:
        assert other_windows(units, seed=5) != partner


def test_one_initial_condition_cannot_be_shuffled():
    with pytest.raises(PhysteerError, match="4 of 6 windows share an initial condition"):
        other_windows(windows([4, 1, 1]))


def test_a_probe_of_shuffled_truths_finds_nothing_and_one_of_the_true_ones_does():
    """Also the best match: near for many tokens by chance, nearer only for the truth."""
    g = torch.Generator().manual_seed(0)
    units = windows([5] * 40)
    names = list(units)
    per_condition = torch.randn(40, generator=g)
    truth = torch.stack([per_condition[one.trajectory] for one in names])  # [windows]
    x = torch.randn(len(names), 16, 24, generator=g)  # [windows, tokens, d]
    x[..., 0] = truth[:, None] + 0.05 * torch.randn(len(names), 16, generator=g)
    partner = other_windows(units)
    shuffled = torch.stack([truth[names.index(partner[one])] for one in names])
    y = torch.stack([truth, shuffled], 1)[:, None].expand(-1, 16, -1)  # [windows, tokens, 2]
    fitter, scores = RidgeFitter(["true", "shuffled"]), ProbeScores(["true", "shuffled"])
    fitter.update(x[:100].flatten(0, 1), y[:100].flatten(0, 1))
    probes = fitter.fit([1.0])
    predicted = probes.predict(x[100:])
    scores.update(predicted, y[100:], [units[one] for one in names[100:]])
    assert scores.r2()[0, 0] > 0.95 and scores.r2()[0, 1] < 0.05
    nearest = best_match(predicted[0, ..., :1], y[100:, :1, :1])
    by_chance = best_match(predicted[0, ..., :1], y[100:, :1, 1:])
    assert nearest.mean() < 0.1 * by_chance.mean()


def test_random_features_are_fixed_and_as_many_as_asked():
    patch = torch.randn(2, 3, 4, 5, 1, 12)
    features = RandomFeatures(12, 20, seed=1)(patch)
    assert features.shape == (2, 3, 4, 5, 1, 20) and features.abs().max() < 1
    assert torch.equal(features, RandomFeatures(12, 20, seed=1)(patch))
    assert not torch.equal(features, RandomFeatures(12, 20, seed=2)(patch))
    assert features.flatten(0, -2).std(0).min() > 0.01
    with pytest.raises(PhysteerError, match="random features of 12 numbers cannot take 5"):
        RandomFeatures(12, 20)(patch[..., :5])
