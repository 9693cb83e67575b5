"""Slices of fields as pictures: which slice is shown, under which name and colours, and on which scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import Colormap, Normalize
from numpy.typing import NDArray
from torch import Tensor

from physteer.analyses.steering.table import Series
from physteer.data.batch import Grid
from physteer.errors import PhysteerError, did_you_mean
from physteer.metrics.flow import vorticity
from physteer.reports.rollouts import WrittenRollout, read_velocity
from physteer.reports.style import INK, diverging, sequential, strength_colour
from physteer.reports.terminology import Terminology, terminology_of

_HEADROOM = 1.5  # how far a steered field may stretch the colour scale beyond that of truth and unsteered

_FINEST = 4  # pixels per cell, on average, of stretched axes


@dataclass(frozen=True)
class FieldSlice:
    """One image, and its label beside others."""

    image: NDArray[np.float32]
    """[vertical, horizontal], lowest row first."""
    label: str
    colour: str | tuple[float, float, float]
    """Of the label."""
    is_reference: bool
    """Whether it is of the truth or the unsteered rollout: they set the colour scale."""


@dataclass(frozen=True)
class ShownField:
    """What is drawn of a field."""

    name: str
    title: str
    colours: Colormap
    symmetric: bool
    """Whether zero is the middle of the scale."""


def shown_fields(rollout: WrittenRollout) -> list[ShownField]:
    """List what is drawn unless asked otherwise: the vorticity, and the tracer or else the first changing scalar."""
    names = ["vorticity"] if _has_vorticity(rollout) else []
    scalars = [name for name, source in rollout.fields.items() if not source.component and source.evolving]
    if scalars:
        names.append("tracer" if "tracer" in scalars else scalars[0])
    return [shown_field(rollout, name) for name in names]


def shown_field(rollout: WrittenRollout, name: str) -> ShownField:
    """Return how a field is drawn.

    Args:
        rollout: that has it.
        name: ``vorticity``, or a stored field such as ``velocity_x``.

    Raises:
        PhysteerError: there is no such field, or no vorticity on such a grid.
    """
    if name == "vorticity" and rollout.grid.obstacle:
        raise PhysteerError(f"the vorticity cannot be drawn: {rollout.grid.obstacle}")
    known = [*(["vorticity"] if _has_vorticity(rollout) else []), *rollout.fields]
    if name not in known:
        raise PhysteerError(f"no field {name!r} to draw, only {', '.join(known)}{did_you_mean(name, known)}")
    signed = name == "vorticity" or bool(rollout.fields[name].component)
    return ShownField(name, name.replace("_", " ").capitalize(), diverging() if signed else sequential(), signed)


def _has_vorticity(rollout: WrittenRollout) -> bool:
    return not rollout.grid.obstacle and {"velocity_x", "velocity_y"} <= rollout.fields.keys()


def field_slice(
    rollout: WrittenRollout, field: ShownField, step: int, largest: float, terms: Terminology
) -> FieldSlice:
    """Return one field of a rollout at a step (0 is the last frame given to the model) as an image.

    Args:
        rollout: whose frame is read.
        field: one of `shown_fields`.
        step: from 1 − n_context.
        largest: strength of the darkest label.
        terms: for the label.
    """
    frame = step + rollout.n_context - 1
    if field.name == "vorticity":
        values = vorticity(read_velocity(rollout, frame), rollout.grid.geometry)[2]
    else:
        values = rollout.read(field.name, frame)
    middle = _evenly_spaced(values[..., values.shape[-1] // 2], rollout.grid)  # [x, y, z] → [x, y]
    image = (middle.T if slice_axes(rollout.grid).horizontal == rollout.grid.axes[0] else middle).numpy()
    colour = INK if rollout.is_reference else strength_colour(rollout.setting.strength, largest)
    return FieldSlice(
        np.where(np.isfinite(image), image, np.nan), terms.label(rollout.setting), colour, rollout.is_reference
    )


@dataclass(frozen=True)
class SliceAxes:
    """Which axis is up and which across, the longer one, to save height."""

    vertical: str
    horizontal: str
    extent: tuple[float, float, float, float]
    """Left, right, bottom and top edge, in the data set's length unit."""

    @property
    def ratio(self) -> float:
        """Height over width."""
        left, right, bottom, top = self.extent
        return (top - bottom) / (right - left)


def slice_axes(grid: Grid) -> SliceAxes:
    """Return how slices along a grid's first two axes lie."""
    names = (*grid.axes, "")[:2]
    (x0, x1), (y0, y1) = ((float(edges[0]), float(edges[-1])) for edges in map(grid.edges, range(2)))
    if x1 - x0 >= y1 - y0:
        return SliceAxes(names[1], names[0], (x0, x1, y0, y1))
    return SliceAxes(names[0], names[1], (y0, y1, x0, x1))


def _evenly_spaced(values: Tensor, grid: Grid) -> Tensor:
    """Return cells [x, y] as an image of evenly spaced pixels: each shows the cell that it lies in."""
    for axis in range(2):
        edges = (grid.edges(axis) - grid.edges(axis)[0]).abs()
        widths = edges.diff()
        if float(widths.max() / widths.min()) > 1 + 1e-6:  # more than round-off
            n = math.ceil(min(float(edges[-1] / widths.min()), _FINEST * len(widths)))
            pixels = (torch.arange(n, dtype=edges.dtype) + 0.5) * (edges[-1] / n)
            values = values.index_select(axis, torch.searchsorted(edges[1:-1].contiguous(), pixels))
    return values


def colour_scale(rows: Sequence[Sequence[FieldSlice]], symmetric: bool) -> Normalize:
    """Cover what the references show, and steered fields up to `_HEADROOM` beyond: a blow-up must not hide the rest."""
    every = [panel for row in rows for panel in row]
    low, high = _range([panel.image for panel in every if panel.is_reference] or [every[0].image])
    lowest, highest = _range([panel.image for panel in every])
    if symmetric:
        limit = min(max(-lowest, highest), _HEADROOM * max(-low, high)) or 1.0
        return Normalize(-limit, limit)
    margin = (_HEADROOM - 1) / 2 * (high - low)
    low, high = max(lowest, low - margin), min(highest, high + margin)
    return Normalize(low, high if high > low else low + 1)


def _range(images: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    values = np.concatenate([image.ravel() for image in images])
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.002, 0.998]) if len(values) else (0.0, 1.0)
    return float(low), float(high)


def beyond(rows: Sequence[Sequence[FieldSlice]], scale: Normalize) -> str:
    """Say at which ends of its colour bar there are values beyond the scale, as `Figure.colorbar` wants it."""
    images = [panel.image for row in rows for panel in row]
    assert scale.vmin is not None and scale.vmax is not None
    slack = 0.02 * (scale.vmax - scale.vmin)
    below = any(np.nanmin(image, initial=np.inf) < scale.vmin - slack for image in images)
    above = any(np.nanmax(image, initial=-np.inf) > scale.vmax + slack for image in images)
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def headline(field: ShownField, rollout: WrittenRollout, series: Series) -> tuple[str, str]:
    """Return the title and subtitle of pictures of one window: field and parameters; steering and source."""
    title = f"{field.title} · {parameter_text(rollout)}" if rollout.parameters else field.title
    parts = (steering_text(series), f"{rollout.split}: {source_text(rollout)}")
    return title, "   ·   ".join(part for part in parts if part)


def parameter_text(rollout: WrittenRollout) -> str:
    """Return ``Reynolds 1000, Schmidt 0.5``."""
    return ", ".join(f"{name} {value:g}" for name, value in rollout.parameters.items())


def steering_text(series: Series) -> str:
    """Return along what, how and where it was steered, or what was erased where."""
    if series == Series():
        return ""
    terms = terminology_of([series.mode])
    if not terms.has_strengths:
        return f"{series.direction} {terms.done} at {series.site}"
    mode = f" ({series.mode})" if series.mode else ""
    return f"steered along {series.direction}{mode} at {series.site}"


def source_text(rollout: WrittenRollout) -> str:
    """Return where a rollout's context is from."""
    source = rollout.source
    every = "" if source.stride == 1 else f", every {source.stride}th frame"
    return f"{source.file}, trajectory {source.trajectory}, from frame {source.start}{every}"
