"""Checks of the analyses on a forecaster: probes, DAS, effects and causal bases, on a few pairs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from physteer.analyses.basis import BasisPlan, ExtractionSettings, FieldDivergence, ForecastRows, fit_basis
from physteer.analyses.das import FieldLoss, InterchangeObjective, VariantPlan, make_variants
from physteer.analyses.effects.forecast_runs import ForecastRuns
from physteer.analyses.engine import ForecastSuffix, PrefixCache
from physteer.analyses.probing import ProbeReader
from physteer.concepts import RidgeFitter
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.interventions import Locus
from physteer.metrics import TARGETS
from physteer.testing.contract_case import Case, NotOfferedError, close, unmet

_BYTES = 2**28


def probe(case: Case) -> None:
    """Check that the targets of the probes have a value for every token of the first site."""
    site = case.located[0]
    try:
        case.forecaster.token_grid(site, case.batch.metadata, case.batch.n_input)
    except PhysteerError as error:
        raise NotOfferedError(str(error)) from None
    _, scale = case.forecaster.inputs(case.batch.context, case.batch)
    for target in TARGETS:
        reader = ProbeReader([site], [target], seed=0)
        try:
            truth = reader.truths(case.forecaster, case.batch, scale).samples("token").flatten(0, 1)
        except PhysteerError as error:  # the data lack the field
            missing = str(error)
        else:
            break
    else:
        raise NotOfferedError(f"none of the probes' targets is in these data: {missing}")
    fitter, seen = RidgeFitter((target,)), dict[str, Tensor]()

    def keep(place: str, h: Tensor) -> None:
        seen[place] = h.clone()

    reader.read(case.forecaster, case.batch, keep)
    features = seen[str(site)].flatten(1, 4).flatten(0, 1)
    unmet(
        len(features) == len(truth),
        f"{site} has {len(features)} tokens, and the targets by token_grid {len(truth)}",
    )
    fitter.update(features, truth)
    probes = fitter.fit([1e-3], site=str(site), units={target: ""}, model="", data="")
    unmet(probes.predict(features[None]).isfinite().all(), f"a probe at {site} predicts values that are not finite")


def das(case: Case) -> None:
    """Check that two steps on two batches train a rotation, lower nothing by accident, and leave the network alone."""
    forecaster, sites = _frozen(case), case.stages("DAS")[:2]
    widths = {site: case.shape(site)[-1] for site in sites}
    variants = make_variants(widths, len(case.pairs.rules.variables), VariantPlan((1,), random=0), ())
    suffix = ForecastSuffix(PrefixCache(forecaster, sites, last_frame=False, max_bytes=_BYTES, folder=None))
    objective = InterchangeObjective(variants, suffix, FieldLoss(), Locus())
    trained = [parameter for variant in variants if variant.trained for parameter in variant.parameters()]
    before, identity = [p.detach().clone() for p in trained], forecaster.identity
    optimiser = torch.optim.Adam(trained, 0.05)
    for step in range(2):
        optimiser.zero_grad()
        loss = objective(forecaster, case.pair_batch(2 * step), step)
        unmet(loss.isfinite(), f"the loss of DAS is {float(loss.detach())} at step {step}")
        loss.backward()
        optimiser.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, trained, strict=True)]
    unmet(any(moved), "no rotation of DAS has moved in two steps")
    unmet(forecaster.identity == identity, "training a rotation has changed the network")


@torch.no_grad()
def effects(case: Case) -> None:
    """Check that nodes put back as they were change nothing, and that the source's last block gives its prediction."""
    forecaster, sites = _frozen(case), case.stages("Effects")
    runs = ForecastRuns(
        forecaster, sites, last_frame=False, partners={}, regions=(), max_bytes=_BYTES, needed_by="Effects"
    ).of(forecaster, case.pair_batch(0), ["source"])
    for site in sites:
        same = runs.output({site: runs.base[site].clone()})
        unmet(close(same, runs.outputs.base, 1e-4), f"putting {site}'s own activation back changes the prediction")
    changed = runs.output({sites[-1]: runs.others["source"][sites[-1]]})
    unmet(not close(changed, runs.outputs.base, 1e-7), f"the source's activation at {sites[-1]} changes nothing")


def basis(case: Case) -> None:
    """Check that a direction is found whose ablation changes the prediction."""
    forecaster, site = _frozen(case), case.stages("CausalBasis")[0]
    cache = PrefixCache(forecaster, [site], last_frame=False, max_bytes=_BYTES, folder=None, needed_by="CausalBasis")
    rows = ForecastRows(forecaster, cache, Locus(), FieldDivergence())
    windows = case.batch.windows
    part = rows.part(site, rows.prepare(case.pairs.reader, windows, range(len(windows))))
    plan = BasisPlan(settings=ExtractionSettings(k=1, max_iter=3, candidates=2))
    fit = fit_basis(str(site), [part], torch.empty(0, dtype=torch.long), FieldDivergence(), plan)
    unmet(float(fit.basis.energies[0]) > 0, f"no direction at {site} has an effect on the prediction")


def _frozen(case: Case) -> Forecaster:
    """Return a copy of the forecaster with a frozen network."""
    forecaster = copy.deepcopy(case.forecaster)
    forecaster.network.requires_grad_(False)
    return forecaster
