"""Energy spectra of rollouts beside the truth's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter
from numpy.typing import NDArray

from physteer.analyses.steering.table import TRUTH, UNSTEERED
from physteer.metrics.flow import energy_spectrum
from physteer.reports.diagnostics import read_velocity
from physteer.reports.rollouts import Series, WindowRollouts, WrittenRollout
from physteer.reports.style import (
    INK,
    arrange,
    heading,
    new_figure,
    save,
    strength_colour,
    style,
)
from physteer.reports.terminology import words_of

_DECADES = 8  # below the largest value, beyond which float32 fields hold round-off


def draw_spectra(windows: Sequence[WindowRollouts], series: Series, path: Path) -> Path | None:
    """Draw E(k) at the first, the middle and the last step, a line per strength beside truth and unsteered.

    Args:
        windows: whose spectra are averaged.
        series: whose strengths are drawn.
        path: of the PNG.

    Returns:
        The path, or None where there is no velocity on a Cartesian grid.
    """
    chosen: dict[tuple[float, str], list[WrittenRollout]] = {}
    for window in windows:
        for rollout in (*filter(None, map(window.find, (TRUTH, UNSTEERED))), *window.steered(series)):
            if rollout.grid == "cartesian" and {"velocity_x", "velocity_y"} <= set(rollout.names):
                chosen.setdefault((rollout.strength, rollout.condition), []).append(rollout)
    every = [rollout for members in chosen.values() for rollout in members]
    if not every:
        return None
    last = min(int(rollout.steps[-1]) for rollout in every)
    steps = sorted({1, (last + 1) // 2, last})
    largest = max(abs(strength) for strength, _ in chosen)
    order = sorted(chosen, key=lambda who: (who[1] == TRUTH, who[1] != UNSTEERED, who))  # truth on top
    words = words_of([series.mode])
    title = "Energy spectra" + (f": {series}" if str(series) else "")
    caption = (
        f"E(k) in shells of one period per domain, mean over the finite of {len(windows)} windows. Σ E(k) = ½⟨u²⟩. "
        "Shells up to the last that the shortest axis holds completely."
    )
    with style():
        figure = new_figure(4.6)
        row = figure.subplots(1, len(steps), squeeze=False, sharey=True)[0]
        highest = 0.0
        for axes, step in zip(row, steps, strict=True):
            for strength, condition in order:
                spectrum = mean_spectrum(chosen[strength, condition], step)
                if spectrum is None:
                    continue
                shells = np.arange(1, len(spectrum))
                highest = max(highest, float(spectrum[1:].max()))
                axes.loglog(shells, spectrum[1:], **_look(condition, strength, largest))
                axes.set_xlim(1, len(spectrum) - 1)
            axes.set_title(f"Step {step}")
            axes.set_xlabel("wavenumber k (periods per domain)")
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
            ticks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if k <= axes.get_xlim()[1]]
            axes.set_xticks(ticks, [str(k) for k in ticks])
        bottom, top = row[0].get_ylim()
        row[0].set_ylim(max(bottom, highest * 10.0**-_DECADES), top)
        row[0].set_ylabel("E(k)")
        handles = []
        for strength, condition in sorted(chosen, key=lambda who: (who[1] not in (TRUTH, UNSTEERED), who)):
            label = words.condition(condition, strength)
            handles.append(Line2D([], [], **_look(condition, strength, largest), label=label))
        row[0].legend(handles=handles, loc="lower left", fontsize=8.5)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def _look(condition: str, strength: float, largest: float) -> dict[str, Any]:
    """Return how a condition's line is drawn."""
    if condition == UNSTEERED:
        return {"color": INK, "linewidth": 3.0}
    if condition == TRUTH:
        return {"color": INK, "linewidth": 1.6, "linestyle": (0, (4, 2.5))}
    return {"color": strength_colour(strength, largest), "linewidth": 1.6}


def mean_spectrum(rollouts: Sequence[WrittenRollout], step: int) -> NDArray[np.float64] | None:
    """Average E(k), [shells from 0], over the rollouts that are finite at a step; None where none is."""
    found = []
    for rollout in rollouts:
        frame = step + rollout.n_context - 1
        velocity = read_velocity(rollout, slice(frame, frame + 1))
        if bool(velocity.isfinite().all()):
            shortest = min(n for n in velocity.shape[-3:] if n > 1)
            found.append(energy_spectrum(velocity.double())[0, : shortest // 2 + 1])
    return torch.stack(found).mean(0).numpy() if found else None
