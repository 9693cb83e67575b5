"""Parquet tables, read with their page checksums and within bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from physteer.errors import PhysteerError
from physteer.files import reason

if TYPE_CHECKING:
    import pyarrow as pa

_ALWAYS = 64 * 2**20
"""Bytes of cells that any table may have."""
_TIMES = 1000
"""How many times the file's size the cells may have: a column of one repeated value takes next to nothing in a file."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises in the block into one line.

    Raises:
        PhysteerError: The table cannot be read.
    """
    import pyarrow as pa  # imported late: half a second

    try:
        yield
    # a damaged table may also hold text that is no UTF-8, and lengths that numpy refuses
    except (OSError, pa.ArrowException, ValueError, TypeError, RuntimeError, LookupError, MemoryError) as error:
        raise PhysteerError(f"cannot read {path}: {reason(error)[:300]}") from error


def read_parquet(path: Path) -> pa.Table:
    """Return the table in a file.

    Raises:
        PhysteerError: It is damaged, or declares more cells than the file can hold.
    """
    import pyarrow.parquet as pq

    with reading(path):
        size, about = path.stat().st_size, pq.read_metadata(path)
        cells = about.num_rows * max(about.num_columns, 1) * 8
        if cells > max(_ALWAYS, _TIMES * size):
            raise PhysteerError(
                f"cannot read {path}: it declares {about.num_rows} rows of {about.num_columns} columns in {size} bytes"
            )
        return pq.ParquetFile(path, page_checksum_verification=True).read()
