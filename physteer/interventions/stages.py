"""The staged protocol: the methods of a model whose pass can stop at a site and continue from there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.layout import parse_layout
from physteer.interventions.sites import Site, find_module

IN_BLOCK = re.compile(r"blocks\.(?P<index>\d+)(?P<inside>\..+)?")


class StagedModel(Protocol):
    """A module that runs in stages: encode, block 0 … L − 1, decode.

    The activation between stages is one tensor [B, T, …, d], in this order. Everything else that a stage needs is the
    `context`, in a form of the model's own. A model with another structure can be wrapped in a module that has these
    methods; its sites `encoder` (the activation before block 0) and `blocks.i` must be at the borders of the stages.
    Layouts of sites inside blocks are declared beside (`DeclaresLayouts`).
    """

    blocks: nn.ModuleList

    def encode(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        """Return the activation before block 0, and the context."""
        ...

    def run_blocks(
        self, h: Tensor, context: Any, start: int = 0, stop: int | None = None, *, last_frame_only: bool = False
    ) -> Tensor:
        """Run blocks start … stop − 1, through their `__call__`.

        With `last_frame_only`, what only the outputs of earlier frames need is skipped.
        """
        ...

    def decode(self, h: Tensor, context: Any, *, last_frame_only: bool = False) -> Tensor:
        """Return the output, of all frames or of the last alone."""
        ...

    def pack_context(self, context: Any) -> tuple[tuple[Tensor, ...], str]:
        """Return the parts of a context: tensors [B, …] on the CPU, and text that all rows share."""
        ...

    def unpack_context(self, rows: Sequence[Tensor], shared: str) -> Any:
        """Return the context of packed rows."""
        ...


class KeepsPast(StagedModel, Protocol):
    """A staged model that is causal in time: with the kv cache of earlier frames, the last frame can be run alone."""

    def keep_past(self, h: Tensor, context: Any, start: int) -> tuple[Tensor, ...]:
        """Return the kv cache of frames [B, T − 1, …] for blocks start …: tensors [B, …]."""
        ...

    def run_next_frame(self, h: Tensor, context: Any, start: int, kv_cache: Sequence[Tensor]) -> Tensor:
        """Run blocks start … on a frame [B, 1, …], with the kv cache of the frames before it."""
        ...


def first_block(model: StagedModel, site: Site) -> int:
    """Return the index of the next block of a pass that is stopped at a site.

    It is the block after the site or, for a site inside a block, that block.

    Raises:
        PhysteerError: The site is unknown, neither a border of a stage nor inside a block, or a border with another
            layout than stages have.
    """
    find_module(cast(nn.Module, model), site)
    if at_border(site) and site.layout is not None and not parse_layout(site.layout).as_seen:
        raise PhysteerError(
            f"site {site}: between its stages, a model that runs in stages has activations [B, T, …, d]; found the "
            f"layout {site.layout!r}"
        )
    if site.module == "encoder":
        return 0
    match = IN_BLOCK.fullmatch(site.module)
    if match is None:
        raise PhysteerError(
            f"site {site.module!r} is not at the border of a stage: a pass can be stopped at 'encoder', at 'blocks.i', "
            "and inside a block"
        )
    return int(match["index"]) + (match["inside"] is None)


def at_border(site: Site) -> bool:
    """Return whether a site is the border of a stage: what the encoder or a block hands on."""
    match = IN_BLOCK.fullmatch(site.module)
    return site.module == "encoder" or (match is not None and match["inside"] is None)


def border_before(start: int) -> str:
    """Return the site right before a block."""
    return "encoder" if start == 0 else f"blocks.{start - 1}"
