"""What a comparison reads of a run folder: its tables, its configuration, and what it was computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from physteer.errors import PhysteerError
from physteer.files import reason
from physteer.reports.comparison.estimates import Entry, entries_of
from physteer.run_folder import EXPERIMENT
from physteer.untrusted.json_text import json_object
from physteer.untrusted.parquet_files import read_parquet, reading
from physteer.untrusted.yaml_text import load_yaml

_PER_WINDOW = ("metrics", "spectra")
"""Tables with rows of single windows, which other tables sum up."""


@dataclass(frozen=True)
class Run:
    """One of the runs that are compared."""

    name: str
    """The folder's name, with as many of its parents as tell it from the others."""
    folder: Path
    tables: Mapping[str, Sequence[Entry]]
    """Estimates, by the table's name without its ending."""
    config: Mapping[str, Any]
    """``config.yaml``; empty where there is none."""
    environment: Mapping[str, Any]
    """``environment.json``; empty where there is none."""
    experiment: Mapping[str, Any]
    """``experiment.json``, which ``predict`` writes; else empty."""


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the tables and records of run folders.

    Raises:
        PhysteerError: fewer than two folders, one that is not there, is named twice or has no tables, or a broken file.
    """
    if len(folders) < 2:
        raise PhysteerError("compare takes two run folders or more; 'physteer report RUN' shows a single one")
    for folder in folders:
        if not folder.is_dir():
            raise PhysteerError(f"no run folder {folder}")
    resolved = [folder.resolve() for folder in folders]
    for i, folder in enumerate(resolved):
        if folder in resolved[:i]:
            raise PhysteerError(f"{folders[i]} is named twice; each run is a column of its own")
    return [_read(folder, name) for folder, name in zip(folders, _names(resolved), strict=True)]


def _read(folder: Path, name: str) -> Run:
    tables = {}
    for path in sorted((folder / "tables").glob("*.parquet")):
        if path.stem not in _PER_WINDOW:
            table = read_parquet(path)
            with reading(path):
                types = {field.name: str(field.type) for field in table.schema}
                tables[path.stem] = entries_of(path, types, table.to_pylist())
    tables = {table: entries for table, entries in tables.items() if entries}
    if not tables:
        raise PhysteerError(
            f"{folder} has no tables to compare; 'physteer report {folder}' makes those of rollouts, and other runs "
            "write theirs themselves"
        )
    return Run(
        name,
        folder,
        tables,
        _config(folder / "config.yaml"),
        _json(folder / "environment.json"),
        _json(folder / EXPERIMENT),
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ."""
    for n_parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-n_parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PhysteerError(f"cannot read {path}: {' '.join(reason(error).split())[:300]}") from error
    return config if isinstance(config, dict) else {}


def _json(path: Path) -> Mapping[str, Any]:
    return json_object(path.read_bytes(), str(path)) if path.exists() else {}
