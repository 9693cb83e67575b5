"""Data sets of pairs with a known counterfactual: a base, and one source for each variable."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence

from torch.utils.data import Dataset

from physteer.data.batch import Window
from physteer.data.dataset import WindowDataset
from physteer.data.matching import InitialConditions, Trajectory
from physteer.data.pair import Pair, PairBatch, PairReader
from physteer.data.partners import PairRules, Partners
from physteer.data.truths import Truth
from physteer.errors import PhysteerError


class PairDataset(Dataset[Pair]):
    """A fixed number of pairs of one split, drawn without a list of all possible pairs.

    Pairs are addresses: a `PairBatch` reads the fields at their first use.

    Pair i depends on the seed and i alone. Every base is used equally often; sources are drawn among those that the
    rules allow.

    Args:
        windows: the split.
        initial_conditions: of its trajectories.
        rules: of the sources.
        truth: of the counterfactuals.
        n_pairs: number of pairs.
        seed: of the draws.
        mismatched: whether to add the sources of another pair, for controls, drawn from the seed and the index alone.

    Raises:
        PhysteerError: There is no such parameter, it has one value only, no pair matches, or there is no other pair.
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
        mismatched: bool = False,
    ) -> None:
        if mismatched and n_pairs < 2:
            raise PhysteerError("the sources of other pairs are asked for, but there is one pair only")
        self.windows, self.rules, self.truth, self.n_pairs = windows, rules, truth, n_pairs
        self.seed, self.mismatched = seed, mismatched
        self._partners = Partners(windows, initial_conditions, rules)
        matched = self._partners.initial_condition
        self._usable = dict.fromkeys(w for w in windows.windows if (w.file, w.trajectory) in matched)
        self.bases = [w for w in self._usable if all(self.candidates(w, name) for name in rules.variables)]
        """Windows that have a source for every variable."""
        if not self.bases:
            raise PhysteerError(f"{windows.path}: no pairs match. {self.report()}")
        self.reader = PairReader(windows, truth)
        self._order: tuple[int, list[int]] = -1, []

    def __len__(self) -> int:
        return self.n_pairs

    def __getitem__(self, index: int) -> Pair:
        pair = self.pair(index)
        if not self.mismatched:
            return pair
        return dataclasses.replace(pair, mismatched=self.pair(self.other(index)).sources)

    @property
    def initial_conditions(self) -> tuple[str, ...]:
        """Names of the initial conditions of all bases: their numbers."""
        return tuple(str(number) for number in sorted(self._partners.together))

    def pair(self, index: int) -> Pair:
        """Draw pair number ``index``.

        Raises:
            PhysteerError: No base has a source with a known counterfactual.
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
        """Draw the index of another pair."""
        drawn = random.Random(f"{self.seed}/{index}/other").randrange(self.n_pairs - 1)
        return drawn + (drawn >= index)

    def candidates(self, base: Window, variable: str) -> list[Window]:
        """Return the possible sources of a base for a variable: windows at the base's start."""
        return self._usable_at(base, self._partners.sources((base.file, base.trajectory), variable))

    def collate(self, pairs: Sequence[Pair]) -> PairBatch:
        """Make a batch of pairs."""
        return PairBatch(tuple(pairs), self.reader)

    def report(self) -> str:
        """Return a sentence on the number of trajectories that have a source, per variable."""
        return self._partners.report()

    def _shuffled(self, turn: int) -> list[int]:
        """Return the order of the bases in a turn; the latest order is kept, as pairs are mostly read in order."""
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
        counterfactuals = self._usable_at(base, partners.counterfactuals(trajectory, changed))
        counterfactual = counterfactuals[0] if counterfactuals else None
        return Pair(base, sources, tuple(changed.items()), counterfactual, partners.initial_condition[trajectory])

    def _usable_at(self, base: Window, trajectories: Iterable[Trajectory]) -> list[Window]:
        """Return the trajectories' windows at the base's start."""
        windows = (Window(*trajectory, base.start, base.stride) for trajectory in trajectories)
        return [window for window in windows if window in self._usable]
