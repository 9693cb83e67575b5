"""The mean and covariance of a stream of activations, from which probes, erasers and natural spaces are fitted."""

from __future__ import annotations

import torch
from torch import Tensor

from physteer.concepts.linear import principal
from physteer.concepts.widened import widened
from physteer.errors import PhysteerError

_ROWS, _COLUMNS = 1024, 64
"""Sizes of the blocks that are multiplied: they stay in a core's cache."""


class Covariance:
    """Running mean and covariance of samples x [d], in constant memory and mergeable over processes.

    All arithmetic is in float64. Samples are taken in blocks. Each block is centred before it is multiplied, and blocks
    are combined by the parallel update of Chan, Golub & LeVeque (1979), so a large mean costs no digits. Of the
    symmetric S = Σ(x − x̄)(x − x̄)ᵀ only blocks on and above the diagonal are computed. The sums lie on the device of
    the latest samples, or on the CPU where that device has no float64 (Apple GPUs).
    """

    def __init__(self) -> None:
        """Start with no samples."""
        self.count = 0
        """Number of samples."""
        self._mean = torch.empty(0, dtype=torch.float64)  # [d]
        self._upper = torch.empty(0, 0, dtype=torch.float64)  # [d, d]: S on and above the diagonal's blocks

    def update(self, *parts: Tensor) -> None:
        """Add samples.

        Args:
            *parts: samples [n, d], or [n, d₁], [n, d₂], … whose columns are joined to [n, d₁ + d₂ + …].

        Raises:
            PhysteerError: The parts are not matrices of equal length, or earlier samples had another width.
        """
        if any(part.ndim != 2 or len(part) != len(parts[0]) for part in parts):
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            raise PhysteerError(f"a covariance takes samples [n, d]; found {shapes}")
        if not len(parts[0]):
            return
        parts = tuple(map(widened, parts))
        widths, device = [part.shape[1] for part in parts], parts[0].device
        self._mean, self._upper = self._mean.to(device), self._upper.to(device)
        for rows in zip(*(torch.split(part, _ROWS) for part in parts), strict=True):
            block = torch.empty(len(rows[0]), sum(widths), dtype=torch.float64, device=device)
            for columns, part in zip(torch.split(block, widths, dim=1), rows, strict=True):
                columns.copy_(part)
            self._add(block)

    def merge(self, other: Covariance) -> None:
        """Add the samples of another process.

        Raises:
            PhysteerError: The widths differ.
        """
        if other.count:
            self._move_mean(other.count, other._mean)
            self._upper += other._upper.to(self._upper.device)

    def check(self) -> None:
        """Check that the sums can be used.

        Raises:
            PhysteerError: There are fewer than two samples, or a value was not finite.
        """
        if self.count < 2:
            raise PhysteerError(f"{self.count} tokens were seen: a covariance needs two or more")
        self.check_finite()

    def check_finite(self) -> None:
        """Check that all values were finite.

        Raises:
            PhysteerError: One was not.
        """
        if not bool(self._mean.isfinite().all()):
            raise PhysteerError("an activation is not finite")

    @property
    def width(self) -> int:
        """Number of channels d; 0 before the first sample."""
        return len(self._mean)

    @property
    def mean(self) -> Tensor:
        """x̄ [d], float64.

        Raises:
            PhysteerError: There are fewer than two samples, or a value was not finite.
        """
        self.check()
        return self._mean.clone()

    @property
    def scatter(self) -> Tensor:
        """S = Σ(x − x̄)(x − x̄)ᵀ [d, d], float64: symmetric to the last bit."""
        upper = self._upper.triu()
        return upper + upper.triu(1).mT

    @property
    def squares(self) -> Tensor:
        """The diagonal of S, Σ(x − x̄)² [d], float64."""
        return self._upper.diagonal().clone()

    def covariance(self, unbiased: bool = True) -> Tensor:
        """Return S / (n − 1), or S / n where not unbiased: [d, d], float64.

        Raises:
            PhysteerError: There are fewer than two samples, or a value was not finite.
        """
        self.check()
        return self.scatter / (self.count - unbiased)

    def principal(self, smallest: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the principal variances [r] and directions [d, r] of the unbiased covariance, smallest variance first.

        Args:
            smallest: directions of a variance up to this share of the largest are left out; by default those whose
                variance is round-off.

        Raises:
            PhysteerError: There are fewer than two samples, or a value was not finite.
        """
        return principal(self.covariance(), smallest)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums as tensors on the CPU: `count`, `mean` [d] and `scatter` [d, d]."""
        return {"count": torch.tensor(self.count), "mean": self._mean.cpu(), "scatter": self.scatter.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the sums by those of `state_dict`."""
        self.count = int(state["count"])
        self._mean, self._upper = state["mean"].clone(), state["scatter"].clone()

    def _add(self, block: Tensor) -> None:
        """Add samples [n, d] in float64; the block is changed."""
        mean = block.mean(0)
        self._move_mean(len(block), mean)
        block -= mean
        for first in range(0, block.shape[1], _COLUMNS):
            # [columns, d − first]: the rest of these rows is in the blocks before, by symmetry
            self._upper[first : first + _COLUMNS, first:].addmm_(
                block[:, first : first + _COLUMNS].mT, block[:, first:]
            )

    def _move_mean(self, count: int, mean: Tensor) -> None:
        """Count more samples, and add to S what the distance of their mean contributes."""
        if not self.count:
            self._mean = torch.zeros_like(mean)
            self._upper = mean.new_zeros(len(mean), len(mean))
        check_width(len(mean), self.width)
        total = self.count + count
        distance = mean.to(self._mean.device) - self._mean
        self._upper.addr_(distance, distance, alpha=self.count * count / total)
        self._mean += distance * (count / total)
        self.count = total


def check_width(width: int, known: int) -> None:
    """Check that activations have the width of those before.

    Raises:
        PhysteerError: They do not.
    """
    if width != known:
        raise PhysteerError(f"activations of width {width} cannot join those of width {known}")
