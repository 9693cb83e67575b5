"""From The Well's stored fields to the network's channels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from the_well.data.datasets import WellMetadata
from torch import Tensor

from physteer.errors import PhysteerError, did_you_mean


@dataclass(frozen=True)
class ChannelSource:
    """Where the values of one channel come from."""

    name: str
    """The vocabulary's name of the channel."""
    field: str | None
    """The stored field; None for a component that inflation adds, which is 0."""
    component: tuple[int, ...] = ()
    """Indices into the stored vector or tensor."""
    evolving: bool = True
    """Whether it changes in time."""
    transform: str = "identity"
    """``identity``, ``log10`` or ``zeros``."""

    def fill(self, channel: Tensor, values: Mapping[str, Tensor]) -> None:
        """Write this channel's values [T, *space] in place; a constant field is repeated over the frames."""
        if self.field is None or self.transform == "zeros":
            return
        place: tuple[Any, ...] = (..., *self.component)
        channel.copy_(values[self.field][place])
        if self.transform == "log10":
            channel.log10_()


def channel_sources(metadata: WellMetadata, axes: Sequence[str], renamed: Mapping[str, str]) -> list[ChannelSource]:
    """List the channels of a data set in the network's order.

    Args:
        metadata: what ``the_well`` read: names of scalars, vector components (``velocity_x``) and tensor components.
        axes: names of the spatial axes, in order.
        renamed: stored name → vocabulary name. A new name that begins with ``log10_`` where the stored one does not
            takes the logarithm; ``zeros_like_…`` puts zeros in its place (the published models do so for the densities
            of the acoustic data sets, which is the default here).

    Raises:
        PhysteerError: ``renamed`` names a field that is not stored.
    """
    if metadata.dataset_name.startswith("acoustic_scattering"):
        renamed = {"density": "zeros_like_density", **renamed}
    sources = [
        *_sources(metadata, axes, metadata.field_names, True),
        *_sources(metadata, axes, metadata.constant_field_names, False),
    ]
    unknown = set(renamed) - {source.name for source in sources} - {"density"}
    if unknown:
        stored = [source.name for source in sources]
        name = sorted(unknown)[0]
        raise PhysteerError(
            f"cannot rename {name!r}: the data set stores {', '.join(stored)}{did_you_mean(name, stored)}"
        )
    return [_rename(source, renamed.get(source.name, source.name)) for source in sources]


def _rename(source: ChannelSource, name: str) -> ChannelSource:
    transform = "identity"
    if name.startswith("zeros_like_"):
        transform = "zeros"
    elif name.startswith("log10_") and not source.name.startswith("log10_"):
        transform = "log10"
    return ChannelSource(name, source.field, source.component, source.evolving, transform)


def _sources(
    metadata: WellMetadata, axes: Sequence[str], by_order: Mapping[int, list[str]], varying: bool
) -> Iterator[ChannelSource]:
    ndim = len(axes)
    inflated = [*axes, "z"] if metadata.grid_type == "cartesian" and ndim == 2 else list(axes)
    for order, names in by_order.items():
        for first in names[:: ndim**order]:  # the_well flattens components: velocity_x, velocity_y, …
            field = first if order == 0 else first.removesuffix("_" + axes[0] * order)
            for component in itertools.product(range(len(inflated)), repeat=order):
                stored = all(index < ndim for index in component)
                suffix = "".join(inflated[index] for index in component)
                name = f"{field}_{suffix}" if order else field
                yield ChannelSource(name, field if stored else None, component, varying and stored)


def stored_parameters(file: h5py.File) -> dict[str, np.ndarray]:
    """Return a file's numeric parameters by name: one value, or one per trajectory.

    They are the constant scalars, and the root attributes that ``simulation_parameters`` lists.
    """
    found: dict[str, np.ndarray] = {}
    for name in np.atleast_1d(file.attrs.get("simulation_parameters", ())):
        value = np.asarray(file.attrs.get(name, np.nan))
        if value.ndim == 0 and np.issubdtype(value.dtype, np.number):
            found[str(name)] = value
    for name, scalar in file["scalars"].items():
        if not scalar.attrs["time_varying"] and np.issubdtype(scalar.dtype, np.number):
            found[name] = scalar[()]
    return found
