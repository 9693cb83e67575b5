"""The Lightning data module over The Well."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeVar, get_args

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from physteer.data.batch import collate
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.data.finite import Filled, NonFinite, refused
from physteer.data.samplers import OnceInOrder, TrainingOrder
from physteer.data.well_index import EmptySplitError
from physteer.errors import PhysteerError

Split = Literal["train", "valid", "test"]
T = TypeVar("T")


class WellDataModule(L.LightningDataModule):
    """Windows of a data set in The Well's format, for every stage of the trainer.

    ``fit`` trains on all windows of ``train`` with one frame to predict. ``validate`` (and the validation in ``fit``)
    and ``test`` read two sets: windows with one frame to predict, and windows with ``rollout_steps`` frames to predict.
    ``predict`` reads windows of ``predict_split`` with ``rollout_steps`` frames to predict. Over several processes,
    every window of validation, test and predict is read exactly once.

    Args:
        path: folder with ``data/<split>/*.hdf5`` (a data set of The Well), local or any fsspec address such as
            ``hf://datasets/polymathic-ai/shear_flow``; or a folder that holds the HDF5 files themselves, together with
            ``split_fractions``.
        n_steps_input: frames of context; 6 for the published 2D models, 3 for 3D data.
        rollout_steps: frames to predict in rollouts.
        batch_size: windows per batch and process.
        time_strides: stored frames from one frame of a window to the next; several strides give windows of each.
        rollout_every: frames between the starts of rollouts; null for one rollout per trajectory.
        first_start: first frame of the earliest rollout.
        one_step_every: frames between the starts of the one-step windows of ``validate`` and ``test``.
        include: use only files whose name contains one of these.
        exclude: leave out files whose name contains one of these.
        trajectories: indices of the trajectories that rollouts use in every file; null for all.
        fields: stored name → the network's name, where they differ.
        predict_split: the split that ``predict`` reads.
        split_fractions: for a folder without splits: the share of each, by trajectory index, equal in every file.
        fill: a finite value for cells that are not finite in all frames, such as those inside an obstacle; null refuses
            them. What was filled is told, and counts like all other cells in scores and diagnostics.
        num_workers: worker processes per data loader.
        storage_options: passed to fsspec.
    """

    def __init__(
        self,
        path: str,
        n_steps_input: int = 6,
        rollout_steps: int = 20,
        batch_size: int = 4,
        time_strides: list[int] = [1],  # noqa: B006  jsonargparse shows it; never changed
        rollout_every: int | None = None,
        first_start: int = 0,
        one_step_every: int = 1,
        include: list[str] = [],  # noqa: B006
        exclude: list[str] = [],  # noqa: B006
        trajectories: list[int] | None = None,
        fields: dict[str, str] | None = None,
        predict_split: Split = "test",
        split_fractions: dict[str, float] | None = None,
        fill: float | None = None,
        num_workers: int = 0,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("n_steps_input", n_steps_input, 1),
            ("rollout_steps", rollout_steps, 1),
            ("batch_size", batch_size, 1),
            ("time_strides", min(time_strides, default=0), 1),
            ("rollout_every", rollout_every, 1),
            ("first_start", first_start, 0),
            ("one_step_every", one_step_every, 1),
            ("num_workers", num_workers, 0),
        ):
            if value is not None and value < least:
                raise PhysteerError(f"data.{name} must be at least {least}, found {value}")
        if split_fractions is not None:
            _check_shares(split_fractions)
        self.path = path.rstrip("/")
        self.n_steps_input, self.rollout_steps, self.batch_size = n_steps_input, rollout_steps, batch_size
        self.time_strides = tuple(dict.fromkeys(time_strides))
        self.rollout_every, self.first_start = rollout_every, first_start
        self.one_step_every = one_step_every
        self.include, self.exclude, self.fields = include, exclude, fields
        self.trajectories = trajectories
        self.predict_split, self.split_fractions = predict_split, split_fractions
        self.non_finite: NonFinite = refused if fill is None else Filled(fill)
        self.num_workers, self.storage_options = num_workers, storage_options
        self.finished: Collection[str] = frozenset()
        """Names of windows that ``predict`` leaves out because an interrupted run has finished them."""
        self._open: dict[str, WindowDataset] = {}  # by folder
        self._read = 0

    def train_dataloader(self) -> DataLoader[Any]:
        """Every window of ``train``, shuffled, one frame to predict."""
        dataset = self.dataset("train", self._one_step(1))
        world, rank = self._place()
        return self._loader(dataset, TrainingOrder(dataset, world, rank, self._read * self.batch_size))

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """``valid``: windows with one frame to predict, and rollouts."""
        return self._evaluation("valid")

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """``test``: windows with one frame to predict, and rollouts."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Rollouts of ``predict_split`` that are not finished."""
        return self._once(self.predict_dataset(), self.finished)

    def predict_dataset(self) -> WindowDataset:
        """Open all windows of ``predict``, finished or not."""
        return self.dataset(self.predict_split, self._selected(self.rollout_steps, self.rollout_every))

    def dataset(self, split: Split, spec: WindowSpec) -> WindowDataset:
        """Open the windows of a split; closed with the data module's ``teardown``."""
        folder = f"{self.path}/data/{split}"
        if self.split_fractions is not None:
            folder, spec = self.path, dataclasses.replace(spec, share=self._share(split))
        if folder in self._open:  # all kinds of windows of a split share one index and the open files
            return self._open[folder].with_spec(spec)
        self._open[folder] = WindowDataset(
            folder,
            spec,
            include=self.include,
            exclude=self.exclude,
            fields=self.fields,
            storage_options=self.storage_options,
            non_finite=self.non_finite,
        )
        return self._open[folder]

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches of the epoch that were read, for a checkpoint."""
        if self.trainer is None:
            return {"batches_read": 0}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return {"batches_read": 0 if progress.is_last_batch else progress.current.ready}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next training continue after the batches that were read."""
        self._read = state_dict["batches_read"]

    def teardown(self, stage: str) -> None:
        """Close every HDF5 file."""
        for dataset in self._open.values():
            dataset.close()
        self._open.clear()

    def on_exception(self, exception: BaseException) -> None:
        """Close every HDF5 file."""
        self.teardown("")

    def _one_step(self, every: int) -> WindowSpec:
        return WindowSpec(self.n_steps_input, 1, strides=self.time_strides, every=every)

    def _selected(self, n_output: int, every: int | None) -> WindowSpec:
        """Return windows of the selected trajectories and first frame, with a number of frames after the context."""
        return WindowSpec(
            self.n_steps_input,
            n_output,
            strides=self.time_strides,
            first=self.first_start,
            every=every,
            trajectories=None if self.trajectories is None else tuple(self.trajectories),
        )

    def _share(self, split: Split) -> tuple[float, float]:
        """Return the part of the trajectories that ``split_fractions`` gives to a split."""
        fractions = self.split_fractions or {}
        if split not in fractions:
            raise EmptySplitError(f"data.split_fractions gives {split!r} no share; found {fractions}")
        names = [
            name for name in get_args(Split) if name in fractions
        ]  # in this order, whatever the order of the setting
        before = [fractions[name] for name in names[: names.index(split)]]
        return sum(before), sum([*before, fractions[split]])

    def _evaluation(self, split: Split) -> list[DataLoader[Any]]:
        specs = [self._one_step(self.one_step_every), self._selected(self.rollout_steps, self.rollout_every)]
        return [self._once(self.dataset(split, spec)) for spec in specs]

    def _loader(self, dataset: WindowDataset, sampler: Sampler[int] | None) -> DataLoader[Any]:
        stack = functools.partial(collate, n_input=dataset.spec.n_input, metadata=dataset.metadata)
        return self._load(dataset, sampler, stack)

    def _load(
        self,
        dataset: Dataset[T],
        sampler: Sampler[int] | None,
        stack: Callable[[list[T]], Any],
        num_workers: int | None = None,
    ) -> DataLoader[Any]:
        return _Loader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers if num_workers is None else num_workers,
            collate_fn=stack,
            pin_memory=torch.cuda.is_available() and num_workers != 0,
        )

    def _once(self, dataset: WindowDataset, finished: Collection[str] = ()) -> DataLoader[Any]:
        """Distribute the windows over processes so that none is read twice."""
        world, rank = self._place()
        if world == 1 and not finished:
            return self._loader(dataset, None)
        left_out = {index for index, window in enumerate(dataset.windows) if str(window) in finished}
        return self._loader(dataset, OnceInOrder(dataset, world, rank, left_out))

    def _place(self) -> tuple[int, int]:
        """Return the number of processes, and the index of this one."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)


class _Loader(DataLoader[Any]):
    """A loader that reports user errors of its workers in one line, as without workers.

    Its length is at least 1. Lightning skips a loop without batches, with all its hooks; the other processes would then
    wait for this one at the end of their loops.
    """

    def __len__(self) -> int:
        return max(1, super().__len__())

    def __iter__(self) -> Any:
        """Yield batches.

        Raises:
            PhysteerError: A window cannot be read.
        """
        message = ""
        try:
            yield from super().__iter__()
        except PhysteerError as error:  # torch puts the worker's traceback in front of the message
            message = str(error).splitlines()[-1].removeprefix(f"{_qualified(PhysteerError)}: ")
            error.__traceback__ = None  # its frames would keep the workers alive
        if message:
            raise PhysteerError(message)


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _check_shares(fractions: Mapping[str, float]) -> None:
    splits = get_args(Split)
    unknown = [name for name in fractions if name not in splits]
    if unknown or not fractions or min(fractions.values()) < 0 or not 0 < sum(fractions.values()) <= 1 + 1e-9:
        raise PhysteerError(
            f"data.split_fractions must give {', '.join(splits)} shares in [0, 1] that sum to at most 1; "
            f"found {dict(fractions)}"
        )
