"""Replay: run only what an edit can change, from a snapshot taken at its site.

    base, source = take_snapshot(model, site, *inputs), take_snapshot(model, site, *other_inputs)
    y = replayed(model, base, [Edit(site, Interchange(source.activation), rotation)])

is the edited pass, output and gradients, without the blocks before the site.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.attach import attached, captured, observed
from physteer.interventions.edit import Edit, apply_edits
from physteer.interventions.locus import EVERYWHERE, Clock, Locus
from physteer.interventions.replacements import Interchange
from physteer.interventions.sites import Site, find_module
from physteer.interventions.snapshot import LastFrameSnapshot, Snapshot
from physteer.interventions.subspace import Subspace

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
        """Return, for blocks start …, what a next frame needs to know of frames [B, T − 1, …]: tensors [B, …]."""
        ...

    def run_next_frame(self, h: Tensor, context: Any, start: int, past: Sequence[Tensor]) -> Tensor:
        """Run blocks start … on a frame [B, 1, …]."""
        ...


def take_snapshot(model: StagedModel, site: Site | str, *args: Any, **kwargs: Any) -> Snapshot:
    """Run a pass up to a site and stop.

    At `encoder` and `blocks.i` the pass goes on right behind the site. A site inside a block goes on from that block's
    input: the block is run here to see the activation, and is run again by every replay.

    Args:
        model: any staged model.
        site: `encoder`, `blocks.i`, or a module inside a block.
        args: the model's inputs, as for `encode`.
        kwargs: more of them.

    Raises:
        PhysteerError: The site is unknown or elsewhere.
    """
    site = Site.parse(site)
    start = _first_block(model, site)
    with torch.inference_mode(False), torch.no_grad():
        h, context = model.encode(*args, **kwargs)
        state = model.run_blocks(h, context, 0, start)
        inner = _inner(model, site, state, context, start)
        return Snapshot(site, start, state, inner, *model.pack_context(context))


def take_last_frame_snapshot(model: KeepsPast, site: Site | str, *args: Any, **kwargs: Any) -> LastFrameSnapshot:
    """Run a pass up to a site, for edits of the last frame alone, and keep what later blocks need of earlier frames.

    No edits may be attached to the model meanwhile: later blocks see the earlier frames alone.

    Args:
        model: a staged model that is causal in time.
        site: `encoder`, `blocks.i`, or a module inside a block.
        args: the model's inputs, as for `encode`.
        kwargs: more of them.

    Raises:
        PhysteerError: The site is unknown or elsewhere, or the model is not causal.
    """
    site = Site.parse(site)
    start = _first_block(model, site)
    with torch.inference_mode(False), torch.no_grad():
        h, context = model.encode(*args, **kwargs)
        state = model.run_blocks(h, context, 0, start)
        inner = _inner(model, site, state, context, start)
        last = None if inner is None else inner[:, -1:].clone()
        past = model.keep_past(state[:, :-1], context, start)
        rows, shared = model.pack_context(context)
        return LastFrameSnapshot(site, start, state[:, -1:].clone(), last, rows, shared, past, state.shape[1])


def replayed(
    model: StagedModel,
    snapshot: Snapshot,
    edits: Sequence[Edit] = (),
    clock: Clock | None = None,
    *,
    last_frame_only: bool = False,
) -> Tensor:
    """Go on from a snapshot under edits: the output of the whole pass with these edits attached.

    Gradients reach the edits. Parameters that do not require gradients cost nothing in the backward pass: freeze the
    model (`model.requires_grad_(False)`) and a step costs the suffix and the gradient with respect to its activations.

    Args:
        model: the one that was snapshot; its training or evaluation mode is left as it is.
        snapshot: rows on the model's device. From a `LastFrameSnapshot` only the last frame is run and returned.
        edits: at the snapshot's site or later.
        clock: the rollout's step, for edits limited to some.
        last_frame_only: compute and return the last frame's output alone.

    Raises:
        PhysteerError: An edit is at a site that comes before the snapshot, is unknown, or is not of the last frame.
    """
    context = model.unpack_context(snapshot.rows, snapshot.shared)
    if isinstance(snapshot, LastFrameSnapshot):
        edits = [_on_the_last_frame(edit, snapshot.n_frames) for edit in edits]
    border = "encoder" if snapshot.start == 0 else f"blocks.{snapshot.start - 1}"
    step = None if clock is None else clock.step
    h = apply_edits(snapshot.state, [edit for edit in edits if edit.site.module == border], step)
    with _reached(model, [edit for edit in edits if edit.site.module != border], clock, border):
        if isinstance(snapshot, LastFrameSnapshot):
            h = cast(KeepsPast, model).run_next_frame(h, context, snapshot.start, snapshot.past)
        else:
            h = model.run_blocks(h, context, snapshot.start, last_frame_only=last_frame_only)
        return model.decode(h, context, last_frame_only=last_frame_only)


def interchanged(
    model: StagedModel,
    base: Snapshot,
    source: Tensor,
    subspace: Subspace | None = None,
    locus: Locus = EVERYWHERE,
    *,
    last_frame_only: bool = False,
) -> Tensor:
    """Return a base pass's output with the site's activation, inside a subspace, taken from a source pass.

    Args:
        model: any staged model, frozen.
        base: what is edited.
        source: the site's activation in other windows, row by row (`Snapshot.activation`).
        subspace: what is exchanged, such as a rotation in training; none: everything.
        locus: what is exchanged of it; for a `LastFrameSnapshot`, `Locus(frames=[-1])`.
        last_frame_only: compute and return the last frame's output alone.
    """
    edit = Edit(base.site, Interchange(locus.take(source)), subspace, locus)
    return replayed(model, base, [edit], last_frame_only=last_frame_only)


def _first_block(model: StagedModel, site: Site) -> int:
    """Return the block a pass goes on with from a site."""
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


def _inner(model: StagedModel, site: Site, state: Tensor, context: Any, start: int) -> Tensor | None:
    """Return the activation of a site inside block `start`; none for a site at the border before it."""
    if site.module == "encoder" or start > int(site.module.split(".")[1]):
        return None
    with captured(cast(nn.Module, model), [site]) as seen:
        model.run_blocks(state, context, start, start + 1)
    if str(site) not in seen:
        raise PhysteerError(f"site {site.module!r} has no activation: the forward does not call that module")
    return seen[str(site)]


def _on_the_last_frame(edit: Edit, n_frames: int) -> Edit:
    """Return an edit of the last of T frames as one of the only frame."""
    frames = Locus(frames=edit.locus.frames).take(torch.arange(n_frames)[None])
    if frames.tolist() != [[n_frames - 1]]:
        raise PhysteerError(
            f"site {edit.site}: the snapshot is for edits of the last frame alone; write Locus(frames=[-1])"
        )
    return edit.at(replace(edit.locus, frames=None))


@contextmanager
def _reached(model: StagedModel, edits: Sequence[Edit], clock: Clock | None, border: str) -> Iterator[None]:
    """Apply edits while the context is open, and see to it that all had their turn."""
    module, reached = cast(nn.Module, model), set[Site]()
    with attached(module, edits, clock), observed(module, [e.site for e in edits], lambda site, h: reached.add(site)):
        yield
    for edit in edits:
        if edit.site not in reached:
            raise PhysteerError(f"site {edit.site} is not computed after the snapshot, which goes on behind {border!r}")
