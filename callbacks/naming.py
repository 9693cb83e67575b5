"""What conditions are called in the files and tables of a run."""

from __future__ import annotations

from physteer.analyses.steering.table import TRUTH as _TRUTH
from physteer.interventions import Condition

TRUTH = Condition(_TRUTH)
"""The stored frames, written and measured beside the model's rollouts."""


def site_text(condition: Condition) -> str:
    """Return where a condition edits the model; empty where it does not."""
    return ", ".join(str(edit.site) for edit in condition.edits)
