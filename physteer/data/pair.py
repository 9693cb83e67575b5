"""A pair of windows whose counterfactual is known, and batches of pairs that are read from disk when asked for."""

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
    """A question: what would the base have done, had it had these parameters of its sources?"""

    base: Window
    sources: tuple[Window, ...]
    """One per variable."""
    changed: tuple[tuple[str, float], ...]
    """The variables with their sources' values: θ* is the base's parameters with these."""
    counterfactual: Window | None
    """The window of θ* from the base's initial condition, at the base's start; None where it is not stored."""
    initial_condition: int
    """Of the base: pairs that share it are one draw in every interval."""
    mismatched: tuple[Window, ...] = ()
    """The sources of another pair, one per variable, for controls; empty where they were not asked for."""


class Answers(Protocol):
    """How the counterfactual is known (`physteer.data.truths.Truth`)."""

    def of(self, dataset: WindowDataset, pairs: PairBatch) -> Tensor:
        """Return y*: [B, T_out, C, H, W, D] in the data set's units, or a readout [B]."""
        ...


@dataclass(frozen=True, eq=False)
class PairReader:
    """Where a batch of pairs gets what it is asked for."""

    dataset: WindowDataset
    answers: Answers


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs by address. Fields and answers are read from disk when they are first asked for, and kept."""

    pairs: tuple[Pair, ...]
    reader: PairReader
    device: torch.device | str = "cpu"
    samples: dict[Window, Sample] = field(default_factory=dict)
    """Windows that were read already."""

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
        """Addresses of the sources of other pairs, per variable; empty where they were not asked for."""
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
        """The sources of other pairs, one batch per variable."""
        return tuple(map(self.read, self.mismatched_windows))

    @cached_property
    def truth(self) -> Tensor:
        """y*, what follows at θ*: [B, T_out, C, H, W, D] in the data set's units; or a readout of the source, [B]."""
        return self.reader.answers.of(self.reader.dataset, self).to(self.device)

    def read(self, windows: Sequence[Window]) -> Batch:
        """Read windows of the split onto the batch's device, each from disk once."""
        for window in windows:
            if window not in self.samples:
                self.samples[window] = self.reader.dataset.read(window)
        samples = [self.samples[window] for window in windows]
        return collate(samples, n_input=self.n_input, metadata=self.metadata).to(self.device)

    def parameters(self, windows: Sequence[Window], name: str) -> list[float]:
        """Return a parameter of some windows; nothing is read from disk."""
        return [self.reader.dataset.parameters_of(window)[name] for window in windows]

    def frames(self, frame: Tensor) -> Batch:
        """Return frames [B, 1, C, H, W, D] of the bases as windows of one frame, to measure readouts of."""
        names = self.reader.dataset.parameters_of(self.pairs[0].base)
        columns = {name: self.parameters(self.base_windows, name) for name in names}
        parameters = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
        return Batch(frame, 1, self.base_windows, parameters, torch.zeros(len(frame), 1), self.metadata)

    def without_mismatched(self) -> PairBatch:
        """Return the pairs without the sources of other pairs."""
        return dataclasses.replace(self, pairs=tuple(dataclasses.replace(p, mismatched=()) for p in self.pairs))

    def with_mismatched_sources(self) -> PairBatch:
        """Return the pairs with the sources of other pairs in place of their own."""
        return dataclasses.replace(self, pairs=tuple(dataclasses.replace(p, sources=p.mismatched) for p in self.pairs))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """Return the batch with its fields read to a device."""
        return dataclasses.replace(self, device=device)

    def __len__(self) -> int:
        return len(self.pairs)

    def __str__(self) -> str:
        return f"the bases {', '.join(map(str, self.base_windows))}"
