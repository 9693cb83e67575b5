"""A base class for networks that run in stages: encoder, blocks, decoder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from physteer.interventions.sites import path_pattern

_BORDER = re.compile(r"encoder|blocks\.\d+")


class StagedNetwork(nn.Module):
    """A network of an encoder, blocks and a decoder, as `StagedModel` and `DeclaresLayouts` describe them.

    A subclass makes the three and says the layouts. Blocks are called one after the other on the activation alone, and
    the decoder too; a network whose stages take more overrides `encode`, `run_blocks` and `decode`.

    Args:
        encoder: maps the network's inputs to the activation before block 0, the rows on its first axis.
        blocks: each maps the activation to the next one.
        decoder: maps the last activation to the network's output.
    """

    border_layout: ClassVar[str] = "b t ... d"
    """The axes of the activations between stages, the sites ``encoder`` and ``blocks.i`` (`Layout`)."""
    layouts: ClassVar[Mapping[str, str]] = {}
    """The axes of other modules' outputs, by path; ``*`` stands for one part of a path."""

    def __init__(self, encoder: nn.Module, blocks: Iterable[nn.Module], decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.blocks = nn.ModuleList(blocks)
        self.decoder = decoder

    def forward(self, *inputs: Any, last_frame_only: bool = False) -> Tensor:
        """Return the output, stage by stage."""
        h, context = self.encode(*inputs)
        h = self.run_blocks(h, context, last_frame_only=last_frame_only)
        return self.decode(h, context, last_frame_only=last_frame_only)

    def encode(self, *inputs: Any) -> tuple[Tensor, Any]:
        """Return the activation before block 0, and what later stages need beside it; here nothing."""
        return self.encoder(*inputs), None

    def run_blocks(
        self, h: Tensor, context: Any, start: int = 0, stop: int | None = None, *, last_frame_only: bool = False
    ) -> Tensor:
        """Run blocks start … stop − 1."""
        for block in self.blocks[start:stop]:
            h = block(h)
        return h

    def decode(self, h: Tensor, context: Any, *, last_frame_only: bool = False) -> Tensor:
        """Return the output."""
        decoded: Tensor = self.decoder(h)
        return decoded

    def pack_context(self, context: Any) -> tuple[tuple[Tensor, ...], str]:
        """Return a context that JSON can hold as text."""
        return (), json.dumps(context)

    def unpack_context(self, rows: Sequence[Tensor], shared: str) -> Any:
        """Return the context of a text; tuples have become lists."""
        return json.loads(shared)

    def site_layout(self, module: str) -> str | None:
        """Return the axes of a module's output; None where the class does not say."""
        if _BORDER.fullmatch(module):
            return self.border_layout
        return next((layout for path, layout in self.layouts.items() if path_pattern(path).fullmatch(module)), None)
