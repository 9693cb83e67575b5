"""Reading run folders: tables, figures, videos and the HTML report."""

from physteer.reports.build import report, summary_of
from physteer.reports.html import write_report
from physteer.reports.rollouts import WindowRollouts, WrittenRollout, read_rollouts
from physteer.reports.videos import film

__all__ = ["WindowRollouts", "WrittenRollout", "film", "read_rollouts", "report", "summary_of", "write_report"]
