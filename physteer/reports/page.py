"""One self-contained page about a run: figures, tables, concepts, configuration and versions."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from physteer.analyses.steering.initial_condition_rows import read_single_values
from physteer.analyses.steering.summary_rows import read_summary
from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.reports.blocks import (
    Block,
    Figure,
    FileLink,
    Files,
    Heading,
    Section,
    Source,
    Table,
    Text,
    drawing_of,
    figure_of,
    video_of,
)
from physteer.reports.das_report import SPLITS, search_blocks
from physteer.reports.effect_report import effect_remarks, effects_answer, top_node_table
from physteer.reports.probe_report import probe_blocks
from physteer.reports.summary_page import summary_blocks
from physteer.reports.templating import page_text
from physteer.untrusted.json_text import json_object

_STUDIES = ("change_recovery_", "dose_response_", "alignment_", "heat_map_", "erasures")
_EFFECTS, _CIRCUITS = ("effects_",), ("circuit_",)
_BASES = ("basis_",)
_SEARCHES = ("recovery_", "class_accuracy_")
_PROBES = (
    *("probe_r2_token", "probe_r2_pooled", "probe_classes", "probe_lens", "probe_best_match"),
    *("probe_traces_", "probe_maps_"),
)
_ROLLOUTS, _CONCEPTS = ("over_time_", "spectra_", "panels_"), ("concept_",)
_LONGEST_TABLE = 60  # rows; longer tables are only linked


def concept_files(run_folder: Path) -> list[Path]:
    """List the concepts of a run folder."""
    return sorted([*run_folder.glob("concept*.safetensors"), *run_folder.glob("concepts/*.safetensors")])


def write_page(run_folder: Path | str) -> Path:
    """Write ``report.html`` from the figures, tables, concepts and records in a run folder; return its path.

    Nothing is computed and every part may be missing. The page needs no other file and no network.

    Raises:
        PhysteerError: there is no such folder, it holds nothing to report, or it cannot be written to.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise PhysteerError(f"no run folder {run_folder}")
    environment = _environment(run_folder / "environment.json")
    sections = [section for section in _sections(run_folder, environment) if section.blocks]
    if not sections:
        raise PhysteerError(
            f"{run_folder} is not a run folder: it has no rollouts, concepts, figures, tables or config.yaml"
        )
    title = "/".join(run_folder.resolve().parts[-2:]).lstrip("/")
    page = page_text(title, list(_facts(run_folder, environment)), sections)
    path = run_folder / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _sections(run_folder: Path, environment: Mapping[str, object]) -> Iterator[Section]:
    figures = run_folder / "figures"
    known = (*_STUDIES, *_EFFECTS, *_CIRCUITS, *_BASES, *_SEARCHES, *_PROBES, *_ROLLOUTS, *_CONCEPTS)
    yield Section("Summary", list(summary_blocks(read_summary(run_folder), read_single_values(run_folder))))
    yield Section("Controls", list(_figures(figures, _STUDIES)))
    yield Section("Effects of nodes", list(_effects(run_folder)))
    yield Section("Circuit", list(_figures(figures, _CIRCUITS)))
    yield Section("Causal bases", list(_figures(figures, _BASES)))
    yield Section("Learned subspaces", [*search_blocks(run_folder), *_figures(figures, _SEARCHES)])
    yield Section("Probes", [*probe_blocks(run_folder), *_figures(figures, _PROBES)])
    yield Section("Rollouts", list(_figures(figures, _ROLLOUTS)))
    yield Section("Videos", [video_of(path) for path in sorted((run_folder / "videos").glob("*.mp4"))])
    yield Section("Concepts", list(_concepts(run_folder)))
    others = [path for path in sorted(figures.glob("*.png")) if not path.name.startswith(known)]
    yield Section("Other figures", [figure_of(path) for path in others])
    yield Section("Tables", list(_tables(run_folder / "tables")))
    config = run_folder / "config.yaml"
    yield Section("Configuration", [Source(config.name, config.read_text(encoding="utf-8"))] if config.exists() else [])
    yield Section("Environment", list(_versions(environment)))


def _facts(run_folder: Path, environment: Mapping[str, object]) -> Iterator[str]:
    conditions = [path for path in run_folder.glob("rollouts/*") if path.is_dir()]
    if conditions:
        windows = {path.relative_to(path.parents[1]) for path in run_folder.glob("rollouts/*/data/*/*.hdf5")}
        yield f"{len(windows)} windows"
        yield f"{len(conditions)} conditions"
    for name in ("stage", "seed", "device", "precision"):
        if name in environment:
            yield f"{name} {environment[name]}"
    versions = environment.get("versions")
    if isinstance(versions, dict) and "physteer" in versions:
        yield f"physteer {versions['physteer']}"


def _figures(folder: Path, kinds: Iterable[str]) -> Iterator[Figure]:
    for kind in kinds:
        yield from map(figure_of, sorted(folder.glob(f"{kind}*.png")))


def _effects(run_folder: Path) -> Iterator[Block]:
    """Yield the answer and the largest effects, then the figures: as drawings if there are some, with links to PDFs."""
    for split in SPLITS:
        if top := top_node_table(run_folder, split):
            yield Text(effects_answer(run_folder, split))
            yield Heading(top.title)
            yield Table(top.header, top.lines)
            yield from map(Text, effect_remarks(run_folder, split))
    for path in sorted((run_folder / "figures").glob("effects_*.png")):
        drawing, printed = path.with_suffix(".svg"), path.with_suffix(".pdf")
        yield drawing_of(drawing) if drawing.exists() else figure_of(path)
        if printed.exists():
            yield Files([FileLink(f"figures/{printed.name}")])


def _concepts(run_folder: Path) -> Iterator[Block]:
    for path in concept_files(run_folder):
        concept = Concept.load(path)
        described = [(field.name, getattr(concept, field.name)) for field in fields(concept)]
        rows = [["direction", " × ".join(map(str, concept.direction.shape)) + " (tokens × channels)"]]
        rows += [[name, _in_words(value)] for name, value in described if name != "direction" and value]
        yield Heading(path.stem)
        yield Table(["", str(path.relative_to(run_folder))], rows)
        figure = run_folder / "figures" / f"concept_{path.stem}.png"
        if figure.exists():
            yield figure_of(figure)


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {content}" for name, content in value.items())
    return str(value)


def _tables(folder: Path) -> Iterator[Block]:
    """Yield links to the tables; short ones without a Parquet file are shown."""
    for path in sorted(folder.glob("*.csv")):
        link = FileLink(f"tables/{path.name}")
        parquet = path.with_suffix(".parquet")
        if parquet.exists():
            yield Files([FileLink(f"tables/{parquet.name}"), link])
            continue
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [*csv.reader(file)] or [[]]
        if rows and len(rows) <= _LONGEST_TABLE:
            yield Table(header, rows, f"{link.name} ({len(rows)} rows)")
        else:
            yield Files([link])


def _environment(path: Path) -> Mapping[str, object]:
    if not path.exists():
        return {}
    return json_object(path.read_bytes(), str(path))


def _versions(environment: Mapping[str, object]) -> Iterator[Block]:
    versions = environment.get("versions")
    rows = [[str(name), str(version)] for name, version in versions.items()] if isinstance(versions, dict) else []
    for name, value in environment.items():
        if name != "versions":
            rows.append([name, " ".join(map(str, value)) if isinstance(value, list) else str(value)])
    if rows:
        yield Table(["", ""], rows, "environment.json")
