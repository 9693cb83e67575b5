"""The Lightning data module of probes."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from physteer.data.dataset import WindowDataset
from physteer.data.module import Split, WellDataModule
from physteer.errors import PhysteerError


class TransferDataModule(WellDataModule):
    """Windows of simple flows, on which probes are fitted, and of full simulations, on which they are tested.

    ``fit`` reads every window of ``train`` of the simple flows once, then those of ``valid``. ``test`` reads two sets:
    ``test`` of the simple flows, then the full simulations. Windows have one frame to predict.

    Args:
        path: folder of the simple flows, with ``data/{train,valid,test}/*.hdf5``; ``physteer data taylor-green``,
            ``advection`` and ``diffusion`` write into one folder. Other flows are possible too.
        full: folder of the full simulations; null for none: ``test`` then reads ``test`` of ``path`` alone.
        full_split: the split of the full simulations; nothing is fitted to any of their splits.
        full_include: use only files of the full simulations whose name contains one of these.
        window_every: frames between the starts of windows.
        well: arguments of ``WellDataModule``; ``include``, ``exclude`` and ``trajectories`` apply to the simple flows.
    """

    def __init__(
        self,
        path: str,
        full: str | None = None,
        full_split: Split = "test",
        full_include: list[str] = [],  # noqa: B006  jsonargparse shows it; never changed
        window_every: int = 1,
        **well: Any,
    ) -> None:
        super().__init__(path, **well)
        if window_every < 1:
            raise PhysteerError(f"data.window_every must be at least 1, found {window_every}")
        if full is None and full_include:
            raise PhysteerError(
                f"data.full_include {full_include} has no full simulations to choose from: set data.full"
            )
        self.full_split, self.window_every = full_split, window_every
        shared = {name: value for name, value in well.items() if name not in ("include", "exclude", "trajectories")}
        self._full = None if full is None else WellDataModule(full, include=full_include, **shared)

    def train_dataloader(self) -> DataLoader[Any]:
        """Every window of ``train`` of the simple flows, once over all processes."""
        return self._once(self.windows("train"))

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """``valid`` of the simple flows."""
        return [self._once(self.windows("valid"))]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """``test`` of the simple flows, and the full simulations where there are some."""
        full = self.full_windows()
        return [self._once(self.windows("test")), *([] if full is None else [self._once(full)])]

    def windows(self, split: Split) -> WindowDataset:
        """Open the windows of a split of the simple flows."""
        return self.dataset(split, self._selected(1, self.window_every))

    def full_windows(self) -> WindowDataset | None:
        """Open the windows of the full simulations; None without them."""
        if self._full is None:
            return None
        return self._full.dataset(self.full_split, self._full._selected(1, self.window_every))

    def teardown(self, stage: str) -> None:
        """Close every HDF5 file."""
        super().teardown(stage)
        if self._full is not None:
            self._full.teardown(stage)
