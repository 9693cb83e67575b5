"""States of unfinished extractions on disk: a run that was killed goes on from the last direction."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from physteer.analyses.basis.state import ExtractionState
from physteer.analyses.engine import from_everyone
from physteer.errors import PhysteerError
from physteer.files import file_name
from physteer.tensor_files import read_tensors, write_tensors

_KIND, _VERSION = "unfinished causal basis", 1


class UnfinishedExtractions:
    """Files ``partial_<name>.safetensors``, one for every extraction of a run; the first process writes them.

    Args:
        folder: of the files; None to keep nothing.
        digest: of everything that decides the directions; files of another digest are not used.
        first: whether this is the first process.
    """

    def __init__(self, folder: Path | None = None, digest: str = "", *, first: bool = True) -> None:
        self.folder, self.digest, self.first = folder, digest, first

    def load(self, name: str, rank: int) -> ExtractionState:
        """Return the state that `save` wrote, the same on all processes, or an empty one; a collective.

        Args:
            name: of the extraction.
            rank: number of coordinates of its directions.
        """
        own = self._read(name) if self.first else None
        state = from_everyone(own)[0]
        if state is None or len(state.directions) != rank:
            return ExtractionState.empty(rank)
        return state

    def save(self, name: str, state: ExtractionState) -> None:
        """Write a state, whole or not at all.

        Raises:
            PhysteerError: It cannot be written.
        """
        if self.folder is None or not self.first:
            return
        values: dict[str, Any] = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
        tensors = {key: values.pop(key) for key in ("directions", "start", "dropped") if values[key] is not None}
        described = {key: value for key, value in values.items() if value is not None}
        write_tensors(self._path(name), _KIND, _VERSION, tensors, {**described, "digest": self.digest})

    def remove(self) -> None:
        """Delete the files."""
        if self.folder is not None and self.first:
            for path in self.folder.glob("partial_*.safetensors"):
                path.unlink()

    def _read(self, name: str) -> ExtractionState | None:
        if self.folder is None or not self._path(name).exists():
            return None
        try:
            tensors, described = read_tensors(self._path(name), _KIND, _VERSION)
            values: dict[str, Any] = {**tensors, **described}
            return ExtractionState(**values) if values.pop("digest", None) == self.digest else None
        except (PhysteerError, TypeError) as error:  # TypeError: it holds other values than a state
            warnings.warn(f"the extraction begins anew: {error}", stacklevel=4)
            return None

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"partial_{file_name(name)}.safetensors"
