"""Everything that is made from a finished run folder and its tables."""

from __future__ import annotations

from pathlib import Path

from physteer.analyses.steering.initial_condition_rows import read_single_values
from physteer.analyses.steering.summary_rows import read_summary
from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.reports.basis_report import basis_text, report_basis
from physteer.reports.circuit_report import circuit_text, report_circuit
from physteer.reports.concept_maps import draw_concept
from physteer.reports.das_report import SPLITS, report_search, search_text
from physteer.reports.effect_report import effects_text, report_effects
from physteer.reports.page import concept_files, write_page
from physteer.reports.probe_report import probes_text, report_probes
from physteer.reports.steering_report import report_steering
from physteer.reports.summary_text import summary_text


def report(run_folder: Path | str, n_windows: int = 4) -> Path:
    """Make ``figures/``, ``tables/summary.txt`` and ``report.html`` from the tables, rollouts and maps of a run.

    Args:
        run_folder: with rollouts, tables, concepts, videos, or only a configuration; what is missing is left out.
        n_windows: windows whose fields are drawn, spread over the files they are from.

    Returns:
        The path of ``report.html``.

    Raises:
        PhysteerError: there is no such folder, something in it is broken, or it cannot be written to.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise PhysteerError(f"no run folder {run_folder}")
    figures = run_folder / "figures"
    for path in list(figures.glob("concept_*.png")):
        path.unlink()
    for path in concept_files(run_folder):
        draw_concept(Concept.load(path), path.stem, figures / f"concept_{path.stem}.png")
    report_steering(run_folder, n_windows)
    for split in SPLITS:
        report_search(run_folder, split)
        report_effects(run_folder, split)
        report_circuit(run_folder, split)
    report_probes(run_folder)
    report_basis(run_folder)
    if text := summary_of(run_folder):
        with atomic_write(run_folder / "tables" / "summary.txt") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return write_page(run_folder)


def summary_of(run_folder: Path | str) -> str:
    """Return what a terminal shows of a run's tables; empty where there are none."""
    run_folder = Path(run_folder)
    by_split = [
        next(filter(None, (text_of(run_folder, split) for split in SPLITS)), "")
        for text_of in (search_text, effects_text, circuit_text)
    ]
    steered = summary_text(read_summary(run_folder), read_single_values(run_folder))
    texts = [steered, *by_split, basis_text(run_folder), probes_text(run_folder)]
    return "\n".join(text for text in texts if text)
