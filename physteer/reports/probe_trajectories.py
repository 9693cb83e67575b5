"""What probes predict along one trajectory: pooled over each frame, and token by token."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize

from physteer.analyses.probing.trajectory_maps import TrajectoryMaps
from physteer.reports.canvas import Canvas, draw_map
from physteer.reports.lines import DASHED, draw_line, legend_line
from physteer.reports.style import WIDTH, arrange, diverging, heading, new_figure, save, sequential, style

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 1.45, 0.95, 1.02, 0.2, 0.07  # inches
_COLUMNS, _MOST_FRAMES = 3, 6


def draw_traces(maps: TrajectoryMaps, path: Path) -> Path:
    """Draw the pooled predictions of every site over the trajectory's frames, with the true value, a panel per target.

    Returns:
        The path.
    """
    n_rows = math.ceil(len(maps.pooled_targets) / _COLUMNS)
    frames = maps.frames.tolist()
    colours = [sequential()(value) for value in np.linspace(0.05, 0.9, len(maps.sites))]
    title = "Pooled predictions over the frames of a trajectory"
    caption = (
        f"{maps.name}; probes fitted to simple flows; black: the true value. In units of each window's own scales."
    )
    with style():
        figure = new_figure(1.1 + 1.75 * n_rows)
        grid = figure.subplots(n_rows, _COLUMNS, squeeze=False, sharex=True)
        for axes, target, truth, predicted in zip(
            grid.flat, maps.pooled_targets, maps.pooled_truth, maps.pooled_prediction.unbind(1), strict=False
        ):
            for colour, values in zip(colours, predicted, strict=True):
                draw_line(axes, frames, values.numpy(), colour[:3], linewidth=1.3)
            draw_line(axes, frames, truth.numpy(), linestyle=DASHED)
            axes.set_title(target.replace("_", " "))
        for axes in list(grid.flat)[len(maps.pooled_targets) :]:
            axes.remove()
        for axes in grid[-1]:
            axes.set_xlabel("frame")
        handles = [legend_line(site, colour[:3]) for colour, site in zip(colours, maps.sites, strict=True)]
        handles.append(legend_line("truth", linestyle=DASHED))
        figure.legend(handles=handles, loc="lower center", ncols=len(handles))
        heading(figure, title, caption)
        arrange(figure, bottom=0.3)
        return save(figure, path, title, caption)


def draw_token_maps(maps: TrajectoryMaps, target: str, path: Path) -> Path:
    """Draw the truth of a target and what the probe of each site reads, token by token, over the trajectory's frames.

    Args:
        maps: of a trajectory; of three-dimensional flows the middle slice is drawn.
        target: one of its targets.
        path: of the PNG.

    Returns:
        The path.
    """
    column = maps.targets.index(target)
    middle = maps.truth.shape[-1] // 2
    truth, predicted = maps.truth[column, ..., middle].numpy(), maps.prediction[:, column, ..., middle].numpy()
    shown = np.unique(np.linspace(0, len(maps.frames) - 1, _MOST_FRAMES).round().astype(int))
    rows = [("truth", truth), *zip(maps.sites, predicted, strict=True)]
    second_is_across = truth.shape[1] <= truth.shape[2]  # the longer axis
    across, up = truth.shape[1:][::-1] if second_is_across else truth.shape[1:]
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(shown) - 1)) / len(shown)
    height = max(width * up / across / 2, 0.8)
    tall = len(rows) * (height + _GAP)
    is_signed = truth.min() < 0 < truth.max()
    largest = float(np.abs(truth).max()) or 1.0
    scale = Normalize(-largest, largest) if is_signed else Normalize(float(truth.min()), float(truth.max()))
    name = target.replace("_", " ")
    title = f"{name[0].upper()}{name[1:]} read from each layer, token by token"
    caption = f"{maps.name}; probes fitted to simple flows. One colour scale, that of the truth."
    with style():
        canvas = Canvas(_TOP + tall + _BOTTOM)
        for i, (label, values) in enumerate(rows):
            top = _TOP + i * (height + _GAP)
            for j, frame in enumerate(shown):
                axes = canvas.panel(_LEFT + j * (width + _GAP), top, width, height)
                field = values[frame] if second_is_across else values[frame].T
                image = draw_map(axes, field, diverging() if is_signed else sequential(), scale)
                if i == 0:
                    axes.set_title(f"frame {int(maps.frames[frame])}", fontsize=10, fontweight="normal", loc="center")
            canvas.text(_LEFT - 0.15, top + height / 2, label, ha="right")
        canvas.colour_bar(image, _RIGHT, _TOP, tall, extend="both")
        return canvas.save(path, title, caption)
