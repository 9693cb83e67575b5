"""Causal bases on held-out initial conditions: ablation curves, and the comparison with other subspaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from physteer.analyses.basis.ablation import ablated, row_derangement
from physteer.analyses.basis.comparison import ComparedSubspace
from physteer.analyses.basis.energy import AblationData, Divergence
from physteer.analyses.basis.fitting import BasisFit
from physteer.analyses.basis.forecasts import ForecastRows
from physteer.analyses.basis.scores import SiteScores
from physteer.analyses.basis.table import CAUSAL, BasisComparisonRow, BasisCurveRow
from physteer.analyses.engine import ForecastSuffix, PairActivations
from physteer.data.batch import Window
from physteer.data.pair import PairBatch
from physteer.data.pairs import PairDataset
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.forecast.evaluation import Stage
from physteer.interventions import Edit, Interchange, InterchangeMean, Site, Span

PAIRS = 0
"""The data loader of counterfactual pairs; null pairs are not used."""


class BasisEvaluation(nn.Module):
    """Scores of causal bases over the pairs of ``test``.

    * curves: the mean divergence of ablating each direction alone, and the first 1 … k together, on the pairs' bases.
    * share: that of a subspace over that of the whole activation, ablated in the same mode. Resampling takes values
      from other held-out windows; a mean is that of the extraction.
    * recovery and nearness of interchanging a subspace with the source's, as `ChangeRecovery` and
      `Nearness` define them.

    All are sums by initial condition, added up over processes, so that intervals resample initial conditions.
    """

    def __init__(
        self, rows: ForecastRows, divergence: Divergence, variables: Sequence[str], *, spatial_mean_only: bool
    ) -> None:
        """Make an evaluation; `fits` and `compared` are set when bases were extracted.

        Args:
            rows: makes the parts of windows at the sites.
            divergence: of outputs.
            variables: of the pairs; the comparison of interchanges is of one variable.
            spatial_mean_only: whether to exchange spatial means only, for sources of other initial conditions.
        """
        super().__init__()
        self.rows, self.divergence = rows, divergence
        self.variables, self.spatial_mean_only = tuple(variables), spatial_mean_only
        self.fits: Mapping[Site, BasisFit] = {}
        self.compared: Mapping[Site, Sequence[ComparedSubspace]] = {}
        self.scores = nn.ModuleDict()
        """`SiteScores` by site."""
        self.curve_rows: list[BasisCurveRow] = []
        self.comparison_rows: list[BasisComparisonRow] = []
        self._place: dict[Window, int] = {}
        self._windows: list[Window] = []
        self._row_order = torch.empty(0, dtype=torch.long)

    def begin(self, forecaster: Forecaster, loaders: Any, stage: Stage) -> None:
        """Start new scores.

        Raises:
            PhysteerError: The mode resamples, and the pairs have one base.
        """
        pairs: PairDataset = (loaders if isinstance(loaders, list) else [loaders])[PAIRS].dataset
        names, channels = pairs.initial_conditions, pairs.windows.metadata.channels
        fields = [channels.names[i] for i in channels.predicted]
        self.scores = nn.ModuleDict(
            {
                _key(site): SiteScores(fit.basis.k, len(self.compared[site]), fields, names)
                for site, fit in self.fits.items()
            }
        ).to(forecaster.device)
        self._windows = sorted({pairs.pair(i).base for i in range(len(pairs))})
        self._place = {window: row for row, window in enumerate(self._windows)}
        fit = next(iter(self.fits.values()))
        try:
            self._row_order = row_derangement(len(self._windows), fit.targets.mode, fit.basis.seed)
        except PhysteerError as error:
            raise PhysteerError(f"held-out windows: {error}") from error

    @torch.no_grad()
    def score(self, forecaster: Forecaster, batch: PairBatch, loader: int) -> None:
        """Ablate and interchange every subspace of every site, and add the scores."""
        if loader != PAIRS:
            return
        places = [self._place[window] for window in batch.base_windows]
        partner = (lambda row: self._windows[self._row_order[row]]) if len(self._row_order) else None
        prepared = self.rows.prepare(batch.reader, batch.base_windows, places, partner)
        suffix = ForecastSuffix(self.rows.cache)
        prepared_pairs = suffix.prepare(forecaster, batch)
        names = [str(pair.initial_condition) for pair in batch.pairs]
        for site, fit in self.fits.items():
            scores = cast(SiteScores, self.scores[_key(site)])
            data = AblationData.of(self.rows.part(site, prepared), fit.targets)
            scores.energies.update(self._ablations(site, fit, data), names)
            activations = suffix.at(forecaster, site, prepared_pairs)
            self._add_interchanges(scores, forecaster, batch, site, activations, names)

    def results(self, stage: str) -> dict[str, float]:
        """Compute the tables; a collective over processes.

        Returns:
            For the logger: the share, recovery and nearness of every causal span.
        """
        self.curve_rows, self.comparison_rows = [], []
        logged: dict[str, float] = {}
        for site, fit in self.fits.items():
            scores = cast(SiteScores, self.scores[_key(site)])
            self.curve_rows += scores.curves(fit)
            rows = scores.comparison(str(site), self.compared[site], ", ".join(self.variables))
            self.comparison_rows += rows
            for row in rows:
                if row.method == CAUSAL:
                    values = {"share": row.share, "recovery": row.recovery, "nearness": row.nearness}
                    logged |= {f"{stage}/{name}/{site}_causal_{row.rank}": value for name, value in values.items()}
        return logged

    def _ablations(self, site: Site, fit: BasisFit, data: AblationData) -> Tensor:
        """Return the divergence of every row under every ablation, [rows, n]: marginal, cumulative, compared, all."""
        basis, h = fit.basis, data.part.activation
        pairs = [(basis.read[:, [j]], basis.write[:, [j]]) for j in range(basis.k)]
        pairs += [(basis.read[:, : j + 1], basis.write[:, : j + 1]) for j in range(basis.k)]
        pairs += [(one.read, one.write) for one in self.compared[site] if one.basis is not None]
        edited = [ablated(h, data.deviation, *pair) for pair in pairs]
        return torch.stack([data.divergences(self.divergence, each) for each in [*edited, data.replaced]], 1)

    def _add_interchanges(
        self,
        scores: SiteScores,
        forecaster: Forecaster,
        batch: PairBatch,
        site: Site,
        activations: PairActivations,
        names: Sequence[str],
    ) -> None:
        scored = batch.metadata.channels.predicted
        suffix = ForecastSuffix(self.rows.cache)
        unedited = suffix.outcome(forecaster, batch, activations, []).prediction[:, 0, scored]
        truth, own_future = batch.truth[:, 0, scored], batch.base.targets[:, 0, scored]
        replacement = InterchangeMean if self.spatial_mean_only else Interchange
        source = self.rows.locus.take(activations.sources[0])
        for number, subspace in enumerate(self.compared[site]):
            within = None if subspace.basis is None else Span(subspace.basis)
            edit = Edit(site, replacement(source), within, self.rows.locus)
            edited = suffix.outcome(forecaster, batch, activations, [edit]).prediction[:, 0, scored]
            scores.add_interchange(number, edited, unedited, truth, own_future, names)


def with_curves(fit: BasisFit, rows: Sequence[BasisCurveRow]) -> BasisFit:
    """Return a fit whose basis holds its held-out curves."""
    own = [row for row in rows if row.site == fit.basis.site]
    curves = np.array([[row.marginal, row.cumulative] for row in own])
    marginal, cumulative = torch.from_numpy(curves).unbind(1)
    basis = dataclasses.replace(
        fit.basis, marginal=marginal.clone(), cumulative=cumulative.clone(), everything=own[0].everything
    )
    return dataclasses.replace(fit, basis=basis)


def _key(site: Site) -> str:
    """Return a site as a name in a `ModuleDict`, which allows no dots."""
    return str(site).replace(".", "/")
