"""The order in which windows are read, and by which process."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator

from torch.utils.data import Dataset, DistributedSampler

from physteer.data.batch import Sample
from physteer.data.dataset import WindowDataset


class TrainingOrder(DistributedSampler[int]):
    """Every window once per epoch, shared out over the processes, in an order drawn from the seed and the epoch.

    The order depends on nothing else, so a run that goes on from a checkpoint reads what the interrupted one had left.

    Args:
        dataset: the windows.
        world: how many processes there are.
        rank: which one this is.
        skip: windows of the first epoch's share that were read already.
    """

    def __init__(self, dataset: Dataset[Sample], world: int, rank: int, skip: int = 0) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # of Lightning's seed_everything
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=True, seed=seed)
        self.skip = skip

    def __iter__(self) -> Iterator[int]:
        order = list(super().__iter__())
        skip, self.skip = self.skip, 0
        return iter(order[skip:])


class OnceInOrder(DistributedSampler[int]):
    """Every window once over all processes, in the order of the data set; Lightning's sampler repeats some.

    A process's share does not depend on what is finished, so that an interrupted run goes on with the same batches.

    Args:
        dataset: the windows.
        world: how many processes there are.
        rank: which one this is.
        finished: names of windows that are left out.
    """

    def __init__(self, dataset: WindowDataset, world: int, rank: int, finished: Container[str] = ()) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)
        share = range(rank, len(dataset), world)
        self.indices = [index for index in share if str(dataset.windows[index]) not in finished]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
