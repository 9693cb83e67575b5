"""Fields of one window over time: a row per condition, a column per time, one colour scale for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from physteer.metrics.flow import vorticity
from physteer.reports.diagnostics import read_velocity
from physteer.reports.rollouts import TRUTH, UNSTEERED, Series, WindowRollouts, WrittenRollout
from physteer.reports.style import (
    INK,
    MUTED,
    WIDTH,
    bare,
    diverging,
    heading,
    new_figure,
    save,
    sequential,
    strength_colour,
    strength_label,
    style,
)

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 1.15, 0.95, 1.02, 0.4, 0.07  # inches
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
    """List what can be drawn: the vorticity, and the tracer or else the first scalar that changes in time."""
    shown = []
    if rollout.grid == "cartesian" and {"velocity_x", "velocity_y"} <= set(rollout.names):
        shown.append(Shown("vorticity", "Vorticity", diverging(), True))
    scalars = [name for name, field in rollout.fields if not field.component and field.time_varying]
    if scalars:
        name = "tracer" if "tracer" in scalars else scalars[0]
        shown.append(Shown(name, name.replace("_", " ").capitalize(), sequential(), False))
    return shown


def draw_panels(window: WindowRollouts, series: Series, field: Shown, path: Path) -> Path:
    """Draw one field of a window under truth, unsteered and one series of strengths, and save the figure.

    The columns go from the last frame given to the model to the end of the rollout.

    Args:
        window: with at least one rollout.
        series: whose strengths are drawn; one the window does not have leaves truth and unsteered.
        field: one of `shown_fields`.
        path: of the PNG.

    Returns:
        The path.
    """
    references = [one for name in (TRUTH, UNSTEERED) if (one := window.find(name)) is not None]
    rollouts = [*references, *window.steered(series)]
    first = rollouts[0]
    n_steps = min(int(rollout.steps[-1]) for rollout in rollouts)
    low, high, bottom, top = _plane(first)[2]
    n_columns = 5 if high - low > 1.4 * (top - bottom) else 6
    steps = sorted(set(np.linspace(0, n_steps, n_columns).round().astype(int).tolist()))
    largest = max(abs(rollout.strength) for rollout in rollouts)
    panels = [[_panel(rollout, field, step, largest) for step in steps] for rollout in rollouts]
    title = f"{field.title} · {_parameters(first)}" if first.parameters else field.title
    subtitle = "   ·   ".join(part for part in (_steered(series), f"{window.split}: {_source(first)}") if part)
    with style():
        figure = _draw(panels, field, first, steps)
        heading(figure, title, subtitle)
        caption = (
            f"{field.title} of {window.window}; rows: {', '.join(row[0].row for row in panels)}; one colour scale. "
            "Step 0 is the last frame given to the model."
        )
        return save(figure, path, title, caption)


def _draw(panels: list[list[Panel]], field: Shown, rollout: WrittenRollout, steps: list[int]) -> Figure:
    across, along, (low, high, bottom, top) = _plane(rollout)
    n_rows, n_columns = len(panels), len(steps)
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (n_columns - 1)) / n_columns
    height = width * (top - bottom) / (high - low)
    total = _TOP + _BOTTOM + n_rows * height + (n_rows - 1) * _GAP
    figure = new_figure(total)
    scale = _scale(panels, field.symmetric)
    image = None
    for i, row in enumerate(panels):
        y = total - _TOP - height - i * (height + _GAP)
        for j, panel in enumerate(row):
            x = _LEFT + j * (width + _GAP)
            axes = figure.add_axes((x / WIDTH, y / total, width / WIDTH, height / total))
            image = axes.imshow(
                panel.image,
                origin="lower",
                extent=(low, high, bottom, top),
                cmap=field.colours,
                norm=scale,
                interpolation="bilinear",
                aspect="auto",
            )
            bare(axes)
            if not np.isfinite(panel.image).any():
                axes.text(0.5, 0.5, "not finite", transform=axes.transAxes, ha="center", va="center", color="white")
            if i == 0:
                time = float(rollout.times[steps[j] + rollout.n_context - 1])
                label = "given" if steps[j] == 0 else f"step {steps[j]}"
                axes.set_title(f"{label}   t = {time:.4g}", fontsize=10, fontweight="normal", loc="center", pad=5)
            if i == n_rows - 1 and j == 0:
                axes.set_xlabel(f"{along} →", fontsize=9, color=MUTED, loc="left", labelpad=3)
                axes.set_ylabel(f"{across} →", fontsize=9, color=MUTED, loc="bottom", labelpad=3)
        place = ((_LEFT - 0.22) / WIDTH, (y + height / 2) / total)
        figure.text(*place, row[0].row, color=row[0].colour, ha="right", va="center", fontweight="bold")
    bar_height = min(n_rows * height + (n_rows - 1) * _GAP, 3.6)
    bar = ((WIDTH - _RIGHT + 0.15) / WIDTH, (total - _TOP - bar_height) / total, 0.14 / WIDTH, bar_height / total)
    assert image is not None
    figure.colorbar(image, cax=figure.add_axes(bar), extend=_extend(panels, scale), label=field.name)
    return figure


def _panel(rollout: WrittenRollout, field: Shown, step: int, largest: float) -> Panel:
    frame = step + rollout.n_context - 1
    if field.name == "vorticity":
        velocity = read_velocity(rollout, slice(frame, frame + 1))
        values = vorticity(velocity, rollout.spacing, rollout.periodic_axes)[0, 2]
    else:
        values = rollout.read(field.name, frame)
    plane = _middle(values)  # [x, y]
    horizontal_is_first = _plane(rollout)[1] == rollout.axes[0]
    image = (plane.T if horizontal_is_first else plane).numpy()
    steered = rollout.condition not in (TRUTH, UNSTEERED)
    label = strength_label(rollout.strength) if steered else rollout.condition
    colour = strength_colour(rollout.strength, largest) if steered else INK
    return Panel(np.where(np.isfinite(image), image, np.nan), label, colour, not steered)


def _middle(values: Tensor) -> Tensor:
    """Return the middle slice [x, y] of a field [x, y, z]."""
    return values[..., values.shape[-1] // 2]


def _plane(rollout: WrittenRollout) -> tuple[str, str, tuple[float, float, float, float]]:
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


def _scale(panels: list[list[Panel]], symmetric: bool) -> Normalize:
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


def _range(images: list[NDArray[np.float32]]) -> tuple[float, float]:
    values = np.concatenate([image.ravel() for image in images])
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.002, 0.998]) if len(values) else (0.0, 1.0)
    return float(low), float(high)


def _extend(panels: list[list[Panel]], scale: Normalize) -> str:
    """Say at which ends the colour bar has values beyond it."""
    images = [panel.image for row in panels for panel in row]
    assert scale.vmin is not None and scale.vmax is not None
    slack = 0.02 * (scale.vmax - scale.vmin)
    below = any(np.nanmin(image, initial=np.inf) < scale.vmin - slack for image in images)
    above = any(np.nanmax(image, initial=-np.inf) > scale.vmax + slack for image in images)
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def _parameters(rollout: WrittenRollout) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in rollout.parameters)


def _steered(series: Series) -> str:
    if series == Series():
        return ""
    mode = f" ({series.mode})" if series.mode else ""
    return f"steered along {series.direction}{mode} at {series.site}"


def _source(rollout: WrittenRollout) -> str:
    file, trajectory, start, stride = rollout.source
    every = "" if stride == 1 else f", every {stride}th frame"
    return f"{file}, trajectory {trajectory}, from frame {start}{every}"
