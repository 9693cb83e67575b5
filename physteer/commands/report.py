"""``physteer report``: tables, figures and ``report.html`` from a run folder."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from physteer.commands.parser import Parser, whole


def main(args: list[str]) -> int:
    """Run ``physteer report RUN`` and print the report's path; return the exit status.

    Raises:
        PhysteerError: A wrong argument, no such folder, a broken file in it, or a run that still writes to it: the
            report would be of half of that run.
    """
    parser = Parser(
        "physteer report",
        description="Make tables, figures and report.html from a run folder. Nothing is simulated or predicted again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--windows", type=whole, default=4, metavar="N", help="windows whose fields are drawn")
    parser.add_argument("--videos", type=whole, metavar="N", help="make videos of N windows first")
    options = parser.parse_args(args)

    # torch and matplotlib are not needed for --help
    from physteer.analyses.steering.run_tables import complete_tables
    from physteer.reports import report, summary_of, write_videos
    from physteer.run_folder import locked

    with locked(options.run, "report") if options.run.is_dir() else nullcontext():
        complete_tables(options.run)
        if options.videos is not None:
            write_videos(options.run, options.videos)
        path = report(options.run, options.windows)
    if summary := summary_of(options.run):
        print(summary)
    print(path)
    return 0
