"""The order in which windows are read, and by which process."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from typing import Any

from torch.utils.data import Dataset, DistributedSampler


class TrainingOrder(DistributedSampler[int]):
    """Every window once per epoch, shared out over the processes, in an order drawn from the seed and the epoch.

    The order depends on nothing else, so a run that goes on from a checkpoint reads what the interrupted one had left.

    Args:
        dataset: the windows.
        world: how many processes there are.
        rank: which one this is.
        skip: windows of the first epoch's share that were read already.
    """

    def __init__(self, dataset: Dataset[Any], world: int, rank: int, skip: int = 0) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # of Lightning's seed_everything
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=True, seed=seed)
        self.skip = skip

    def __iter__(self) -> Iterator[int]:
        order = list(super().__iter__())
        skip, self.skip = self.skip, 0
        return iter(order[skip:])


class OnceInOrder(DistributedSampler[int]):
    """Every sample once over all processes, in the order of the data set; Lightning's sampler repeats some.

    A process's share does not depend on what is finished, so that an interrupted run goes on with the same batches.

    Args:
        dataset: what is read.
        world: how many processes there are.
        rank: which one this is.
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
