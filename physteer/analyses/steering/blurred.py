"""Unsteered rollouts smoothed as if only diffusion had changed: what an edit must beat to have changed the flow."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from physteer.data.batch import Batch
from physteer.data.readouts import VELOCITY
from physteer.metrics import diffused, poisson_pressure


def blurred_rollouts(batch: Batch, unsteered: Tensor, changed: Mapping[str, Tensor]) -> Tensor:
    """Give the unsteered rollouts the diffusion of other parameters, and no other consequence of these.

    Modes of the velocity are multiplied by exp(−(ν' − ν) |k|² n Δt) at step n, those of the tracer by the same with κ
    (`diffused`); the pressure is that of the blurred velocity where ν changes. ν = 1/Re and κ = 1/(Re Sc).

    Args:
        batch: windows of periodic flow with the parameters ``Reynolds`` and ``Schmidt``.
        unsteered: their unsteered rollouts, [B, T, C, H, W, D].
        changed: new values of these, [B] each; NaN for windows without.

    Returns:
        [B, T, C, H, W, D]; NaN in the windows without new values.
    """
    own = {name: batch.parameters[name].double().cpu() for name in ("Reynolds", "Schmidt")}
    new = {**own, **{name: value.double().cpu() for name, value in changed.items()}}
    times = batch.times.double().cpu()
    elapsed = times[:, batch.n_input :] - times[:, batch.n_input - 1, None]  # [B, T]
    viscosity = (1 / new["Reynolds"] - 1 / own["Reynolds"])[:, None] * elapsed
    diffusivity = (1 / (new["Reynolds"] * new["Schmidt"]) - 1 / (own["Reynolds"] * own["Schmidt"]))[:, None] * elapsed
    names, geometry = batch.channels.names, batch.grid.geometry
    blurred = unsteered.clone()
    for name, added in {**dict.fromkeys(VELOCITY, viscosity), "tracer": diffusivity}.items():
        blurred[:, :, names.index(name)] = diffused(unsteered[:, :, names.index(name)], added, geometry)
    velocity = blurred[:, :, [names.index(name) for name in VELOCITY]]
    pressure = names.index("pressure")
    own_pressure = unsteered[:, :, pressure]
    moved = (viscosity != 0)[..., None, None, None]
    level = own_pressure.mean((-3, -2, -1), keepdim=True)
    blurred[:, :, pressure] = torch.where(moved, poisson_pressure(velocity, geometry) + level, own_pressure)
    missing = torch.stack([value.isnan() for value in new.values()]).any(0)
    blurred[missing] = torch.nan
    return blurred
