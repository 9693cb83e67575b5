"""Names in a run folder that several parts of physteer share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXPERIMENT = "experiment.json"
"""Holds an `Experiment`, written when ``predict`` starts and compared at the next start in the same folder."""
Experiment = Mapping[str, Any]
"""What decides the results of ``predict``, as JSON: settings by their names in YAML, digests of what they name."""
