"""What a sweep has done of a batch, on disk, so that a run that was killed goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from physteer.errors import PhysteerError
from physteer.tensor_files import read_tensors, write_tensors

_KIND, _VERSION = "unfinished sweep", 1
_SHARE = 20
"""At most one part in this many of the time goes into writing."""


class UnfinishedBatch:
    """The terms of one batch by node, in one file that is replaced as a whole.

    Args:
        folder: of all batches; None to keep nothing.
        decided_by: everything that decides the terms: the model, the settings, the addresses of the pairs.
    """

    def __init__(self, folder: Path | None, decided_by: Sequence[str]) -> None:
        digest = hashlib.sha256(json.dumps(list(decided_by)).encode()).hexdigest()[:32]
        self.path = None if folder is None else folder / f"{digest}.safetensors"
        self.done: dict[int, Tensor] = {}
        """The terms of the nodes that are done, by index."""
        self._next = 0.0
        if self.path is not None and self.path.is_file():
            with contextlib.suppress(PhysteerError, ValueError):  # a damaged file is made anew
                tensors, _ = read_tensors(self.path, _KIND, _VERSION)
                self.done = {int(name): terms for name, terms in tensors.items()}

    def add(self, node: int, terms: Tensor, *, last: bool) -> None:
        """Keep the terms of a node; they are written now, or together with those of nodes that follow soon."""
        self.done[node] = terms
        began = time.monotonic()
        if self.path is None or (began < self._next and not last):
            return
        write_tensors(self.path, _KIND, _VERSION, {str(i): one for i, one in self.done.items()}, {})
        now = time.monotonic()
        self._next = now + _SHARE * (now - began)
