"""Tables of rollouts that were written but not measured: the rows that `Diagnostics` would have made of them."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from physteer.analyses.steering.comparison import Comparison
from physteer.analyses.steering.rollout_rows import RolloutRows
from physteer.analyses.steering.spectrum_rows import SpectrumRow, mean_spectra, write_spectra
from physteer.analyses.steering.table import TRUTH, UNSTEERED, ConditionKey, write_metrics_of
from physteer.data.batch import Sample, Window, collate
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.data.matching import initial_conditions


def measure_rollouts(run_folder: Path, *, only_spectra: bool = False) -> None:
    """Write ``tables/metrics`` and ``tables/spectra`` from ``rollouts/<condition>/data/<split>``.

    Rollouts are compared with the unsteered one of their window, and with the stored truth where the run kept it;
    windows without an unsteered rollout are left out. Other parameters are not known here: there is no alignment.

    Args:
        run_folder: nothing is done where it has no unsteered rollouts.
        only_spectra: leave the table of metrics as it is.

    Raises:
        PhysteerError: a rollout is broken, or the folder cannot be written to.
    """
    spectra: list[SpectrumRow] = []
    splits = sorted({path.name for path in run_folder.glob("rollouts/*/data/*") if any(path.glob("*.hdf5"))})

    def measured() -> Iterator[pd.DataFrame]:
        for split in splits:
            for rows in _split_rows(run_folder, split):
                spectra[:] = mean_spectra([*spectra, *rows.spectra()])
                for table in rows.tables().values():
                    yield table if len(splits) == 1 else table.assign(window=f"{split}/" + table["window"])

    tables = measured()
    first = next(tables, None)
    if first is None:
        return
    every = itertools.chain([first], tables)
    if only_spectra:
        deque(every, maxlen=0)  # the spectra are gathered on the way
    else:
        write_metrics_of(run_folder, every)
    if spectra:
        write_spectra(run_folder, spectra)


def _split_rows(run_folder: Path, split: str) -> Iterator[RolloutRows]:
    """Yield the rows of every window of a split."""
    with contextlib.ExitStack() as stack:
        conditions: dict[str, tuple[ConditionKey, _Rollouts]] = {}
        for folder in sorted(run_folder.glob(f"rollouts/*/data/{split}")):
            if any(folder.glob("*.hdf5")):
                rollouts = _Rollouts(folder)
                stack.enter_context(rollouts)
                key = rollouts.key()
                conditions[key.condition] = key, rollouts
        if UNSTEERED not in conditions:
            return
        unsteered = conditions.pop(UNSTEERED)[1]
        truth = conditions.pop(TRUTH)[1] if TRUTH in conditions else None
        matched = initial_conditions(unsteered)
        for name in tqdm(unsteered.files, f"measuring rollouts of {split}", unit="window", disable=None):
            present = {key: rollouts for key, rollouts in conditions.values() if name in rollouts.files}
            has_truth = truth is not None and name in truth.files
            every = [unsteered, *present.values(), *([truth] if truth is not None and has_truth else [])]
            n_frames = min(rollouts.n_frames(name) for rollouts in every)
            given = truth if truth is not None and has_truth else unsteered
            batch = collate([given.sample(name, n_frames)], n_input=unsteered.spec.n_input, metadata=unsteered.metadata)
            base = unsteered.frames(name, n_frames)
            comparison = Comparison(batch, base, batch.targets if has_truth else None)
            rows = RolloutRows(comparison, [matched.name(Window(name, 0, 0))])
            rows.add(ConditionKey("unsteered", condition=UNSTEERED), base)
            for key, rollouts in present.items():
                rows.add(key, rollouts.frames(name, n_frames))
            yield rows


class _Rollouts(WindowDataset):
    """The rollouts of one condition, a file each; frames after a blow-up are read as they are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), WindowSpec(n_input=1, n_output=0, every=None))
        self.spec = WindowSpec(n_input=int(self._told("n_context")), n_output=0, every=None)

    def key(self) -> ConditionKey:
        """Return who the rollouts are."""
        condition, strength = self._told("condition"), float(self._told("strength"))
        role = self._told("role") or ("concept" if strength else "unsteered")
        direction, site, mode = (self._told(name) for name in ("direction", "site", "mode"))
        return ConditionKey(role, direction, site, mode, strength, condition)

    def n_frames(self, name: str) -> int:
        """Return how many frames a file holds, those of the context included."""
        return int(self.well.n_steps_per_trajectory[self._number(Window(name, 0, 0))])

    def sample(self, name: str, n_frames: int) -> Sample:
        """Read a file as a window of the data that it was rolled out from."""
        words = (self.attribute(name, f"source_{part}") or "" for part in ("trajectory", "start", "stride"))
        window = Window(self.attribute(name, "source_file") or name, *map(int, words))
        return replace(self.read(Window(name, 0, 0), n_frames), window=window)

    def frames(self, name: str, n_frames: int) -> Tensor:
        """Read the predicted frames of a file, [1, T, C, H, W, D]."""
        return self.read(Window(name, 0, 0), n_frames).fields[None, self.spec.n_input :]

    def _told(self, attribute: str) -> str:
        """Return a root attribute of the first file; those of a condition are alike in all."""
        return self.attribute(self.files[0], attribute) or ""

    def _check_finite(self, fields: NDArray[np.float32], window: Window, frames: slice) -> None:
        """Accept all values: a rollout that blew up is measured until then."""
