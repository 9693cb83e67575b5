"""Data sets of simple flows: exact solutions in files that are those of `physteer.data.crossed_files`.

All are of the data set ``simple_flows``, so that one folder can hold several kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from physteer.data.crossed_files import SPLITS, CrossedFiles, CrossedSettings
from physteer.data.jobs import run_jobs
from physteer.data.simple_flows import ExactFlow, draw_advection, draw_diffusion, draw_taylor_green, stacked
from physteer.data.well_format import WellFile, WellWriter

SIMPLE_FLOWS: dict[str, Callable[[int, Sequence[int]], Sequence[ExactFlow]]] = {
    "taylor_green": draw_taylor_green,
    "advection": draw_advection,
    "diffusion": draw_diffusion,
}
"""Name of the flow → how initial conditions are drawn: (count, seed)."""
GENERATOR_VERSION = 1
"""Raised whenever the same settings would give other numbers."""


def generate_simple_flow(
    out: Path,
    flow: str,
    reynolds: Sequence[float],
    schmidt: Sequence[float],
    settings: CrossedSettings,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Path]:
    """Write a data set, keeping files that are already there; return the files written.

    Args:
        out: folder of the data set; other kinds may be there.
        flow: one of `SIMPLE_FLOWS`.
        reynolds: Reynolds numbers, positive, distinct.
        schmidt: Schmidt numbers, positive, distinct.
        settings: everything else.
        progress: called with the number of trajectory-frames just stored.

    Raises:
        PhysteerError: a file of the data set was made by other settings, or cannot be read or written.
    """
    generator = f"physteer {flow} {GENERATOR_VERSION}"
    files = CrossedFiles(out, "simple_flows", flow, generator, reynolds, schmidt, settings)
    with files.completed(progress) as gaps:
        jobs = {}
        for gap in gaps:
            drawn = SIMPLE_FLOWS[flow](settings.count(gap.split), (settings.seed, SPLITS.index(gap.split)))
            for path, content in files.contents(gap).items():
                jobs[path] = partial(_write, path, content, drawn, settings)
        run_jobs(list(jobs.values()), 1, progress)
    return list(jobs)


def _write(
    path: Path,
    content: WellFile,
    flows: Sequence[ExactFlow],
    settings: CrossedSettings,
    progress: Callable[[int], object],
) -> None:
    parameters = content.parameters["Reynolds"], content.parameters["Schmidt"]
    with WellWriter(path, content) as writer:
        for index in range(settings.frames):
            frame = stacked(flows, settings.dt * index, settings.resolution, *parameters)
            fields = {name: getattr(frame, name).numpy() for name in ("tracer", "pressure", "velocity")}
            writer.write(fields, slice(None), index)
            progress(len(flows))
