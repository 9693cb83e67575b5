"""Running mean and variance of activations, in constant memory and mergeable over processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.errors import PhysteerError


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance over everything that was seen, per token and channel."""

    count: int
    """Activations seen: rows × frames."""
    mean: Tensor
    """[h, w, δ, d], float64."""
    variance: Tensor
    """[h, w, δ, d], float64, unbiased; NaN where one activation was seen."""


class RunningMoments:
    """Streaming moments by the parallel update of Chan, Golub & LeVeque (1979).

    Within a batch sums are in the activations' precision, float32 or wider; over batches they are in float64.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self._m2: Tensor | None = None  # sum of squared deviations from the mean

    def update(self, h: Tensor) -> None:
        """Add activations.

        Args:
            h: [B, T, h, w, δ, d]; every row and frame counts as one.

        Raises:
            PhysteerError: The grid or the width is not that of the activations before.
        """
        a = widened(h).flatten(0, 1)  # [B·T, h, w, δ, d]
        near = a.mean(0)
        deviation = a - near
        # `near` is rounded; what it misses is in the deviations: Σ(x − m)² = Σ(x − m̃)² − (Σ(x − m̃))²/n.
        rest = deviation.sum(0).double() / len(a)
        m2 = deviation.square_().sum(0).double() - len(a) * rest.square()
        self._combine(len(a), near.double() + rest, m2.clamp_min_(0))

    def merge(self, other: RunningMoments) -> None:
        """Add what another process has seen."""
        if other.mean is not None and other._m2 is not None:
            self._combine(other.count, other.mean, other._m2)

    def fit(self) -> Moments:
        """Return the moments of all that was seen.

        Raises:
            PhysteerError: Nothing was.
        """
        if self.mean is None or self._m2 is None:
            raise PhysteerError("no activation was seen: there are no moments to compute")
        variance = self._m2 / (self.count - 1) if self.count > 1 else torch.full_like(self._m2, torch.nan)
        return Moments(self.count, self.mean.clone(), variance)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums as tensors, to be sent to another process or saved."""
        empty = torch.empty(0, dtype=torch.float64)
        mean, m2 = (empty, empty) if self.mean is None or self._m2 is None else (self.mean, self._m2)
        return {"count": torch.tensor(self.count), "mean": mean, "m2": m2}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> RunningMoments:
        """Restore what `state_dict` returned."""
        moments = cls()
        if int(state["count"]):
            moments._combine(int(state["count"]), state["mean"], state["m2"])
        return moments

    def _combine(self, count: int, mean: Tensor, m2: Tensor) -> None:
        if self.mean is None or self._m2 is None:
            self.count, self.mean, self._m2 = count, mean.clone(), m2.clone()
            return
        if mean.shape != self.mean.shape:
            raise PhysteerError(f"activations of {list(mean.shape)} cannot join those of {list(self.mean.shape)}")
        total = self.count + count
        delta = mean.to(self.mean.device) - self.mean
        self.mean += delta * (count / total)
        self._m2 += m2.to(self._m2.device) + delta.square() * (self.count * count / total)
        self.count = total


def widened(h: Tensor) -> Tensor:
    """Return activations off the autograd tape, in float32 or wider, where float64 sums can be kept beside them."""
    h = h.detach().cpu() if h.device.type == "mps" else h.detach()  # Apple GPUs have no float64
    return h.to(torch.promote_types(h.dtype, torch.float32))
