"""Flow diagnostics of a batch's windows, by the names that selections use."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor

from physteer.data.batch import Batch
from physteer.errors import PhysteerError, did_you_mean
from physteer.metrics import enstrophy, kinetic_energy, tracer_variance, vortex_area

VELOCITY = ("velocity_x", "velocity_y", "velocity_z")


def _velocity(batch: Batch) -> Tensor:
    """[B, 3, H, W, D], of the last context frame."""
    return batch.context[:, -1, [batch.channels.index(name) for name in VELOCITY]]


READOUTS: dict[str, Callable[[Batch], Tensor]] = {
    "enstrophy": lambda batch: enstrophy(_velocity(batch), batch.grid.geometry),
    "vortex_area": lambda batch: vortex_area(_velocity(batch), batch.grid.geometry),
    "kinetic_energy": lambda batch: kinetic_energy(_velocity(batch), batch.grid.geometry),
    "tracer_variance": lambda batch: tracer_variance(
        batch.context[:, -1, batch.channels.index("tracer")], batch.grid.geometry
    ),
}
"""Name → readout of the last context frame, [B], in the data set's units; means weigh cells by their volume."""


def readouts(batch: Batch, names: Collection[str]) -> dict[str, Tensor]:
    """Measure some readouts.

    Raises:
        PhysteerError: there is no such readout, the data set lacks a field that it needs, or its grid has no
            `Grid.geometry`.
    """
    for name in names:
        if name not in READOUTS:
            raise PhysteerError(f"no readout {name!r}, only {', '.join(READOUTS)}{did_you_mean(name, READOUTS)}")
    return {name: READOUTS[name](batch) for name in names}
