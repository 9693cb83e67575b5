"""Pairs of windows whose counterfactual is known: a base, and sources that each give it one parameter."""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from physteer.data.batch import Batch, Sample, Window, collate
from physteer.data.dataset import WindowDataset
from physteer.data.matching import InitialConditions, Trajectory
from physteer.data.truths import Truth
from physteer.errors import PhysteerError, did_you_mean

Others = Literal["same", "any"]


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


@dataclass(frozen=True)
class PairRules:
    """What sources a base may have."""

    variables: tuple[str, ...]
    """The parameter that each source gives to the base."""
    same_initial_condition: bool = True
    """Sources begin with the base's initial condition, so that tokens correspond; otherwise with another one."""
    other_parameters: Others = "same"
    """Whether a source differs from the base in its variable alone, or may differ in all parameters."""
    null: str | None = None
    """Sources differ in this parameter alone instead, which the variables have nothing to do with: the answer is the
    base's own future."""


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
        self._initial = initial_conditions.of
        self._usable = dict.fromkeys(w for w in windows.windows if (w.file, w.trajectory) in self._initial)
        self._parameters = {t: windows.parameters_of(Window(*t, 0)) for t in self._initial}
        self._check_variables()
        self._together: dict[int, list[Trajectory]] = defaultdict(list)
        for trajectory, number in self._initial.items():
            self._together[number].append(trajectory)
        self._crossed = self._names_that_vary()
        self._partners = {name: {t: self._find_partners(t, name) for t in self._initial} for name in rules.variables}
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
        return tuple(str(number) for number in sorted(self._together))

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
        partners = self._partners[variable][base.file, base.trajectory]
        return [w for t in partners if (w := Window(*t, base.start, base.stride)) in self._usable]

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
        """Say in words how many trajectories found a partner, per variable."""
        n = len(self._initial)
        whose = "the same" if self.rules.same_initial_condition else "another"
        found = []
        for name, partners in self._partners.items():
            counts = [len(those) for those in partners.values()]
            differing = self.rules.null or name
            found.append(f"{differing}: {sum(c > 0 for c in counts)} of {n} have a source, {sum(counts)} pairs")
        return (
            f"{len(self._together)} initial conditions in {n} trajectories; sources from {whose} initial condition, "
            f"other parameters {'any' if self._free else 'equal'}: {'; '.join(found)}"
        )

    def _shuffled(self, turn: int) -> list[int]:
        """Return the order in which a turn takes the bases; the latest is kept, since pairs mostly come in order."""
        if self._order[0] != turn:
            n = len(self.bases)
            self._order = turn, random.Random(f"{self.seed}/{turn}").sample(range(n), n)
        return self._order[1]

    @property
    def _free(self) -> bool:
        return self.rules.other_parameters == "any" and self.rules.null is None

    def _find_partners(self, base: Trajectory, variable: str) -> list[Trajectory]:
        own, number, differing = self._parameters[base], self._initial[base], self.rules.null or variable
        fixed = [] if self._free else [name for name in self._crossed if name != differing]
        same = self.rules.same_initial_condition
        near = self._together[number] if same else [t for t, other in self._initial.items() if other != number]

        def allowed(other: Mapping[str, float]) -> bool:
            return not _same(own[differing], other[differing]) and all(_same(own[n], other[n]) for n in fixed)

        return [trajectory for trajectory in near if allowed(self._parameters[trajectory])]

    def _pair(self, base: Window, sources: tuple[Window, ...]) -> Pair:
        trajectory = (base.file, base.trajectory)
        changed = {
            name: self._parameters[source.file, source.trajectory][name]
            for name, source in zip(self.rules.variables, sources, strict=True)
        }
        wanted = self._parameters[trajectory] | changed
        number = self._initial[trajectory]
        twins = (t for t in self._together[number] if all(_same(v, self._parameters[t][n]) for n, v in wanted.items()))
        stored = (w for t in twins if (w := Window(*t, base.start, base.stride)) in self._usable)
        return Pair(base, sources, tuple(changed.items()), next(stored, None), number)

    def _names_that_vary(self) -> list[str]:
        """Return the parameters that differ within an initial condition; the others describe the initial condition."""
        groups = [[self._parameters[t] for t in trajectories] for trajectories in self._together.values()]
        names = next(iter(self._parameters.values()))
        return [n for n in names if any(not _same(group[0][n], one[n]) for group in groups for one in group)]

    def _check_variables(self) -> None:
        known: Mapping[str, float] = next(iter(self._parameters.values()), {})
        for name in filter(None, (*self.rules.variables, self.rules.null)):
            if name not in known:
                raise PhysteerError(
                    f"{self.windows.path} has no parameter {name!r} that all files share, only "
                    f"{', '.join(known) or 'none'}{did_you_mean(name, known)}"
                )
            values = sorted({parameters[name] for parameters in self._parameters.values()})
            if all(_same(values[0], value) for value in values):
                raise PhysteerError(f"{self.windows.path}: {name} is {values[0]:g} everywhere; pairs need two values")


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
