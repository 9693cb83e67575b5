"""One self-contained page about a run: figures, tables, concepts, configuration and versions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.reports.html_tables import effects_html, read_csv, summary_html, table_html
from physteer.reports.page import PAGE

_STUDIES = ("controls_", "alignment_", "heat_map_", "erasures")
_SEARCHES, _PROBES = ("recovery_", "class_accuracy_"), ("probe_",)
_KINDS = ("dose_response_", "over_time_", "spectra_", "panels_", "concept_")
LARGEST_VIDEO = 5 * 2**20  # bytes; larger ones are linked
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
        ("Summary", "".join(summary_html(run_folder))),
        ("Effects", "".join(effects_html(run_folder / "tables" / "effects.csv"))),
        ("Controls", "".join(_figures(run_folder / "figures", _STUDIES))),
        ("Learned subspaces", "".join(_figures(run_folder / "figures", _SEARCHES))),
        ("Probes", "".join(_figures(run_folder / "figures", _PROBES))),
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
        if not path.name.startswith((*_STUDIES, *_SEARCHES, *_PROBES, *_KINDS)):
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
        yield f"<h3>{escape(path.stem)}</h3>" + table_html(["", escape(str(path.relative_to(run_folder)))], rows)
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
        rows = read_csv(path)
        name = f"tables/{escape(path.name)}"
        if rows and len(rows) <= _LONGEST_TABLE:
            body = [list(row.values()) for row in rows]
            yield f"<details><summary>{name} ({len(rows)} rows)</summary>{table_html(list(rows[0]), body)}</details>"
        else:
            yield f"<p><a href='{name}'>{name}</a> ({len(rows)} rows)</p>"


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
    return f"<details><summary>environment.json</summary>{table_html(['', ''], rows)}</details>"
