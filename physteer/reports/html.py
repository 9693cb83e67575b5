"""One self-contained page about a run: figures, tables, concepts, configuration and versions."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.reports.diagnostics import FLOW_METRICS, MEAN_VRMSE
from physteer.reports.findings import read_summary
from physteer.reports.page import PAGE
from physteer.reports.summary_tables import (
    Grid,
    alignment_grid,
    best_settings,
    cell_text,
    controls_shown,
    details_grid,
    dose_grid,
    effect_grid,
    notes,
    opening,
    series_text,
    settings_of,
    strength_text,
)

_STUDIES = ("controls_", "alignment_", "heat_map_")
_KINDS = ("dose_response_", "over_time_", "spectra_", "panels_", "concept_")
LARGEST_VIDEO = 5 * 2**20  # bytes; larger ones are linked
_UNITS = {"relative change": ", %", "difference": ", % of cells", "value": ""}
_SETTINGS, _CONTROLS = 6, 4  # shown at once
_LONGEST_TABLE = 60  # rows; longer tables are only named


def concept_files(run_folder: Path) -> list[Path]:
    """List the concepts of a run folder."""
    return sorted([*run_folder.glob("concept*.safetensors"), *run_folder.glob("concepts/*.safetensors")])


def write_report(run_folder: Path | str) -> Path:
    """Write ``report.html`` from the figures, tables, concepts and records in a run folder; return its path.

    Nothing is computed and every part may be missing. The page needs no other file and no network.

    Raises:
        PhysteerError: there is no such folder, it holds nothing to report, or it cannot be written to.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise PhysteerError(f"no run folder {run_folder}")
    environment = _environment(run_folder / "environment.json")
    sections = [
        ("Summary", "".join(_summary(run_folder / "tables" / "summary.csv"))),
        ("Effect of steering", "".join(_effects(run_folder / "tables" / "effects.csv"))),
        ("Controls", "".join(_figures(run_folder / "figures", _STUDIES))),
        ("Rollouts", "".join(_figures(run_folder / "figures", _KINDS[:4]))),
        ("Videos", "".join(map(_video, sorted((run_folder / "videos").glob("*.mp4"))))),
        ("Concepts", "".join(_concepts(run_folder))),
        ("Other figures", "".join(_other_figures(run_folder / "figures"))),
        ("Tables", "".join(_tables(run_folder / "tables"))),
        ("Configuration", _folded("config.yaml", run_folder / "config.yaml")),
        ("Environment", _versions(environment)),
    ]
    sections = [(title, body) for title, body in sections if body]
    if not sections:
        raise PhysteerError(
            f"{run_folder} is not a run folder: it has no rollouts, concepts, figures, tables or config.yaml"
        )
    page = Template(PAGE).substitute(
        title=escape("/".join(run_folder.resolve().parts[-2:]).lstrip("/")),
        facts=_facts(run_folder, environment),
        contents="".join(f'<a href="#{_anchor(title)}">{title}</a>' for title, _ in sections),
        sections="".join(
            f'<section id="{_anchor(title)}"><h2>{title}</h2>{body}</section>' for title, body in sections
        ),
    )
    path = run_folder / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _facts(run_folder: Path, environment: Mapping[str, object]) -> str:
    facts = []
    conditions = sorted(path.name for path in run_folder.glob("rollouts/*") if path.is_dir())
    if conditions:
        windows = {path.relative_to(path.parents[1]) for path in run_folder.glob("rollouts/*/data/*/*.hdf5")}
        facts += [f"{len(windows)} windows", f"{len(conditions)} conditions"]
    facts += [f"{name} {environment[name]}" for name in ("stage", "seed", "device", "precision") if name in environment]
    versions = environment.get("versions")
    if isinstance(versions, dict) and "physteer" in versions:
        facts.append(f"physteer {versions['physteer']}")
    return " · ".join(map(escape, facts))


def _effects(path: Path) -> Iterator[str]:
    """Yield the table of effects: conditions down, metrics across."""
    rows = _read_csv(path)
    if not rows:
        return
    metrics = [m for m in (*FLOW_METRICS, MEAN_VRMSE) if any(row["metric"] == m.name for row in rows)]
    cells = {(_who(row), row["metric"]): _effect(row) for row in rows}
    first, last = rows[0]["first_step"], rows[0]["last_step"]
    yield (
        f"<p>Mean over steps {first} to {last}, as a change against the unsteered rollout of the same window (VRMSE: "
        "against the truth), averaged over initial conditions, with 95&nbsp;% bootstrap intervals over these. Rollouts "
        "that did not stay finite are left out.</p>"
    )
    units = {row["metric"]: _UNITS[row["quantity"]] for row in rows}
    header = ["condition", "α", "initial conditions", *(f"{m.title}{units[m.name]}" for m in metrics)]
    body = []
    for who, row in {_who(row): row for row in rows}.items():
        steered = row["condition"] not in ("truth", "unsteered")
        strength = _signed(float(row["strength"])) if steered else ""
        values = [cells.get((who, metric.name), "") for metric in metrics]
        body.append([row["condition"], strength, row["initial_conditions"], *values])
    yield _table(header, body)


def _who(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("condition", "direction", "mode", "site"))


def _effect(row: Mapping[str, str]) -> str:
    """Return ``+46.1`` and, on a line of its own, ``[+24.2, +68.2]``, in the units of the table's header."""
    mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
    absolute = row["quantity"] == "value"
    if row["condition"] == "unsteered" and not absolute:
        return "0"
    if math.isnan(mean):
        return "not finite"
    text = "{:.3g}".format if absolute else lambda value: _signed(100 * value, ".3g")
    return text(mean) if math.isnan(low) else f"{text(mean)}\n[{text(low)}, {text(high)}]"


def _signed(value: float, form: str = "g") -> str:
    return f"{value:+{form}}".replace("-", "−")


def _summary(path: Path) -> Iterator[str]:
    """Yield the judgement of the settings: alignment, effects, dose–response, and per field below folds."""
    if not path.exists():
        return
    findings = read_summary(path)
    if not findings:
        return
    settings = [*settings_of(findings, "concept"), *settings_of(findings, "shuffled", "data")]
    yield f"<p>{escape(opening(findings))} {escape(' '.join(notes(findings)))}</p>"
    best = [*best_settings(findings, _SETTINGS), *controls_shown(findings, _CONTROLS)]
    folded = [details_grid(findings, settings)]
    grids = [alignment_grid(findings, best), effect_grid(findings, best), dose_grid(findings)]
    if len(best) < len(settings):
        folded = [alignment_grid(findings, settings), effect_grid(findings, settings), *folded]
        yield f"<p>The settings that did most, and controls; all {len(settings)} are folded below.</p>"
    for grid in grids:
        if grid and grid.rows:
            yield f"<h3>{escape(grid.title)}</h3>{_grid(grid)}"
    for grid in folded:
        if grid and grid.rows:
            yield f"<details><summary>{escape(grid.title)}, all settings</summary>{_grid(grid)}</details>"


def _grid(grid: Grid) -> str:
    header = ["", "α", "step", *(c.title + (", %" if c.kind == "percent" else "") for c in grid.columns)]
    rows: list[list[str]] = []
    previous: object = None
    for setting, step in grid.rows:
        again = setting == previous
        previous = setting
        strength = strength_text(setting[3]) if setting[3] else "all"
        cells = [cell_text(grid.find((setting, step), column), column, interval=True) for column in grid.columns]
        labels = ["", ""] if again else [series_text(setting), strength]
        rows.append([*labels, str(step), *(_starred(cell) for cell in cells)])
    return _table(header, rows)


def _starred(cell: str) -> str:
    """Put the interval on a line of its own, and the star before it."""
    value, bracket, interval = cell.partition(" [")
    star = "*" if interval.endswith("*") else ""
    return value + star + ("\n[" + interval.removesuffix("*") if bracket else "")


def _video(path: Path) -> str:
    """Embed a video, or link one that would make the page heavy."""
    name = f"videos/{escape(path.name)}"
    size = path.stat().st_size
    source, loaded = name, "metadata"
    if size <= LARGEST_VIDEO:
        loaded = "auto"  # it is there already: show its first frame
        source = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    return (
        f'<figure><video controls loop muted playsinline preload="{loaded}" src="{source}"></video>'
        f"<figcaption><a href='{name}'>{name}</a></figcaption></figure>"
    )


def _figures(folder: Path, kinds: Iterable[str]) -> Iterator[str]:
    for kind in kinds:
        for path in sorted(folder.glob(f"{kind}*.png")):
            yield _figure(path)


def _other_figures(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.png")):
        if not path.name.startswith((*_STUDIES, *_KINDS)):
            yield _figure(path)


def _figure(path: Path) -> str:
    """Embed a PNG at the size it was drawn for; what it carries as title and description is read to the blind."""
    with Image.open(path) as image:
        alt = f"{image.info.get('Title', path.stem)}. {image.info.get('Description', '')}"
        dpi = float(image.info.get("dpi", (96.0,))[0]) or 96.0
        width = round(image.width / dpi * 96)
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{width}" alt="{escape(alt)}">'
        f"<figcaption>figures/{escape(path.name)}</figcaption></figure>"
    )


def _concepts(run_folder: Path) -> Iterator[str]:
    for path in concept_files(run_folder):
        concept = Concept.load(path)
        described = [(f.name, getattr(concept, f.name)) for f in fields(concept) if f.name != "direction"]
        rows = [["direction", " × ".join(map(str, concept.direction.shape)) + " (tokens × channels)"]]
        rows += [[name, _words(value)] for name, value in described if value]
        yield f"<h3>{escape(path.stem)}</h3>" + _table(["", escape(str(path.relative_to(run_folder)))], rows)
        drawn = run_folder / "figures" / f"concept_{path.stem}.png"
        if drawn.exists():
            yield _figure(drawn)


def _words(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {content}" for name, content in value.items())
    return str(value)


def _tables(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.csv")):
        if path.with_suffix(".parquet").exists():  # the tidy table, too long to read in
            names = (f"tables/{escape(path.with_suffix(ending).name)}" for ending in (".parquet", ".csv"))
            yield "<p>" + " · ".join(f"<a href='{name}'>{name}</a>" for name in names) + "</p>"
            continue
        rows = _read_csv(path)
        name = f"tables/{escape(path.name)}"
        if rows and len(rows) <= _LONGEST_TABLE:
            body = [list(row.values()) for row in rows]
            yield f"<details><summary>{name} ({len(rows)} rows)</summary>{_table(list(rows[0]), body)}</details>"
        else:
            yield f"<p><a href='{name}'>{name}</a> ({len(rows)} rows)</p>"


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _folded(name: str, path: Path) -> str:
    if not path.exists():
        return ""
    return f"<details><summary>{name}</summary><pre>{escape(path.read_text(encoding='utf-8'))}</pre></details>"


def _environment(path: Path) -> Mapping[str, object]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PhysteerError(f"{path} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _versions(environment: Mapping[str, object]) -> str:
    versions = environment.get("versions")
    rows = [[str(name), str(version)] for name, version in versions.items()] if isinstance(versions, dict) else []
    for name, value in environment.items():
        if name != "versions":
            rows.append([name, " ".join(map(str, value)) if isinstance(value, list) else str(value)])
    if not rows:
        return ""
    return f"<details><summary>environment.json</summary>{_table(['', ''], rows)}</details>"
