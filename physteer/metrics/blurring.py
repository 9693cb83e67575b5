"""What a change of viscosity does to a flow if nothing but diffusion follows from it: a base line for steering."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.metrics.geometry import SPACE, Geometry


def diffused(field: Tensor, added: Tensor, geometry: Geometry) -> Tensor:
    """Multiply each Fourier mode by exp(−a |k|²): what diffusion would have damped more, or less.

    Where a < 0 the factor grows with |k| and is capped at its value at the 2/3 wavenumber ⅔ π/Δ, the smallest over
    axes, so that noise in the smallest scales stays finite.

    Args:
        field: [..., H, W, D].
        added: a = (ν' − ν) t [...], an area in the grid's units of length: the added viscosity or diffusivity times the
            time that it has acted for.
        geometry: of a grid that is periodic along every axis it has.

    Returns:
        [..., H, W, D], of the field's type; where a is 0, the field itself.

    Raises:
        PhysteerError: An axis is not periodic.
    """
    frequency = _wavenumbers(field, geometry)
    squared = torch.as_tensor(sum(k.square() for k in frequency))  # [H, W, D]
    highest = [float(k.abs().max()) for k in frequency if k.numel() > 1]
    cut = 2 / 3 * min(highest, default=0.0)
    area = added.double()[..., None, None, None]
    factor = torch.exp(-area * torch.where(area < 0, squared.clamp_max(cut**2), squared))
    blurred = torch.fft.ifftn(torch.fft.fftn(field.double(), dim=SPACE) * factor, dim=SPACE).real.to(field.dtype)
    return torch.where(area == 0, field, blurred)


def poisson_pressure(velocity: Tensor, geometry: Geometry) -> Tensor:
    """Return the pressure of an incompressible flow over its density: −∇²p = ∂ᵢ∂ⱼ(uᵢuⱼ), ⟨p⟩ = 0.

    Modes beyond two thirds of an axis are left out, as in the built-in solver: products alias onto them.

    Args:
        velocity: [..., 3, H, W, D].
        geometry: of a grid that is periodic along every axis it has.

    Returns:
        [..., H, W, D] in the velocity's units squared, of the velocity's type.

    Raises:
        PhysteerError: An axis is not periodic.
    """
    frequency = _wavenumbers(velocity, geometry)
    squared = torch.as_tensor(sum(k.square() for k in frequency))
    source = torch.zeros(*velocity.shape[:-4], *velocity.shape[-3:], dtype=torch.complex128, device=velocity.device)
    for i, a in enumerate(frequency):
        for j, b in enumerate(frequency):
            product = velocity.select(-4, i).double() * velocity.select(-4, j).double()
            source = source + a * b * torch.fft.fftn(product, dim=SPACE)
    for axis, n in enumerate(velocity.shape[-3:]):
        kept = (torch.fft.fftfreq(n, 1 / n, device=velocity.device).abs() <= (n - 1) // 3).view(-1, *(1,) * (2 - axis))
        source = source * kept
    pressure = -source * torch.where(squared > 0, 1 / squared, 0.0)
    on_grid: Tensor = torch.fft.ifftn(pressure, dim=SPACE).real
    return on_grid.to(velocity.dtype)


def _wavenumbers(field: Tensor, geometry: Geometry) -> list[Tensor]:
    """Return k along x, y and z, each broadcastable to [H, W, D] in float64; 0 along an absent axis."""
    wavenumbers = []
    for axis, (n, step) in enumerate(zip(field.shape[-3:], geometry.spacing, strict=True)):
        if n > 1 and (isinstance(step, Tensor) or not geometry.periodic[axis]):
            raise PhysteerError(f"Fourier modes need a periodic grid; axis {'xyz'[axis]} is not periodic")
        modes = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=field.device)
        spacing = 1.0 if isinstance(step, Tensor) else step
        wavenumbers.append((modes * (2 * math.pi / (n * abs(spacing)))).view(-1, *(1,) * (2 - axis)))
    return wavenumbers
