"""Streaming covariances of activations with targets, from which probes and erasers are fitted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from physteer.concepts.covariance import Covariance, check_width
from physteer.concepts.widened import widened
from physteer.errors import PhysteerError

_ROUND_OFF = 1e-6
"""Of the largest value: a mean of float32 numbers that are all the same varies by less."""


class CrossMoments:
    """Running means and covariances of activations x and targets y, in constant memory and mergeable over processes.

    They are blocks of one `Covariance` of the joined columns [x, y].
    """

    def __init__(self, targets: Sequence[str]) -> None:
        """Start with no samples.

        Args:
            targets: names of the columns of y.

        Raises:
            PhysteerError: There are none, or two have one name.
        """
        self.targets = tuple(targets)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise PhysteerError(f"targets are one or more different names; found {list(self.targets)}")
        self._joint = Covariance()  # of [x, y], d + m columns
        self._range = torch.tensor([[torch.inf], [-torch.inf]]).double().repeat(1, len(self.targets))

    @property
    def count(self) -> int:
        """Number of samples."""
        return self._joint.count

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add samples.

        Args:
            x: activations [n, d].
            y: targets [n, m], in the order of `targets`.

        Raises:
            PhysteerError: Shapes do not fit, or a value is not finite.
        """
        if x.ndim != 2 or y.shape != (len(x), len(self.targets)):
            raise PhysteerError(
                f"activations {list(x.shape)} and targets {list(y.shape)} do not fit: [n, d] and "
                f"[n, {len(self.targets)}] are wanted"
            )
        if not len(x):
            return
        if self.count:
            check_width(x.shape[1], self._width)
        finite = y.isfinite().all(0).tolist()
        if not all(finite):
            raise PhysteerError(f"target {self.targets[finite.index(False)]!r} has values that are not finite")
        self._joint.update(x, y)
        self._joint.check_finite()
        values = widened(y).double()
        self._extend_range(torch.stack([values.amin(0), values.amax(0)]))

    def merge(self, other: CrossMoments) -> None:
        """Add the samples of another process, of the same targets.

        Raises:
            PhysteerError: The targets or the width differ.
        """
        if other.targets != self.targets:
            raise PhysteerError(f"sums of the targets {list(other.targets)} cannot join {list(self.targets)}")
        if self.count and other.count:
            check_width(other._width, self._width)
        self._joint.merge(other._joint)
        self._extend_range(other._range)

    @property
    def mean_x(self) -> Tensor:
        """x̄ [d], float64.

        Raises:
            PhysteerError: There are fewer than two samples.
        """
        return self._joint.mean[: self._width]

    @property
    def mean_y(self) -> Tensor:
        """ȳ [m], float64.

        Raises:
            PhysteerError: There are fewer than two samples.
        """
        return self._joint.mean[self._width :]

    @property
    def scatter_xx(self) -> Tensor:
        """Σ(x − x̄)(x − x̄)ᵀ [d, d], float64."""
        return self._joint.scatter[: self._width, : self._width]

    @property
    def scatter_xy(self) -> Tensor:
        """Σ(x − x̄)(y − ȳ)ᵀ [d, m], float64."""
        return self._joint.scatter[: self._width, self._width :]

    @property
    def scatter_yy(self) -> Tensor:
        """Σ(y − ȳ)² [m], float64."""
        return self._joint.squares[self._width :]

    @property
    def varying(self) -> list[int]:
        """Positions of the targets that had more than one value, float32 round-off apart."""
        low, high = self._range
        varies: list[bool] = ((high - low) > _ROUND_OFF * self._range.abs().amax(0)).tolist()
        return [i for i, yes in enumerate(varies) if yes]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums as tensors on the CPU: those of the joint `Covariance`, and the targets' `range` [2, m]."""
        return {**self._joint.state_dict(), "range": self._range.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the sums by those of `state_dict`, of the same targets.

        Raises:
            PhysteerError: They are of another number of targets.
        """
        if state["range"].shape[1] != len(self.targets):
            raise PhysteerError(f"sums of {state['range'].shape[1]} targets were given for {len(self.targets)}")
        self._joint.load_state_dict(state)
        self._range = state["range"].clone()

    @property
    def _width(self) -> int:
        """Number of channels d."""
        return self._joint.width - len(self.targets)

    def _extend_range(self, extremes: Tensor) -> None:
        """Widen the smallest and largest values by others [2, m]."""
        self._range = self._range.to(extremes.device)
        self._range = torch.stack(
            [torch.minimum(self._range[0], extremes[0]), torch.maximum(self._range[1], extremes[1])]
        )
