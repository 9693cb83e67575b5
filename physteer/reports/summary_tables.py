"""The summary as tables: which settings, which columns, and what their cells say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from physteer.analyses.steering.summary_rows import MEAN_OVER_FIELDS, SummaryRow, reported_steps
from physteer.analyses.steering.table import ERASED, Setting
from physteer.reports.summary_index import SummaryIndex

MOST = 8
"""Settings that a reader takes in at once."""


@dataclass(frozen=True)
class Column:
    """One quantity of a field, and how it is shown."""

    title: str
    quantity: str
    field: str = ""
    kind: str = "number"
    """``number`` (signed), ``percent`` (signed), ``percentile``, ``size`` (unsigned), ``factor``, ``count``, ``of``
    (a count of initial conditions, and how many there are) or ``value`` (three digits)."""
    interval: bool = False
    """Whether a terminal has room for it; the page always has."""


@dataclass(frozen=True)
class Grid:
    """A table: columns, and rows that belong to a setting and a step."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Setting, int], ...]
    index: SummaryIndex

    def find(self, row: tuple[Setting, int], column: Column) -> SummaryRow | None:
        """Return the summary's row of a cell; what is about the whole rollout is in every row of its setting."""
        setting, step = row
        own = self.index.row(setting, column.quantity, column.field, step)
        return own or self.index.row(setting, column.quantity, column.field, 0)


def reported(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """Keep what tables show: the first, the middle and the last step, and no single random directions."""
    steps = {0, *reported_steps(rows)}
    return [row for row in rows if row.step in steps and row.role != "random"]


def alignment_grid(rows: Sequence[SummaryRow], settings: Sequence[Setting]) -> Grid:
    """Return the table of recovery and alignment; empty where these were not measured."""
    index = SummaryIndex(rows)
    main = index.main_field("alignment_cosine")
    columns = [Column("recovery", "recovery", main, interval=True)] if main else []
    columns += [Column("cosine", "alignment_cosine", main, interval=True)] if main else []
    if main == MEAN_OVER_FIELDS:
        columns += [Column(short(f), "alignment_cosine", f) for f in index.fields("alignment_cosine") if f != main]
    if main:
        columns += [Column("gain", "alignment_gain", main), Column("wrong sign", "wrong_sign", kind="of")]
    columns += [Column(f"|Δ{short(f)}|", "null_movement", f, kind="size") for f in index.fields("null_movement")]
    title = f"Recovery of the true change, and alignment with it ({main})" if main else "Fields that should not move"
    return _grid(title, columns, settings, index)


def nearness_grid(rows: Sequence[SummaryRow], settings: Sequence[Setting]) -> Grid:
    """Return the table of nearness beside what the base flow's truth and blurring alone reach; never without these."""
    index = SummaryIndex(rows)
    main = index.main_field("nearness")
    columns = (
        Column("nearness", "nearness", main, interval=True),
        Column("of the base truth", "nearness_base", main),
        Column("of the blurred output", "nearness_blurred", main),
    )
    steered = [setting for setting in settings if setting.role != "blurred"]
    title = f"Nearness to the flow at the other parameter ({main})"
    return _grid(title, columns if index.fields("nearness_base") else (), steered, index)


def movement_grid(rows: Sequence[SummaryRow], settings: Sequence[Setting]) -> Grid:
    """Return the table of how far erasing moves the fields; empty where nothing was erased."""
    index = SummaryIndex([row for row in rows if row.mode == ERASED])
    fields = index.fields("movement")
    titles = ["|Δ| mean" if field == MEAN_OVER_FIELDS else f"|Δ{short(field)}|" for field in fields]
    columns = [
        Column(title, "movement", field, "size", interval=field == fields[0])
        for title, field in zip(titles, fields, strict=True)
    ]
    return _grid("How far fields move, in units of their spread", columns, settings, index)


def effect_grid(rows: Sequence[SummaryRow], settings: Sequence[Setting]) -> Grid:
    """Return the table of what happened to the flow, and of damage."""
    index = SummaryIndex(rows)
    sites = index.fields("natural_percentile")
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
    return _grid("Effect on the flow, and damage", columns, settings, index)


def value_grid(rows: Sequence[SummaryRow], settings: Sequence[Setting]) -> Grid:
    """Return the metrics themselves, of truths and unsteered rollouts too."""
    index = SummaryIndex(rows)
    columns = (
        Column("enstrophy ½⟨ω²⟩", "enstrophy_value", kind="value", interval=True),
        Column("vortex area, share", "vortex_area_value", kind="value", interval=True),
        Column("kinetic energy ½⟨u²⟩", "kinetic_energy_value", kind="value", interval=True),
        Column("tracer variance", "tracer_variance_value", kind="value", interval=True),
        Column("VRMSE", "vrmse_value", index.main_field("vrmse_value"), kind="value", interval=True),
    )
    return _grid("Flow metrics and error", columns, [*index.of_role("truth", "unsteered"), *settings], index)


def details_grid(rows: Sequence[SummaryRow], settings: Sequence[Setting]) -> Grid:
    """Return gain and recovery field by field; empty where there is but one field."""
    index = SummaryIndex(rows)
    fields = [field for field in index.fields("alignment_gain") if field != MEAN_OVER_FIELDS]
    columns = [
        Column(f"{title} {short(field)}", quantity, field)
        for title, quantity in (("gain", "alignment_gain"), ("recovery", "recovery"))
        for field in fields
    ]
    return _grid("Gain and recovery per field", columns if len(fields) > 1 else (), settings, index)


def dose_grid(rows: Sequence[SummaryRow]) -> Grid:
    """Return slopes and monotone shares, a row per direction, site and mode; its settings have the strength 0."""
    index = SummaryIndex([replace(row, strength=0.0) for row in rows if math.isnan(row.strength)])
    columns = (
        Column("enstrophy per α", "enstrophy_slope", kind="percent", interval=True),
        Column("monotone", "enstrophy_monotone", kind="size"),
        Column("vortex area per α", "vortex_area_slope", kind="percent", interval=True),
        Column("monotone", "vortex_area_monotone", kind="size"),
    )
    return _grid("Dose–response", columns, list(index.settings), index)


def _grid(title: str, columns: Sequence[Column], settings: Sequence[Setting], index: SummaryIndex) -> Grid:
    """Keep the columns and rows that hold something."""
    every = Grid(title, tuple(columns), tuple((s, step) for s in settings for step in index.steps), index)
    kept = tuple(column for column in columns if any(every.find(row, column) for row in every.rows))
    rows = tuple((s, step) for s, step in every.rows if any(index.row(s, c.quantity, c.field, step) for c in kept))
    return Grid(title, kept, rows, index)


def settings_of(rows: Sequence[SummaryRow], *roles: str) -> list[Setting]:
    """List the settings of some roles, in the order of the rows."""
    return SummaryIndex(rows).of_role(*roles)


def ranked_settings(rows: Sequence[SummaryRow]) -> list[Setting]:
    """Sort the concepts' settings by what they did at the first step: recovery, movement, or change of enstrophy.

    Movement ranks erasers.
    """
    index = SummaryIndex([row for row in rows if row.role == "concept"])
    erases = all(setting.mode == ERASED for setting in index.settings)
    quantity = "movement" if erases else "recovery" if index.fields("recovery") else "enstrophy"
    score = dict.fromkeys(index.settings, -math.inf)
    for setting in score:
        row = index.row(setting, quantity, index.main_field(quantity), min(index.steps, default=1))
        if row is not None and math.isfinite(row.value):
            score[setting] = row.value if quantity == "recovery" else abs(row.value)
    return sorted(score, key=lambda setting: -score[setting])


def best_settings(rows: Sequence[SummaryRow], most: int = MOST) -> list[Setting]:
    """Choose the settings that did most (`ranked_settings`), in the order of the rows."""
    best = set(ranked_settings(rows)[:most])
    return [setting for setting in settings_of(rows, "concept") if setting in best]


def controls_shown(rows: Sequence[SummaryRow], most: int) -> list[Setting]:
    """Choose the settings that concepts are shown beside: blurring, interpolation of data, then shuffled labels."""
    return [*settings_of(rows, "blurred"), *settings_of(rows, "data"), *settings_of(rows, "shuffled")][:most]


def short(field: str) -> str:
    """Return a field's name as a column's: ``velocity_x`` as ``u_x``."""
    return field.replace("velocity_", "u_")


def number_text(value: float, kind: str = "number") -> str:
    """Return a value in few characters, with a true minus sign; kinds are those of a `Column`."""
    if not math.isfinite(value):
        return "—"
    if kind in ("count", "of", "percentile", "value"):
        text = f"{value:{ {'count': '.0f', 'of': '.0f', 'percentile': '.1f', 'value': '.3g'}[kind] }}"
    elif kind == "percent":
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


def cell_text(row: SummaryRow | None, column: Column, interval: bool) -> str:
    """Return ``+0.51 [+0.42, +0.60]*``."""
    if row is None:
        return ""
    text = number_text(row.value, column.kind)
    if column.kind == "of":
        text += f" of {row.initial_conditions}"
    if interval and math.isfinite(row.low):
        text += f" [{number_text(row.low, column.kind)}, {number_text(row.high, column.kind)}]"
    return text + ("*" if row.stands_out else "")


def column_title(column: Column) -> str:
    """Return a column's title with its unit."""
    return column.title + (", %" if column.kind == "percent" else "")


def strength_text(strength: float) -> str:
    """Return ``+0.4`` with a true minus sign."""
    return f"{strength:+.3g}".replace("-", "−")


def series_text(setting: Setting) -> str:
    """Return ``vortex at blocks.1, drop``; of a truth, at which parameter it is."""
    if setting.role == "truth":
        side = "" if not setting.strength else "above" if setting.strength > 0 else "below"
        return f"truth at the parameter {side}" if side else "truth"
    name = setting.direction or setting.role
    return name + (f" at {setting.site}" if setting.site else "") + (f", {setting.mode}" if setting.mode else "")
