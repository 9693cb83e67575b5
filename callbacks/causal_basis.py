"""The directions of activations that a frozen model's forecast depends on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from physteer.analyses.basis import (
    BasisEvaluation,
    BasisFit,
    BasisPlan,
    ExtractionSettings,
    ExtractionState,
    FieldDivergence,
    ForecastExtraction,
    ForecastRows,
    MetricName,
    Mode,
    StoppedExtractionError,
    UnfinishedExtractions,
    check_directions,
    check_divergence,
    compared_subspaces,
    comparison_ranks,
    with_curves,
)
from physteer.analyses.basis.table import write_basis_tables
from physteer.analyses.engine import PrefixCache, only_last_frame
from physteer.callbacks.base import check_alone, data_module, forecast_module, scores_of
from physteer.callbacks.interrupts import Interrupts
from physteer.concepts import FixedSubspace, read_fixed_subspaces
from physteer.data.pair_module import CounterfactualDataModule
from physteer.data.truths import ReadoutTruth
from physteer.errors import PhysteerError
from physteer.files import file_name, matching_files
from physteer.forecast import Forecaster
from physteer.interventions import Locus, Site
from physteer.reports import write_page
from physteer.reports.basis_report import basis_text, report_basis

MEBIBYTE = 2**20


class CausalBasis(L.Callback):
    """Extract the directions that the forecast depends on most, and compare them with others (causal bases).

    ``fit`` freezes the network and reads the base windows of ``train`` once. At every site it then looks for the
    direction whose ablation changes the forecast most, for the next one in its complement, and so on. Ablating a
    direction replaces the component along it by its mean, by zero, or by its value in another window. The bases of two
    halves of the initial conditions tell how far directions are determined: trust spans, not single directions.

    After ``fit`` the pairs of ``test`` give, with intervals over initial conditions, ablation curves; and a comparison
    of causal directions with main directions (PCA), files of directions and random ones, at equal numbers of
    directions: the share of what ablating everything does, and recovery and nearness when the subspace is interchanged
    with the source's.

    In the run folder: ``basis/<site>.safetensors``, which ``Erase``, ``Steer`` (``PATH#3`` for the third direction) and
    ``DAS.directions`` take; ``tables/basis_curves`` and ``tables/basis_comparison``; figures and ``report.html``. A run
    that was interrupted goes on from the last direction when it is started again.

    Args:
        sites: where, such as ``blocks.1``.
        k: directions per site; 0 for all.
        frames: frames of the context that are ablated, such as ``[-1]`` for the last, which is also the cheapest: only
            that frame is run through the rest of the network. Null for all.
        divergence: how forecasts are compared: ``FieldDivergence`` (squared change in units of r_Δ), ``KLDivergence``
            and ``CrossEntropyIncrease`` of a class probe, or a class path of your own.
        mode: what takes an ablated component's place: ``mean`` (over windows and tokens), ``rows_mean`` (over windows,
            at each token), ``zero``, ``resample`` (another window's, at another token), ``resample_rows`` (another
            window's, at the same token).
        metric: ``raw``, orthogonal directions; or ``whitened``, for correlated channels: directions that are orthogonal
            after whitening, whose removal leaves alone what is uncorrelated with them.
        max_iter: most iterations of L-BFGS for one direction.
        min_energy: the extraction ends before a direction with less energy, in the divergence's units.
        candidates: starts that are tried for each direction.
        halves: extract the bases of two halves of the data too; doubles the time.
        directions: files, or patterns with ``*``, of fixed subspaces to compare with at their sites, as in ``DAS``.
        random: random subspaces to compare each number of directions with.
        cache: mebibytes of memory, or of disk, for what the network computes before the sites.
        cache_folder: where that is kept for later runs; null for memory.
        seed: of the random parts: starts, the windows and tokens that values are taken from, random subspaces.
    """

    brings_scores = True
    """For other callbacks: the module has room for the scores of one."""

    test_after_fit = True
    """For the command line: directions come from ``train``, results from ``test``."""

    def __init__(
        self,
        sites: list[str],
        k: int = 4,
        frames: list[int] | None = None,
        divergence: nn.Module | None = None,
        mode: Mode = "mean",
        metric: MetricName = "raw",
        max_iter: int = 100,
        min_energy: float = 0.0,
        candidates: int = 10,
        halves: bool = True,
        directions: list[str] = [],  # noqa: B006  jsonargparse shows it; never changed
        random: int = 3,
        cache: int = 1024,
        cache_folder: str | None = None,
        seed: int = 0,
    ) -> None:
        if not sites or len(set(map(Site.parse, sites))) < len(sites):
            raise PhysteerError(f"CausalBasis.sites must name one or more different sites; found {sites}")
        if random < 0 or cache < 0:
            raise PhysteerError(f"CausalBasis.random and cache must be at least 0; found {random} and {cache}")
        try:
            self.plan = BasisPlan(mode, ExtractionSettings(k, metric, max_iter, min_energy, candidates, seed))
        except PhysteerError as error:
            raise PhysteerError(f"CausalBasis: {error}") from error
        self.sites = [Site.parse(site) for site in sites]
        self.frames, self.halves, self.directions, self.random = frames, halves, directions, random
        self.divergence: nn.Module = FieldDivergence() if divergence is None else divergence.requires_grad_(False)
        self.cache, self.cache_folder = cache, None if cache_folder is None else Path(cache_folder)
        self.fits: dict[Site, BasisFit] = {}
        """The bases, after ``fit``."""
        self._fixed: list[FixedSubspace] = []
        self._extraction: ForecastExtraction | None = None
        self._unfinished = UnfinishedExtractions()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze the network, and put the evaluation on the module."""
        module = forecast_module(pl_module, "CausalBasis")
        data = data_module(trainer, CounterfactualDataModule, "CausalBasis")
        check_alone(trainer, self)
        forecaster = module.forecaster
        if isinstance(module.evaluation, BasisEvaluation):
            return  # of the fit before this test
        if stage != "fit":
            raise PhysteerError("CausalBasis extracts and compares in one run: physteer fit")
        if len(data.rules.variables) > 1 or isinstance(data.truth, ReadoutTruth):
            raise PhysteerError(
                "CausalBasis compares interchanges of one variable with simulated frames: give data.variables one name "
                f"and data.truth frames; found {', '.join(data.rules.variables)} and {data.truth}"
            )
        module.freeze_network()
        module.network.eval()
        windows = data.pair_windows("train")
        n = windows.spec.n_input
        shapes = forecaster.site_shapes(self.sites, windows.metadata, n)
        last = only_last_frame(self.frames, n, forecaster)
        self._check(forecaster, shapes, n, last=last)
        locus = Locus(frames=[-1] if last else self.frames)

        def rows() -> ForecastRows:
            size = self.cache * MEBIBYTE
            cache = PrefixCache(
                forecaster,
                self.sites,
                last_frame=last,
                max_bytes=size,
                folder=self.cache_folder,
                needed_by="CausalBasis",
            )
            return ForecastRows(forecaster, cache, locus, self.divergence)

        self._extraction = ForecastExtraction(
            data.pairs("train", data.rules, data.train_pairs),
            rows(),
            self.divergence,
            self.plan,
            batch_size=data.batch_size,
            halves=self.halves,
            process=trainer.global_rank,
            processes=trainer.world_size,
        )
        module.evaluation = BasisEvaluation(
            rows(), self.divergence, data.rules.variables, spatial_mean_only=not data.rules.same_initial_condition
        )
        data.test_dataloader()  # what the run ends with must not fail there
        trainer.limit_train_batches = 0  # no loss, so nothing for Lightning to step along
        trainer.num_sanity_val_steps = 0
        if isinstance(trainer.strategy, DDPStrategy):
            # its wrapper shares out gradients, and refuses a model that has none
            trainer.strategy.configure_ddp = _nothing  # type: ignore[method-assign]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Extract the basis of every site."""
        extraction = self._extraction
        if extraction is None:
            raise PhysteerError("CausalBasis has extracted from this model already: fit once, or make a new module")
        folder = Path(trainer.default_root_dir) / "basis"
        digest = extraction.digest(trainer.precision)
        self._unfinished = UnfinishedExtractions(folder, digest, first=trainer.is_global_zero)
        units = getattr(self.divergence, "units", "")

        def report(name: str, state: ExtractionState) -> None:
            pl_module.print(f"{name}: {state.latest(units)}", flush=True)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Interrupts):
                    callback.on_train_start()

        with trainer.precision_plugin.forward_context():
            prepared = extraction.prepare()
            pl_module.print(
                f"{len(extraction.windows)} windows of train, {self.plan.mode}, {self.plan.settings.metric}"
            )
            for site in self.sites:
                try:
                    self.fits[site] = extraction.fit(site, prepared, self._unfinished, report)
                except StoppedExtractionError as error:
                    if error.basis is None:
                        raise
                    path = folder / f"{file_name(str(site))}.safetensors"
                    if trainer.is_global_zero:
                        error.basis.save(path)
                    raise PhysteerError(f"{error}; {path} holds {error.basis.k} direction(s)") from error
        evaluation = scores_of(pl_module, BasisEvaluation, "CausalBasis")
        evaluation.fits = self.fits
        seed = self.plan.settings.seed
        evaluation.compared = {
            site: compared_subspaces(fit, self._fixed, self.random, seed) for site, fit in self.fits.items()
        }
        self._extraction = None  # and with it the windows' activations

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write bases, tables and figures, on the first process."""
        if not trainer.is_global_zero:
            return
        run, evaluation = Path(trainer.default_root_dir), scores_of(pl_module, BasisEvaluation, "CausalBasis")
        for site, fit in self.fits.items():
            path = run / "basis" / f"{file_name(str(site))}.safetensors"
            with_curves(fit, evaluation.curve_rows).basis.save(path)
        write_basis_tables(run, evaluation.curve_rows, evaluation.comparison_rows)
        report_basis(run)
        pl_module.print(f"{basis_text(run)}\nreport: {write_page(run)}", flush=True)
        self._unfinished.remove()

    def _check(self, forecaster: Forecaster, shapes: Mapping[Site, torch.Size], context: int, *, last: bool) -> None:
        """Refuse settings that do not fit the model, before anything is computed."""
        for site in self.sites:
            if not last and forecaster.computes_last_frame_only(site):
                raise PhysteerError(f"a forecast computes {site} for the last frame alone: set CausalBasis.frames [-1]")
        if self.frames is not None and not all(-context <= frame < context for frame in self.frames):
            raise PhysteerError(f"CausalBasis.frames {self.frames}: the context has {context} frames")
        widths = {site: shape[-1] for site, shape in shapes.items()}
        for site, width in widths.items():
            try:
                self.plan.settings.directions(width, width)
            except PhysteerError as error:
                raise PhysteerError(f"CausalBasis at {site}: {error}") from error
        check_divergence(self.divergence, forecaster.identity)
        k = self.plan.settings.k
        ranks = comparison_ranks(k if k >= 1 else min(widths.values()))
        files = matching_files("CausalBasis.directions", self.directions)
        self._fixed = read_fixed_subspaces(files, forecaster.identity, ranks)
        check_directions(self._fixed, widths)


def _nothing(*args: Any) -> None:
    """Do nothing."""
