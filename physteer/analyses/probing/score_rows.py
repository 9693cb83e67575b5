"""Scores of probes as rows: R² with intervals, and paired differences from the controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from physteer.analyses.probing.fitting import SHUFFLED
from physteer.analyses.probing.readings import INPUTS, Resolution
from physteer.analyses.probing.table import ProbeScore
from physteer.concepts import RidgeProbes
from physteer.metrics import ProbeScores, bootstrap, mae_of, r2_of
from physteer.metrics.probes import SQUARES, SUM, N
from physteer.metrics.statistics import Floats, Interval

Key = tuple[str, Resolution]
_TERMS = 5
"""Sums of each probe and target (`physteer.metrics.ProbeScores`)."""


def score_rows(
    data: str,
    scores: Mapping[Key, ProbeScores],
    probes: Mapping[Key, RidgeProbes],
    valid_r2: Mapping[Key, Tensor],
) -> list[ProbeScore]:
    """Return the scores of every place and target on one data set, with intervals over initial conditions.

    Args:
        data: its name in the table.
        scores: sums of the probe with the best penalty, by place and resolution.
        probes: these probes.
        valid_r2: R² [m] of the same on ``valid``.
    """
    rows = []
    for key, sums in scores.items():
        (place, resolution), terms, conditions = key, _terms(sums), list(sums.terms())
        for column, name in enumerate(sums.targets):
            shuffled, site = name.startswith(SHUFFLED), "" if place in INPUTS else place
            if shuffled and not site:
                continue  # a control of a control
            own = terms[:, column]
            interval = bootstrap(own.numpy(), conditions, _r2_where_varied(own.sum(0)))
            row = ProbeScore(
                site=site,
                target=name.removeprefix(SHUFFLED),
                resolution=resolution,
                data=data,
                control="shuffled" if shuffled else INPUTS.get(place, "probe"),
                alpha=float(probes[key].alphas[0][column]),
                r2=interval.value,
                low=interval.low,
                high=interval.high,
                mae=float(mae_of(own.sum(0))),
                initial_conditions=interval.initial_conditions,
                valid_r2=float(valid_r2[key][column]),
            )
            if site and not shuffled:
                row = _beside_controls(row, key, name, scores)
            rows.append(row)
    return rows


def _beside_controls(row: ProbeScore, key: Key, name: str, scores: Mapping[Key, ProbeScores]) -> ProbeScore:
    """Add how far R² is above that of the shuffled target, and above the better of the two inputs."""
    if SHUFFLED + name in scores[key].targets:
        above = _difference(scores[key], name, scores[key], SHUFFLED + name)
        row = replace(row, selectivity=above.value, selectivity_low=above.low, selectivity_high=above.high)
    inputs = [scores[place, key[1]] for place in INPUTS if (place, key[1]) in scores]
    above_inputs = [_difference(scores[key], name, other, name) for other in inputs if name in other.targets]
    if above_inputs:
        least = min(above_inputs, key=lambda interval: interval.value)
        row = replace(row, over_input=least.value, over_input_low=least.low, over_input_high=least.high)
    return row


def _difference(own: ProbeScores, name: str, other: ProbeScores, other_name: str) -> Interval:
    """Return R² minus another's on the same windows: both are of the same resamples of initial conditions."""
    columns = [scores.targets.index(target) for scores, target in ((own, name), (other, other_name))]
    conditions = list(own.terms())
    mine, theirs = _terms(own)[:, columns[0]], _terms(other, conditions)[:, columns[1]]  # [initial conditions, 5]
    of_mine, of_theirs = _r2_where_varied(mine.sum(0)), _r2_where_varied(theirs.sum(0))
    return bootstrap(
        torch.cat([mine, theirs], 1).numpy(),
        conditions,
        lambda sums: of_mine(sums[..., :_TERMS]) - of_theirs(sums[..., _TERMS:]),
    )


def _terms(scores: ProbeScores, conditions: list[str] | None = None) -> Tensor:
    """Return the sums of the one probe by initial condition, [initial conditions, m, 5]."""
    by_name = scores.terms()
    return torch.stack([by_name[name] for name in conditions or by_name])[:, 0]


def _r2_where_varied(total: Tensor) -> Callable[[Floats], Floats]:
    """Return a function of resampled sums: R², or NaN where the truth hardly varies in the resample.

    Args:
        total: the sums of all initial conditions, [5].
    """
    least = 1e-6 * _variance(total)

    def r2(sums: Floats) -> Floats:
        resampled = torch.from_numpy(sums)
        values: Floats = torch.where(_variance(resampled) > least, r2_of(resampled), torch.nan).numpy()
        return values

    return r2


def _variance(terms: Tensor) -> Tensor:
    return terms[..., SQUARES] / terms[..., N] - (terms[..., SUM] / terms[..., N]).square()
