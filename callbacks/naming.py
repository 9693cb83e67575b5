"""What conditions are called in the files and tables of a run."""

from __future__ import annotations

import re

from physteer.interventions import Condition
from physteer.reports.rollouts import TRUTH as _TRUTH

TRUTH = Condition(_TRUTH)
"""The stored frames, written and measured beside the model's rollouts."""


def site_text(condition: Condition) -> str:
    """Return where a condition edits the model; empty where it does not."""
    return ", ".join(str(edit.site) for edit in condition.edits)


def slug(name: str) -> str:
    """Return a condition's name as a folder's name."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")
