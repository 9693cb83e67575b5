"""What a run of ``predict`` found, on Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.loggers import WandbLogger

from physteer.analyses.steering.summary_rows import Finding, read_summary
from physteer.analyses.steering.table import read_metrics
from physteer.callbacks.steer import Steer
from physteer.concepts import Concept
from physteer.files import file_name
from physteer.reports.html import concept_files

_STEP = "rollout_step"
_ROLES = ("truth", "unsteered", "concept", "shuffled", "data")


class WandbReport(L.Callback):
    """When ``predict`` ends, send what is in the run folder to Weights & Biases; without a ``WandbLogger``, do nothing.

    That is, as far as the run has made them: every metric over rollout steps, averaged over windows, as
    ``steer/<direction>/<site>/<mode>/<α>/<metric>/<field>`` (``unsteered/…`` and ``truth/…`` beside; the mode of
    ``Erase`` is ``erased``, its α 1); the summary as a table; figures and videos; concepts, captured or steered along,
    as artifacts of type ``concept``. The command line
    adds this callback, after all others, to every run.
    """

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Send, from the first process."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        steered = [one for one in trainer.callbacks if isinstance(one, Steer)]  # type: ignore[attr-defined]
        concepts = dict.fromkeys([*concept_files(folder), *(Path(path) for one in steered for path in one.concepts)])
        for logger in loggers:
            run = logger.experiment
            table = read_metrics(folder)
            if table is not None:
                _send_curves(run, table)
            if media := dict(_media(folder)):
                run.log(media)
            for path in concepts:
                run.log_artifact(_artifact(path))


def _send_curves(run: Any, table: pd.DataFrame) -> None:
    """Log one point per rollout step, on an axis of its own."""
    for group in ("steer/*", "unsteered/*", "truth/*"):
        run.define_metric(group, step_metric=_STEP)
    table = table[table["role"].isin(_ROLES) & (table["metric"] != "blow_up_step")]
    who = ["role", "direction", "site", "mode", "strength"]
    means = table.groupby([*who, "metric", "field", "step"], sort=False)["value"].mean().dropna().reset_index()
    for step, rows in means.groupby("step"):
        run.log({_STEP: step} | {_key(row): row["value"] for row in rows.to_dict("records")})


def _key(row: dict[Any, Any]) -> str:
    """Return the metric's name: groups from the coarsest to the finest, without those that are empty."""
    if row["role"] in ("unsteered", "truth"):
        strength = "" if not row["strength"] else "above" if row["strength"] > 0 else "below"
        parts = [row["role"], strength]
    else:
        parts = ["steer", row["direction"], row["site"], row["mode"], f"{row['strength']:+.12g}"]
    return "/".join(part for part in [*parts, row["metric"], row["field"]] if part)


def _media(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the summary, figures and videos by name."""
    import wandb  # only where it is used: it is slow to import

    rows = [list(astuple(row)) for row in read_summary(folder)]
    if rows:
        yield "summary", wandb.Table(columns=[field.name for field in fields(Finding)], data=rows)
    for path in sorted((folder / "figures").glob("*.png")):
        yield f"figures/{path.stem}", wandb.Image(str(path))
    for path in sorted((folder / "videos").glob("*.mp4")):
        yield f"videos/{path.stem}", wandb.Video(str(path), format="mp4")


def _artifact(path: Path) -> Any:
    """Return a concept's file as an artifact that tells what the concept is of."""
    import wandb

    concept = Concept.load(path)
    told = {field.name: getattr(concept, field.name) for field in fields(concept) if field.name != "direction"}
    told["shape"] = list(concept.direction.shape)
    artifact = wandb.Artifact(file_name(path.stem).replace("+", "_"), type="concept", metadata=told)
    artifact.add_file(str(path), policy="immutable")  # or it would be copied first, outside the run folder
    return artifact
