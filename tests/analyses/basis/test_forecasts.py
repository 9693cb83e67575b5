"""Forecasters: the suffix's energies are those of the whole model under hooks, whatever the batches and processes."""

import pytest
import torch
from helpers.bases import D
from helpers.experiments import random_walrus

from physteer.analyses.basis import (
    MODES,
    AblationData,
    AblationEnergy,
    BasisPlan,
    ExtractionSettings,
    FieldDivergence,
    ForecastExtraction,
    ForecastRows,
    UnfinishedExtractions,
)
from physteer.analyses.basis.ablation import fitted_targets
from physteer.analyses.engine import PrefixCache
from physteer.data import CounterfactualDataModule
from physteer.errors import PhysteerError
from physteer.forecast import WalrusForecaster
from physteer.interventions import Edit, Interchange, Locus, Site, attached, captured

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def forecaster():
    return WalrusForecaster(random_walrus().eval().requires_grad_(False))


@pytest.fixture(scope="module")
def pairs(tiny_well):
    data = CounterfactualDataModule(str(tiny_well), ["Reynolds"], n_steps_input=3, pair_every=4, train_pairs=10)
    data.setup("fit")
    return data.pairs("train", data.rules, 10)


def extraction(forecaster, pairs, site, mode="mean", *, last=False, frames=None, batch_size=4, halves=False, **world):
    cache = PrefixCache(forecaster, [Site.parse(site)], last_frame=last, max_bytes=2**28, folder=None)
    divergence = FieldDivergence()
    rows = ForecastRows(forecaster, cache, Locus(frames=[-1] if last else frames), divergence)
    plan = BasisPlan(mode, ExtractionSettings(k=2, max_iter=5))
    return ForecastExtraction(pairs, rows, divergence, plan, batch_size=batch_size, halves=halves, **world)


def energy_of(found, site):
    parts = [found.rows.part(Site.parse(site), prepared) for prepared in found.prepare()]
    targets = fitted_targets(parts, found.plan.mode, found.row_order, 0, CPU)
    return AblationEnergy([AblationData.of(part, targets) for part in parts], found.divergence, CPU), targets


@pytest.mark.parametrize(
    ("site", "mode", "last", "frames"),
    [
        *(("blocks.0", mode, True, None) for mode in MODES),
        ("encoder", "resample", False, None),
        ("blocks.0", "mean", False, [0, 2]),
        ("blocks.0.time", "rows_mean", False, None),
        ("blocks.0.space.heads[1]", "zero", False, None),
        ("blocks.1.time", "mean", True, None),
        ("blocks.0.space.ff_update", "resample_rows", True, None),
    ],
)
def test_energies_are_those_of_the_whole_model_under_hooks(forecaster, pairs, site, mode, last, frames):
    """One pass of all windows, the activation replaced in it, and the predicted frames compared in units of r_Δ."""
    found = extraction(forecaster, pairs, site, mode, last=last, frames=frames)
    energy, targets = energy_of(found, site)
    batch = pairs.collate([pairs.pair(0)]).read(found.windows)
    inputs, scale = forecaster.inputs(batch.context, batch)
    locus = Locus(frames=[-1] if last else frames)
    with captured(forecaster.network, [site]) as seen:
        base = forecaster.run(inputs)[:, -1:]
    h = locus.take(seen[site])
    width = h.shape[-1]
    direction = torch.nn.functional.normalize(torch.arange(1.0, width + 1), dim=0)[:, None]
    t = targets.mean.float().expand_as(h)
    if mode.startswith("resample"):
        t = h[found.row_order]
        if mode == "resample":
            t = t.reshape(len(h), -1, width)[:, targets.token_order].view_as(h)
    edited = h - ((h - t) @ direction) @ direction.mT
    with attached(forecaster.network, [Edit(site, Interchange(edited), None, locus)]):
        y = forecaster.run(inputs)[:, -1:]
    last_frame, scored = batch.context[:, -1:], batch.channels.predicted
    frames_ = [forecaster.next_frame(out, last_frame, scale, batch) for out in (y, base)]
    change = ((frames_[0] - frames_[1]) / scale.differences)[:, 0, scored]
    expected = float(change.square().mean((2, 3, 4)).sum(1).mean())
    assert energy.of(direction.double(), direction.double()) == pytest.approx(expected, rel=1e-3)
    assert expected > 0


def test_rows_do_not_depend_on_batches_and_processes(forecaster, pairs):
    site, directions = "blocks.0", torch.eye(D).double()[:, :2]
    whole = extraction(forecaster, pairs, site, "resample", halves=True)
    shared = [
        extraction(forecaster, pairs, site, "resample", batch_size=3, halves=True, process=i, processes=2)
        for i in range(2)
    ]
    assert torch.equal(whole.row_order, shared[0].row_order) and torch.equal(whole.row_order, shared[1].row_order)
    own = [sorted(row for batch in each.batches for row in batch) for each in shared]
    assert sorted(own[0] + own[1]) == list(range(len(whole.windows)))
    energies = [energy_of(each, site)[0] for each in (whole, *shared)]
    total = sum(each.of(directions, directions) * each.rows for each in energies[1:]) / len(whole.windows)
    assert total == pytest.approx(energies[0].of(directions, directions), rel=1e-4)
    assert whole.digest() == shared[1].digest() != extraction(forecaster, pairs, site, "mean", halves=True).digest()


def test_halves_have_different_initial_conditions(forecaster, pairs):
    found = extraction(forecaster, pairs, "blocks.0", halves=True, batch_size=2)
    known = {pair.base: pair.initial_condition for pair in (pairs.pair(i) for i in range(len(pairs)))}
    first, second = (
        {known[found.windows[row]] for part in half for row in found.batches[part]} for half in found.halves
    )
    assert first and second and not first & second
    assert sorted(row for batch in found.batches for row in batch) == list(range(len(found.windows)))
    fit = found.fit(Site("blocks.0"), found.prepare(), UnfinishedExtractions(), lambda name, state: None)
    assert fit.basis.half_angles.shape == (2,) and fit.basis.model == forecaster.identity
    assert fit.basis.rows == len(found.windows) and fit.basis.frames is None


def test_too_few_windows(forecaster, pairs):
    with pytest.raises(PhysteerError, match=r"base window\(s\) of train are too few for 99 process"):
        extraction(forecaster, pairs, "blocks.0", processes=99)
