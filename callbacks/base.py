"""What a callback can hear of a rollout."""

from __future__ import annotations

import lightning as L

from physteer.module import Rollout, WalrusModule


class RolloutCallback(L.Callback):
    """A callback that listens to the rollouts of ``predict``.

    The module calls ``on_rollout_step`` after every forward and ``on_rollout_end`` once per group of conditions, while
    the trainer is inside ``predict_step``: a process must not wait for others there.
    """

    def on_rollout_step(self, trainer: L.Trainer, pl_module: WalrusModule, step: int, n_steps: int) -> None:
        """A frame was predicted; ``step`` counts from 1."""

    def on_rollout_end(self, trainer: L.Trainer, pl_module: WalrusModule, rollout: Rollout) -> None:
        """A group of conditions was rolled out for one batch."""
