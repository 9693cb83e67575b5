"""Concepts: a direction in activation space, what it is a direction of, and its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.tensor_files import TensorFile


@dataclass(frozen=True, eq=False)
class Concept(TensorFile):
    """A direction at a site, with how it came about.

    Raises:
        PhysteerError: The direction is not [h, w, δ, d], or has values that are not finite.
    """

    KIND: ClassVar = "concept"
    VERSION: ClassVar = 1

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
