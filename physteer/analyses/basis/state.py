"""What decides an extraction, and how far it has come."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from physteer.analyses.basis.metric import MetricName, check_metric
from physteer.errors import PhysteerError


@dataclass(frozen=True)
class ExtractionSettings:
    """What decides an extraction."""

    k: int = 4
    """Number of directions; below 1 all that there are."""
    metric: MetricName = "raw"
    max_iter: int = 100
    """Most iterations of L-BFGS for one direction."""
    min_energy: float = 0.0
    """Extraction ends before a direction of a smaller energy, in the divergence's units."""
    candidates: int = 10
    """Starts that are tried for each direction."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_metric(self.metric)
        for name, value, least in (("max_iter", self.max_iter, 1), ("candidates", self.candidates, 1)):
            if value < least:
                raise PhysteerError(f"{name} must be at least {least}; found {value}")
        if not 0 <= self.min_energy < math.inf:
            raise PhysteerError(f"min_energy must be at least 0; found {self.min_energy}")

    def directions(self, width: int, rank: int) -> int:
        """Return the number of directions to extract.

        Args:
            width: number of channels.
            rank: number of directions of the metric.

        Raises:
            PhysteerError: There are fewer.
        """
        if self.k <= rank:
            return self.k if self.k >= 1 else rank
        left_out = f", of which {rank} vary enough to be whitened," if rank < width else ""
        raise PhysteerError(f"k is {self.k}: {width} channels{left_out} allow 1 to {rank}, or 0 for all")


@dataclass
class ExtractionState:
    """The directions so far, and what the search for the next one depends on: a resumed extraction goes on from it."""

    directions: Tensor
    """Coordinates [r, j], float64, orthonormal."""
    energies: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    """Of energy and gradient, for each direction, those of dropped ones included."""
    restarts: list[int] = field(default_factory=list)
    """How often each direction was searched again; longer than `directions` after a restart."""
    start: Tensor | None = None
    """Coordinates [r] from which the next direction is refined, after a restart."""
    dropped: Tensor | None = None
    """Coordinates [r, n] of directions that a restart dropped: further candidates."""
    finished: bool = False
    """Whether the next direction's energy was below the least."""

    @classmethod
    def empty(cls, rank: int) -> ExtractionState:
        """Return the state before the first direction."""
        return cls(torch.zeros(rank, 0, dtype=torch.float64))

    @property
    def count(self) -> int:
        """Number of directions."""
        return self.directions.shape[1]

    @property
    def rises(self) -> list[float]:
        """By how much each energy lies above the least before it, relatively: what remains of missed maxima."""
        least, rises = math.inf, []
        for energy in self.energies:
            rises.append(max(0.0, (energy - least) / max(abs(least), torch.finfo(torch.float64).tiny)))
            least = min(least, energy)
        return rises

    def latest(self, units: str = "") -> str:
        """Return in words what the latest search did.

        Args:
            units: of the energies.
        """
        if self.start is not None:
            return f"a later direction has more energy than direction {self.count + 1}, which is searched again"
        if self.finished:
            return f"the direction after {self.count} has less energy than min_energy"
        energy = f"{self.energies[-1]:.4g} {units}".strip()
        rise = "" if self.rises[-1] == 0 else f", {self.rises[-1]:.1%} more than one before"
        return f"direction {self.count}: energy {energy} ({self.evaluations[self.count - 1]} evaluations{rise})"
