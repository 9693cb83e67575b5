"""The figures and text of a run that extracted causal bases, from its tables."""

from __future__ import annotations

from pathlib import Path

from physteer.analyses.basis.table import read_basis_tables
from physteer.reports.basis_figures import draw_basis_comparison, draw_basis_curves
from physteer.reports.basis_text import comparison_text, curves_text


def report_basis(run_folder: Path) -> None:
    """Draw ``figures/basis_curves.png`` and ``figures/basis_comparison.png`` from the tables, if there are some.

    Raises:
        PhysteerError: a table is broken.
    """
    curves, comparison = read_basis_tables(run_folder)
    if curves:
        draw_basis_curves(curves, run_folder / "figures/basis_curves.png")
    if comparison:
        draw_basis_comparison(comparison, run_folder / "figures/basis_comparison.png")


def basis_text(run_folder: Path) -> str:
    """Return what a terminal shows of a run's causal bases; empty where there are none."""
    curves, comparison = read_basis_tables(run_folder)
    texts = [curves_text(curves) if curves else "", comparison_text(comparison) if comparison else ""]
    return "\n".join(text for text in texts if text)
