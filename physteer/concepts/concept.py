"""Concepts: a direction in activation space, what it is a direction of, and its file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.tensor_files import read_tensors, write_tensors

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Concept:
    """A direction at a site, with how it came about.

    Raises:
        PhysteerError: The direction is not [h, w, δ, d], or has values that are not finite.
    """

    direction: Tensor
    """[h, w, δ, d], float32, on the CPU."""
    site: str
    """Where it was measured, such as `blocks.39`."""
    model: str = ""
    """Which weights: a path, a hub address, or a digest."""
    data: str = ""
    """Which data set and split."""
    formula: str = ""
    """How it was computed."""
    units: str = "1"
    """Of the direction; standardised activations have none."""
    classes: dict[str, str] = field(default_factory=dict)
    """What each class of samples is, by its name: the selection it was made with."""
    counts: dict[str, int] = field(default_factory=dict)
    """Windows per class."""
    initial_conditions: int = 0
    """How many initial conditions the windows are from; 0: not known."""

    def __post_init__(self) -> None:
        if self.direction.ndim != 4:
            raise PhysteerError(f"a concept's direction is [h, w, δ, d]; this has shape {list(self.direction.shape)}")
        direction = self.direction.detach().to("cpu", torch.float32).contiguous()
        if not bool(torch.isfinite(direction).all()):
            raise PhysteerError(f"the concept at {self.site} has values that are not finite")
        object.__setattr__(self, "direction", direction)

    @property
    def width(self) -> int:
        """Number of channels d."""
        return self.direction.shape[-1]

    def check_width(self, width: int, site: str) -> None:
        """Check that the concept fits a site's number of channels.

        Raises:
            PhysteerError: It does not.
        """
        if width != self.width:
            raise PhysteerError(f"concept has width {self.width}, site {site} has {width}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            PhysteerError: It cannot be written.
        """
        described = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "direction"}
        write_tensors(path, "concept", FORMAT_VERSION, {"direction": self.direction}, described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Concept:
        """Read a file that `save` wrote.

        Raises:
            PhysteerError: There is no such file, it is no concept, of a later version, or damaged.
        """
        tensors, described = read_tensors(path, "concept", FORMAT_VERSION)
        known = {f.name for f in fields(cls)}
        given: dict[str, Any] = {**{name: value for name, value in described.items() if name in known}, **tensors}
        try:
            return cls(**given)
        except (PhysteerError, TypeError) as error:
            raise PhysteerError(f"{path}: {error}") from error
