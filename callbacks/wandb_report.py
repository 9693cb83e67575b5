"""What a run found, on Weights & Biases."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from physteer.analyses.effects.circuit_table import read_circuit_tables
from physteer.analyses.effects.table import read_effect_table
from physteer.analyses.steering.summary_rows import SummaryRow, read_summary
from physteer.callbacks.steer import Steer, load_concept
from physteer.files import file_name
from physteer.reports.effect_report import top_nodes
from physteer.reports.page import concept_files
from physteer.reports.summary_tables import reported
from physteer.tensor_files import numbered_direction

_STEP = "rollout_step"
_CHANGES = ("enstrophy", "vortex_area")
"""Quantities of the summary that are changes of the metric of that name, which has a curve of its own."""


class WandbReport(L.Callback):
    """When ``predict`` ends, send what is in the run folder to Weights & Biases; without a ``WandbLogger``, do nothing.

    That is, as far as the run has made them: the summary's values over rollout steps, as
    ``steer/<direction>/<site>/<mode>/<α>/<quantity>/<field>`` (``unsteered/…`` and ``truth/…`` beside; the mode of
    ``Erase`` is ``erased``, its α 1), random directions left out; the summary of the first, middle and last step as a
    table; figures and videos; concepts, captured or steered along, as artifacts of type ``concept``. When ``validate``
    or ``test`` ends, the largest effects of nodes and a circuit's scores as tables, with their figures. The command
    line adds this callback, after all others, to every run.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Send the effects or the circuit that ``validate`` has found."""
        if trainer.state.fn == "validate":
            _send_nodes(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Send the effects or the circuit that ``test`` has found."""
        _send_nodes(trainer)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Send, from the first process."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        steers = [callback for callback in trainer.callbacks if isinstance(callback, Steer)]  # type: ignore[attr-defined]
        steered = [path for steer in steers for path in steer.concepts]
        concepts = dict.fromkeys([*map(str, concept_files(folder)), *steered])
        for logger in loggers:
            run = logger.experiment
            rows = read_summary(folder)
            if rows:
                _send_curves(run, rows)
            if media := dict(_media(folder, rows)):
                run.log(media)
            for path in concepts:
                run.log_artifact(_artifact(path, folder))


def _send_nodes(trainer: L.Trainer) -> None:
    """Send the largest effects of nodes and a circuit's scores as tables, with their figures."""
    runs = [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not runs or not trainer.is_global_zero:
        return
    import wandb

    folder, media = Path(trainer.default_root_dir), dict[str, Any]()
    for split in ("valid", "test"):
        for name, rows in (
            ("effects", top_nodes(read_effect_table(folder, split))[1]),
            ("circuit", read_circuit_tables(folder, split)[1]),
        ):
            if rows:
                columns = [field.name for field in fields(rows[0])]
                media[f"{name}/{split}"] = wandb.Table(columns=columns, data=[list(astuple(row)) for row in rows])
    if not media:
        return
    for path in sorted([*(folder / "figures").glob("effects_*.png"), *(folder / "figures").glob("circuit_*.png")]):
        media[f"figures/{path.stem}"] = wandb.Image(str(path))
    for run in runs:
        run.log(media)


def _send_curves(run: Any, rows: Sequence[SummaryRow]) -> None:
    """Log one point per rollout step, on an axis of its own."""
    for group in ("steer/*", "unsteered/*", "truth/*"):
        run.define_metric(group, step_metric=_STEP)
    curves: dict[int, dict[str, float]] = {}
    for row in rows:
        together = math.isnan(row.strength)  # all strengths
        if row.role != "random" and row.step and not together and math.isfinite(row.value):
            curves.setdefault(row.step, {})[_key(row)] = row.value
    for step in sorted(curves):
        run.log({_STEP: step} | curves[step])


def _key(row: SummaryRow) -> str:
    """Return the curve's name: groups from the coarsest to the finest, without those that are empty."""
    if row.role in ("unsteered", "truth"):
        strength = "" if not row.strength else "above" if row.strength > 0 else "below"
        parts = [row.role, strength]
    else:
        parts = ["steer", row.direction, row.site, row.mode, f"{row.strength:+.12g}"]
    quantity = f"{row.quantity}_change" if row.quantity in _CHANGES else row.quantity.removesuffix("_value")
    return "/".join(part for part in [*parts, quantity, row.field.replace(" ", "_")] if part)


def _media(folder: Path, rows: Sequence[SummaryRow]) -> Iterator[tuple[str, Any]]:
    """Yield the summary, figures and videos by name."""
    import wandb  # only where it is used: it is slow to import

    if rows:
        table = [list(astuple(row)) for row in reported(rows)]
        yield "summary", wandb.Table(columns=[field.name for field in fields(SummaryRow)], data=table)
    for path in sorted((folder / "figures").glob("*.png")):
        yield f"figures/{path.stem}", wandb.Image(str(path))
    for path in sorted((folder / "videos").glob("*.mp4")):
        yield f"videos/{path.stem}", wandb.Video(str(path), format="mp4")


def _artifact(path: str, run_folder: Path) -> Any:
    """Return a concept's file as an artifact that tells what the concept is of."""
    import wandb

    concept, (file, number) = load_concept(path), numbered_direction(path)
    told = {field.name: getattr(concept, field.name) for field in fields(concept) if field.name != "direction"}
    told["shape"] = list(concept.direction.shape)
    name = file_name(Path(file).stem).replace("+", "_") + ("" if number is None else f"_{number}")
    artifact = wandb.Artifact(name, type="concept", metadata=told)
    # An offline run is uploaded later, maybe elsewhere: files of other folders are copied into this one.
    inside = Path(file).resolve().is_relative_to(run_folder.resolve())
    artifact.add_file(os.path.abspath(file), policy="immutable" if inside else "mutable", skip_cache=True)
    return artifact
