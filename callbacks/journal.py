"""What a run of ``predict`` has finished, so that it can be started again after it was killed."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor

from physteer.callbacks.base import check_predict, data_module
from physteer.data.batch import Batch
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.tensor_files import read_tensors, write_tensors

_KIND, _VERSION = "journal", 1
_SHARE = 20
"""At most one part in this many of the time goes into writing."""


class Journal(L.Callback):
    """Mark windows as finished once all callbacks have kept what they saw of them, and leave those out of a new start.

    Each process of each start has one file ``journal/start_NNN_process_NNNN.safetensors`` in the run folder: the
    windows of the batches that ended, and the running sums of callbacks over just these (`RolloutCallback.keep`). It is
    replaced as a whole, so that a window is in the sums and in the list or in neither. The number of processes may
    differ between starts. The command line adds this callback, after all others, to every ``predict`` over whole data.
    """

    def __init__(self) -> None:
        self._earlier: list[Path] = []
        self._path = Path()
        self._windows: list[str] = []
        self._next = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read what earlier starts have finished, before any process begins."""
        check_predict("Journal", trainer, pl_module, stage)
        data = data_module(trainer, WellDataModule, "Journal")
        folder = Path(trainer.default_root_dir) / "journal"
        self._earlier = sorted(folder.glob("start_*_process_*.safetensors"))
        start = 1 + max((int(path.name.split("_")[1]) for path in self._earlier), default=0)
        self._path = folder / f"start_{start:03d}_process_{trainer.global_rank:04d}.safetensors"
        self._windows, self._next = [], 0.0
        data.finished = frozenset(_finished(self._earlier))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the callbacks what they had kept."""
        if not self._earlier or not trainer.is_global_zero:
            return
        parts = [_read(path)[1] for path in self._earlier]
        for name, callback in _keepers(trainer):
            callback.restore(trainer, [part.get(name, {}) for part in parts])
        data = trainer.datamodule  # type: ignore[attr-defined]
        done, total = len(data.finished), len(data.predict_dataset())
        print(f"physteer: going on in {trainer.default_root_dir}: {done} of {total} windows are done", file=sys.stderr)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Mark the batch's windows, now or together with those of batches that follow soon."""
        self._windows += map(str, batch.windows)
        began = time.monotonic()
        if began >= self._next or batch_idx + 1 == trainer.num_predict_batches[dataloader_idx]:
            self._write(trainer)
            now = time.monotonic()
            self._next = now + _SHARE * (now - began)

    def _write(self, trainer: L.Trainer) -> None:
        sums = {
            f"{name}/{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, callback in _keepers(trainer)
            for key, value in callback.keep(trainer).items()
        }
        write_tensors(self._path, _KIND, _VERSION, sums, {"windows": self._windows})


@runtime_checkable
class _Keeper(Protocol):
    """What `RolloutCallback` and others have."""

    def keep(self, trainer: L.Trainer) -> Mapping[str, Tensor]: ...

    def restore(self, trainer: L.Trainer, parts: Sequence[Mapping[str, Tensor]]) -> None: ...


def _keepers(trainer: L.Trainer) -> Iterator[tuple[str, _Keeper]]:
    """Yield the callbacks that keep something, by names that are the same at every start."""
    seen: Counter[str] = Counter()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, _Keeper):
            name = type(callback).__name__
            yield f"{name} {seen[name]}", callback
            seen[name] += 1


def _finished(parts: Sequence[Path]) -> Mapping[str, Path]:
    """Return in which part each window is.

    Raises:
        PhysteerError: A window is there twice, so that the sums would count it twice.
    """
    finished: dict[str, Path] = {}
    for path in parts:
        for window in _read(path)[0]:
            if window in finished:
                raise PhysteerError(
                    f"{path} and {finished[window].name} both count the window {window}: two runs were writing to this "
                    f"folder at the same time; delete {path.parent.parent} and start again"
                )
            finished[window] = path
    return finished


def _read(path: Path) -> tuple[list[str], dict[str, dict[str, Tensor]]]:
    """Return the windows that a start has finished, and what each callback had kept."""
    try:
        tensors, described = read_tensors(path, _KIND, _VERSION)
        windows = described.get("windows")
        if not isinstance(windows, list) or not all(isinstance(window, str) for window in windows):
            raise PhysteerError(f"{path} has no list of windows")
    except PhysteerError as error:
        raise PhysteerError(f"{error}; this journal of a run cannot be continued: delete the run folder") from error
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, rest = key.partition("/")
        parts.setdefault(name, {})[rest] = tensor
    return windows, parts
