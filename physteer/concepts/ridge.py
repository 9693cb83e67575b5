"""Linear probes: ridge regression in closed form, for many targets and penalties at once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from physteer.concepts.cross_moments import CrossMoments
from physteer.concepts.linear import apply_maps, check_maps, penalties, principal
from physteer.errors import PhysteerError
from physteer.tensor_files import TensorFile


@dataclass(frozen=True, eq=False)
class RidgeProbes(TensorFile):
    """Linear maps from an activation to targets, ŷ = W x + b, for A penalties.

    Raises:
        PhysteerError: Shapes do not fit, or a value is not finite.
    """

    KIND: ClassVar = "probe"
    VERSION: ClassVar = 1

    weights: Tensor
    """W [A, d, m], float64, on the CPU."""
    bias: Tensor
    """b [A, m], float64."""
    alphas: Tensor
    """[A, m], float64: the penalty α of each, in minimise Σ(y − ŷ)² + α‖W‖² (scikit-learn's ``alpha``; b is free)."""
    targets: tuple[str, ...]
    """Name of each of the m targets."""
    count: int
    """Number of samples they were fitted to."""
    site: str = ""
    """Site of the activations, such as `blocks.3`."""
    model: str = ""
    """The weights: a path, a hub address, or a digest."""
    data: str = ""
    """Data set and split."""
    units: dict[str, str] = field(default_factory=dict)
    """Units of the targets, by name."""

    def __post_init__(self) -> None:
        check_maps(self.weights, self.bias, self.alphas, self.bias.shape)
        m = self.bias.shape[1]
        if len(self.targets) != m:
            raise PhysteerError(f"{len(self.targets)} names were given for {m} targets")

    def predict(self, x: Tensor) -> Tensor:
        """Return ŷ for every penalty.

        Args:
            x: [..., d].

        Returns:
            [A, ..., m], float32, or float64 for activations in float64.

        Raises:
            PhysteerError: The width differs from the probes'.
        """
        return apply_maps(self.weights, self.bias, x.detach())

    def best(self, r2: Tensor) -> RidgeProbes:
        """Return the probes with the best penalty for each target.

        Args:
            r2: R² [A, m] on samples that the probes were not fitted to; NaN counts as the worst.

        Raises:
            PhysteerError: The scores have another shape.
        """
        if r2.shape != self.bias.shape:
            raise PhysteerError(f"scores {list(r2.shape)} do not fit probes {list(self.bias.shape)}")
        chosen = r2.nan_to_num(nan=-torch.inf).argmax(0, keepdim=True).cpu()  # [1, m]
        index = chosen[:, None].expand(-1, self.weights.shape[1], -1)  # [1, d, m]
        return replace(
            self,
            weights=self.weights.gather(0, index),
            bias=self.bias.gather(0, chosen),
            alphas=self.alphas.gather(0, chosen),
        )


class RidgeFitter(CrossMoments):
    """Fits `RidgeProbes` in one pass over any number of samples; mergeable over processes.

    With the centred sums S_xx = Σ(x − x̄)(x − x̄)ᵀ and S_xy, the minimum of Σ‖y − Wx − b‖² + α‖W‖² is
    W = S_yx (S_xx + α)⁻¹ and b = ȳ − W x̄ (Hoerl & Kennard 1970). One eigendecomposition of S_xx serves every α.
    """

    def fit(
        self,
        alphas: Sequence[float],
        *,
        site: str = "",
        model: str = "",
        data: str = "",
        units: dict[str, str] | None = None,
    ) -> RidgeProbes:
        """Return the probes; a target that never varied is left out, with a warning.

        Args:
            alphas: penalties, not negative. S_xx grows with the number of samples, so an α that regularises does too.
            site: of the activations.
            model: the weights.
            data: data set and split.
            units: of the targets, by name.

        Raises:
            PhysteerError: Fewer than two samples were seen, no target varied, or an α is not allowed.
        """
        mean_x, kept = self.mean_x, self.varying
        strengths = penalties(alphas, mean_x.device)
        constant = [name for i, name in enumerate(self.targets) if i not in kept]
        if not kept:
            raise PhysteerError(f"no target varies, so there is nothing to probe for: {', '.join(constant)}")
        if constant:
            warnings.warn(f"targets that are constant are skipped: {', '.join(constant)}", stacklevel=2)
        eigenvalues, vectors = principal(self.scatter_xx)
        shrunk = 1 / (eigenvalues + strengths[:, None])  # [A, r]
        weights = vectors @ (shrunk[..., None] * (vectors.mT @ self.scatter_xy[:, kept]))  # [A, d, m]
        targets = tuple(self.targets[i] for i in kept)
        return RidgeProbes(
            weights=weights.cpu(),
            bias=(self.mean_y[kept] - mean_x @ weights).cpu(),
            alphas=strengths[:, None].repeat(1, len(kept)).cpu(),
            targets=targets,
            count=self.count,
            site=site,
            model=model,
            data=data,
            units={name: (units or {}).get(name, "1") for name in targets},
        )
