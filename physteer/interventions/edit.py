"""Edits: one formula for every intervention, h' = h + Π (r(h) − h) at a site, on a locus."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from physteer.errors import PhysteerError
from physteer.interventions.constant import Constant
from physteer.interventions.locus import EVERYWHERE, Locus
from physteer.interventions.replacements import Replacement
from physteer.interventions.sites import Site, named, unknown_layout
from physteer.interventions.subspace import Subspace

_CHANNELS_LAST = (nn.Linear, nn.Embedding, nn.LayerNorm)
_CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)


class Edit(nn.Module):
    """A replacement r(h), confined to a subspace Π of the channels and to a locus: h' = h + Π (r(h) − h)."""

    def __init__(
        self, site: Site | str, replacement: Replacement, subspace: Subspace | None = None, locus: Locus = EVERYWHERE
    ) -> None:
        """Make an edit.

        Args:
            site: address of the activation.
            replacement: r.
            subspace: Π, the directions of the channels that may change; None for all, and h' is r(h) exactly.
            locus: the rows, frames, tokens and rollout steps that may change.
        """
        super().__init__()
        self.site = Site.parse(site)
        self.replacement = replacement
        self.subspace = subspace
        self.locus = locus
        self._region = None if locus.region is None else Constant(locus.region)

    def at(self, locus: Locus) -> Edit:
        """Return the same edit on another locus; replacement and subspace are shared, parameters included."""
        return Edit(self.site, self.replacement, self.subspace, locus)

    def with_site(self, site: Site) -> Edit:
        """Return the same edit at another site, or at this one with its layout; all else is shared."""
        return self if site is self.site else Edit(site, self.replacement, self.subspace, self.locus)

    def check_known(self, output: Tensor, module: nn.Module) -> None:
        """Check that the edit can change an activation, and can tell the axes it needs where the site has no layout.

        Such an activation is edited as it is. Rows are axis 0. Channels are the last axis where the module makes it so,
        or where no other axis has that size. Frames, regions, heads and what is measured over space need a layout.

        Args:
            output: of the site's module, or its input where that is the site.
            module: the site's.

        Raises:
            PhysteerError: It needs the layout, or the activation is of integers.
        """
        _check_numbers(output)
        if self.site.layout is not None:
            return
        shape, reads = output.shape, self.replacement.reads(output.ndim)
        for needs, what in (
            (self.site.head is not None, "a head"),
            (self.locus.frames is not None, "an edit of some frames"),
            (self.locus.region is not None, "an edit of some tokens"),
            (reads == "axes", type(self.replacement).__name__),
        ):
            if needs:
                raise unknown_layout(self.site, shape, what)
        ambiguous = isinstance(module, _CHANNELS_FIRST) or [*shape].count(shape[-1]) > 1
        acts_on_channels = self.subspace is not None or reads == "channels"
        if acts_on_channels and ambiguous and not isinstance(module, _CHANNELS_LAST):
            what = type(self.replacement if self.subspace is None else self.subspace).__name__
            raise unknown_layout(self.site, shape, f"{what}, which acts on channels,")

    def forward(self, h: Tensor, step: int | None = None) -> Tensor:
        """Return the edited output of the site's module; h itself, not a copy, where nothing changes.

        Args:
            h: [B, T, …, d], or any output of which the site has the layout.
            step: the rollout's step, for edits limited to some.
        """
        return apply_edits(h, [self], step)

    def change(self, part: Tensor) -> Tensor:
        """Edit the selected rows, frames and head [b, t, …, d]; returns its argument where nothing changes."""
        replaced: Tensor = self.replacement(part) if self.subspace is None else self.replacement.readable(part)
        if replaced is part:
            return part
        if replaced.shape != part.shape:
            raise PhysteerError(f"a replacement of shape {list(replaced.shape)} does not fit {list(part.shape)}")
        if self.subspace is None:
            edited = replaced
        else:
            dtype = torch.promote_types(part.dtype, torch.float32)
            wide = part.to(dtype)
            edited = wide + self.subspace(replaced.to(dtype) - wide)
        if edited.dtype != part.dtype:
            edited = edited.to(part.dtype)
        if self._region is None:
            return edited
        region, grid = self._region.on(part.device), part.shape[2:-1]
        if region.ndim > len(grid) and all(size == 1 for size in region.shape[len(grid) :]):
            region = region.reshape(region.shape[: len(grid)])  # [h, w, 1] for an activation [B, T, h, w, d]
        if region.shape != grid:
            raise PhysteerError(f"the region has shape {list(region.shape)}, the token grid {list(grid)}")
        return torch.where(region[..., None], edited, part)

    def extra_repr(self) -> str:
        """Return the site."""
        return f"site={self.site}"


def apply_edits(h: Tensor, edits: Iterable[Edit], step: int | None = None) -> Tensor:
    """Apply the edits of one module's output in order, each to the result of the one before.

    The output is never changed in place. It is copied at most once, and not at all where edits change nothing.

    Args:
        h: the module's output; [B, T, …, d] for edits whose site has no layout.
        edits: their sites are this module or heads of it.
        step: the rollout's step.

    Returns:
        The edited output in h's shape and precision, or h itself.

    Raises:
        PhysteerError: An edit does not fit the output; the message names the site.
    """
    current, copied = h, False
    for edit in edits:
        try:
            if not edit.locus.includes(step):
                continue
            _check_numbers(current)
            part = edit.locus.take(edit.site.select(current))
            if copied and torch.is_grad_enabled():
                part = part.clone()  # autograd keeps what it read; `current` is written to below
            edited = edit.change(part)
        except PhysteerError as error:
            raise named(edit.site, error) from error
        if edited is part:
            continue
        if edit.site.head is None and edit.locus.rows is None and edit.locus.frames is None:
            current, copied = edit.site.restored(edited, current), False
            continue
        if not copied:
            current, copied = current.clone(memory_format=torch.contiguous_format), True
        target = edit.site.writable(current)
        heads_apart = target.ndim > edited.ndim
        edit.locus.put(target, edited.reshape(*edited.shape[:-1], *target.shape[-2:]) if heads_apart else edited)
    return current


def _check_numbers(h: Tensor) -> None:
    if not (h.is_floating_point() or h.is_complex()):
        raise PhysteerError(
            f"an activation of {h.dtype} holds indices or a mask, which edits cannot change; edit what the model "
            "computes of it, such as the output of the module that reads it"
        )
