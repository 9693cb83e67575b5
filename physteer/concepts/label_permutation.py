"""Permutations of class labels within initial conditions, the same in every process."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from physteer.errors import PhysteerError
from physteer.interventions.seeds import digest


@dataclass(frozen=True)
class LabelPermutations:
    """The class label of every unit, and the groups of units within which labels are permuted.

    A unit is the smallest part of the data with one label, such as a trajectory: its windows are not independent. Its
    group is its initial condition. All processes of a run name the same units, so that they agree on every permutation.
    """

    labels: Mapping[str, str]
    """Class of each unit, by its name."""
    groups: Mapping[str, str]
    """Initial condition of each unit."""

    def __post_init__(self) -> None:
        missing = sorted(set(self.labels) - set(self.groups))
        if missing:
            raise PhysteerError(f"unit {missing[0]!r} has a class but no initial condition")

    def matched(self) -> LabelPermutations:
        """Return the permutations of the initial conditions that have units of every class.

        In the others, the activation of the initial condition would not cancel in a difference of means.
        """
        classes = set(self.labels.values())
        kept = [
            unit for units in self._by_group().values() if {self.labels[u] for u in units} == classes for unit in units
        ]
        return LabelPermutations({unit: self.labels[unit] for unit in kept}, {unit: self.groups[unit] for unit in kept})

    def arrangements(self) -> int:
        """Return the number of different assignments of the labels within initial conditions, the true one included."""
        total = 1
        for units in self._by_group().values():
            counts = [list(map(self.labels.__getitem__, units)).count(label) for label in set(self.labels.values())]
            total *= math.factorial(len(units)) // math.prod(map(math.factorial, counts))
        return total

    def shuffled(self, n: int, seed: int = 0) -> list[dict[str, str]]:
        """Permute the labels within every initial condition, n times; all results differ, also from the true labels.

        The units of each initial condition are sorted by a digest of (seed, number of the attempt, unit), and get its
        labels in sorted order. The result does not depend on processes, batches or the order of the data.

        Args:
            n: number of permutations.
            seed: of the permutations.

        Returns:
            For each permutation, the label of every unit.

        Raises:
            PhysteerError: There are fewer different permutations.
        """
        others = self.arrangements() - 1
        if n > others:
            raise PhysteerError(
                f"{n} shuffles of the labels within initial conditions were asked for; there are {others} besides the "
                "labels themselves: use more initial conditions, or more simulations of each"
            )
        seen, attempt = {tuple(sorted(self.labels.items()))}, 0
        permuted: list[dict[str, str]] = []
        while len(permuted) < n:
            labels = self._permuted(seed, attempt)
            attempt += 1
            key = tuple(sorted(labels.items()))
            if key not in seen:
                seen.add(key)
                permuted.append(labels)
        return permuted

    def _permuted(self, seed: int, attempt: int) -> dict[str, str]:
        labels: dict[str, str] = {}
        for units in self._by_group().values():
            shuffled_units = sorted(units, key=lambda unit: digest("shuffle", seed, attempt, unit))
            labels |= dict(zip(shuffled_units, sorted(self.labels[unit] for unit in units), strict=True))
        return labels

    def _by_group(self) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = defaultdict(list)
        for unit in sorted(self.labels):
            grouped[self.groups[unit]].append(unit)
        return dict(sorted(grouped.items()))
