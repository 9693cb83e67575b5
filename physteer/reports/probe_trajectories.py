"""What probes predict along one trajectory: pooled over each frame, and token by token."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from physteer.analyses.probing.trajectory_maps import TrajectoryMaps
from physteer.reports.style import INK, WIDTH, arrange, bare, diverging, heading, new_figure, save, sequential, style

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 1.45, 0.95, 1.02, 0.2, 0.07  # inches
_COLUMNS, _MOST_FRAMES = 3, 6


def draw_traces(maps: TrajectoryMaps, path: Path) -> Path:
    """Draw the pooled predictions of every site over the trajectory's frames, with the true value, a panel per target.

    Returns:
        The path.
    """
    rows = math.ceil(len(maps.pooled_targets) / _COLUMNS)
    frames = maps.frames.numpy()
    colours = [sequential()(value) for value in np.linspace(0.05, 0.9, len(maps.sites))]
    title = "Pooled predictions over the frames of a trajectory"
    caption = (
        f"{maps.name}; probes fitted to simple flows; black: the true value. In units of each window's own scales."
    )
    with style():
        figure = new_figure(1.1 + 1.75 * rows)
        grid = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True)
        for axes, target, truth, predicted in zip(
            grid.flat, maps.pooled_targets, maps.pooled_truth, maps.pooled_prediction.unbind(1), strict=False
        ):
            for colour, line in zip(colours, predicted, strict=True):
                axes.plot(frames, line.numpy(), color=colour, linewidth=1.3)
            axes.plot(frames, truth.numpy(), color=INK, linewidth=2.2, linestyle=(0, (4, 2)))
            axes.set_title(target.replace("_", " "))
        for axes in list(grid.flat)[len(maps.pooled_targets) :]:
            axes.remove()
        for axes in grid[-1]:
            axes.set_xlabel("frame")
        handles = [Line2D([], [], color=c, label=s) for c, s in zip(colours, maps.sites, strict=True)]
        handles += [Line2D([], [], color=INK, linewidth=2.2, linestyle=(0, (4, 2)), label="truth")]
        figure.legend(handles=handles, loc="lower center", ncols=len(handles))
        heading(figure, title, caption)
        arrange(figure, bottom=0.3)
        return save(figure, path, title, caption)


def draw_token_maps(maps: TrajectoryMaps, target: str, path: Path) -> Path:
    """Draw the truth of a target and what the probe of each site reads, token by token, over the trajectory's frames.

    Args:
        maps: of a trajectory; of three-dimensional flows the middle plane is drawn.
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
    # the longer axis across
    flip = truth.shape[1] <= truth.shape[2]
    across, up = truth.shape[1:][::-1] if flip else truth.shape[1:]
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(shown) - 1)) / len(shown)
    height = max(width * up / across / 2, 0.8)
    total = _TOP + _BOTTOM + len(rows) * (height + _GAP)
    signed = truth.min() < 0 < truth.max()
    largest = float(np.abs(truth).max()) or 1.0
    limits = (-largest, largest) if signed else (float(truth.min()), float(truth.max()))
    name = target.replace("_", " ")
    title = f"{name[0].upper()}{name[1:]} read from each layer, token by token"
    caption = f"{maps.name}; probes fitted to simple flows. One colour scale, that of the truth."
    with style():
        figure = new_figure(total)
        image = None
        for i, (label, values) in enumerate(rows):
            y = total - _TOP - height - i * (height + _GAP)
            for j, frame in enumerate(shown):
                x = _LEFT + j * (width + _GAP)
                axes = figure.add_axes((x / WIDTH, y / total, width / WIDTH, height / total))
                picture = values[frame] if flip else values[frame].T
                image = axes.imshow(
                    picture,
                    origin="lower",
                    cmap=diverging() if signed else sequential(),
                    vmin=limits[0],
                    vmax=limits[1],
                    interpolation="nearest",
                    aspect="auto",
                )
                bare(axes)
                if i == 0:
                    axes.set_title(f"frame {int(maps.frames[frame])}", fontsize=10, fontweight="normal", loc="center")
            place = ((_LEFT - 0.15) / WIDTH, (y + height / 2) / total)
            figure.text(*place, label, ha="right", va="center", fontweight="bold")
        assert image is not None
        tall = min(len(rows) * (height + _GAP), 3.6)
        bar = ((WIDTH - _RIGHT + 0.15) / WIDTH, (total - _TOP - tall) / total, 0.14 / WIDTH, tall / total)
        figure.colorbar(image, cax=figure.add_axes(bar), extend="both")
        heading(figure, title, caption)
        return save(figure, path, title, caption)
