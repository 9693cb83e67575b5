"""The summary as tables: which settings, which columns, and what their cells say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from physteer.analyses.steering.summary_rows import SEVERAL, Finding

MOST = 8
"""Settings that a reader takes in at once."""
_STAR = 0.05

Setting = tuple[str, str, str, float]


@dataclass(frozen=True)
class Column:
    """One quantity of a field, and how it is shown."""

    title: str
    quantity: str
    field: str = ""
    kind: str = "number"
    """``number`` (signed), ``percent`` (signed), ``percentile``, ``size`` (unsigned), ``factor`` or ``count``."""
    interval: bool = False
    """Whether a terminal has room for it; the page always has."""


@dataclass(frozen=True)
class Grid:
    """A table: columns, and rows that belong to a setting and a step."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Setting, int], ...]
    cells: dict[tuple[Setting, int, str, str], Finding]
    """By setting, step, quantity and field."""

    def find(self, row: tuple[Setting, int], column: Column) -> Finding | None:
        """Return the finding of a cell; what is about the whole rollout is in every row of its setting."""
        setting, step = row
        for when in (step, 0):
            if (found := self.cells.get((setting, when, column.quantity, column.field))) is not None:
                return found
        return None


def alignment_grid(findings: Sequence[Finding], settings: Sequence[Setting]) -> Grid | None:
    """Return the table of alignment and recovery; None where these were not measured."""
    cells = _cells(findings)
    fields = list(dict.fromkeys(f.field for f in findings if f.quantity == "alignment_cosine"))
    single = [field for field in fields if field != SEVERAL]
    nulls = list(dict.fromkeys(f.field for f in findings if f.quantity == "null_movement"))
    if not fields and not nulls:
        return None
    main = SEVERAL if SEVERAL in fields else next(iter(fields), "")
    columns = [Column("cosine", "alignment_cosine", main, interval=True)]
    if main == SEVERAL:
        columns += [Column(short(field), "alignment_cosine", field) for field in single]
    columns += [
        Column("gain", "alignment_gain", main),
        Column("recovery", "recovery", main, interval=True),
        *(Column(f"|Δ{short(field)}|", "null_movement", field, kind="size") for field in nulls),
    ]
    title = f"Alignment with the true change and recovery of it ({main})" if main else "Fields that should not move"
    columns = [column for column in columns if column.field]
    return _grid(title, columns, settings, cells)


def movement_grid(findings: Sequence[Finding], settings: Sequence[Setting]) -> Grid | None:
    """Return the table of how far erasing moves the fields; None where that was not measured."""
    fields = list(dict.fromkeys(f.field for f in findings if f.quantity == "movement"))
    columns = [
        Column(
            "|Δ| mean" if field == SEVERAL else f"|Δ{short(field)}|",
            "movement",
            field,
            "size",
            interval=field == fields[0],
        )
        for field in fields
    ]
    return (
        _grid("How far fields move, in units of their spread", columns, settings, _cells(findings)) if fields else None
    )


def effect_grid(findings: Sequence[Finding], settings: Sequence[Setting]) -> Grid:
    """Return the table of what happened to the flow, and of damage."""
    cells = _cells(findings)
    sites = list(dict.fromkeys(f.field for f in findings if f.quantity == "natural_percentile"))
    columns = (
        Column("enstrophy", "enstrophy", kind="percent", interval=True),
        Column("truth", "enstrophy_truth", kind="percent"),
        Column("vortex area", "vortex_area", kind="percent", interval=True),
        Column("VRMSE ×", "vrmse_ratio", kind="factor"),
        Column("∇·u ×", "divergence_ratio", kind="factor"),
        Column("blown", "blow_ups", kind="count"),
        *(
            Column(title + (f" {site}" if len(sites) > 1 else ""), quantity, site, kind="percentile")
            for site in sites
            for title, quantity in (("natural", "natural_percentile"), ("residual", "residual_percentile"))
        ),
        Column("spectrum", "spectrum_distance", kind="size"),
        Column("drift", "tracer_drift", kind="size"),
    )
    return _grid("Effect on the flow, and damage", columns, settings, cells)


def details_grid(findings: Sequence[Finding], settings: Sequence[Setting]) -> Grid | None:
    """Return gain and recovery field by field; None where there is but one field."""
    fields = [f.field for f in findings if f.quantity == "alignment_gain" and f.field != SEVERAL]
    columns = [
        Column(f"{title} {short(field)}", quantity, field)
        for title, quantity in (("gain", "alignment_gain"), ("recovery", "recovery"))
        for field in dict.fromkeys(fields)
    ]
    return _grid("Gain and recovery per field", columns, settings, _cells(findings)) if len(columns) > 2 else None


def dose_grid(findings: Sequence[Finding]) -> Grid | None:
    """Return slopes and monotone shares, a row per direction, site and mode."""
    doses = [finding for finding in findings if math.isnan(finding.strength)]
    columns = (
        Column("enstrophy per α", "enstrophy_slope", kind="percent", interval=True),
        Column("monotone", "enstrophy_monotone", kind="size"),
        Column("vortex area per α", "vortex_area_slope", kind="percent", interval=True),
        Column("monotone", "vortex_area_monotone", kind="size"),
    )
    series = dict.fromkeys((f.direction, f.site, f.mode, 0.0) for f in doses)
    cells = {((f.direction, f.site, f.mode, 0.0), f.step, f.quantity, f.field): f for f in doses}
    return _grid("Dose–response", columns, list(series), cells) if doses else None


def _cells(findings: Sequence[Finding]) -> dict[tuple[Setting, int, str, str], Finding]:
    return {(f.setting, f.step, f.quantity, f.field): f for f in findings if not math.isnan(f.strength)}


def _grid(
    title: str,
    columns: Sequence[Column],
    settings: Sequence[Setting],
    cells: dict[tuple[Setting, int, str, str], Finding],
) -> Grid:
    """Keep the columns and rows that hold something."""
    steps = sorted({step for _, step, _, _ in cells if step})
    grid = Grid(title, tuple(columns), tuple((s, step) for s in settings for step in steps), cells)
    kept = tuple(c for c in columns if any(grid.find(row, c) for row in grid.rows))
    names = {(c.quantity, c.field) for c in kept}
    rows = tuple(row for row in grid.rows if any((*row, *name) in cells for name in names))
    return Grid(title, kept, rows, cells)


def settings_of(findings: Sequence[Finding], *roles: str) -> list[Setting]:
    """List the settings of some roles, in the order of the findings."""
    return list(dict.fromkeys(f.setting for f in findings if f.role in roles and not math.isnan(f.strength)))


def ranked_settings(findings: Sequence[Finding]) -> list[Setting]:
    """Sort the concepts' settings by what they did at the first step: mean cosine, movement, or change of enstrophy."""
    settings = settings_of(findings, "concept")
    score = dict.fromkeys(settings, -math.inf)
    first = min((f.step for f in findings if f.step), default=0)
    measured = {f.quantity for f in findings}
    wanted = next((name for name in ("alignment_cosine", "movement") if name in measured), "enstrophy")
    fields = dict.fromkeys(f.field for f in findings if f.quantity == wanted)
    field = SEVERAL if SEVERAL in fields else next(iter(fields), "")
    for f in findings:
        if (f.quantity, f.field, f.step) == (wanted, field, first) and f.setting in score and math.isfinite(f.value):
            score[f.setting] = f.value if wanted == "alignment_cosine" else abs(f.value)
    return sorted(settings, key=lambda setting: -score[setting])


def best_settings(findings: Sequence[Finding], most: int = MOST) -> list[Setting]:
    """Choose the settings that did most (`ranked_settings`), in the order of the findings."""
    chosen = set(ranked_settings(findings)[:most])
    return [setting for setting in settings_of(findings, "concept") if setting in chosen]


def controls_shown(findings: Sequence[Finding], most: int) -> list[Setting]:
    """Choose the settings that concepts are shown beside: interpolation of data, then shuffled labels."""
    return [*settings_of(findings, "data"), *settings_of(findings, "shuffled")][:most]


def short(field: str) -> str:
    """Return a field's name as a column's: ``velocity_x`` as ``u_x``."""
    return field.replace("velocity_", "u_")


def number_text(value: float, kind: str = "number") -> str:
    """Return a value in few characters, with a true minus sign."""
    if not math.isfinite(value):
        return "—"
    if kind == "count":
        return f"{value:.0f}"
    if kind == "percentile":
        return f"{value:.1f}"
    if kind == "percent":
        value *= 100
        text = f"{value:+.1f}" if abs(value) < 100 else f"{value:+.3g}"
    elif kind == "factor":
        text = f"{value:.2f}" if abs(value) < 100 else f"{value:.2g}"
    else:
        sign = "+" if kind == "number" else ""
        text = f"{value:{sign}.2f}" if 0.005 <= abs(value) < 100 or not value else f"{value:{sign}.1g}"
    if text in ("+0.0", "-0.0"):
        text = "0.0"
    return text.replace("-", "−")


def cell_text(finding: Finding | None, column: Column, interval: bool) -> str:
    """Return ``+0.51 [+0.42, +0.60]*``."""
    if finding is None:
        return ""
    text = number_text(finding.value, column.kind)
    if interval and math.isfinite(finding.low):
        text += f" [{number_text(finding.low, column.kind)}, {number_text(finding.high, column.kind)}]"
    return text + ("*" if finding.p <= _STAR else "")


def strength_text(strength: float) -> str:
    """Return ``+0.4`` with a true minus sign."""
    return f"{strength:+.3g}".replace("-", "−")


def series_text(setting: Setting) -> str:
    """Return ``vortex at blocks.1, drop``."""
    direction, site, mode, _ = setting
    return direction + (f" at {site}" if site else "") + (f", {mode}" if mode else "")
