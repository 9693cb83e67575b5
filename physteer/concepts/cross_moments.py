"""Streaming covariances of activations with targets: the sums that probes and erasers are both made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from physteer.concepts.widened import widened
from physteer.errors import PhysteerError

_ROWS, _COLUMNS = 1024, 64
"""Sizes of the blocks that are multiplied: they stay in a core's cache."""
_ROUND_OFF = 1e-6
"""Of the largest value: a mean of float32 numbers that are all the same varies by less."""


class CrossMoments:
    """Running means and covariances of activations x and targets y, in constant memory and mergeable over processes.

    All arithmetic is in float64. Rows are taken in blocks; every block is centred before it is multiplied, and blocks
    are combined by the parallel update of Chan, Golub & LeVeque (1979), so a large mean costs no digits. Of the
    symmetric Σ(x − x̄)(x − x̄)ᵀ only blocks on and above the diagonal are computed.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        """Begin with nothing seen.

        Args:
            targets: names of the columns of y.

        Raises:
            PhysteerError: There are none, or a name stands twice.
        """
        self.targets = tuple(targets)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise PhysteerError(f"targets are one or more different names; found {list(self.targets)}")
        self.count = 0
        self._mean_x: Tensor | None = None  # [d]
        self._mean_y = torch.zeros(len(self.targets), dtype=torch.float64)
        self._xx = torch.empty(0)  # [d, d]: Σ(x − x̄)(x − x̄)ᵀ, on and above the diagonal's blocks
        self._xy = torch.empty(0)  # [d, m]
        self._yy = torch.zeros(len(self.targets), dtype=torch.float64)  # [m]: Σ(y − ȳ)²
        self._range = torch.tensor([[torch.inf], [-torch.inf]]).double().repeat(1, len(self.targets))

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
        x = widened(x)
        y = widened(y).to(x.device)
        self._move(x.device)
        for first in range(0, len(x), _ROWS):
            self._add(x[first : first + _ROWS].double(), y[first : first + _ROWS].double())
        if not bool(self._yy.isfinite().all()):
            names = [name for name, good in zip(self.targets, self._yy.isfinite().tolist(), strict=True) if not good]
            raise PhysteerError(f"target {names[0]!r} has values that are not finite")
        if self._mean_x is not None and not bool(self._mean_x.isfinite().all()):
            raise PhysteerError("an activation is not finite")

    def merge(self, other: CrossMoments) -> None:
        """Add what another process has seen, of the same targets.

        Raises:
            PhysteerError: The targets or the width are others.
        """
        if other.targets != self.targets:
            raise PhysteerError(f"sums of the targets {list(other.targets)} cannot join {list(self.targets)}")
        if other._mean_x is None:
            return
        self._combine(other.count, other._mean_x, other._mean_y, other._range)
        self._xx += other._xx.to(self._xx.device)
        self._xy += other._xy.to(self._xy.device)
        self._yy += other._yy.to(self._yy.device)

    @property
    def mean_x(self) -> Tensor:
        """x̄ [d], float64.

        Raises:
            PhysteerError: Fewer than two samples were seen.
        """
        if self._mean_x is None or self.count < 2:
            raise PhysteerError(f"{self.count} tokens were seen: there is nothing to fit")
        return self._mean_x.clone()

    @property
    def mean_y(self) -> Tensor:
        """ȳ [m], float64."""
        return self._mean_y.clone()

    @property
    def scatter_xx(self) -> Tensor:
        """Σ(x − x̄)(x − x̄)ᵀ [d, d], float64."""
        upper = self._xx.triu()
        return upper + upper.triu(1).mT

    @property
    def scatter_xy(self) -> Tensor:
        """Σ(x − x̄)(y − ȳ)ᵀ [d, m], float64."""
        return self._xy.clone()

    @property
    def scatter_yy(self) -> Tensor:
        """Σ(y − ȳ)² [m], float64."""
        return self._yy.clone()

    @property
    def varying(self) -> list[int]:
        """Positions of the targets that had more than one value, float32 round-off apart."""
        low, high = self._range
        varies: list[bool] = ((high - low) > _ROUND_OFF * self._range.abs().amax(0)).tolist()
        return [i for i, yes in enumerate(varies) if yes]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums as tensors on the CPU, to be sent to another process or saved."""
        mean_x = torch.empty(0, dtype=torch.float64) if self._mean_x is None else self._mean_x
        sums = {"mean_y": self._mean_y, "xx": self._xx, "xy": self._xy, "yy": self._yy, "range": self._range}
        sums |= {"count": torch.tensor(self.count), "mean_x": mean_x}
        return {name: tensor.cpu() for name, tensor in sums.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace what was seen by what `state_dict` returned, of the same targets."""
        if len(state["mean_y"]) != len(self.targets):
            raise PhysteerError(f"sums of {len(state['mean_y'])} targets were given for {len(self.targets)}")
        self.count = int(state["count"])
        self._mean_x = state["mean_x"].clone() if self.count else None
        self._mean_y, self._xx, self._xy = (state[name].clone() for name in ("mean_y", "xx", "xy"))
        self._yy, self._range = state["yy"].clone(), state["range"].clone()

    def _move(self, device: torch.device) -> None:
        """Move the sums to where activations come from."""
        if self._mean_x is not None:
            self._mean_x, self._xx, self._xy = (part.to(device) for part in (self._mean_x, self._xx, self._xy))
        self._mean_y, self._yy, self._range = (part.to(device) for part in (self._mean_y, self._yy, self._range))

    def _add(self, x: Tensor, y: Tensor) -> None:
        """Add one block of rows, float64; x and y are changed."""
        mean_x, mean_y = x.mean(0), y.mean(0)
        self._combine(len(x), mean_x, mean_y, torch.stack([y.amin(0), y.amax(0)]))
        x = x - mean_x
        y = y - mean_y
        for first in range(0, x.shape[1], _COLUMNS):
            # [columns, d − first]: the rest of these rows is in the blocks before
            self._xx[first : first + _COLUMNS, first:].addmm_(x[:, first : first + _COLUMNS].mT, x[:, first:])
        self._xy.addmm_(x.mT, y)
        self._yy += y.square().sum(0)

    def _combine(self, count: int, mean_x: Tensor, mean_y: Tensor, extremes: Tensor) -> None:
        """Move the means, and take what their distance adds to the sums."""
        if self._mean_x is None:
            device, width = mean_x.device, len(mean_x)
            self._mean_x = torch.zeros(width, dtype=torch.float64, device=device)
            self._xx = torch.zeros(width, width, dtype=torch.float64, device=device)
            self._xy = torch.zeros(width, len(self.targets), dtype=torch.float64, device=device)
            self._move(device)
        if mean_x.shape != self._mean_x.shape:
            raise PhysteerError(f"activations of width {len(mean_x)} cannot join those of width {len(self._mean_x)}")
        total = self.count + count
        factor = self.count * count / total
        apart_x = mean_x.to(self._mean_x.device) - self._mean_x
        apart_y = mean_y.to(self._mean_x.device) - self._mean_y
        if factor:
            self._xx.addr_(apart_x, apart_x, alpha=factor)
            self._xy.addr_(apart_x, apart_y, alpha=factor)
            self._yy += factor * apart_y.square()
        self._mean_x += apart_x * (count / total)
        self._mean_y += apart_y * (count / total)
        extremes = extremes.to(self._range.device)
        self._range = torch.stack(
            [torch.minimum(self._range[0], extremes[0]), torch.maximum(self._range[1], extremes[1])]
        )
        self.count = total
