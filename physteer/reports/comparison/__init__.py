"""Several runs side by side: their tables aligned row by row, what differs between them, a text, figures and a page."""

from physteer.reports.comparison.page import Written, compare

__all__ = ["Written", "compare"]
