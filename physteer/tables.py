"""Tables of a run folder: rows of a dataclass as Parquet, and the same rows as CSV for the eye."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, astuple, fields
from pathlib import Path
from typing import Any, TypeVar

from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.untrusted.parquet_files import read_parquet, reading

R = TypeVar("R")


def write_rows(path: Path, kind: type[R], rows: Sequence[R]) -> Path:
    """Write rows as ``<path>.parquet`` and ``<path>.csv``, each whole or not at all; return the first.

    Args:
        path: in the run folder's ``tables/``, without an ending.
        kind: the rows' dataclass; its fields are of the types str, int and float.
        rows: the Parquet file keeps every digit, the CSV file nine.
    """
    import pyarrow as pa  # imported late: half a second
    import pyarrow.parquet as pq

    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    schema = pa.schema([(field.name, types.get(str(field.type), pa.string())) for field in fields(kind)])  # type: ignore[arg-type]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    # The CSV file gets its name first: a reader takes the other one, which is there last.
    write_csv(path.with_suffix(".csv"), names, map(astuple, rows))  # type: ignore[arg-type]
    target = path.with_suffix(".parquet")
    with atomic_write(target) as temporary:
        pq.write_table(pa.table(columns, schema), temporary, compression="zstd", write_page_checksum=True)
    return target


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """Read what `write_rows` wrote; no rows where there is no such file.

    Columns that a table of an earlier version has not are filled with their defaults, where they have some.

    Raises:
        PhysteerError: the file is broken, or holds other columns.
    """
    source = path.with_suffix(".parquet")
    if not source.exists():
        return []
    table = read_parquet(source)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    there = table.column_names
    required = {field.name for field in fields(kind) if field.default is MISSING}  # type: ignore[arg-type]
    if there != [name for name in names if name in there] or not required <= set(there):
        raise PhysteerError(f"{source} has the columns {', '.join(table.column_names)}, not {', '.join(names)}")
    types = {"str": (str,), "int": (int,), "float": (float, int)}
    with reading(source):
        rows = [kind(**row) for row in table.to_pylist()]
    for field in fields(kind):  # type: ignore[arg-type]
        allowed = types.get(str(field.type), (str,))
        if not all(isinstance(getattr(row, field.name), allowed) for row in rows):
            raise PhysteerError(f"{source} has values of {field.name} that are not {field.type}")
    return rows


def write_columns(path: Path, columns: Mapping[str, Sequence[str | int | float | None]]) -> Path:
    """Write a table whose columns are known only at hand, as `write_rows` does; return the path of the Parquet file.

    Args:
        path: without an ending.
        columns: of equal length, by name; each of texts, whole numbers or floats, None for an empty cell.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_csv(path.with_suffix(".csv"), list(columns), zip(*columns.values(), strict=True))
    target = path.with_suffix(".parquet")
    with atomic_write(target) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd", write_page_checksum=True)
    return target


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table as CSV, whole or not at all; numbers get nine digits, which a float32 needs."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow([f"{cell:.9g}" if isinstance(cell, float) else cell for cell in row])
    return path
