"""Layouts: which axis of an activation is which, and views of it in the one order that edits and captures see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain

import torch
from einops import EinopsError, rearrange
from torch import Tensor

from physteer.errors import PhysteerError

ROWS, FRAMES, HEADS, HEAD_CHANNELS, REST = "b", "t", "n", "hd", "..."
SPACE = ("h", "w", "δ", "x", "y", "z", "s", REST)
CHANNELS = ("c", "d")
AXES = (
    "b rows, t frames or positions in time, h w δ (or x y z) space, s tokens of space in one axis, c or d channels, "
    "n heads with hd channels each, ... space of any number of axes"
)
"""The names of axes, for messages."""
_GROUP = re.compile(r"\(([^()]+)\)|([^()\s]+)")
_AXIS = re.compile(r"(?P<name>[^\W\d]\w*|\.\.\.)(?:=(?P<size>[1-9]\d*))?")


@dataclass(frozen=True)
class Layout:
    """The axes of a module's output or input, in einops' notation: ``b c h w``, ``b t d``, ``b t (n=8 hd)``, ``t b d``.

    Axes in brackets lie in one axis of the output; all but one of them need a size. Edits and captures see the axes in
    one order, [B, T, …, d]: rows, frames, space (h w δ), channels, with T = 1 and B = 1 where there is no such axis. Of
    heads they see one, d = hd, or all of them as channels, d = n·hd. These are views; all heads together are copied
    where their axis does not lie next to their channels.
    """

    text: str
    """As it was written."""
    given: str
    """The axes of the output, without sizes."""
    seen: str
    """The same in the order of edits and captures; heads are an axis of their own."""
    sizes: tuple[tuple[str, int], ...]
    """Sizes that were written."""

    @cached_property
    def has_heads(self) -> bool:
        """Whether heads lie apart from their channels."""
        return self.seen.endswith(HEAD_CHANNELS)

    def n_heads(self, shape: Sequence[int]) -> int:
        """Return the number of heads in an output of a shape; 0 where they do not lie apart."""
        return self._apart(torch.empty(tuple(shape), device="meta")).shape[-2] if self.has_heads else 0

    def view(self, output: Tensor, head: int | None = None) -> Tensor:
        """Return an output [B, T, …, d] of one head or of everything: the output itself where it lies so.

        Raises:
            PhysteerError: The output has other axes, or there is no such head.
        """
        if head is None:
            return output if self.as_seen else self._moved(output, self.given, self._joined)
        if not self.has_heads:
            raise PhysteerError(
                f"head {head} is asked for, but the layout {self.text!r} has no axis of heads; write one such as "
                "'b t n hd', or 'b t (n=8 hd)' for 8 heads in one axis"
            )
        apart = self._apart(output)
        if head >= apart.shape[-2]:
            raise PhysteerError(f"head {head} is asked for, but the activation has {apart.shape[-2]} heads")
        return apart[..., head, :]

    def writable(self, output: Tensor, head: int | None = None) -> Tensor:
        """Return a view of a contiguous output, for `view` to be written to; all heads are [B, T, …, n, hd]."""
        return self._apart(output) if head is None else self.view(output, head)

    def restored(self, seen: Tensor, output: Tensor) -> Tensor:
        """Return a whole activation [B, T, …, d] with the axes of the output that it is a view of."""
        if self.as_seen:
            return seen if seen.shape == output.shape else seen.reshape(output.shape)
        apart = seen.reshape(self._apart(output).shape) if self.has_heads else seen
        moved = self._moved(apart, self.seen, self.given)
        return moved.contiguous() if output.is_contiguous() else moved  # the network may go on with `.view`

    @cached_property
    def as_seen(self) -> bool:
        """Whether edits and captures see the output as it is."""
        return self.given == self.seen and not self.has_heads

    @cached_property
    def _joined(self) -> str:
        return self.seen.replace(f"{HEADS} {HEAD_CHANNELS}", f"({HEADS} {HEAD_CHANNELS})")

    @cached_property
    def _last_sizes(self) -> tuple[int, ...]:
        """Sizes of what lies in the last axis of the output, where that is all that has to be taken apart."""
        *axes, last = re.findall(r"\([^)]*\)|\S+", self.given)
        if last[0] != "(" or REST in axes or " ".join([*axes, last[1:-1]]) != self.seen:
            return ()
        sizes = dict(self.sizes)
        return tuple(sizes.get(name, -1) for name in last[1:-1].split())

    def _apart(self, output: Tensor) -> Tensor:
        if self.given == self.seen:
            return output
        n_axes = 1 + len(self.seen.split()) - len(self._last_sizes)
        if self._last_sizes and output.ndim == n_axes:
            try:  # in less time than einops takes
                apart: Tensor = output.unflatten(-1, self._last_sizes)  # type: ignore[no-untyped-call]
                return apart
            except RuntimeError:
                pass  # einops says what does not fit
        return self._moved(output, self.given, self.seen)

    def _moved(self, tensor: Tensor, start: str, end: str) -> Tensor:
        plan = None if self.sizes else _permutation(start, end)
        if plan is not None and tensor.ndim == plan[0]:
            _, ones_before, order, ones_after = plan
            tensor = tensor.squeeze(ones_before).permute(order)
            for axis in ones_after:
                tensor = tensor.unsqueeze(axis)
            return tensor
        try:
            moved: Tensor = rearrange(tensor, f"{start} -> {end}", **dict(self.sizes))
        except EinopsError as error:
            what = str(error).strip().splitlines()[-1].strip()
            raise PhysteerError(
                f"the layout {self.text!r} does not fit an activation of shape {list(tensor.shape)}: {what}"
            ) from None
        return moved


@cache
def _permutation(start: str, end: str) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Return how torch alone moves axes, which in a hook takes less time than einops; None where several lie in one.

    Returns:
        Their number, the axes of size 1 that go, the order of the rest, and the axes of size 1 that come in.
    """
    if "(" in start + end or REST in start:
        return None
    before, after = start.split(), end.split()
    kept = [name for name in before if name != "1"]
    ones_before, ones_after = (tuple(i for i, name in enumerate(names) if name == "1") for names in (before, after))
    return len(before), ones_before, tuple(kept.index(name) for name in after if name != "1"), ones_after


@cache
def parse_layout(text: str) -> Layout:
    """Read a layout such as ``b c h w``, ``b t (n=8 hd)`` or ``b t ... d``.

    Raises:
        PhysteerError: The text is no layout, or lacks an axis of channels.
    """
    # [[("b", None)], [("n", 8), ("hd", None)]]: the axes in each axis of the output, with their sizes
    groups = [[_axis(axis, text) for axis in (m[1] or m[2]).split()] for m in _GROUP.finditer(text)]
    if _GROUP.sub("", text).strip() or not groups:
        raise _no_layout(text)
    axes = list(chain.from_iterable(groups))
    names = [name for name, _ in axes]
    space = sorted((name for name in names if name in SPACE), key=SPACE.index)
    channels = [name for name in names if name in (*CHANNELS, HEADS)]
    if len(set(names)) < len(names):
        raise PhysteerError(f"layout {text!r} names an axis twice; axes are {AXES}")
    if len(channels) != 1 or (HEADS in names) != (HEAD_CHANNELS in names):
        raise PhysteerError(
            f"layout {text!r}: one axis holds the channels (c or d), or two the heads and theirs (n and hd); depth is "
            "δ or z"
        )
    in_brackets = [group for group in groups if len(group) > 1]
    if any(sum(size is None for _, size in group) > 1 or (REST, None) in group for group in in_brackets):
        raise PhysteerError(f"layout {text!r}: of the axes in brackets all but one need a size, as in (n=8 hd)")
    if len(space) > 3:
        raise PhysteerError(f"layout {text!r}: there are at most three axes of space")
    given = [f"({' '.join(name for name, _ in group)})" if len(group) > 1 else group[0][0] for group in groups]
    last = [HEADS, HEAD_CHANNELS] if HEADS in names else channels
    seen = [ROWS if ROWS in names else "1", FRAMES if FRAMES in names else "1", *space, *last]
    sizes = tuple((name, size) for name, size in axes if size is not None)
    return Layout(text.strip(), " ".join(given), " ".join(seen), sizes)


def _axis(text: str, layout: str) -> tuple[str, int | None]:
    match = _AXIS.fullmatch(text)
    if match is None:
        raise _no_layout(layout)
    name = match["name"]
    if name not in (ROWS, FRAMES, HEADS, HEAD_CHANNELS, *SPACE, *CHANNELS):
        raise PhysteerError(f"layout {layout!r}: axis {name!r} is unknown; axes are {AXES}")
    return name, None if match["size"] is None else int(match["size"])


def _no_layout(text: str) -> PhysteerError:
    return PhysteerError(f"{text!r} is no layout; write axes such as 'b c h w' or 'b t (n=8 hd)': {AXES}")
