"""What each part of a model does: effects of replacing activations."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import lightning as L

from physteer.analyses.effects import SCALES, EffectEvaluation, EffectPlan, make_patches
from physteer.analyses.effects.table import write_attribution_tables, write_effect_table
from physteer.callbacks.base import check_alone, data_module, forecast_module, scores_of
from physteer.callbacks.progress import OccasionalLines
from physteer.data.pair_module import CounterfactualDataModule
from physteer.errors import PhysteerError
from physteer.interventions import leaves_of
from physteer.reports import write_page
from physteer.reports.effect_report import effects_text, report_effects

MEBIBYTE = 2**20


class Effects(L.Callback):
    """Measure what replacing the activation of one node after the other does to the prediction.

    In ``validate`` or ``test``, over pairs of windows whose counterfactual is known. A node's activation b becomes
    another one, at several scales c: zero, the mean, that of another window (``resample``), that of the pair's source;
    or only its part inside or outside the first principal directions. Formulas: ``physteer.analyses.effects.VARIANTS``.
    Each effect is pooled over pairs, with a 95 % interval over initial conditions:

    ``field``: how far the prediction moves, over how far the other window's own prediction lies away; ``aligned``: the
    share of the *simulated* change that the source's activation makes, signed, per field and region of the flow; and
    ``null_share``, if ``data.null_parameter`` is set: how far sources that must not change the flow move each field,
    over how far pairs do.

    Only what lies behind a node is run. A sweep that was killed goes on where it was. The run folder gets
    ``tables/effects_<split>``, ``tables/attribution_<split>``, figures (PDF too) and ``report.html``.

    Args:
        nodes: sites, or patterns: ``*`` stands for one part of a path, ``[*]`` for every head; null for what adds to
            the residual stream, such as heads and feed-forwards, where the network says it, else for every block.
        variants: ``zero``, ``mean``, ``resample``, ``source``: b + c(s − b); ``scaled_resample``, ``scaled_source``:
            c·s; ``span_self``, ``complement_self``, ``span_source``, ``complement_source``: inside or outside the
            principal directions.
        scales: c; the default is 0 to 10 in twelve steps.
        frames: frames of the context that are patched, each for itself, such as ``[-1]`` for the last, which is also
            the cheapest; null for all together.
        components: principal directions per node.
        per_frame: whether each frame has a mean and principal directions of its own.
        statistics_windows: windows of ``train`` that means and principal directions are fitted to.
        exact: nodes, drawn at random, that are measured; null for all. The others are only estimated.
        attribution: whether to estimate the effects of all nodes from 13 backward passes per batch, and to compare them
            with exact ones on 20 nodes.
        rollouts: nodes, or patterns, that are also taken from the source at every step of rollouts of ``data.horizon``
            steps.
        cache: mebibytes of memory for windows that several pairs share.
        seed: of the partners, the draws of nodes and windows, and the cotangents.
    """

    brings_scores = True
    """For other callbacks: the module has room for the scores of one."""

    def __init__(
        self,
        nodes: list[str] | None = None,
        variants: list[str] = ["zero", "mean", "resample", "source"],  # noqa: B006  jsonargparse shows it; never changed
        scales: list[float] = list(SCALES),  # noqa: B006
        frames: list[int] | None = None,
        components: int = 8,
        per_frame: bool = False,
        statistics_windows: int = 32,
        exact: int | None = None,
        attribution: bool = True,
        rollouts: list[str] = [],  # noqa: B006
        cache: int = 1024,
        seed: int = 0,
    ) -> None:
        make_patches(variants, scales)
        for name, value, least in (
            ("components", components, 1),
            ("statistics_windows", statistics_windows, 1),
            ("exact", exact, 1),
            ("cache", cache, 0),
        ):
            if value is not None and value < least:
                raise PhysteerError(f"Effects.{name} must be at least {least}; found {value}")
        self.nodes = nodes
        self.plan = EffectPlan(
            tuple(nodes or ()),
            tuple(variants),
            tuple(scales),
            None if frames is None else tuple(frames),
            components,
            per_frame,
            statistics_windows,
            exact,
            attribution,
            tuple(rollouts),
            cache * MEBIBYTE,
            seed,
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze the network and put the evaluation on the module."""
        module = forecast_module(pl_module, "Effects")
        if stage not in ("validate", "test"):
            raise PhysteerError("Effects measures: run `physteer validate` or `physteer test`")
        data = data_module(trainer, CounterfactualDataModule, "Effects")
        check_alone(trainer, self)
        module.freeze_network()
        nodes = self.plan.nodes if self.nodes is not None else leaves_of(module.network) or ("blocks.*",)
        module.evaluation = EffectEvaluation(
            dataclasses.replace(self.plan, nodes=nodes),
            data.pair_windows("train"),
            _unfinished(trainer),
            OccasionalLines(trainer.is_global_zero),
        )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the tables and figures of ``valid``."""
        self._write(trainer, pl_module, "valid")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the tables and figures of ``test``."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        evaluation, run = scores_of(pl_module, EffectEvaluation, "Effects"), Path(trainer.default_root_dir)
        if not trainer.is_global_zero:
            return
        write_effect_table(run, split, evaluation.rows)
        if evaluation.attribution_rows:
            write_attribution_tables(run, split, evaluation.attribution_rows, evaluation.attribution_checks)
        shutil.rmtree(_unfinished(trainer), ignore_errors=True)
        report_effects(run, split)
        pl_module.print(f"{effects_text(run, split)}\nreport: {write_page(run)}", flush=True)


def _unfinished(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "unfinished"
