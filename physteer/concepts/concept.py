"""Concepts: a direction in activation space, its meaning and its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from physteer.errors import PhysteerError
from physteer.tensor_files import TensorFile, finite_float32


@dataclass(frozen=True, eq=False)
class Concept(TensorFile):
    """A direction at a site, with how it was computed.

    Raises:
        PhysteerError: The direction is not [h, w, δ, d], or has values that are not finite.
    """

    KIND: ClassVar = "concept"
    VERSION: ClassVar = 1

    direction: Tensor
    """[h, w, δ, d], float32, on the CPU."""
    site: str
    """Site of the activations, such as `blocks.39`."""
    model: str = ""
    """The weights: a path, a hub address, or a digest."""
    data: str = ""
    """Data set and split."""
    formula: str = ""
    """Formula of the direction."""
    units: str = "1"
    """Units of the direction; standardised activations have none."""
    classes: dict[str, str] = field(default_factory=dict)
    """The selection of each class of samples, by the class's name."""
    counts: dict[str, int] = field(default_factory=dict)
    """Number of windows per class."""
    initial_conditions: int = 0
    """Number of initial conditions of the windows; 0 where it is unknown."""

    def __post_init__(self) -> None:
        if self.direction.ndim != 4:
            raise PhysteerError(f"a concept's direction is [h, w, δ, d]; this has shape {list(self.direction.shape)}")
        object.__setattr__(self, "direction", finite_float32(self.direction, f"the concept at {self.site}"))

    @property
    def width(self) -> int:
        """Number of channels d."""
        return self.direction.shape[-1]

    def check_width(self, width: int, site: str) -> None:
        """Check that the concept has a site's number of channels.

        Raises:
            PhysteerError: The widths differ.
        """
        if width != self.width:
            raise PhysteerError(f"concept has width {self.width}, site {site} has {width}")
