"""Reading run folders: tables, figures and the HTML report."""

from physteer.reports.build import report
from physteer.reports.html import write_report
from physteer.reports.rollouts import WindowRollouts, WrittenRollout, read_rollouts

__all__ = ["WindowRollouts", "WrittenRollout", "read_rollouts", "report", "write_report"]
