"""Run folders: names that several parts of physteer share, and the lock that keeps a second run out."""

from physteer.run_folder.lock import LOCK, leave, locked
from physteer.run_folder.names import EXPERIMENT, WRITTEN, Experiment, remove_temporaries

__all__ = ["EXPERIMENT", "LOCK", "WRITTEN", "Experiment", "leave", "locked", "remove_temporaries"]
