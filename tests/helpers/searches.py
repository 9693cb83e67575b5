"""Runs of the DAS callback on tiny data."""

import csv
from pathlib import Path

from helpers.experiments import callback, experiment
from physteer.cli import main

SETTINGS = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}


EVERY = callback("lightning.pytorch.callbacks.ModelCheckpoint", every_n_train_steps=2, save_top_k=-1, save_last=True)


SMALL = {"sites": ["blocks.0"], "ranks": [2], "frames": [-1], "random": 1}


def search(folder, well, walrus, *, das=None, model=None, data=None, callbacks=(EVERY,), **trainer) -> Path:
    """Write the configuration of a short search."""
    path = experiment(
        folder / "das.yaml",
        model={"checkpoint": str(walrus), "learning_rate": 3e-2, "warmup_steps": 1, **(model or {})},
        data={"path": str(well), "variables": ["Reynolds"], "pair_every": 4, "train_pairs": 8, "evaluation_pairs": 4}
        | {"batch_size": 4, **(data or {})},
        callbacks=[callback("DAS", **{**SMALL, **(das or {})}), *callbacks],
        **{**SETTINGS, "default_root_dir": str(folder / "run"), **trainer},
    )
    path.write_text(path.read_text().replace("physteer.WellDataModule", "physteer.CounterfactualDataModule"))
    return path


def fit(config, *words) -> None:
    assert main(["fit", "--config", str(config), *map(str, words)]) == 0


def table(run: Path, split: str = "test") -> dict[tuple[str, ...], float]:
    with (run / f"tables/interchange_{split}.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("site", "kind", "rank", "name", "metric", "field")
    found = {tuple(row[name] for name in names): float(row["value"]) for row in rows}
    assert len(found) == len(rows)  # each once
    return found
