"""Energy spectra of rollouts beside the truth's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

from physteer.analyses.steering.spectrum_rows import SpectrumRow
from physteer.analyses.steering.table import Series, Setting
from physteer.reports.lines import draw_line, legend_line, setting_look
from physteer.reports.style import arrange, heading, new_figure, save, style
from physteer.reports.terminology import terminology_of

_DECADES = 8  # below the largest value, beyond which float32 fields hold round-off


def draw_spectra(rows: Sequence[SpectrumRow], series: Series, path: Path) -> Path | None:
    """Draw E(k) at the first, the middle and the last step, a line per strength beside truth and unsteered.

    Args:
        rows: from `read_spectra`.
        series: whose strengths are drawn.
        path: of the PNG.

    Returns:
        The path, or None without rows: there is no velocity on a Cartesian grid.
    """
    curves: dict[tuple[Setting, int], list[SpectrumRow]] = {}
    for row in rows:
        setting = Setting(row.role, row.direction, row.site, row.mode, row.strength)
        if row.wavenumber and (row.role in ("truth", "unsteered") or setting.series == series):
            curves.setdefault((setting, row.step), []).append(row)
    if not curves:
        return None
    steps = sorted({step for _, step in curves})
    settings = dict.fromkeys(setting for setting, _ in curves)
    largest = max(abs(setting.strength) for setting in settings)
    in_legend = sorted(settings, key=lambda s: (s.role != "truth", s.role != "unsteered", s.strength))
    terms = terminology_of([series.mode])
    n_windows = max(row.windows for members in curves.values() for row in members)
    title = "Energy spectra" + (f": {series}" if str(series) else "")
    caption = (
        f"E(k) in shells of one period per domain, mean over the finite of {n_windows} windows. Σ E(k) = ½⟨u²⟩. "
        "Shells up to the last that the shortest axis holds completely."
    )
    with style():
        figure = new_figure(4.6)
        panels = figure.subplots(1, len(steps), squeeze=False, sharey=True)[0]
        for axes, step in zip(panels, steps, strict=True):
            for setting in settings:
                shells = sorted(curves.get((setting, step), []), key=lambda row: row.wavenumber)
                wavenumbers, energies = [row.wavenumber for row in shells], [row.energy for row in shells]
                draw_line(axes, wavenumbers, energies, **setting_look(setting, largest))
            axes.set_xscale("log")
            axes.set_yscale("log")
            _label_wavenumbers(axes, max(row.wavenumber for members in curves.values() for row in members))
            axes.set_title(f"Step {step}")
        highest = max(row.energy for members in curves.values() for row in members)
        bottom, top = panels[0].get_ylim()
        panels[0].set_ylim(max(bottom, highest * 10.0**-_DECADES), top)
        panels[0].set_ylabel("E(k)")
        handles = [legend_line(terms.label(setting), **setting_look(setting, largest)) for setting in in_legend]
        panels[0].legend(handles=handles, loc="lower left", fontsize=8.5)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def _label_wavenumbers(axes: Axes, largest: int) -> None:
    axes.set_xlim(1, largest)
    axes.set_xlabel("wavenumber k (periods per domain)")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = [2**power for power in range(10) if 2**power <= largest]
    axes.set_xticks(ticks, [str(k) for k in ticks])
