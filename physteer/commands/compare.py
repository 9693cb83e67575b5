"""``physteer compare``: several run folders side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from physteer.commands.parser import Parser


def main(args: list[str]) -> int:
    """Run ``physteer compare RUN RUN …``, print the comparison and the page's path; return the exit status.

    Raises:
        PhysteerError: A wrong argument, a folder without tables, runs without a common table, or an ``--out`` that lies
            in a run folder.
    """
    parser = Parser(
        "physteer compare",
        description="Put the tables and figures of several runs side by side: methods, models, sites. Rows are aligned "
        "by what they are of; nothing is simulated, predicted or computed again, and run folders stay as they are.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders with tables, two or more")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/compare"), help="folder for compare.html, figures and tables"
    )
    options = parser.parse_args(args)

    from physteer.reports.comparison import compare  # imports torch and matplotlib, not needed for --help

    written = compare(options.runs, options.out)
    print(written.text)
    print(written.page)
    return 0
