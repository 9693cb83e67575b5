"""Differences of R² between a probe and its controls are of the same resamples of initial conditions."""

import math

import pytest
import torch

from physteer.analyses.probing.fitting import SHUFFLED
from physteer.analyses.probing.readings import RANDOM_FEATURES, RAW_PATCH
from physteer.analyses.probing.score_rows import score_rows
from physteer.concepts import RidgeFitter
from physteer.metrics import ProbeScores

TARGETS = ("speed", SHUFFLED + "speed")
N_IC, N = 6, 50


def scored(quality, noise, truth, wrong):
    """Scores of a probe that predicts the share `quality` of the truth of six initial conditions, plus noise."""
    scores = ProbeScores(TARGETS)
    for i in range(N_IC):
        own = torch.stack([truth[i], wrong[i]], -1)  # [N, 2]
        predicted = torch.stack([quality * truth[i], torch.zeros(N)], -1) + noise[i, :, None]
        scores.update(predicted[None, None], own[None], [f"ic{i}"])
    return scores


def test_differences_are_paired():
    torch.manual_seed(0)
    truth, wrong = (torch.randn(N_IC, N) * torch.arange(1, 1 + N_IC)[:, None] for _ in range(2))
    noise = torch.randn(N_IC, N)
    probe = scored(0.9, noise, truth, wrong)
    same, worse = scored(0.9, noise, truth, wrong), scored(0.5, noise, truth, wrong)
    fitter = RidgeFitter(TARGETS)
    fitter.update(torch.randn(20, 3), torch.randn(20, 2))
    probes = fitter.fit([1.0])
    scores = {("blocks.0", "token"): probe, (RAW_PATCH, "token"): same, (RANDOM_FEATURES, "token"): worse}
    rows = score_rows("full", scores, dict.fromkeys(scores, probes), dict.fromkeys(scores, torch.tensor([0.7, 0.0])))
    own, shuffled, patch, random = rows
    assert [row.control for row in rows] == ["probe", "shuffled", "raw_patch", "random_features"]
    assert (own.over_input, own.over_input_low, own.over_input_high) == (0, 0, 0), "the raw patch reads the same"
    assert own.selectivity == pytest.approx(own.r2 - shuffled.r2)
    assert own.selectivity_low < own.selectivity < own.selectivity_high
    assert own.valid_r2 == pytest.approx(0.7) and random.r2 < patch.r2 == own.r2
    assert all(math.isnan(row.selectivity) and math.isnan(row.over_input) for row in (shuffled, patch, random))
