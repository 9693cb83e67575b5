"""The windows of a split, for probes: their initial conditions, and the windows whose truths controls get."""

from __future__ import annotations

from collections.abc import Sequence

from physteer.concepts import other_windows
from physteer.data.batch import Batch, Window, collate
from physteer.data.dataset import WindowDataset
from physteer.data.matching import initial_conditions
from physteer.errors import PhysteerError


class ProbeWindows:
    """The windows of one split with their initial conditions; each has another window, for shuffled truths.

    Every process reads the first frame of every trajectory.
    """

    def __init__(self, dataset: WindowDataset, seed: int) -> None:
        """Read initial conditions and draw the other windows.

        Args:
            dataset: the windows of all processes.
            seed: of the shuffle.

        Raises:
            PhysteerError: More than half of the windows share an initial condition.
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
        """Return the window whose truth this window gets as a control."""
        return self._others[window]

    def others(self, batch: Batch) -> Batch:
        """Return the windows whose truths the batch's windows get as a control, on the batch's device."""
        samples = [self.dataset.read(self.other(window)) for window in batch.windows]
        return collate(samples, n_input=batch.n_input, metadata=batch.metadata).to(batch.fields.device)

    def some_trajectories(self, count: int) -> frozenset[tuple[str, int]]:
        """Return (file, trajectory) of `count` trajectories, evenly spaced in the list of all."""
        trajectories = sorted({(window.file, window.trajectory) for window in self.dataset.windows})
        count = min(count, len(trajectories))
        return frozenset(trajectories[round(i * (len(trajectories) - 1) / max(count - 1, 1))] for i in range(count))
