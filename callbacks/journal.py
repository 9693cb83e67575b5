"""What a run of ``predict`` has finished, so that it can be started again after it was killed."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from physteer.callbacks.base import check_predict, data_module
from physteer.data.batch import Batch
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.files import atomic_write, is_temporary

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
        data.finished = frozenset(window for path in self._earlier for window in _read_windows(path))
        if trainer.is_global_zero:
            _remove_stale(Path(trainer.default_root_dir))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the callbacks what they had kept."""
        if not self._earlier or not trainer.is_global_zero:
            return
        parts = [_read_sums(path) for path in self._earlier]
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
        with atomic_write(self._path) as temporary:
            temporary.write_bytes(save(sums, {"windows": json.dumps(self._windows)}))


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


def _read_windows(path: Path) -> Sequence[str]:
    try:
        with safe_open(path, framework="pt") as file:
            windows: list[str] = json.loads(file.metadata()["windows"])
            return windows
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise PhysteerError(f"{path} is not a journal of physteer: {error}; delete the run folder") from error


def _read_sums(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return what each callback had kept."""
    parts: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            name, _, rest = key.partition("/")
            parts.setdefault(name, {})[rest] = file.get_tensor(key)
    return parts


def _remove_stale(run_folder: Path) -> None:
    """Remove the half-written files of a start that was killed."""
    for folder in ("journal", "rollouts", "concepts", "natural", "tables", "figures", "videos"):
        for path in (run_folder / folder).rglob(".*.tmp"):
            if is_temporary(path):
                path.unlink(missing_ok=True)
