"""The order in which ``fit`` reads windows."""

from __future__ import annotations

import os
from collections.abc import Iterator

from torch.utils.data import Dataset, DistributedSampler

from physteer.data.batch import Sample


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
