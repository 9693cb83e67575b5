"""How far a steered activation is from natural ones: Mahalanobis distance in their main directions, and the residual.

`NaturalDistances` collects the distances of natural activations that a `NaturalSpace` was not fitted to. `Naturalness`
returns the percentile of any activation among them.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.concepts.natural_space import NaturalSpace
from physteer.errors import PhysteerError
from physteer.tensor_files import read_tensors, write_tensors

FORMAT_VERSION = 1
_KIND = "natural space"


@dataclass(frozen=True, eq=False)
class Percentiles:
    """Percentiles of activations among held-out natural ones, per row and frame: between 0 and 100."""

    mahalanobis: Tensor
    """[B, T]."""
    residual: Tensor
    """[B, T]."""


@dataclass(frozen=True, eq=False)
class Naturalness:
    """The natural space with the distances of held-out natural activations."""

    space: NaturalSpace
    mahalanobis: Tensor
    """[frames], sorted: of the held-out natural frames."""
    residual: Tensor
    """[frames], sorted."""
    site: str = ""
    """Site of the activations, such as `blocks.3`."""
    model: str = ""
    """The weights."""
    data: str = ""
    """Data set and split."""

    def percentiles(self, h: Tensor) -> Percentiles:
        """Return the share of held-out natural frames that is nearer to the natural mean, in percent.

        With n held-out frames the largest percentile is 100 (n + ½)/(n + 1): a finite sample does not exclude natural
        frames that are farther away.

        Args:
            h: [B, T, h, w, δ, d].
        """
        distances = self.space.distances(h)
        return Percentiles(
            _percentile(distances.mahalanobis, self.mahalanobis), _percentile(distances.residual, self.residual)
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            PhysteerError: It cannot be written.
        """
        space = self.space
        tensors = {
            "mean": space.mean,
            "directions": space.directions,
            "variances": space.variances,
            "held_out_mahalanobis": self.mahalanobis,
            "held_out_residual": self.residual,
        }
        described = {
            "residual_variance": space.residual_variance,
            "tokens": space.tokens,
            "site": self.site,
            "model": self.model,
            "data": self.data,
        }
        write_tensors(path, _KIND, FORMAT_VERSION, tensors, described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Naturalness:
        """Read a file that `save` wrote.

        Raises:
            PhysteerError: There is no such file, it is of another kind or version, or damaged.
        """
        tensors, described = read_tensors(path, _KIND, FORMAT_VERSION)
        try:
            space = NaturalSpace(
                tensors["mean"],
                tensors["directions"],
                tensors["variances"],
                described["residual_variance"],
                described["tokens"],
            )
            held_out = tensors["held_out_mahalanobis"], tensors["held_out_residual"]
            naturalness = cls(space, *held_out, described["site"], described["model"], described["data"])
        except KeyError as error:
            raise PhysteerError(f"{path} is not a whole natural space: it lacks {error}") from error
        try:
            _check(naturalness)
        except PhysteerError as error:
            raise PhysteerError(f"{path} is not a whole natural space: {error}") from error
        return naturalness


class NaturalDistances:
    """Collects the distances of natural activations that the space was not fitted to, two numbers per frame."""

    def __init__(self, space: NaturalSpace) -> None:
        """Start with no activations.

        Args:
            space: in which distances are measured.
        """
        self.space = space
        self._seen: list[Tensor] = []  # each [frames, 2]

    def update(self, h: Tensor) -> None:
        """Add held-out natural activations [B, T, h, w, δ, d]."""
        distances = self.space.distances(h)
        self._seen.append(torch.stack([distances.mahalanobis.flatten(), distances.residual.flatten()], dim=1).cpu())

    def merge(self, other: NaturalDistances) -> None:
        """Add the distances of another process, in the same space."""
        self._seen += other._seen

    def fit(self, *, site: str = "", model: str = "", data: str = "") -> Naturalness:
        """Return the natural space with the collected distances.

        Args:
            site: of the activations.
            model: the weights.
            data: data set and split.

        Raises:
            PhysteerError: There are no distances, or one is not finite.
        """
        seen = self.state_dict()["distances"]
        if not len(seen):
            raise PhysteerError("no held-out natural activation was seen: there are no percentiles")
        if not bool(seen.isfinite().all()):
            raise PhysteerError("a held-out natural activation is not finite")
        ordered = seen.sort(dim=0).values
        return Naturalness(self.space, ordered[:, 0].contiguous(), ordered[:, 1].contiguous(), site, model, data)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the distances [frames, 2], to be sent to another process or saved."""
        return {"distances": torch.cat([torch.empty(0, 2, dtype=torch.float64), *self._seen])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the distances by those of `state_dict`."""
        self._seen = [state["distances"]]


def _check(naturalness: Naturalness) -> None:
    """Check what a file holds.

    Raises:
        PhysteerError: Shapes do not fit, or a value is of another type or not allowed.
    """
    space = naturalness.space
    tensors = (space.mean, space.directions, space.variances, naturalness.mahalanobis, naturalness.residual)
    if not all(tensor.is_floating_point() and bool(tensor.isfinite().all()) for tensor in tensors):
        raise PhysteerError("it has tensors that are no finite numbers")
    held_out = naturalness.mahalanobis.shape
    fit = space.directions.ndim == 2 and 1 <= space.directions.shape[1] <= space.directions.shape[0]
    fit = fit and space.mean.shape == space.directions.shape[:1] and space.variances.shape == space.directions.shape[1:]
    if not fit or len(held_out) != 1 or not held_out[0] or naturalness.residual.shape != held_out:
        raise PhysteerError(f"the shapes {', '.join(str(list(tensor.shape)) for tensor in tensors)} do not fit")
    variance, tokens = space.residual_variance, space.tokens
    if not (type(variance) in (int, float) and 0 <= variance < math.inf and type(tokens) is int and tokens >= 2):
        raise PhysteerError(f"a residual variance of {variance!r:.40} of {tokens!r:.40} tokens makes no sense")
    if not bool((space.variances > 0).all()):
        raise PhysteerError("a variance is not above 0")
    if not all(isinstance(text, str) for text in (naturalness.site, naturalness.model, naturalness.data)):
        raise PhysteerError("its site, model and data must be texts")


def _percentile(values: Tensor, natural: Tensor) -> Tensor:
    natural = natural.to(values.device)
    values = values.contiguous()
    nearer = torch.searchsorted(natural, values)
    not_farther = torch.searchsorted(natural, values, right=True)
    percentile = 50 * (nearer + not_farther + 1).double() / (len(natural) + 1)
    return percentile.where(~values.isnan(), torch.nan)
