"""Scores of probes: R², mean absolute error, and the smallest error over the tokens of a window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.metrics.sums import ConditionSums

N, SUM, SQUARES, ERRORS, ABSOLUTE = range(5)
"""Columns of `ProbeScores.terms`: samples, Σ(y − c), Σ(y − c)², Σ(y − ŷ)², Σ|y − ŷ|, with c a constant per target."""


class ProbeScores(ConditionSums):
    """R² and mean absolute error of many probes on many targets in one pass, and by initial condition.

    Five sums (columns `N` … `ABSOLUTE`) are kept per initial condition, probe and target: terms are [A, m, 5], float64.
    """

    def __init__(self, targets: Sequence[str], centre: Tensor | None = None) -> None:
        """Start with no samples.

        Args:
            targets: names of the m targets.
            centre: c [m], close to the mean of each target, so that Σ(y − c)² loses no digits; 0 by default. All
                processes must use the same.
        """
        super().__init__()
        self.targets = tuple(targets)
        self._centre = torch.zeros(len(self.targets)) if centre is None else centre.detach()
        self._centre = self._centre.cpu().double()

    def update(self, prediction: Tensor, truth: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add samples.

        Args:
            prediction: ŷ [A, B, n, m] of A probes: n samples of each of B windows.
            truth: y [B, n, m].
            initial_conditions: of each window, by name.

        Raises:
            PhysteerError: Shapes do not fit, or a truth is not finite.
        """
        if prediction.ndim != 4 or prediction.shape[1:] != truth.shape or truth.shape[2] != len(self.targets):
            raise PhysteerError(
                f"predictions {list(prediction.shape)} do not fit truths {list(truth.shape)} of the targets "
                f"{', '.join(self.targets)}"
            )
        if len(initial_conditions) != len(truth):
            raise PhysteerError(f"{len(initial_conditions)} initial conditions were named for {len(truth)} windows")
        finite = truth.isfinite().flatten(0, 1).all(0).tolist()
        if not all(finite):
            raise PhysteerError(f"target {self.targets[finite.index(False)]!r} has values that are not finite")
        y, predicted = (_float64(tensor) for tensor in (truth, prediction))
        error, y = predicted - y, y - self._centre.to(y.device)
        about = torch.stack([torch.ones_like(y), y, y.square()], -1).sum(1)  # [B, m, 3]
        off = torch.stack([error.square(), error.abs()], -1).sum(2)  # [A, B, m, 2]
        terms = torch.cat([about.expand(len(off), *about.shape), off], -1).cpu()  # [A, B, m, 5]
        self.add(initial_conditions, terms.movedim(1, 0))

    def r2(self) -> Tensor:
        """Return R² [A, m]; NaN where the truth does not vary."""
        return r2_of(self.total())

    def mae(self) -> Tensor:
        """Return the mean absolute error [A, m], in the targets' units."""
        return mae_of(self.total())


def r2_of(terms: Tensor) -> Tensor:
    """Return R² = 1 − Σ(y − ŷ)²/Σ(y − ȳ)² of sums [..., 5]; NaN where the truth does not vary."""
    spread = terms[..., SQUARES] - terms[..., SUM].square() / terms[..., N]
    return torch.where(spread > 0, 1 - terms[..., ERRORS] / spread, torch.nan)


def mae_of(terms: Tensor) -> Tensor:
    """Return the mean of |y − ŷ| of sums [..., 5]."""
    return terms[..., ABSOLUTE] / terms[..., N]


def best_match(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the smallest |ŷ − y| over the tokens of each window, [B, m].

    A minimum over many tokens is small by chance. Compare it with the same minimum for the truths of other windows
    (`physteer.concepts.other_windows`).

    Args:
        prediction: ŷ [B, n, m] at n tokens.
        truth: y [B, n, m], or [B, 1, m] for a truth that is the same at all tokens.
    """
    return (_float64(prediction) - _float64(truth)).abs().amin(1)


def _float64(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()  # Apple GPUs have no float64
