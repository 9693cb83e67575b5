"""Class probes: linear discriminant analysis in closed form, whose classes are the values of a parameter."""

from __future__ import annotations

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
class ClassProbe(TensorFile):
    """A linear map from an activation to the scores of classes, log p(class | x) up to a constant, for A penalties.

    The activation is a mean over a frame's tokens; the classes are the values of one parameter.

    Raises:
        PhysteerError: Shapes do not fit, there are fewer than two classes, or a value is not finite.
    """

    KIND: ClassVar = "class probe"
    VERSION: ClassVar = 1

    weights: Tensor
    """W [A, d, K], float64, on the CPU."""
    bias: Tensor
    """b [A, K], float64."""
    alphas: Tensor
    """[A], float64: the penalty α of each."""
    parameter: str
    """The parameter whose values are the classes, such as `Reynolds`."""
    classes: tuple[float, ...]
    """The parameter's K values, smallest first."""
    count: int
    """Number of samples it was fitted to."""
    site: str = ""
    """Site of the activations, such as `blocks.3`."""
    model: str = ""
    """The weights: a path, a hub address, or a digest."""
    data: str = ""
    """Data set and split."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """Share of samples whose class is predicted correctly, by split, such as `valid`."""

    def __post_init__(self) -> None:
        check_maps(self.weights, self.bias, self.alphas, self.bias.shape[:1])
        k = self.bias.shape[1]
        if len(self.classes) != k or k < 2:
            raise PhysteerError(f"{len(self.classes)} classes were given for {k} scores; a class probe has two or more")

    def scores(self, x: Tensor) -> Tensor:
        """Return the scores of the classes for every penalty, as logits; gradients reach the activation.

        Args:
            x: [..., d].

        Returns:
            [A, ..., K], float32, or float64 for activations in float64.

        Raises:
            PhysteerError: The width differs from the probe's.
        """
        return apply_maps(self.weights, self.bias, x)

    def labels(self, values: Sequence[float]) -> Tensor:
        """Return the indices of the parameter's values among the classes, [n].

        Raises:
            PhysteerError: A value is not one of the classes.
        """
        for value in values:
            if value not in self.classes:
                known = ", ".join(f"{value:g}" for value in self.classes)
                raise PhysteerError(f"{self.parameter} {value:g} is no class of the probe at {self.site}, only {known}")
        return torch.tensor([self.classes.index(value) for value in values])

    def chosen(self, index: int, accuracy: dict[str, float]) -> ClassProbe:
        """Return the probe with one of its penalties only.

        Args:
            index: of the penalty.
            accuracy: of this probe, on samples that it was not fitted to, by split.
        """
        rows = slice(index, index + 1)
        return replace(
            self, weights=self.weights[rows], bias=self.bias[rows], alphas=self.alphas[rows], accuracy=accuracy
        )


class ClassFitter(CrossMoments):
    """Fits a `ClassProbe` in one pass over any number of samples; mergeable over processes.

    Linear discriminant analysis: with the classes' means μ_c and shares π_c, and their common covariance
    Σ = (Σ_i (x_i − μ_{c(i)})(x_i − μ_{c(i)})ᵀ + α) / n, the score of a class is
    μ_cᵀ Σ⁻¹ x − ½ μ_cᵀ Σ⁻¹ μ_c + log π_c, as in scikit-learn. One eigendecomposition serves every α.
    """

    def __init__(self, parameter: str, classes: Sequence[float]) -> None:
        """Start with no samples.

        Args:
            parameter: the parameter whose values are the classes.
            classes: its values.

        Raises:
            PhysteerError: Fewer than two different values.
        """
        self.parameter, self.classes = parameter, tuple(sorted(set(classes)))
        if len(self.classes) < 2:
            known = ", ".join(f"{value:g}" for value in self.classes)
            raise PhysteerError(f"{parameter} has one value only ({known}): classes need two")
        super().__init__([f"{parameter} {value!r}" for value in self.classes])

    def update_classes(self, x: Tensor, labels: Tensor) -> None:
        """Add samples.

        Args:
            x: activations [n, d].
            labels: indices among `classes`, [n].

        Raises:
            PhysteerError: Shapes do not fit, or a value is not finite.
        """
        self.update(x, torch.nn.functional.one_hot(labels.to(x.device), len(self.classes)).float())

    def fit(self, alphas: Sequence[float], *, site: str = "", model: str = "", data: str = "") -> ClassProbe:
        """Return the probe.

        Args:
            alphas: penalties, not negative; an α that regularises grows with the number of samples, as in ridge
                regression.
            site: of the activations.
            model: the weights.
            data: data set and split.

        Raises:
            PhysteerError: A class has no sample, or an α is not allowed.
        """
        mean, shares = self.mean_x, self.mean_y.to(self.mean_x)
        strengths = penalties(alphas, mean.device)
        for value, share in zip(self.classes, shares.tolist(), strict=True):
            if not share > 0:
                raise PhysteerError(f"no sample of {self.parameter} {value:g} was seen")
        offsets = self.scatter_xy / (shares * self.count)  # [d, K]: μ_c − μ
        within = self.scatter_xx - self.count * (offsets * shares) @ offsets.mT
        eigenvalues, vectors = principal(within)
        inverse = self.count / (eigenvalues + strengths[:, None])  # [A, r]
        weights = vectors @ (inverse[..., None] * (vectors.mT @ offsets))  # [A, d, K]: Σ⁻¹(μ_c − μ)
        bias = shares.log() - (weights * (mean[:, None] + offsets / 2)).sum(1)  # without a constant of all classes
        return ClassProbe(
            weights=weights.cpu(),
            bias=bias.cpu(),
            alphas=strengths.cpu(),
            parameter=self.parameter,
            classes=self.classes,
            count=self.count,
            site=site,
            model=model,
            data=data,
        )
