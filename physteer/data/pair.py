"""Pairs of windows with a known counterfactual, and batches of pairs that are read from disk when needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from physteer.data.batch import Batch, Sample, SplitMetadata, Window, collate
from physteer.data.dataset import WindowDataset


@dataclass(frozen=True)
class Pair:
    """A counterfactual question: the evolution of the base with some parameters of its sources."""

    base: Window
    sources: tuple[Window, ...]
    """One source per variable."""
    changed: tuple[tuple[str, float], ...]
    """The variables with their sources' values; θ* denotes the base's parameters with these values."""
    counterfactual: Window | None
    """The window with θ* from the base's initial condition, at the base's start; None where it is not stored."""
    initial_condition: int
    """Initial condition of the base, which intervals resample."""
    mismatched: tuple[Window, ...] = ()
    """Mismatched sources: those of another pair, one per variable, for controls; empty where they are not needed."""


class Answers(Protocol):
    """Returns the true counterfactuals (`physteer.data.truths.Truth`)."""

    def of(self, dataset: WindowDataset, pairs: PairBatch) -> Tensor:
        """Return y*: [B, T_out, C, H, W, D] in the data set's units, or a readout [B]."""
        ...


@dataclass(frozen=True, eq=False)
class PairReader:
    """The data set and the answers from which a batch of pairs is read."""

    dataset: WindowDataset
    answers: Answers


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs by address. Fields and answers are read from disk at their first use, and kept."""

    pairs: tuple[Pair, ...]
    reader: PairReader
    device: torch.device | str = "cpu"
    samples: dict[Window, Sample] = field(default_factory=dict)
    """Windows that have been read."""

    @property
    def metadata(self) -> SplitMetadata:
        """Channels and grid of all windows."""
        return self.reader.dataset.metadata

    @property
    def n_input(self) -> int:
        """Frames of context."""
        return self.reader.dataset.spec.n_input

    @property
    def base_windows(self) -> tuple[Window, ...]:
        """Addresses of the bases."""
        return tuple(pair.base for pair in self.pairs)

    @property
    def source_windows(self) -> list[tuple[Window, ...]]:
        """Addresses of the sources, per variable, rows as in the base."""
        return list(zip(*(pair.sources for pair in self.pairs), strict=True))

    @property
    def mismatched_windows(self) -> list[tuple[Window, ...]]:
        """Addresses of the mismatched sources, per variable; empty where they are not needed."""
        return list(zip(*(pair.mismatched for pair in self.pairs), strict=True))

    @cached_property
    def base(self) -> Batch:
        """The base windows, with the frames that follow them."""
        return self.read(self.base_windows)

    @cached_property
    def sources(self) -> tuple[Batch, ...]:
        """One batch per variable, rows as in the base."""
        return tuple(map(self.read, self.source_windows))

    @cached_property
    def mismatched(self) -> tuple[Batch, ...]:
        """The mismatched sources, one batch per variable."""
        return tuple(map(self.read, self.mismatched_windows))

    @cached_property
    def truth(self) -> Tensor:
        """y*, the frames after the context at θ*: [B, T_out, C, H, W, D] in the data set's units; or a readout, [B]."""
        return self.reader.answers.of(self.reader.dataset, self).to(self.device)

    def read(self, windows: Sequence[Window]) -> Batch:
        """Return windows of the split on the batch's device; each is read from disk once."""
        for window in windows:
            if window not in self.samples:
                self.samples[window] = self.reader.dataset.read(window)
        samples = [self.samples[window] for window in windows]
        return collate(samples, n_input=self.n_input, metadata=self.metadata).to(self.device)

    def parameters(self, windows: Sequence[Window], name: str) -> list[float]:
        """Return a parameter of some windows; nothing is read from disk."""
        return [self.reader.dataset.parameters_of(window)[name] for window in windows]

    def frames(self, frame: Tensor) -> Batch:
        """Return frames [B, 1, C, H, W, D] of the bases as windows of one frame, for readouts."""
        names = self.reader.dataset.parameters_of(self.pairs[0].base)
        columns = {name: self.parameters(self.base_windows, name) for name in names}
        parameters = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
        return Batch(frame, 1, self.base_windows, parameters, torch.zeros(len(frame), 1), self.metadata)

    def with_mismatched_sources(self) -> PairBatch:
        """Return the pairs with mismatched sources in place of their own."""
        return dataclasses.replace(self, pairs=tuple(dataclasses.replace(p, sources=p.mismatched) for p in self.pairs))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """Return the batch; its fields will be read to a device."""
        return dataclasses.replace(self, device=device)

    def __len__(self) -> int:
        return len(self.pairs)

    def __str__(self) -> str:
        return f"the bases {', '.join(map(str, self.base_windows))}"
