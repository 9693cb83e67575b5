"""Concepts: a direction in activation space, what it is a direction of, and its file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.files import atomic_write

FORMAT_VERSION = 1
_HEADER = (
    "physteer.concept"  # one key: safetensors writes several in random order, and equal concepts should be equal files
)


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
        """Write a safetensors file, whole or not at all: to a temporary name first, then renamed.

        Raises:
            PhysteerError: It cannot be written.
        """
        described: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "direction"}
        header = json.dumps({"version": FORMAT_VERSION, **described}, ensure_ascii=False, sort_keys=True)
        content = save({"direction": self.direction}, {_HEADER: header})
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Concept:
        """Read a file that `save` wrote.

        Raises:
            PhysteerError: There is no such file, it is no concept, of a later version, or damaged.
        """
        if not Path(path).is_file():
            raise PhysteerError(f"there is no concept file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get(_HEADER)
                names = list(file.keys())
                direction = file.get_tensor("direction") if "direction" in names else None
        except (SafetensorError, OSError) as error:
            raise PhysteerError(f"{path} is not a whole safetensors file: {error}") from error
        if header is None or direction is None:
            raise PhysteerError(f"{path} is not a concept: it holds {_some(names)}")
        described = json.loads(header)
        version = described.pop("version", None)
        if version != FORMAT_VERSION:
            raise PhysteerError(f"{path} has concept format {version}; this physteer reads {FORMAT_VERSION}")
        known = {f.name for f in fields(cls)}
        try:
            return cls(direction=direction, **{name: value for name, value in described.items() if name in known})
        except (PhysteerError, TypeError) as error:
            raise PhysteerError(f"{path}: {error}") from error


def _some(names: list[str]) -> str:
    """Name a few tensors of many."""
    shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
    return f"the tensors {shown}" if names else "no tensors"
