"""The tables of a steered run folder, each made from the one before: metrics and spectra, then the summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from physteer.analyses.steering.bare_rollouts import measure_rollouts
from physteer.analyses.steering.initial_condition_rows import write_single_values
from physteer.analyses.steering.initial_conditions import single_values
from physteer.analyses.steering.metric_array import metric_array
from physteer.analyses.steering.spectrum_rows import merge_spectra, read_spectra
from physteer.analyses.steering.summary import summarise_array
from physteer.analyses.steering.summary_rows import write_summary
from physteer.analyses.steering.table import merge_parts, metrics_file, read_metrics


def merge_tables(run_folder: Path | str, windows: Sequence[str]) -> None:
    """Put the parts that `RolloutRows.write_parts` wrote for some windows together, and summarise them."""
    merge_parts(run_folder, windows)
    merge_spectra(Path(run_folder), windows)
    summarise_run(run_folder)


def complete_tables(run_folder: Path | str, *, anew: bool = False) -> None:
    """Make the tables that a run folder lacks from the rollouts in it, and summarise them.

    A run with `Diagnostics` has its tables already. Without rollouts and tables nothing is done.

    Args:
        run_folder: of a run of ``predict``.
        anew: measure the rollouts although there are tables: these may be of fewer rollouts.

    Raises:
        PhysteerError: a rollout or table is broken, or the folder cannot be written to.
    """
    run_folder = Path(run_folder)
    has_metrics = metrics_file(run_folder).exists() and not anew
    if not has_metrics or not read_spectra(run_folder):
        measure_rollouts(run_folder, only_spectra=has_metrics)
    summarise_run(run_folder)


def summarise_run(run_folder: Path | str) -> None:
    """Write ``tables/summary`` and ``tables/initial_conditions`` from the table of metrics.

    Nothing is written without one, or where it has no unsteered rollouts.
    """
    table = read_metrics(run_folder)
    if table is not None and (table["role"] == "unsteered").any():
        array = metric_array(table)
        write_single_values(Path(run_folder), single_values(array))
        write_summary(Path(run_folder), summarise_array(array))
