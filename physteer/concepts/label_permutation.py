"""Labels and how they may be exchanged: within initial conditions only, the same in every process."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from physteer.errors import PhysteerError


@dataclass(frozen=True)
class LabelPermutations:
    """Which class every unit belongs to, and which units are matched: what labels may be exchanged between.

    A unit is what carries a label as a whole, such as one trajectory (its windows are no independent draws); its group
    is its initial condition. All processes of a run make the same roster, so that they agree on every shuffle.
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
        """Return the roster without initial conditions that lack a class: their activations would not cancel."""
        classes = set(self.labels.values())
        kept = [
            unit for units in self._by_group().values() if {self.labels[u] for u in units} == classes for unit in units
        ]
        return LabelPermutations({unit: self.labels[unit] for unit in kept}, {unit: self.groups[unit] for unit in kept})

    def arrangements(self) -> int:
        """Return in how many ways labels can be dealt within initial conditions, the true one included."""
        total = 1
        for units in self._by_group().values():
            counts = [list(map(self.labels.__getitem__, units)).count(label) for label in set(self.labels.values())]
            total *= math.factorial(len(units)) // math.prod(map(math.factorial, counts))
        return total

    def shuffled(self, n: int, seed: int = 0) -> list[dict[str, str]]:
        """Deal the labels anew within every initial condition, n times, all different and none the true labels.

        In each initial condition the units are put in the order of a digest of (seed, shuffle, unit) and get its labels
        in sorted order, so a shuffle depends on no process, batch or order of the data.

        Raises:
            PhysteerError: There are not so many ways to deal them.
        """
        others = self.arrangements() - 1
        if n > others:
            raise PhysteerError(
                f"{n} shuffles of the labels within initial conditions were asked for; there are {others} besides the "
                "labels themselves: use more initial conditions, or more simulations of each"
            )
        seen, attempt = {tuple(sorted(self.labels.items()))}, 0
        dealt: list[dict[str, str]] = []
        while len(dealt) < n:
            labels = self._deal(seed, attempt)
            attempt += 1
            key = tuple(sorted(labels.items()))
            if key not in seen:
                seen.add(key)
                dealt.append(labels)
        return dealt

    def _deal(self, seed: int, attempt: int) -> dict[str, str]:
        labels: dict[str, str] = {}
        for units in self._by_group().values():
            order = sorted(units, key=lambda unit: digest("shuffle", seed, attempt, unit))
            labels |= dict(zip(order, sorted(self.labels[unit] for unit in units), strict=True))
        return labels

    def _by_group(self) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = defaultdict(list)
        for unit in sorted(self.labels):
            grouped[self.groups[unit]].append(unit)
        return dict(sorted(grouped.items()))


def digest(*parts: str | int) -> bytes:
    """Return the SHA-256 of some words and numbers: a seed that is the same in every process."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


def generator_of(*parts: str | int) -> torch.Generator:
    """Return a generator whose seed is the digest of some words and numbers."""
    return torch.Generator().manual_seed(int.from_bytes(digest(*parts)[:8], "big") >> 1)
