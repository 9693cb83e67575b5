"""Samplers: the order in which windows are read, their distribution over processes, and the run's seed."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from typing import Any

from torch.utils.data import Dataset, DistributedSampler


def run_seed() -> int:
    """Return the seed of the run, set by Lightning's ``seed_everything``; 0 without one."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


class TrainingOrder(DistributedSampler[int]):
    """Every window once per epoch over all processes, in an order drawn from the seed and the epoch.

    The order depends on nothing else, so a run that resumes from a checkpoint reads the remaining windows of its epoch.

    Args:
        dataset: the windows.
        world: number of processes.
        rank: index of this process.
        skip: number of windows of this process that were already read in the first epoch.
    """

    def __init__(self, dataset: Dataset[Any], world: int, rank: int, skip: int = 0) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=True, seed=run_seed())
        self.skip = skip

    def __iter__(self) -> Iterator[int]:
        indices = list(super().__iter__())
        skip, self.skip = self.skip, 0
        return iter(indices[skip:])


class OnceInOrder(DistributedSampler[int]):
    """Every sample once over all processes, in the order of the data set; Lightning's sampler repeats some.

    The windows of a process do not depend on what is finished: an interrupted run resumes with the same batches.

    Args:
        dataset: the samples.
        world: number of processes.
        rank: index of this process.
        finished: indices that are left out.
    """

    def __init__(self, dataset: Dataset[Any], world: int, rank: int, finished: Container[int] = ()) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)
        n: int = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not promise a length
        self.indices = [index for index in range(rank, n, world) if index not in finished]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
