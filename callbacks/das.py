"""Training of rotated interventions on a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from torch import nn

from physteer.analyses.das import (
    ClassLoss,
    FieldLoss,
    InterchangeEvaluation,
    InterchangeObjective,
    InterventionVariant,
    NullPenalty,
    NullSources,
    Shifts,
    VariantPlan,
    exact_null_fields,
    learned_subspaces,
    make_variants,
    untrained_keys,
    write_learned,
)
from physteer.analyses.das.table import write_interchange_table
from physteer.analyses.engine import ForecastSuffix, PrefixCache, only_last_frame
from physteer.callbacks.base import check_alone, data_module, forecast_module, scores_of
from physteer.concepts import read_fixed_subspaces
from physteer.data.module import Split
from physteer.data.pair_module import CounterfactualDataModule
from physteer.errors import PhysteerError
from physteer.interventions import Locus, Site
from physteer.reports import write_page
from physteer.reports.das_report import report_search, search_text
from physteer.reports.interchange_text import interchange_line

MEBIBYTE = 2**20
_SPLITS: dict[str, tuple[Split, ...]] = {"fit": ("train", "valid", "test"), "validate": ("valid",), "test": ("test",)}


class DAS(L.Callback):
    """Learn in which subspace of an activation a variable lives (distributed alignment search).

    ``fit`` freezes the network and trains rotations R on pairs of windows (base, source) whose counterfactual is known:
    h' = h_b + (h_s − h_b) R Rᵀ at a site, so that the prediction becomes what the base would do with the source's value
    of the variable. Every site and rank of the run is trained side by side, each for itself, with the controls beside:
    rotations trained on shuffled pairs, random rotations, given directions, and everything exchanged. After ``fit`` the
    best checkpoint is scored on the pairs of ``test``. Clipping, accumulation and weight averages of the trainer act on
    each rotation as if it were trained alone; the learning rate, an early stop and the best step are the run's.

    The run folder gets tables and figures; ``rotations/``, the learned subspaces; and ``concepts/``, a direction for
    ``Steer`` inside each, with the sign and place that pairs of ``valid`` give it: Π mean sign(θ_s − θ_b)(h_s − h_b).

    Args:
        sites: where, such as ``blocks.1``.
        ranks: dimensions of the rotations to learn, per variable.
        frames: frames of the context that are exchanged, such as ``[-1]`` for the last, which is also the cheapest:
            only that frame is run through the rest of the network. Null for all.
        boundless: learn a rotation of unknown size too, at every site; its cost is d³ per step.
        loss: what edits should achieve: ``FieldLoss`` (the true frame), ``ReadoutLoss`` (a diagnostic of it),
            ``ClassLoss`` (the source's class, as a frozen probe reads it), or a class path of your own.
        shuffled: train a second rotation beside each, with the sources of other pairs (of a ``ClassLoss`` with their
            classes): what it recovers is not the variable's.
        random: random rotations to compare each rank with, in validate and test; 19 are the fewest that let a p value
            reach 0.05. One costs as much as a pass of the test pairs through the blocks behind its site.
        directions: files of fixed subspaces to compare with at their sites: concepts, ``rotations/`` of another search,
            ``probes/``, ``natural/`` spaces, whose first k main directions (PCA) are compared for every rank k, and
            ``basis/``, causal bases, of which the first k directions are.
        null_fields: the fields that a source which differs in ``data.null_parameter`` alone must not move, by name. The
            default, null, is right for the Schmidt number of a shear flow: all fields but one named ``tracer``.
        null_penalty: γ. Adds γ times how far null pairs of ``train`` move the null fields to every rotation's loss, RMS
            in units of r_Δ; a step then costs about twice as much. Needs ``data.null_parameter``.
        boundary_penalty: λ, the weight in the loss of a boundless rotation's share of the columns.
        cache: mebibytes of memory, or of disk, for what the network computes before the sites. What has no room is
            computed anew in every step.
        cache_folder: where that is kept for later runs; null for memory.
        seed: of the rotations' first values.
        seeds: starts from which rotations of each rank are learned, side by side, on the same pairs in the same order.
            The first is reported and written; the others tell how far recovery and span depend on the start, and cost
            as much each. Five are enough to see it.
    """

    brings_scores = True
    """For other callbacks: the module has room for the scores of one."""

    test_after_fit = True
    """For the command line: choices are made on ``valid``, results come from ``test``."""

    def __init__(
        self,
        sites: list[str],
        ranks: list[int],
        frames: list[int] | None = None,
        boundless: bool = False,
        loss: nn.Module | None = None,
        shuffled: bool = True,
        random: int = 19,
        directions: list[str] = [],  # noqa: B006  jsonargparse shows it; never changed
        null_fields: list[str] | None = None,
        null_penalty: float = 0.0,
        boundary_penalty: float = 1.0,
        cache: int = 1024,
        cache_folder: str | None = None,
        seed: int = 0,
        seeds: int = 1,
    ) -> None:
        if not sites or len(set(map(Site.parse, sites))) < len(sites):
            raise PhysteerError(f"DAS.sites must name one or more different sites; found {sites}")
        if (not ranks and not boundless) or len(set(ranks)) < len(ranks):
            raise PhysteerError(f"DAS.ranks must be different numbers, or boundless true; found {ranks}")
        if not 1 <= seeds <= 100:
            raise PhysteerError(f"DAS.seeds must be from 1 to 100; found {seeds}")
        if random < 0 or cache < 0:
            raise PhysteerError(f"DAS.random and DAS.cache must be at least 0; found {random} and {cache}")
        for name, penalty in (("boundary_penalty", boundary_penalty), ("null_penalty", null_penalty)):
            if not 0 <= penalty < float("inf"):
                raise PhysteerError(f"DAS.{name} must be at least 0; found {penalty}")
        self.sites = [Site.parse(site) for site in sites]
        self.plan = VariantPlan(tuple(ranks), boundless, shuffled, random, seed, seeds)
        self.frames, self.null_fields, self.null_penalty = frames, null_fields, null_penalty
        self.loss: nn.Module = FieldLoss() if loss is None else loss
        self.directions, self.boundary_penalty, self.cache = directions, boundary_penalty, cache
        self.cache_folder = None if cache_folder is None else Path(cache_folder)
        self._variants: list[InterventionVariant] = []
        self._variables: tuple[str, ...] = ()
        self._model = self._trained_on = ""
        self._shifts: Shifts | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze the network, make the rotations, and put objective and evaluation on the module."""
        module, data = forecast_module(pl_module, "DAS"), data_module(trainer, CounterfactualDataModule, "DAS")
        check_alone(trainer, self)
        if stage == "predict":
            raise PhysteerError("DAS trains (fit) and scores (validate, test); in predict, Steer uses what it learned")
        if self._variants:
            return  # of the fit before this test
        module.freeze_network()
        forecaster = module.forecaster
        self._variables, self._model = data.rules.variables, forecaster.identity
        splits = _SPLITS[stage]
        windows = data.pair_windows(splits[0])
        shapes = forecaster.site_shapes(self.sites, windows.metadata, windows.spec.n_input)
        widths = {site: shape[-1] for site, shape in shapes.items()}
        self._variants = make_variants(
            widths, len(self._variables), self.plan, read_fixed_subspaces(self.directions, self._model, self.plan.ranks)
        )
        module.interventions.update({variant.key: variant for variant in self._variants if variant.trained})
        module.not_stored = tuple(f"interventions.{key}" for key in untrained_keys(self.sites))
        n, channels = windows.spec.n_input, windows.metadata.channels
        if data.null_parameter is None and (self.null_penalty or self.null_fields is not None):
            setting = "null_penalty" if self.null_penalty else "null_fields"
            raise PhysteerError(
                f"DAS.{setting} is of null pairs: set data.null_parameter, the parameter alone in which their sources "
                "differ, such as Schmidt"
            )
        null_fields = exact_null_fields(self.null_fields, [channels.names[i] for i in channels.predicted])
        last = only_last_frame(self.frames, n, forecaster)
        prefix_cache = PrefixCache(
            forecaster, self.sites, last_frame=last, max_bytes=self.cache * MEBIBYTE, folder=self.cache_folder
        )
        locus = Locus(frames=[-1] if last else self.frames)
        objective = InterchangeObjective(
            self._variants,
            ForecastSuffix(prefix_cache),
            self.loss,
            locus,
            spatial_mean_only=not data.rules.same_initial_condition,
            boundary_penalty=self.boundary_penalty,
            null_penalty=self._penalty(data, null_fields) if stage == "fit" and self.null_penalty else None,
        )
        module.objective = objective
        module.evaluation = InterchangeEvaluation(self._variants, objective, self._variables, null_fields)
        if isinstance(self.loss, ClassLoss):
            pairs = [data.pairs(split, data.rules, 1) for split in splits]
            self.loss.check(forecaster, self.sites, self._variables, pairs)
        if stage == "fit":
            self._trained_on = windows.metadata.path
            data.test_dataloader()  # what the run ends with must not fail there
            if trainer.is_global_zero:
                print(f"pairs of train: {data.pairs('train', data.rules, 1).report()}")

    def _penalty(self, data: CounterfactualDataModule, fields: Sequence[str]) -> NullPenalty:
        if not fields:
            raise PhysteerError("DAS.null_penalty has no field that must not move: name some in DAS.null_fields")
        rules = replace(data.rules, null=data.null_parameter)
        return NullPenalty(self.null_penalty, fields, NullSources(data.pairs("train", rules, data.train_pairs)))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lower the temperature of boundless rotations."""
        progress = min(trainer.global_step / max(float(trainer.estimated_stepping_batches), 1.0), 1.0)
        for variant in self._variants:
            for rotation in variant.boundless:
                rotation.anneal(progress)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table of ``valid``; in ``fit`` keep what is to be chosen and measured there."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn == "fit":
            self._shifts = scores_of(pl_module, InterchangeEvaluation, "DAS").shifts()
        self._write(trainer, pl_module, "valid")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table of ``test``, its figures, and after ``fit`` what was learned."""
        if trainer.is_global_zero and self._shifts is not None:
            learned = learned_subspaces(self._variants, self._variables, self._model, self._trained_on)
            write_learned(Path(trainer.default_root_dir), learned, self._variables, self._shifts)
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        if not trainer.is_global_zero:
            return
        rows, run = scores_of(pl_module, InterchangeEvaluation, "DAS").rows, Path(trainer.default_root_dir)
        write_interchange_table(run, split, rows, self._variables)
        if trainer.state.fn == "fit":
            pl_module.print(f"step {trainer.global_step}: {interchange_line(rows)}", flush=True)
            return
        report_search(run, split)
        pl_module.print(f"{search_text(run, split)}\nreport: {write_page(run)}", flush=True)
