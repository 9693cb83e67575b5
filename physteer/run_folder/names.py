"""Names in a run folder that several parts of physteer share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physteer.files import is_temporary

EXPERIMENT = "experiment.json"
"""Holds an `Experiment`, written when ``predict`` starts and compared at the next start in the same folder."""
Experiment = Mapping[str, Any]
"""What decides the results of ``predict``, as JSON: settings by their names in YAML, digests of what they name."""
WRITTEN = (
    *("basis", "checkpoints", "concepts", "erasers", "figures", "journal", "lora", "maps", "natural", "probes"),
    *("rollouts", "rotations", "tables", "unfinished", "videos"),
)
"""Folders in a run folder that its commands write to."""


def remove_temporaries(folder: Path, names: tuple[str, ...]) -> None:
    """Remove the half-written files of a process that was killed; only for the holder of the folder's lock.

    Args:
        folder: searched itself, without its folders.
        names: of folders in it that are searched with all their folders.
    """
    for place in (folder.glob(".*.tmp"), *((folder / name).rglob(".*.tmp") for name in names)):
        for path in place:
            if is_temporary(path):
                path.unlink(missing_ok=True)
