"""The staged protocol: what a model offers so that its pass can stop at a site and continue from there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.sites import Site, find_module

_IN_BLOCK = re.compile(r"blocks\.(?P<index>\d+)(?P<inside>\..+)?")


class StagedModel(Protocol):
    """A module that runs in stages: encode, block 0 … L − 1, decode.

    The activation between stages is one tensor [B, T, …, d]. What else a stage needs is the model's own `context`. A
    model that is built otherwise joins by a small module that has these methods, and whose sites `encoder` (the
    activation before block 0) and `blocks.i` are at the borders of the stages.
    """

    blocks: nn.ModuleList

    def encode(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        """Return the activation before block 0, and the context."""
        ...

    def run_blocks(
        self, h: Tensor, context: Any, start: int = 0, stop: int | None = None, *, last_frame_only: bool = False
    ) -> Tensor:
        """Run blocks start … stop − 1, through their `__call__`; skip what only earlier frames' outputs need."""
        ...

    def decode(self, h: Tensor, context: Any, *, last_frame_only: bool = False) -> Tensor:
        """Return the output, of all frames or of the last alone."""
        ...

    def pack_context(self, context: Any) -> tuple[tuple[Tensor, ...], str]:
        """Return what a context is made of: tensors [B, …] on the CPU, and what all rows share."""
        ...

    def unpack_context(self, rows: Sequence[Tensor], shared: str) -> Any:
        """Return the context of some packed rows."""
        ...


class KeepsPast(StagedModel, Protocol):
    """A staged model whose frames never depend on later ones, so that a last frame can be run alone."""

    def keep_past(self, h: Tensor, context: Any, start: int) -> tuple[Tensor, ...]:
        """Return, for blocks start …, the keys and values of frames [B, T − 1, …] for a next one: tensors [B, …]."""
        ...

    def run_next_frame(self, h: Tensor, context: Any, start: int, kv_cache: Sequence[Tensor]) -> Tensor:
        """Run blocks start … on a frame [B, 1, …]."""
        ...


def first_block(model: StagedModel, site: Site) -> int:
    """Return the next block of a pass stopped at a site: the one behind it or, at a site inside a block, that block."""
    find_module(cast(nn.Module, model), site)
    if site.module == "encoder":
        return 0
    match = _IN_BLOCK.fullmatch(site.module)
    if match is None:
        raise PhysteerError(
            f"site {site.module!r} is not at the border of a stage: a pass can be stopped at 'encoder', at 'blocks.i', "
            "and inside a block"
        )
    return int(match["index"]) + (match["inside"] is None)


def border_before(start: int) -> str:
    """Return the site right before a block."""
    return "encoder" if start == 0 else f"blocks.{start - 1}"
