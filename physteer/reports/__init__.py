"""Showing what a run found: figures, videos, texts and the page, all read from its tables, rollouts and maps."""

from physteer.reports.page import write_page
from physteer.reports.rollouts import WindowRollouts, WrittenRollout, read_rollouts
from physteer.reports.run_report import report, summary_of
from physteer.reports.videos import write_videos

__all__ = ["WindowRollouts", "WrittenRollout", "read_rollouts", "report", "summary_of", "write_page", "write_videos"]
