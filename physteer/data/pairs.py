"""Pairs of windows whose counterfactual is known: a base, and sources that each give it one parameter."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from physteer.data.batch import Batch, Sample, Window, collate
from physteer.data.dataset import WindowDataset
from physteer.data.matching import InitialConditions, Trajectory
from physteer.data.partners import PairRules, Partners
from physteer.data.truths import Truth
from physteer.errors import PhysteerError


@dataclass(frozen=True)
class Pair:
    """A question: what would the base have done, had it had these parameters of its sources?"""

    base: Window
    sources: tuple[Window, ...]
    """One per variable."""
    changed: tuple[tuple[str, float], ...]
    """The variables with their sources' values: θ* is the base's parameters with these."""
    twin: Window | None
    """The window of θ* from the base's initial condition, at the base's start; None where it is not stored."""
    initial_condition: int
    """Of the base: pairs that share it are one draw in every interval."""


@dataclass(frozen=True, eq=False)
class PairSample:
    """One pair as read from disk."""

    pair: Pair
    base: Sample
    sources: tuple[Sample, ...]
    strangers: tuple[Sample, ...]


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs, ready for the network."""

    base: Batch
    sources: tuple[Batch, ...]
    """One per variable, rows as in the base."""
    pairs: tuple[Pair, ...]
    truth: Tensor
    """y*: what follows at θ*, [B, T_out, C, H, W, D] in the data set's units; or a readout of the source, [B]."""
    strangers: tuple[Batch, ...]
    """The sources of other pairs, one per variable, rows as in the base; empty where they were not asked for."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """Move the fields to a device."""
        return dataclasses.replace(
            self,
            base=self.base.to(device, non_blocking),
            sources=tuple(source.to(device, non_blocking) for source in self.sources),
            truth=self.truth.to(device, non_blocking=non_blocking),
            strangers=tuple(stranger.to(device, non_blocking) for stranger in self.strangers),
        )

    def pin_memory(self) -> PairBatch:
        """Pin the fields for a faster copy to a GPU."""
        return dataclasses.replace(
            self,
            base=self.base.pin_memory(),
            sources=tuple(source.pin_memory() for source in self.sources),
            truth=self.truth.pin_memory(),
            strangers=tuple(stranger.pin_memory() for stranger in self.strangers),
        )

    def __len__(self) -> int:
        return len(self.base)


class PairDataset(Dataset[PairSample]):
    """A fixed number of pairs of one split, drawn without listing all that are possible.

    Pair i depends on the seed and i alone. Bases take turns, so that each is used equally often; sources are drawn
    among those that the rules allow.

    Args:
        windows: the split.
        initial_conditions: of its trajectories.
        rules: what sources a base may have.
        truth: how the counterfactual is known.
        n_pairs: how many.
        seed: of the draws.
        strangers: read another pair's sources too, for controls; which one depends on the seed and the index alone.

    Raises:
        PhysteerError: there is no such parameter, it has one value only, no pair matches, or there is no other pair.
    """

    def __init__(
        self,
        windows: WindowDataset,
        initial_conditions: InitialConditions,
        rules: PairRules,
        truth: Truth,
        n_pairs: int,
        *,
        seed: int = 0,
        strangers: bool = False,
    ) -> None:
        if strangers and n_pairs < 2:
            raise PhysteerError("the sources of other pairs are asked for, but there is one pair only")
        self.windows, self.rules, self.truth, self.n_pairs = windows, rules, truth, n_pairs
        self.seed, self.strangers = seed, strangers
        self._partners = Partners(windows, initial_conditions, rules)
        matched = self._partners.initial_condition
        self._usable = dict.fromkeys(w for w in windows.windows if (w.file, w.trajectory) in matched)
        self.bases = [w for w in self._usable if all(self.candidates(w, name) for name in rules.variables)]
        """Windows that have a source for every variable."""
        if not self.bases:
            raise PhysteerError(f"{windows.path}: no pairs match. {self.report()}")
        self._order: tuple[int, list[int]] = -1, []

    def __len__(self) -> int:
        return self.n_pairs

    def __getitem__(self, index: int) -> PairSample:
        pair = self.pair(index)
        strangers = self.pair(self.other(index)).sources if self.strangers else ()
        read = {window: self.windows.read(window) for window in {pair.base, *pair.sources, *strangers}}
        return PairSample(
            pair,
            read[pair.base],
            tuple(read[source] for source in pair.sources),
            tuple(read[stranger] for stranger in strangers),
        )

    @property
    def initial_conditions(self) -> tuple[str, ...]:
        """Names of all initial conditions that bases have: their numbers."""
        return tuple(str(number) for number in sorted(self._partners.together))

    def pair(self, index: int) -> Pair:
        """Draw pair number ``index``.

        Raises:
            PhysteerError: no base has a source whose counterfactual is known.
        """
        for attempt in range(len(self.bases)):
            turn, place = divmod(index + attempt, len(self.bases))
            base = self.bases[self._shuffled(turn)[place]]
            draw = random.Random(f"{self.seed}/{index}")
            shuffled = {name: draw.sample(c := self.candidates(base, name), len(c)) for name in self.rules.variables}
            for sources in zip(*shuffled.values(), strict=False):
                pair = self._pair(base, sources)
                if self.truth.known(self.windows, pair):
                    return pair
        raise PhysteerError(f"{self.windows.path}: {self.truth} is known for no pair. {self.report()}")

    def other(self, index: int) -> int:
        """Draw another pair's number."""
        drawn = random.Random(f"{self.seed}/{index}/other").randrange(self.n_pairs - 1)
        return drawn + (drawn >= index)

    def candidates(self, base: Window, variable: str) -> list[Window]:
        """List the sources a base may have for a variable: windows at the base's start."""
        return self._usable_at(base, self._partners.sources((base.file, base.trajectory), variable))

    def collate(self, samples: Sequence[PairSample]) -> PairBatch:
        """Stack pairs and add their truth."""
        n_input, origin = self.windows.spec.n_input, self.windows.origin
        base = collate([sample.base for sample in samples], n_input=n_input, origin=origin)
        sources, strangers = (
            tuple(collate(column, n_input=n_input, origin=origin) for column in zip(*rows, strict=True))
            for rows in ([sample.sources for sample in samples], [sample.strangers for sample in samples])
        )
        pairs = tuple(sample.pair for sample in samples)
        return PairBatch(base, sources, pairs, self.truth.of(self.windows, pairs, base, sources), strangers)

    def report(self) -> str:
        """Say in words how many trajectories found a source, per variable."""
        return self._partners.report()

    def _shuffled(self, turn: int) -> list[int]:
        """Return the order in which a turn takes the bases; the latest is kept, since pairs mostly come in order."""
        if self._order[0] != turn:
            n = len(self.bases)
            self._order = turn, random.Random(f"{self.seed}/{turn}").sample(range(n), n)
        return self._order[1]

    def _pair(self, base: Window, sources: tuple[Window, ...]) -> Pair:
        partners, trajectory = self._partners, (base.file, base.trajectory)
        changed = {
            name: partners.parameters[source.file, source.trajectory][name]
            for name, source in zip(self.rules.variables, sources, strict=True)
        }
        twins = self._usable_at(base, partners.twins(trajectory, changed))
        twin = twins[0] if twins else None
        return Pair(base, sources, tuple(changed.items()), twin, partners.initial_condition[trajectory])

    def _usable_at(self, base: Window, trajectories: Iterable[Trajectory]) -> list[Window]:
        """Return the trajectories' windows at the base's start."""
        windows = (Window(*trajectory, base.start, base.stride) for trajectory in trajectories)
        return [window for window in windows if window in self._usable]
