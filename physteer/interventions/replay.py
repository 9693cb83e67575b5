"""Replay: run only what an edit can change, from a snapshot taken at its site.

    base, source = take_snapshot(model, site, *inputs), take_snapshot(model, site, *other_inputs)
    y = replayed(model, base, [Edit(site, Interchange(source.activation), rotation)])

has the output and gradients of the edited pass, and skips the blocks before the site. One pass gives the snapshots of
many sites (`take_snapshots`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.attach import editing
from physteer.interventions.edit import Edit, apply_edits
from physteer.interventions.locus import EVERYWHERE, Clock, Locus
from physteer.interventions.replacements import Interchange
from physteer.interventions.sites import with_layout
from physteer.interventions.snapshot import LastFrameSnapshot, Snapshot
from physteer.interventions.stages import KeepsPast, StagedModel, border_before, with_skips
from physteer.interventions.subspace import Subspace


def replayed(
    model: StagedModel,
    snapshot: Snapshot,
    edits: Sequence[Edit] = (),
    clock: Clock | None = None,
    *,
    last_frame_only: bool = False,
) -> Tensor:
    """Continue from a snapshot under edits; the output equals that of the whole pass with these edits attached.

    Gradients reach the edits. Freeze the model (`model.requires_grad_(False)`): then a training step costs the blocks
    after the site and the gradient with respect to their activations.

    Args:
        model: the model of the snapshot, in the training or evaluation mode of the caller.
        snapshot: rows on the model's device. From a `LastFrameSnapshot` only the last frame is run and returned.
        edits: at the snapshot's site or later.
        clock: the rollout's step, for edits limited to some.
        last_frame_only: compute and return the last frame's output alone.

    Raises:
        PhysteerError: An edit is at a site that comes before the snapshot, is unknown, or is not of the last frame.
    """
    context = with_skips(model, model.unpack_context(snapshot.rows, snapshot.shared), snapshot.skips)
    if isinstance(snapshot, LastFrameSnapshot):
        edits = [_on_the_last_frame(edit, snapshot.n_frames) for edit in edits]
    module, border = cast(nn.Module, model), border_before(snapshot.start)
    same = [edit.site == snapshot.site and edit.site.layout is None for edit in edits]
    sites = [snapshot.site if one else edit.site for edit, one in zip(edits, same, strict=True)]
    edits = [edit.with_site(with_layout(module, site)) for edit, site in zip(edits, sites, strict=True)]
    step = None if clock is None else clock.step
    h = apply_edits(snapshot.state, [edit for edit in edits if edit.site.module == border], step)
    with _reached(model, [edit for edit in edits if edit.site.module != border], clock, border):
        if isinstance(snapshot, LastFrameSnapshot):
            h = cast(KeepsPast, model).run_next_frame(h, context, snapshot.start, snapshot.kv_cache)
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
        base: snapshot of the pass that is edited.
        source: the site's activation in other windows, row by row (`Snapshot.activation`).
        subspace: the directions that are exchanged, such as a rotation in training; None for all.
        locus: the frames and tokens that are exchanged; for a `LastFrameSnapshot`, `Locus(frames=[-1])`.
        last_frame_only: compute and return the last frame's output alone.
    """
    edit = Edit(base.site, Interchange(locus.take(source)), subspace, locus)
    return replayed(model, base, [edit], last_frame_only=last_frame_only)


def _on_the_last_frame(edit: Edit, n_frames: int) -> Edit:
    """Return an edit of the last of T frames as an edit of a single frame."""
    frames = Locus(frames=edit.locus.frames).take(torch.arange(n_frames)[None])
    if frames.tolist() != [[n_frames - 1]]:
        raise PhysteerError(
            f"site {edit.site}: the snapshot is for edits of the last frame alone; write Locus(frames=[-1])"
        )
    return edit.at(replace(edit.locus, frames=None))


@contextmanager
def _reached(model: StagedModel, edits: Sequence[Edit], clock: Clock | None, border: str) -> Iterator[None]:
    """Apply edits while the context is open, and check that each of them was reached."""
    with editing(cast(nn.Module, model), edits, clock) as reached:
        yield
    for edit in edits:
        if edit.site.module not in reached:
            raise PhysteerError(
                f"site {edit.site} is not computed after the snapshot, which continues behind {border!r}"
            )
