"""What the rollouts of a run do to the flow, as tidy tables: one row per rollout, frame and metric."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from physteer.analyses.steering.table import TRUTH
from physteer.metrics.flow import enstrophy, kinetic_energy, tracer_variance, vortex_area
from physteer.metrics.vrmse import vrmse
from physteer.reports.rollouts import WindowRollouts, WrittenRollout
from physteer.tables import write_csv

_FRAMES_AT_ONCE = 32  # bounds memory, whatever the length of a rollout


@dataclass(frozen=True)
class Metric:
    """How a metric is called and compared."""

    name: str
    title: str
    formula: str = ""
    relative: bool = True
    """Compared with the unsteered rollout by ratio; otherwise (shares, which may be 0) by difference."""


FLOW_METRICS = (
    Metric("enstrophy", "Enstrophy", "½⟨ω²⟩"),
    Metric("vortex_area", "Vortex area", "(share of cells)", relative=False),
    Metric("kinetic_energy", "Kinetic energy", "½⟨u²⟩"),
    Metric("tracer_variance", "Tracer variance"),
)
MEAN_VRMSE = Metric("vrmse_mean", "VRMSE", "mean over fields")


@dataclass(frozen=True, slots=True)  # slots: a large run has a million of them
class Diagnostic:
    """One value of one metric."""

    split: str
    window: str
    initial_condition: str
    condition: str
    direction: str
    mode: str
    site: str
    strength: float
    step: int
    """1 for the first predicted frame; 0 and below are the context."""
    time: float
    metric: str
    value: float


def diagnose(window: WindowRollouts) -> Iterator[Diagnostic]:
    """Yield the diagnostics of all rollouts of one window.

    Those are enstrophy, vortex area and kinetic energy where there is a velocity on a Cartesian grid, the variance of
    ``tracer`` where there is one, and for predicted frames, where the run holds the truth, the VRMSE per field
    (``vrmse_tracer``) and its mean over fields (``vrmse_mean``). A frame that is not finite gives NaN.
    """
    truth = window.find(TRUTH)
    for rollout in window.rollouts:
        for start in range(0, len(rollout.times), _FRAMES_AT_ONCE):
            frames = slice(start, min(start + _FRAMES_AT_ONCE, len(rollout.times)))
            values = dict(_flow(rollout, frames))
            if truth is not None and truth is not rollout:
                values |= dict(_errors(rollout, truth, frames))
            for metric, column in values.items():
                steps, times = rollout.steps[frames].tolist(), rollout.times[frames].tolist()
                for step, time, value in zip(steps, times, column.tolist(), strict=False):
                    if step > 0 or not metric.startswith("vrmse"):
                        yield _row(rollout, step, time, metric, value)


def _row(rollout: WrittenRollout, step: int, time: float, metric: str, value: float) -> Diagnostic:
    return Diagnostic(
        split=rollout.split,
        window=rollout.window,
        initial_condition=rollout.initial_condition,
        condition=rollout.condition,
        direction=rollout.series.direction,
        mode=rollout.series.mode,
        site=rollout.series.site,
        strength=rollout.strength,
        step=step,
        time=time,
        metric=metric,
        value=value,
    )


def _flow(rollout: WrittenRollout, frames: slice) -> Iterator[tuple[str, Tensor]]:
    """Yield flow diagnostics by name, each [T]."""
    if rollout.grid == "cartesian" and {"velocity_x", "velocity_y"} <= set(rollout.names):
        velocity = read_velocity(rollout, frames)
        finite = velocity.isfinite().all(dim=(1, 2, 3, 4))
        where = (rollout.spacing, rollout.periodic_axes)
        for name, values in (
            ("enstrophy", enstrophy(velocity, *where)),
            ("vortex_area", vortex_area(velocity, *where)),
            ("kinetic_energy", kinetic_energy(velocity)),
        ):
            yield name, values.where(finite, torch.nan)
    if "tracer" in rollout.names:
        yield "tracer_variance", tracer_variance(rollout.read("tracer", frames))


def read_velocity(rollout: WrittenRollout, frames: slice) -> Tensor:
    """Read the velocity, [T, 3, H, W, D]; a component that is not stored is 0."""
    parts = [rollout.read(name, frames) for name in ("velocity_x", "velocity_y")]
    last = rollout.read("velocity_z", frames) if "velocity_z" in rollout.names else torch.zeros_like(parts[0])
    return torch.stack([*parts, last], dim=1)


def _errors(rollout: WrittenRollout, truth: WrittenRollout, frames: slice) -> Iterator[tuple[str, Tensor]]:
    """Yield the VRMSE by name, each [T], over the frames that both have."""
    frames = slice(frames.start, min(frames.stop, len(truth.times)))
    evolving = dict(truth.fields)
    names = [name for name in rollout.names if name in evolving and evolving[name].time_varying]
    if not names or frames.start >= frames.stop:
        return
    columns = [vrmse(rollout.read(name, frames), truth.read(name, frames)) for name in names]
    for name, column in zip(names, columns, strict=True):
        yield f"vrmse_{name}", column
    yield "vrmse_mean", torch.stack(columns).mean(0)


def write_table(path: Path, rows: Iterable[Diagnostic]) -> Path:
    """Write rows as CSV with a header, whole or not at all; return the path."""
    names = [field.name for field in fields(Diagnostic)]
    return write_csv(path, names, map(attrgetter(*names), rows))


def read_table(path: Path) -> list[Diagnostic]:
    """Read what `write_table` wrote."""
    convert = {"strength": float, "step": int, "time": float, "value": float}
    with path.open(newline="") as file:
        return [
            Diagnostic(**{name: convert.get(name, str)(text) for name, text in row.items()})
            for row in csv.DictReader(file)
        ]
