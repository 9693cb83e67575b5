"""What a callback can hear of a rollout, and how it adds conditions to one."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L

from physteer.data.batch import Batch
from physteer.interventions import Condition
from physteer.module import Rollout, WalrusModule


class RolloutCallback(L.Callback):
    """A callback that listens to the rollouts of ``predict``.

    The module rolls out a batch's windows under one group of conditions after the other. For each group it calls
    ``on_rollout_start``, ``on_rollout_step`` after every forward, and ``on_rollout_end``. The trainer is inside
    ``predict_step`` then: a process must not wait for others.
    """

    def on_rollout_start(
        self, trainer: L.Trainer, pl_module: WalrusModule, batch: Batch, conditions: Sequence[Condition]
    ) -> None:
        """A group of conditions is about to be rolled out; activations then have rows conditions × B."""

    def on_rollout_step(self, trainer: L.Trainer, pl_module: WalrusModule, step: int, n_steps: int) -> None:
        """A frame was predicted; ``step`` counts from 1."""

    def on_rollout_end(self, trainer: L.Trainer, pl_module: WalrusModule, rollout: Rollout) -> None:
        """A group of conditions was rolled out for one batch."""


class ConditionCallback(L.Callback):
    """A callback that adds conditions to those that ``predict`` rolls out, and takes them off again."""

    def __init__(self) -> None:
        self._added: list[Condition] = []

    def add(self, pl_module: WalrusModule, conditions: Sequence[Condition]) -> None:
        """Add conditions after those that callbacks listed before have added."""
        self._added += conditions
        pl_module.conditions = [*pl_module.conditions, *conditions]

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the conditions off again."""
        self._remove(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Take the conditions off again."""
        self._remove(pl_module)

    def _remove(self, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, WalrusModule):
            mine = {id(condition) for condition in self._added}
            pl_module.conditions = [c for c in pl_module.conditions if id(c) not in mine]
        self._added = []
