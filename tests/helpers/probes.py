"""Runs of the Probe callback on tiny data."""

import csv

from helpers.experiments import callback, experiment

SITES = ["encoder", "blocks.0", "blocks.1.space"]


TARGETS = ["vorticity", "pressure", "log_viscosity", "speed_squared"]


def probe_yaml(path, folder, full, trainer=None, data=None, **probe):
    experiment(
        path,
        model={"checkpoint": str(folder / "walrus.safetensors")},
        data={
            "path": str(folder / "simple"),
            "full": full and str(full),
            "window_every": 3,
            "batch_size": 3,
            **(data or {}),
        },
        callbacks=[callback("Probe", **{"sites": SITES, "targets": TARGETS, "random_erasers": 2, **probe})],
        **{"max_epochs": 1, "enable_checkpointing": False, "logger": False, **(trainer or {})},
    )
    path.write_text(path.read_text().replace("physteer.WellDataModule", "physteer.TransferDataModule"))
    return path


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
