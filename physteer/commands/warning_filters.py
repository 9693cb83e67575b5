"""Filters of warnings: irrelevant messages of Lightning are hidden, others take one line."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

_IRRELEVANT = (
    r".*LightningCLI's args parameter",  # `main(args)` is how tests and `physteer demo` call us
    r"predict returned None",  # callbacks write what predict makes
    r".*isinstance\(treespec, LeafSpec\)",  # between Lightning and torch
    r".*does not have many workers",  # 0 workers is right for small data, and the user's choice for large
    r".*smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",  # a run folder is used again on purpose
    r"Experiment logs directory .* exists and is not empty",
    r"You're resuming from a checkpoint that ended before the epoch ended",  # `TrainingOrder` goes on where it was
    r"The dirpath has changed",  # a run goes on in another folder
    r".*configure_optimizers` returned `None`",  # fits in closed form have no optimiser
    r"Found \d+ module\(s\) in eval mode",  # a frozen network is; Walrus has no layer that would notice
    r"The `srun` command is available",  # a cluster's login node, or a run on one node that needs none
    r"Be aware that when using `ckpt_path`, callbacks used to create",
)


@contextmanager
def filtered_warnings() -> Iterator[None]:
    """Hide irrelevant messages of Lightning, and print warnings on one line."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if not getattr(rank_zero_only, "rank", 0):
            print(f"physteer: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        for message in _IRRELEVANT:
            warnings.filterwarnings("ignore", message=message)
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category)
        warnings.showwarning = show
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
