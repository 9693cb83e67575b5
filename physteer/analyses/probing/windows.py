"""The windows of a split, for probes: which share an initial condition, and whose truth a control gets."""

from __future__ import annotations

from collections.abc import Sequence

from physteer.concepts import other_windows
from physteer.data.batch import Batch, Window, collate
from physteer.data.dataset import WindowDataset
from physteer.data.matching import initial_conditions
from physteer.errors import PhysteerError


class ProbeWindows:
    """The windows of one split with their initial conditions, and for each another window, for shuffled truths.

    The first frame of every trajectory is read, by every process.
    """

    def __init__(self, dataset: WindowDataset, seed: int) -> None:
        """Read initial conditions and draw the other windows.

        Args:
            dataset: the windows, those of all processes.
            seed: of the shuffle.

        Raises:
            PhysteerError: more than half of the windows share an initial condition.
        """
        self.dataset = dataset
        matched = initial_conditions(dataset)
        self._names = {window: matched.name(window) for window in dataset.windows}
        try:
            self._others = other_windows(self._names, seed)
        except PhysteerError as error:
            raise PhysteerError(f"{dataset.path}: {error}") from error

    def initial_conditions(self, windows: Sequence[Window]) -> list[str]:
        """Return the initial conditions of some windows, by name."""
        return [self._names[window] for window in windows]

    def other(self, window: Window) -> Window:
        """Return the window whose truth one gets as a control."""
        return self._others[window]

    def others(self, batch: Batch) -> Batch:
        """Return, on the batch's device, the windows whose truths its windows get as a control."""
        samples = [self.dataset.read(self.other(window)) for window in batch.windows]
        return collate(samples, n_input=batch.n_input, metadata=batch.metadata).to(batch.fields.device)

    def some_trajectories(self, count: int) -> frozenset[tuple[str, int]]:
        """Return (file, trajectory) of that many trajectories, evenly spaced in the list of all."""
        every = sorted({(window.file, window.trajectory) for window in self.dataset.windows})
        count = min(count, len(every))
        return frozenset(every[round(i * (len(every) - 1) / max(count - 1, 1))] for i in range(count))
