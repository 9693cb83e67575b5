"""What a callback needs of a run, what it can hear of a rollout, and how it adds conditions to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from physteer.data.batch import Batch
from physteer.data.module import WellDataModule
from physteer.data.pair_module import CounterfactualDataModule
from physteer.data.transfer_module import TransferDataModule
from physteer.errors import PhysteerError
from physteer.forecast import Rollout
from physteer.forecast.evaluation import Evaluation
from physteer.forecast.module import ForecastModule
from physteer.interventions import Condition

DataModule = TypeVar("DataModule", bound=L.LightningDataModule)
Scores = TypeVar("Scores", bound=Evaluation)

_YIELDS = {CounterfactualDataModule: "pairs", TransferDataModule: "every window once", WellDataModule: "windows"}


def forecast_module(pl_module: L.LightningModule, needed_by: str) -> ForecastModule:
    """Return the module that a callback acts on.

    Raises:
        PhysteerError: it has no forecaster; names the callback and the class.
    """
    if not isinstance(pl_module, ForecastModule):
        raise PhysteerError(
            f"{needed_by} needs a forecaster: a physteer.WalrusModule, or a physteer.ForecastModule around one of your "
            f"own; the model is a {type(pl_module).__name__}"
        )
    return pl_module


def data_module(trainer: L.Trainer, kind: type[DataModule], needed_by: str) -> DataModule:
    """Return the data module that a callback reads.

    Raises:
        PhysteerError: it is of another class; names the callback and both classes.
    """
    return as_data_module(getattr(trainer, "datamodule", None), kind, needed_by)


def as_data_module(data: object, kind: type[DataModule], needed_by: str) -> DataModule:
    """Return data as a data module of a class; see `data_module`."""
    if not isinstance(data, kind):
        found = "there is none" if data is None else f"the data are a {type(data).__name__}"
        raise PhysteerError(
            f"{needed_by} needs {_YIELDS.get(kind, 'other data')}: set data.class_path to physteer.{kind.__name__}; "
            f"{found}"
        )
    return data


def check_command(needed_by: str, stage: str, command: str) -> None:
    """Refuse a command in which a callback would do nothing.

    Args:
        needed_by: the callback.
        stage: what Lightning calls the command in ``setup``.
        command: the one in which the callback acts.

    Raises:
        PhysteerError: it is another one.
    """
    found = TrainerFn(stage).value
    if found != command:
        raise PhysteerError(
            f"{needed_by} acts in `physteer {command}` alone; in `physteer {found}` it would do nothing"
        )


def check_predict(needed_by: str, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
    """Refuse a run that is not ``predict`` of a forecaster on windows.

    Raises:
        PhysteerError: says which of command, model and data it is.
    """
    check_command(needed_by, stage, "predict")
    forecast_module(pl_module, needed_by)
    data_module(trainer, WellDataModule, needed_by)


def check_alone(trainer: L.Trainer, callback: L.Callback) -> None:
    """Refuse a second callback that brings its own scores: the module has room for those of one.

    Raises:
        PhysteerError: names both.
    """
    for other in trainer.callbacks:  # type: ignore[attr-defined]
        if other is not callback and getattr(other, "brings_scores", False):
            raise PhysteerError(
                f"{type(callback).__name__} and {type(other).__name__} each bring scores of their own to a run: list "
                "one of them, and run the other in a run folder of its own"
            )


def scores_of(pl_module: L.LightningModule, kind: type[Scores], needed_by: str) -> Scores:
    """Return the scores that a callback has put on the module.

    Raises:
        PhysteerError: something else has taken their place since.
    """
    evaluation = forecast_module(pl_module, needed_by).evaluation
    if not isinstance(evaluation, kind):
        raise PhysteerError(f"{needed_by}: its scores were replaced by a {type(evaluation).__name__} during the run")
    return evaluation


class RolloutCallback(L.Callback):
    """A callback that listens to the rollouts of ``predict``.

    The module rolls out a batch's windows under one group of conditions after the other. For each group it calls
    ``on_rollout_start``, ``on_rollout_step`` after every forward, and ``on_rollout_end``. The trainer is inside
    ``predict_step`` then: a process must not wait for others.
    """

    needs_rollouts = True
    """Whether ``predict`` has to roll out for this callback; without any, activations are read and no more."""

    def on_rollout_start(
        self, trainer: L.Trainer, pl_module: ForecastModule, batch: Batch, conditions: Sequence[Condition]
    ) -> None:
        """A group of conditions is about to be rolled out; activations then have rows conditions × B."""

    def on_rollout_step(self, trainer: L.Trainer, pl_module: ForecastModule, step: int, n_steps: int) -> None:
        """A frame was predicted; ``step`` counts from 1."""

    def on_rollout_end(self, trainer: L.Trainer, pl_module: ForecastModule, rollout: Rollout) -> None:
        """A group of conditions was rolled out for one batch."""

    def keep(self, trainer: L.Trainer) -> Mapping[str, Tensor]:
        """Let what was seen so far outlast this process: in files of the run folder, or as tensors that are returned.

        The journal calls this on every process after a batch has ended. It then writes the tensors and the windows of
        all batches that ended, in one file, whole or not at all: those windows are finished and are not rolled out
        again. Files are different: a process may be killed after they are written and before the windows are marked, so
        writing the same windows again must replace what was there.

        Returns:
            Small running sums of this process since it started, by name; without what `restore` brought.
        """
        return {}

    def restore(self, trainer: L.Trainer, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Take what `keep` returned on every process of earlier starts of this run; only the first process gets it.

        Called after every callback's ``on_predict_start``, when a run is resumed. The parts hold different windows.
        """


class ConditionCallback(L.Callback):
    """A callback that adds conditions to those that ``predict`` rolls out, and takes them off again."""

    needs_rollouts = True
    """See `RolloutCallback`."""

    def __init__(self) -> None:
        self._added: list[Condition] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what has no rollouts."""
        check_predict(type(self).__name__, trainer, pl_module, stage)

    def add(self, pl_module: ForecastModule, conditions: Sequence[Condition]) -> None:
        """Add conditions after those that callbacks listed before have added.

        Raises:
            PhysteerError: two conditions of the run would have one name.
        """
        taken = {condition.name for condition in pl_module.conditions}
        for condition in conditions:
            if condition.name in taken:
                raise PhysteerError(
                    f"{self._owners(pl_module, condition.name)} a condition called {condition.name!r}: give the "
                    "concepts' files different names, or different modes, strengths, sites or steps"
                )
            taken.add(condition.name)
        self._added += conditions
        pl_module.conditions = [*pl_module.conditions, *conditions]

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the conditions off again."""
        self._remove(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Take the conditions off again."""
        self._remove(pl_module)

    def _remove(self, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, ForecastModule):
            mine = {id(condition) for condition in self._added}
            pl_module.conditions = [c for c in pl_module.conditions if id(c) not in mine]
        self._added = []

    def _owners(self, pl_module: ForecastModule, name: str) -> str:
        """Name the callbacks that add a condition twice, by their place in the configuration."""
        places = []
        for place, callback in enumerate(pl_module.trainer.callbacks):  # type: ignore[attr-defined]
            added = isinstance(callback, ConditionCallback) and name in {one.name for one in callback._added}
            if callback is self or added:
                places.append(f"trainer.callbacks[{place}] ({type(callback).__name__})")
        return f"{' and '.join(places)} {'both add' if len(places) > 1 else 'adds twice'}"
