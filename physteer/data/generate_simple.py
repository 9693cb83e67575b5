"""Data sets of simple flows: Reynolds × Schmidt × initial condition, in the layout of the built-in shear flow.

OUT/stats.yaml
OUT/data/{train,valid,test}/{taylor_green,advection,diffusion}_Reynolds_{Re}_Schmidt_{Sc}.hdf5

All are of the data set `simple_flows`, so that one folder can hold several kinds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from physteer.data.generate import FIELDS, SPLITS, box_axes, check_same_settings, file_name
from physteer.data.simple_flows import ExactFlow, draw_advection, draw_diffusion, draw_taylor_green, stacked
from physteer.data.well_format import WellFile, WellWriter
from physteer.data.well_stats import write_stats
from physteer.errors import PhysteerError

SIMPLE_FLOWS: dict[str, Callable[[int, Sequence[int]], Sequence[ExactFlow]]] = {
    "taylor_green": draw_taylor_green,
    "advection": draw_advection,
    "diffusion": draw_diffusion,
}
"""Name of the data set → how initial conditions are drawn: (count, seed)."""
GENERATOR_VERSION = 1
"""Raised whenever the same settings would give other numbers."""


@dataclass(frozen=True)
class SimpleFlowSettings:
    """What every file of a data set has in common."""

    counts: tuple[int, int, int] = (12, 2, 2)
    """Initial conditions in train, valid and test."""
    frames: int = 40
    """Stored frames per trajectory, the initial one included."""
    dt: float = 0.25
    """Time between frames."""
    resolution: tuple[int, int] = (64, 128)
    """Grid points (x, y)."""
    seed: int = 0
    """Of the initial conditions."""

    def record(self, dataset: str, split: str) -> dict[str, object]:
        """Return what is stored in each file of a split and must agree before the file is kept."""
        record = asdict(self)
        record["initial_conditions"] = record.pop("counts")[SPLITS.index(split)]
        return {"generator": f"physteer {dataset} {GENERATOR_VERSION}", "split": split, **record}


def generate_simple_flow(
    out: Path,
    dataset: str,
    reynolds: Sequence[float],
    schmidt: Sequence[float],
    settings: SimpleFlowSettings,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Path]:
    """Write a data set, keeping files that are already there; return the files written.

    Args:
        out: folder of the data set; other kinds may be there.
        dataset: one of `SIMPLE_FLOWS`.
        reynolds: Reynolds numbers, positive, distinct.
        schmidt: Schmidt numbers, positive, distinct.
        settings: everything else.
        progress: called with the number of trajectory-frames just stored.

    Raises:
        PhysteerError: a file of the data set was made by other settings, or cannot be read or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhysteerError(f"cannot make the folder {out}: {error.strerror}") from error
    written = []
    for index, (split, count) in enumerate(zip(SPLITS, settings.counts, strict=True)):
        folder = out / "data" / split
        for path in sorted(folder.glob(f"{dataset}_Reynolds_*.hdf5")):
            check_same_settings(path, settings.record(dataset, split))
        flows = SIMPLE_FLOWS[dataset](count, (settings.seed, index))
        for value, number in [(one, other) for one in reynolds for other in schmidt] if count else ():
            path = folder / file_name(value, number, dataset)
            if path.exists():
                progress(settings.frames * count)
                continue
            if split == "train":
                (out / "stats.yaml").unlink(missing_ok=True)  # it would not be that of the training files
            _write(path, dataset, split, flows, value, number, settings, progress)
            written.append(path)
    train = sorted((out / "data" / "train").glob("*.hdf5"))
    if train and not (out / "stats.yaml").exists():
        write_stats(train, out / "stats.yaml")
    return written


def _write(
    path: Path,
    dataset: str,
    split: str,
    flows: Sequence[ExactFlow],
    reynolds: float,
    schmidt: float,
    settings: SimpleFlowSettings,
    progress: Callable[[int], object],
) -> None:
    content = WellFile(
        dataset_name="simple_flows",
        axes=box_axes(settings.resolution),
        times=settings.dt * np.arange(settings.frames),
        n_trajectories=len(flows),
        fields=FIELDS,
        parameters={"Reynolds": reynolds, "Schmidt": schmidt},
        attributes={"settings": json.dumps(settings.record(dataset, split))},
    )
    with WellWriter(path, content) as writer:
        for index in range(settings.frames):
            frame = stacked(flows, settings.dt * index, settings.resolution, reynolds, schmidt)
            fields = {name: getattr(frame, name).numpy() for name in ("tracer", "pressure", "velocity")}
            writer.write(fields, slice(None), index)
            progress(len(flows))
