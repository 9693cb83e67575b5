"""Pictures of fields: which plane is shown, under which name and colours, and on which scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import Colormap, Normalize
from numpy.typing import NDArray
from torch import Tensor

from physteer.analyses.steering.table import TRUTH, UNSTEERED
from physteer.errors import PhysteerError, did_you_mean
from physteer.metrics.flow import vorticity
from physteer.reports.diagnostics import read_velocity
from physteer.reports.rollouts import Series, WrittenRollout
from physteer.reports.style import INK, diverging, sequential, strength_colour
from physteer.reports.terminology import Words, words_of

_HEADROOM = 1.5  # how far a steered field may stretch the colour scale beyond that of truth and unsteered


@dataclass(frozen=True)
class Panel:
    """One image, and its label in the grid of panels."""

    image: NDArray[np.float32]
    """[vertical, horizontal], lowest row first."""
    row: str
    colour: str | tuple[float, float, float]
    """Of the row's label."""
    reference: bool
    """Whether it is of the truth or the unsteered rollout: they set the colour scale."""


@dataclass(frozen=True)
class Shown:
    """What is drawn of a field."""

    name: str
    title: str
    colours: Colormap
    symmetric: bool
    """Whether zero is the middle of the scale."""


def shown_fields(rollout: WrittenRollout) -> list[Shown]:
    """List what is drawn unless asked otherwise: the vorticity, and the tracer or else the first changing scalar."""
    names = ["vorticity"] if _has_vorticity(rollout) else []
    scalars = [name for name, field in rollout.fields if not field.component and field.time_varying]
    if scalars:
        names.append("tracer" if "tracer" in scalars else scalars[0])
    return [shown_field(rollout, name) for name in names]


def shown_field(rollout: WrittenRollout, name: str) -> Shown:
    """Return how a field is drawn.

    Args:
        rollout: that has it.
        name: ``vorticity``, or a stored field such as ``velocity_x``.

    Raises:
        PhysteerError: there is no such field.
    """
    known = [*(["vorticity"] if _has_vorticity(rollout) else []), *rollout.names]
    if name not in known:
        raise PhysteerError(f"no field {name!r} to draw, only {', '.join(known)}{did_you_mean(name, known)}")
    signed = name == "vorticity" or bool(dict(rollout.fields)[name].component)
    return Shown(name, name.replace("_", " ").capitalize(), diverging() if signed else sequential(), signed)


def _has_vorticity(rollout: WrittenRollout) -> bool:
    return rollout.grid == "cartesian" and {"velocity_x", "velocity_y"} <= set(rollout.names)


def picture(rollout: WrittenRollout, field: Shown, step: int, largest: float, words: Words) -> Panel:
    """Return one field of a rollout at a step (0 is the last frame given) as an image.

    Args:
        rollout: whose frame is read.
        field: one of `shown_fields`.
        step: from 1 − n_context.
        largest: strength of the darkest label.
        words: for the label.
    """
    frame = step + rollout.n_context - 1
    if field.name == "vorticity":
        velocity = read_velocity(rollout, slice(frame, frame + 1))
        values = vorticity(velocity, rollout.spacing, rollout.periodic_axes)[0, 2]
    else:
        values = rollout.read(field.name, frame)
    plane = _middle(values)  # [x, y]
    horizontal_is_first = plane_of(rollout)[1] == rollout.axes[0]
    image = (plane.T if horizontal_is_first else plane).numpy()
    steered = rollout.condition not in (TRUTH, UNSTEERED)
    label = words.condition(rollout.condition, rollout.strength)
    colour = strength_colour(rollout.strength, largest) if steered else INK
    return Panel(np.where(np.isfinite(image), image, np.nan), label, colour, not steered)


def _middle(values: Tensor) -> Tensor:
    """Return the middle slice [x, y] of a field [x, y, z]."""
    return values[..., values.shape[-1] // 2]


def plane_of(rollout: WrittenRollout) -> tuple[str, str, tuple[float, float, float, float]]:
    """Return the vertical axis, the horizontal one (the longer, to save height), and the extent of both."""
    names = (*rollout.axes, "")[:2]
    edges = []
    for axis in range(2):
        x = rollout.coordinates[axis] if axis < len(rollout.coordinates) else torch.zeros(1)
        half = rollout.spacing[axis] / 2
        edges.append((float(x[0]) - half, float(x[-1]) + half))
    (x0, x1), (y0, y1) = edges
    if x1 - x0 >= y1 - y0:
        return names[1], names[0], (x0, x1, y0, y1)
    return names[0], names[1], (y0, y1, x0, x1)


def colour_scale(panels: Sequence[Sequence[Panel]], symmetric: bool) -> Normalize:
    """Cover what the references show, and steered fields up to `_HEADROOM` beyond: a blow-up must not hide the rest."""
    every = [panel for row in panels for panel in row]
    low, high = _range([panel.image for panel in every if panel.reference] or [every[0].image])
    all_low, all_high = _range([panel.image for panel in every])
    if symmetric:
        limit = min(max(-all_low, all_high), _HEADROOM * max(-low, high)) or 1.0
        return Normalize(-limit, limit)
    margin = (_HEADROOM - 1) / 2 * (high - low)
    low, high = max(all_low, low - margin), min(all_high, high + margin)
    return Normalize(low, high if high > low else low + 1)


def _range(images: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    values = np.concatenate([image.ravel() for image in images])
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.002, 0.998]) if len(values) else (0.0, 1.0)
    return float(low), float(high)


def beyond(panels: Sequence[Sequence[Panel]], scale: Normalize) -> str:
    """Say at which ends of its colour bar there are values beyond the scale, as `Figure.colorbar` wants it."""
    images = [panel.image for row in panels for panel in row]
    assert scale.vmin is not None and scale.vmax is not None
    slack = 0.02 * (scale.vmax - scale.vmin)
    below = any(np.nanmin(image, initial=np.inf) < scale.vmin - slack for image in images)
    above = any(np.nanmax(image, initial=-np.inf) > scale.vmax + slack for image in images)
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def headline(field: Shown, rollout: WrittenRollout, series: Series) -> tuple[str, str]:
    """Return the title and subtitle of pictures of one window: field and parameters; steering and source."""
    title = f"{field.title} · {parameter_text(rollout)}" if rollout.parameters else field.title
    parts = (steering_text(series), f"{rollout.split}: {source_text(rollout)}")
    return title, "   ·   ".join(part for part in parts if part)


def parameter_text(rollout: WrittenRollout) -> str:
    """Return ``Reynolds 1000, Schmidt 0.5``."""
    return ", ".join(f"{name} {value:g}" for name, value in rollout.parameters)


def steering_text(series: Series) -> str:
    """Return along what, how and where it was steered, or what was erased where."""
    if series == Series():
        return ""
    words = words_of([series.mode])
    if not words.doses:
        return f"{series.direction} {words.done} at {series.site}"
    mode = f" ({series.mode})" if series.mode else ""
    return f"steered along {series.direction}{mode} at {series.site}"


def source_text(rollout: WrittenRollout) -> str:
    """Return where a rollout's context is from."""
    file, trajectory, start, stride = rollout.source
    every = "" if stride == 1 else f", every {stride}th frame"
    return f"{file}, trajectory {trajectory}, from frame {start}{every}"
