"""What fixes a Walrus's architecture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from physteer.errors import PhysteerError
from physteer.walrus import vocabulary

_SIZES = (
    *("hidden_dim", "intermediate_dim", "projection_dim", "n_blocks", "n_heads"),
    *("tokens_2d", "tokens_3d", "n_steps_input"),
)


@dataclass(frozen=True)
class WalrusConfig:
    """The size and the variant of a Walrus; the defaults are the published 1.3 B model."""

    variant: Literal["released", "preview"] = "released"
    """`released`: polymathic-ai/walrus and everything trained here. `preview`: the checkpoint of the steering paper."""
    fields: tuple[str, ...] = ()
    """Vocabulary in index order; `released` starts with its three flag channels. Empty: the variant's published one."""
    hidden_dim: int = 1408
    """Width d of an activation."""
    intermediate_dim: int = 352
    """Width between the two convolutions of the stem and of the decoder."""
    projection_dim: int = 48
    """Width of the linear field embedding; `preview` only."""
    n_blocks: int = 40
    """Number of blocks."""
    n_heads: int = 16
    """Attention heads of both mixings; hidden_dim / n_heads is a multiple of 8."""
    mlp_dim: int | None = None
    """Width of the feed-forward before its value and gate are split; none: 4 hidden_dim."""
    causal_in_time: bool = True
    """A frame attends to itself and earlier frames only."""
    tokens_2d: int = 32
    """Tokens per axis when at most two axes are longer than 1."""
    tokens_3d: int = 16
    """Tokens per axis in three dimensions."""
    dimensions: tuple[int, ...] = (2, 3)
    """Numbers of axes longer than 1 the model has a stem and a decoder for; the published models have both."""
    n_steps_input: int = 6
    """Input frames the model was trained with."""
    jitter: bool = True
    """The published evaluation shifts the input at random (see `Walrus.draw_shifts`); here a default for callers."""
    scale_eps: float | None = None
    """Lower bound of the sample-wise normalisation; none: 1e-5 (`preview`: 5e-6)."""
    rotary: Literal["fixed", "shared", "per_axis"] = "fixed"
    """Rotary frequencies of space attention: the formula, or learned per block (one set, or one per axis)."""
    position: tuple[int, int, int] | None = None
    """Token grid of a learned absolute position added after the stem; none in the published base models."""

    def __post_init__(self) -> None:
        self._check_types()
        if self.variant not in ("released", "preview"):
            raise PhysteerError(f"Walrus variant {self.variant!r:.40} is not 'released' or 'preview'")
        published = vocabulary.RELEASED_FIELDS if self.variant == "released" else vocabulary.PREVIEW_FIELDS
        object.__setattr__(self, "fields", tuple(self.fields) or published)
        object.__setattr__(self, "dimensions", tuple(self.dimensions))
        if not self.dimensions or not {*self.dimensions} <= {2, 3}:
            raise PhysteerError(f"dimensions {self.dimensions}: a Walrus has stems for 2, for 3, or for 2 and 3 axes")
        if self.position is not None:
            object.__setattr__(self, "position", tuple(self.position))
        if self.variant == "released" and self.fields[:3] != vocabulary.FLAGS:
            raise PhysteerError(
                f"the vocabulary of a released Walrus must start with {', '.join(vocabulary.FLAGS)}; "
                f"it starts with {', '.join(self.fields[:3])}"
            )
        if len(set(self.fields)) != len(self.fields):
            twice = sorted({name for name in self.fields if self.fields.count(name) > 1})
            raise PhysteerError(f"the vocabulary names a field twice: {', '.join(twice)}")
        if self.hidden_dim % (8 * self.n_heads):
            raise PhysteerError(
                f"hidden_dim {self.hidden_dim} must be n_heads × a multiple of 8 (rotary angles come in pairs on three "
                f"axes); n_heads is {self.n_heads}"
            )
        if self.ff_dim % 2:
            raise PhysteerError(f"mlp_dim {self.mlp_dim} must be even: it is halved into value and gate")

    def _check_types(self) -> None:
        """Check what a file may have wrong; the command line's parser checks types itself."""
        sizes = {name: getattr(self, name) for name in _SIZES}
        sizes |= {f"position {axis}": size for axis, size in enumerate(self.position or ())}
        if self.mlp_dim is not None:
            sizes["mlp_dim"] = self.mlp_dim
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                raise PhysteerError(f"{name} must be a whole number of at least 1; found {size!r:.60}")
        if self.position is not None and len(self.position) != 3:
            raise PhysteerError(f"position is a token grid of three sizes; found {self.position!r:.60}")
        for name in ("causal_in_time", "jitter"):
            if type(getattr(self, name)) is not bool:
                raise PhysteerError(f"{name} must be true or false; found {getattr(self, name)!r:.60}")
        if self.rotary not in ("fixed", "shared", "per_axis"):
            raise PhysteerError(f"rotary must be 'fixed', 'shared' or 'per_axis'; found {self.rotary!r:.60}")
        if self.scale_eps is not None and not (type(self.scale_eps) in (int, float) and 0 < self.scale_eps < math.inf):
            raise PhysteerError(f"scale_eps must be a number above 0; found {self.scale_eps!r:.60}")
        names: object = self.fields
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise PhysteerError("the vocabulary (fields) must be a list of names")

    @property
    def n_states(self) -> int:
        """Size of the vocabulary."""
        return len(self.fields)

    @property
    def head_dim(self) -> int:
        """Width hd of one attention head."""
        return self.hidden_dim // self.n_heads

    @property
    def ff_dim(self) -> int:
        """Width of the feed-forward before halving."""
        return 4 * self.hidden_dim if self.mlp_dim is None else self.mlp_dim

    @property
    def eps(self) -> float:
        """Lower bound of the RMS scales of the sample-wise normalisation."""
        if self.scale_eps is not None:
            return self.scale_eps
        return 1e-5 if self.variant == "released" else 5e-6

    def labels(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the vocabulary index of each field name.

        Raises:
            PhysteerError: A name is not in the vocabulary; the message lists close names.
        """
        return vocabulary.labels(names, self.fields)
