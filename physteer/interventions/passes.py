"""Passes that stop at some sites: their snapshots hold everything computed before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.attach import captured
from physteer.interventions.layout import parse_layout
from physteer.interventions.sites import Site, with_layout
from physteer.interventions.snapshot import LastFrameSnapshot, Snapshot
from physteer.interventions.stages import (
    KeepsPast,
    StagedModel,
    border_before,
    first_block,
    skip_borders,
    with_skips,
)


def take_snapshots(model: StagedModel, sites: Sequence[Site | str], *args: Any, **kwargs: Any) -> dict[Site, Snapshot]:
    """Run one pass up to the last of some sites and stop.

    From `encoder` and `blocks.i` a replay continues right after the site. From a site inside a block it continues at
    that block's input: every replay runs the block again.

    Args:
        model: any staged model.
        sites: one or more of `encoder`, `blocks.i`, and modules inside a block, in any order.
        args: the model's inputs, as for `encode`.
        kwargs: more of them.

    Returns:
        Snapshots by site; sites with the same next block share its input.

    Raises:
        PhysteerError: A site is unknown, or of another kind.
    """
    with _off_the_tape():
        starts = _starts(model, sites)
        skips = {start: skip_borders(model, start) for start in range(max(starts.values()) + 1)}
        stops = {*starts.values(), *(border for borders in skips.values() for border in borders)}
        first = min(stops)
        h, context = model.encode(*args, **kwargs)
        states = {first: model.run_blocks(h, context, 0, first)}

        def run(h: Tensor, start: int, stop: int) -> Tensor:
            earlier = {border: states[border] for border in skips[start]}
            return model.run_blocks(h, with_skips(model, context, earlier), start, stop)

        inner = _run_through(model, starts, stops, states, run)
        packed = model.pack_context(context)
    return {
        site: Snapshot(
            site,
            start,
            states[start],
            inner.get(str(site)),
            *packed,
            skips={border: states[border] for border in skips[start]},
        )
        for site, start in starts.items()
    }


def take_snapshot(model: StagedModel, site: Site | str, *args: Any, **kwargs: Any) -> Snapshot:
    """Run a pass up to one site and stop (`take_snapshots`)."""
    (snapshot,) = take_snapshots(model, [site], *args, **kwargs).values()
    return snapshot


def take_last_frame_snapshots(
    model: KeepsPast, sites: Sequence[Site | str], *args: Any, **kwargs: Any
) -> dict[Site, LastFrameSnapshot]:
    """Run one pass up to the last of some sites, for edits of the last frame alone.

    From the first site on, the keys and values of earlier frames (the kv cache) are kept, and shared by all snapshots.
    From there the last frame is run alone, as it will be by replays. No edits may be attached to the model during the
    pass: blocks after the first site never see all frames.

    Args:
        model: a staged model that is causal in time.
        sites: one or more of `encoder`, `blocks.i`, and modules inside a block, in any order.
        args: the model's inputs, as for `encode`.
        kwargs: more of them.

    Returns:
        Snapshots by site.

    Raises:
        PhysteerError: A site is unknown, or of another kind; or the model is not causal.
    """
    with _off_the_tape():
        starts = _starts(model, sites)
        _check_frames(model)
        first = min(starts.values())
        h, context = model.encode(*args, **kwargs)
        h = model.run_blocks(h, context, 0, first)
        n_frames = h.shape[1]
        kv_cache = model.keep_past(h[:, :-1], context, first)

        def run(h: Tensor, start: int, stop: int) -> Tensor:
            return model.run_next_frame(h, context, start, kv_cache[start - first : stop - first])

        states = {first: h[:, -1:].clone()}
        inner = _run_through(model, starts, {*starts.values()}, states, run)
        rows, shared = model.pack_context(context)
    return {
        site: LastFrameSnapshot(
            site, start, states[start], inner.get(str(site)), rows, shared, kv_cache[start - first :], n_frames
        )
        for site, start in starts.items()
    }


def take_last_frame_snapshot(model: KeepsPast, site: Site | str, *args: Any, **kwargs: Any) -> LastFrameSnapshot:
    """Run a pass up to one site, for edits of the last frame alone (`take_last_frame_snapshots`)."""
    (snapshot,) = take_last_frame_snapshots(model, [site], *args, **kwargs).values()
    return snapshot


@contextmanager
def _off_the_tape() -> Iterator[None]:
    """Record no gradients, but make tensors that a later backward pass may use, also within inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _starts(model: StagedModel, sites: Sequence[Site | str]) -> dict[Site, int]:
    """Return the index of the next block to run behind every site."""
    parsed = [with_layout(cast(nn.Module, model), Site.parse(site)) for site in sites]
    return {site: first_block(model, site) for site in parsed}


def _check_frames(model: StagedModel) -> None:
    """Refuse models whose last frame cannot be cut out of the activations between stages."""
    layout = with_layout(cast(nn.Module, model), Site("encoder")).layout
    if (layout is not None and not parse_layout(layout).as_seen) or hasattr(model, "skip_borders"):
        raise PhysteerError(
            "the last frame alone can be run where activations between stages are [B, T, …, d] and blocks read the one "
            f"before them only; {type(model).__name__} is otherwise"
        )


def _run_through(
    model: StagedModel,
    starts: Mapping[Site, int],
    stops: Collection[int],
    states: dict[int, Tensor],
    run: Callable[[Tensor, int, int], Tensor],
) -> dict[str, Tensor]:
    """Continue a pass to the last of some sites.

    Args:
        model: whose blocks are run.
        starts: the next block of every site.
        stops: borders whose activations are kept; those of `starts` are among them.
        states: the activation of the first of them; those of the others are added.
        run: given an activation, start and stop, runs blocks start … stop − 1.

    Returns:
        The activations of sites inside a block, by name.
    """
    inside = [site for site, start in starts.items() if site.module != border_before(start)]
    at = min(states)
    with captured(cast(nn.Module, model), inside) as seen:
        for stop in sorted({*stops, *(starts[site] + 1 for site in inside)}):
            states[stop] = run(states[at], at, stop)
            at = stop
    return seen
