"""Sequences that a model computes piece by piece, as generation with a cache of keys and values does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.attach import check_reached, editing
from physteer.interventions.edit import Edit
from physteer.interventions.locus import Clock, Index, written
from physteer.interventions.replacements import Interchange


@contextmanager
def attached_to_pieces(model: nn.Module, edits: Sequence[Edit], clock: Clock | None = None) -> Iterator[None]:
    """Apply edits, as `attached` does, where the calls of a module are consecutive pieces of one sequence.

        with attached_to_pieces(model, [Edit("transformer.h.3 as b t d", steer, locus=Locus(frames=slice(5, None)))]):
            model.generate(ids, use_cache=True)  # the whole prompt at first, then one position a call

    `Locus.frames` are then positions in the whole sequence, counted for each module: position 5 is the sixth, in
    whatever piece it comes, and `slice(5, None)` is every position from it on. Negative ones, also as bounds of a
    slice, are of the current piece: −1 is its last position. A piece without any of an edit's positions is not edited
    by it.

    The sequence begins when the context opens and is one for all calls in it. A second, independent forward needs a
    second context: in the same one it would continue the first. What computes a position more than once, such as
    assisted generation, is no sequence of pieces. Padding on the left counts as positions.

    Args:
        model: any module.
        edits: as for `attached`. Those with `Locus.frames` need a layout with an axis t; without it, a call is a
            position.
        clock: as for `attached`.

    Raises:
        PhysteerError: As for `attached`; a replacement has other values at every position, and a border between pieces
            cuts them; or, at the end, no piece has held a position that is listed, or any of a slice.
    """
    counters: list[_Counter] = []

    def counted(own: Sequence[Edit]) -> _Counter:
        counters.append(_Counter(own))
        return counters[-1]

    with editing(model, edits, clock, counted) as reached:
        yield
    check_reached([edit.site for edit in edits], reached)
    for counter in counters:
        counter.check_complete()


class _Counter:
    """Counts the positions of one activation over its calls, and finds the edits of each call."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = edits
        self._ends = [0] * len(edits)
        self._edited: list[set[int]] = [set() for _ in edits]
        self._on_piece: dict[tuple[int, tuple[int, ...]], Edit] = {}

    def __call__(self, h: Tensor) -> list[Edit]:
        """Return the edits of the next piece, on its own positions."""
        found = []
        for i, edit in enumerate(self.edits):
            if edit.site.layout is None:  # on all positions: frames need a layout
                found.append(edit)
                continue
            start, n = self._ends[i], replace(edit.site, head=None).writable(h).shape[1]
            self._ends[i] += n
            places = _places(edit.locus.frames, start, n)
            if not places:
                continue
            values = _n_values(edit, h)
            again = bool(self._edited[i]) and not _from_the_end(edit.locus.frames)
            if values > 1 and (values != len(places) or again):
                raise PhysteerError(
                    f"site {edit.site}: a source of {values} positions is cut by the border of a piece, which holds "
                    f"positions {start}:{start + n}; give it to edits whose positions lie in one piece each, or run "
                    "the model without a cache"
                )
            self._edited[i].update(start + place for place in places)
            if edit.locus.frames is None:
                found.append(edit)
                continue
            key = (i, tuple(places))
            if key not in self._on_piece:
                self._on_piece[key] = edit.at(replace(edit.locus, frames=places))
            found.append(self._on_piece[key])
        return found

    def check_complete(self) -> None:
        """Check that positions that were asked for have come.

        Raises:
            PhysteerError: One has not.
        """
        for edit, end, edited in zip(self.edits, self._ends, self._edited, strict=True):
            frames = edit.locus.frames
            if frames is None:
                continue
            missing = [] if isinstance(frames, slice) else [i for i in frames if i >= 0 and i not in edited]
            if missing or not edited:
                listed = written(frames) if isinstance(frames, slice) else list(frames)
                what = f"position {missing[0]}" if missing else f"any of the positions {listed}"
                raise PhysteerError(
                    f"site {edit.site}: no piece has held {what}; the pieces were {end} positions long together (the "
                    "last token that is generated is not run)"
                )


def _places(frames: Index | None, start: int, n: int) -> list[int]:
    """Return the positions of a locus in a piece of n that begins at a start, counted from the piece's own begin."""
    end = start + n
    if frames is None:
        return list(range(n))
    if not isinstance(frames, slice):
        places = dict.fromkeys(i - start if i >= 0 else i + n for i in frames)  # in the order of a source's values
        return [place for place in places if 0 <= place < n]
    if frames.step is not None and frames.step < 1:
        raise PhysteerError(f"positions {written(frames)} of a sequence in pieces run backwards; give a positive step")
    low, high = (bound if bound is None or bound >= 0 else end + bound for bound in (frames.start, frames.stop))
    every = range(max(low or 0, 0), end if high is None else min(high, end), frames.step or 1)
    return [i - start for i in every if i >= start]


def _from_the_end(frames: Index | None) -> bool:
    bounds = (frames.start,) if isinstance(frames, slice) else frames or ()
    return any(bound is not None and bound < 0 for bound in bounds)


def _n_values(edit: Edit, h: Tensor) -> int:
    """Return at how many positions an interchange has values of their own; 1 where all get the same."""
    source = edit.replacement.source if isinstance(edit.replacement, Interchange) else None
    if source is None:
        return 1
    axis = source.ndim - edit.site.select(h).ndim + 1
    return source.shape[axis] if 0 <= axis < source.ndim else 1
