"""The staged protocol: the methods of a model whose pass can stop at a site and continue from there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.layout import ROWS, parse_layout
from physteer.interventions.sites import Site, find_module

IN_BLOCK = re.compile(r"blocks\.(?P<index>\d+)(?P<inside>\..+)?")


class StagedModel(Protocol):
    """A module that runs in stages: encode, block 0 … L − 1, decode.

    The activation between stages is one tensor. Its first axis is the batch; the other axes are what the model declares
    (`DeclaresLayouts`), or [B, T, …, d]. Everything else that a stage needs is the `context`, in a form of the model's
    own; blocks that read the outputs of earlier ones too are described by `CarriesSkips`. `StagedNetwork` is a base
    class. A model with another structure can be wrapped in a module that has these methods; its sites `encoder` (the
    activation before block 0) and `blocks.i` must be at the borders of the stages.
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


class CarriesSkips(StagedModel, Protocol):
    """A staged model whose blocks also read activations of earlier borders, such as the skip connections of a U-Net.

    A border is named by the index of the block behind it: border 0 is `encoder`, border i is `blocks.{i-1}`. The
    decoder reads the output of the last block alone.
    """

    def skip_borders(self, start: int) -> Sequence[int]:
        """Return the borders before block `start` whose activations blocks start … read."""
        ...

    def with_skips(self, context: Any, activations: Mapping[int, Tensor]) -> Any:
        """Return the context for blocks that come after these borders, with their activations [B, T, …]."""
        ...


def skip_borders(model: StagedModel, start: int) -> tuple[int, ...]:
    """Return the borders before a block whose activations it or later blocks read (`CarriesSkips`); none for others."""
    if not hasattr(model, "skip_borders"):
        return ()
    return tuple(cast(CarriesSkips, model).skip_borders(start))


def with_skips(model: StagedModel, context: Any, activations: Mapping[int, Tensor]) -> Any:
    """Return the context with the activations of earlier borders; itself where there are none."""
    return cast(CarriesSkips, model).with_skips(context, activations) if activations else context


def first_block(model: StagedModel, site: Site) -> int:
    """Return the index of the next block of a pass that is stopped at a site.

    It is the block after the site or, for a site inside a block, that block.

    Raises:
        PhysteerError: The site is unknown, neither a border of a stage nor inside a block, or a border whose first axis
            is not the batch.
    """
    find_module(cast(nn.Module, model), site)
    if at_border(site) and site.layout is not None and parse_layout(site.layout).given.split()[0] != ROWS:
        raise PhysteerError(
            f"site {site}: between its stages, a model that runs in stages has its rows on the first axis; found the "
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
