"""The network's channels, computed from The Well's stored fields."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from the_well.data.datasets import WellMetadata

from physteer.errors import PhysteerError, did_you_mean

Transform = Literal["identity", "log10", "zeros"]
_TRANSFORMS = ("log10_", "zeros_like_")


@dataclass(frozen=True)
class ChannelSource:
    """The source of one channel."""

    name: str
    """The channel's name in the network's vocabulary."""
    field: str | None
    """The stored field; None for a component added by inflation, which is 0."""
    component: tuple[int, ...] = ()
    """Indices into the stored vector or tensor."""
    evolving: bool = True
    """Whether it changes in time."""
    transform: Transform = "identity"
    """Transform of the stored values."""

    def fill(self, channel: NDArray[np.float32], values: Mapping[str, NDArray[np.float32]]) -> None:
        """Write this channel in place, [T, *space], from stored fields, which may lack frames and axes (size 1)."""
        if self.field is None or self.transform == "zeros":
            channel[...] = 0
            return
        place: tuple[Any, ...] = (..., *self.component)
        channel[...] = values[self.field][place]
        if self.transform == "log10":
            with np.errstate(divide="ignore", invalid="ignore"):  # the reader checks that all values are finite
                np.log10(channel, out=channel)


def channel_sources(metadata: WellMetadata, axes: Sequence[str], renamed: Mapping[str, str]) -> list[ChannelSource]:
    """List the channels of a data set in the network's order.

    Args:
        metadata: from ``the_well``: names of scalars, vector components (``velocity_x``) and tensor components.
        axes: names of the spatial axes, in order.
        renamed: stored name → vocabulary name, of a field with all its components or of one component. A new name with
            the prefix ``log10_`` takes the logarithm, unless the stored name has that prefix; ``zeros_like_…`` replaces
            the values by zeros. Default for the acoustic data sets, as in the published models: ``density`` →
            ``zeros_like_density``. A field that is stored under such a name is not changed: a run's rollouts contain
            the network's values, and are read with the same settings as the data.

    Raises:
        PhysteerError: ``renamed`` names a field that is not stored, or two channels get one name.
    """
    stored = [
        *_sources(metadata, axes, metadata.field_names, True),
        *_sources(metadata, axes, metadata.constant_field_names, False),
    ]
    known = {name for field, _, source in stored for name in (field, source.name)}
    for old, new in renamed.items():
        done = new.startswith(_TRANSFORMS) and any(name == new or name.startswith(f"{new}_") for name in known)
        if old not in known and not done:
            stored_names = ", ".join(sorted(known))
            raise PhysteerError(f"cannot rename {old!r}: the data set stores {stored_names}{did_you_mean(old, known)}")
    if metadata.dataset_name.startswith("acoustic_scattering"):
        renamed = {"density": "zeros_like_density", **renamed}
    sources = []
    for field, suffix, source in stored:
        renamed_field = renamed[field] + suffix if field in renamed else source.name
        sources.append(_rename(source, renamed.get(source.name, renamed_field)))
    name, count = Counter(source.name for source in sources).most_common(1)[0]
    if count > 1:
        raise PhysteerError(f"{count} fields are called {name!r}; give them different names")
    return sources


def _rename(source: ChannelSource, name: str) -> ChannelSource:
    transform: Transform = "identity"
    if name.startswith("zeros_like_"):
        transform = "zeros"
    elif name.startswith("log10_") and not source.name.startswith("log10_"):
        transform = "log10"
    return ChannelSource(name, source.field, source.component, source.evolving, transform)


def _sources(
    metadata: WellMetadata, axes: Sequence[str], by_order: Mapping[int, list[str]], varying: bool
) -> Iterator[tuple[str, str, ChannelSource]]:
    """Yield the field, the suffix of its component's name, and the channel."""
    ndim = len(axes)
    inflated = [*axes, "z"] if metadata.grid_type == "cartesian" and ndim == 2 else list(axes)
    for order, names in by_order.items():
        for first in names[:: ndim**order]:  # the_well flattens components: velocity_x, velocity_y, …
            field = first if order == 0 else first.removesuffix("_" + axes[0] * order)
            for component in itertools.product(range(len(inflated)), repeat=order):
                stored = all(index < ndim for index in component)
                suffix = "".join(("_" if i == 0 else "") + inflated[index] for i, index in enumerate(component))
                source = ChannelSource(field + suffix, field if stored else None, component, varying and stored)
                yield field, suffix, source
