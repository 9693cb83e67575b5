"""Tables of rollouts that were written but not measured: the rows that `Diagnostics` would have made of them."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from physteer.analyses.steering.comparison import Comparison, left_out
from physteer.analyses.steering.rollout_rows import RolloutRows
from physteer.analyses.steering.spectrum_rows import SpectrumRow, mean_spectra, write_spectra
from physteer.analyses.steering.table import TRUTH, UNSTEERED, write_metrics_of
from physteer.analyses.steering.written_rollouts import WrittenRollouts
from physteer.data.batch import Window, collate
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
    folders = [path for path in sorted(run_folder.glob("rollouts/*/data/*")) if path.name == split]
    folders = [path for path in folders if any(path.glob("*.hdf5"))]
    conditions = {rollouts.key.condition: rollouts for rollouts in map(WrittenRollouts, folders)}
    if UNSTEERED not in conditions:
        return
    unsteered, truth = conditions.pop(UNSTEERED), conditions.pop(TRUTH, None)
    if sentence := left_out(unsteered.metadata):
        warnings.warn(sentence, stacklevel=2)
    with unsteered:
        matched = initial_conditions(unsteered)
    for name in tqdm(unsteered.files, f"measuring rollouts of {split}", unit="window", disable=None):
        others = [rollouts for rollouts in conditions.values() if name in rollouts.files]
        own_truth = truth if truth is not None and name in truth.files else None
        n_frames = min(r.n_frames(name) for r in (unsteered, *others, *([own_truth] if own_truth else [])))
        sample = (own_truth or unsteered).sample(name, n_frames)
        batch = collate([sample], n_input=unsteered.n_context, metadata=unsteered.metadata)
        predicted = unsteered.predicted(name, n_frames)
        comparison = Comparison(batch, predicted, batch.targets if own_truth else None)
        rows = RolloutRows(comparison, [matched.name(Window(name, 0, 0))])
        rows.add(unsteered.key, predicted)
        for rollouts in others:
            rows.add(rollouts.key, rollouts.predicted(name, n_frames))
        yield rows
