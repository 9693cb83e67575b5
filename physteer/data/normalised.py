"""A batch's flow in the units of the network's inputs, for the targets of probes."""

from __future__ import annotations

from torch import Tensor

from physteer.data.batch import Batch
from physteer.data.readouts import VELOCITY
from physteer.metrics import Flow


def normalised_flow(batch: Batch, scales: Tensor) -> Flow:
    """Return the context's fields divided by the window's scales, with viscosity and diffusivity if they are known.

    Args:
        batch: B windows.
        scales: r [B, 1, C, 1, 1, 1], by which the network divides (`physteer.forecast.rollout.sample_scale`).
    """
    fields, names = batch.context / scales, batch.channels.names
    viscosity, diffusivity = transport(batch.parameters)
    return Flow(
        geometry=None if batch.grid.obstacle else batch.grid.geometry,
        obstacle=batch.grid.obstacle,
        velocity=fields[:, :, [names.index(name) for name in VELOCITY]] if set(VELOCITY) <= set(names) else None,
        tracer=fields[:, :, names.index("tracer")] if "tracer" in names else None,
        pressure=fields[:, :, names.index("pressure")] if "pressure" in names else None,
        viscosity=viscosity,
        diffusivity=diffusivity,
    )


def transport(parameters: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Return viscosity and diffusivity [B] from a data set's parameters, as The Well's data sets define them.

    shear_flow: ν = 1/Re, κ = 1/(Re Sc). rayleigh_benard: ν = (Ra/Pr)^(−½), κ = (Ra Pr)^(−½). None for other sets of
    parameters.
    """
    if "Rayleigh" in parameters and "Prandtl" in parameters:
        rayleigh, prandtl = parameters["Rayleigh"], parameters["Prandtl"]
        return (rayleigh / prandtl).rsqrt(), (rayleigh * prandtl).rsqrt()
    if "Reynolds" in parameters:
        viscosity = 1 / parameters["Reynolds"]
        return viscosity, viscosity / parameters["Schmidt"] if "Schmidt" in parameters else None
    return None, None
