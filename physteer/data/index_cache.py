"""The index of a large folder of HDF5 files, kept between runs: opening thousands of files takes half a minute."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physteer.data.file_record import FileRecord
from physteer.errors import PhysteerError
from physteer.tensor_files import read_tensors, write_tensors

_KIND, _VERSION = "data index", 1
_FEWEST = 64
"""Fewer files are opened in less than a second, and not worth a file in the user's cache."""
Version = tuple[int, int]
"""Size in bytes and time of modification in nanoseconds."""


class IndexCache:
    """Records of the files of one folder by name; a record counts while the file has the same size and time.

    It is one file in ``$XDG_CACHE_HOME/physteer`` (``~/.cache/physteer``), and only for folders of many local files. A
    cache that cannot be read or written is left alone: it saves time and no more.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: str) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
        digest = hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:32]
        self.path = Path(home, "physteer", "index", f"{digest}.safetensors")

    def load(self, versions: Mapping[str, Version]) -> dict[str, FileRecord]:
        """Return the stored records of files that have not changed.

        Args:
            versions: of the files that there are.
        """
        records: dict[str, FileRecord] = {}
        if len(versions) < _FEWEST or not self.path.is_file():
            return records
        with contextlib.suppress(PhysteerError, KeyError, TypeError, ValueError):
            tensors, described = read_tensors(self.path, _KIND, _VERSION)
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            for name, (size, time, record) in described["files"].items():
                if versions.get(name) == (size, time):
                    records[name] = _unpacked(record, arrays)
        return records

    def store(self, versions: Mapping[str, Version], records: Mapping[str, FileRecord]) -> None:
        """Replace the stored records, where there are enough files."""
        if len(versions) < _FEWEST:
            return
        tensors: dict[str, Tensor] = {}
        files = {name: (*versions[name], _packed(record, tensors)) for name, record in records.items()}
        with contextlib.suppress(PhysteerError):
            write_tensors(self.path, _KIND, _VERSION, tensors, {"files": files})


def _packed(record: FileRecord, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a record as JSON; its arrays are added to the tensors, each once by its content."""

    def name_of(array: Any) -> str:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode() + tensor.numpy().tobytes()).hexdigest()
        tensors.setdefault(digest[:32], tensor)
        return digest[:32]

    arrays = {
        "coordinates": {axis: name_of(along) for axis, along in record.coordinates.items()},
        "parameters": {name: v.tolist() if not v.ndim else name_of(v) for name, v in record.parameters.items()},
    }
    return record.__dict__ | arrays


def _unpacked(record: dict[str, Any], arrays: Mapping[str, Any]) -> FileRecord:
    known = FileRecord(**record)
    return replace(
        known,
        axes=tuple(known.axes),
        shape=tuple(known.shape),
        boundaries=tuple((low, high) for low, high in known.boundaries),
        boundary_types=tuple(known.boundary_types),
        fields={name: (order, varies) for name, (order, varies) in known.fields.items()},
        coordinates={axis: arrays[name] for axis, name in record["coordinates"].items()},
        parameters={
            name: arrays[value] if isinstance(value, str) else np.asarray(value, np.float64)
            for name, value in record["parameters"].items()
        },
    )
