"""Flow diagnostics of velocity fields and tracers.

Fields are [..., H, W, D] = (x, y, z), with absent axes of size 1; a velocity is [..., 3, H, W, D]. Leading axes are
batch axes and are kept. A `Geometry` says where the cells lie; means over space weigh cells by their volume.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.metrics.geometry import SPACE, Geometry, cell_edges

NO_SPECTRUM = "energy spectra need evenly spaced cells, and the grid is stretched along {axes}"


def derivative(field: Tensor, axis: int, geometry: Geometry) -> Tensor:
    """Differentiate along one axis: spectrally where it is periodic, by second-order differences elsewhere.

    On stretched axes the differences are those of the cells' own positions, exact for parabolas.

    Args:
        field: [..., H, W, D].
        axis: 0, 1, 2 for x, y, z; along an absent axis the derivative is 0.
        geometry: of the grid.

    Returns:
        [..., H, W, D] in units of the field per length, float32 or wider.
    """
    field = _wide(field)
    dim, n = axis - 3, field.shape[axis - 3]
    if n == 1:
        return torch.zeros_like(field)
    spacing = geometry.spacing[axis]
    if isinstance(spacing, Tensor):
        return torch.gradient(field, spacing=(spacing.to(field),), dim=dim, edge_order=2)[0]
    if not geometry.periodic[axis]:
        return torch.gradient(field, spacing=spacing, dim=dim, edge_order=2 if n > 2 else 1)[0]
    # k = 2π m / (n Δ); the highest mode of an even n has no sign and its derivative is 0 at the cells.
    modes = torch.arange(n // 2 + 1, device=field.device, dtype=field.dtype)
    if n % 2 == 0:
        modes[-1] = 0
    wavenumber = modes * (2 * math.pi / (n * spacing))
    spectrum = torch.fft.rfft(field, dim=dim) * 1j * wavenumber.view(-1, *(1,) * (2 - axis))
    differentiated: Tensor = torch.fft.irfft(spectrum, n=n, dim=dim)
    return differentiated


def vorticity(velocity: Tensor, geometry: Geometry) -> Tensor:
    """Return ω = ∇ × u, [..., 3, H, W, D]; in two dimensions (x, y) only its z component differs from 0."""

    def d(component: int, axis: int) -> Tensor:
        return derivative(velocity.select(-4, component), axis, geometry)

    return torch.stack([d(2, 1) - d(1, 2), d(0, 2) - d(2, 0), d(1, 0) - d(0, 1)], dim=-4)


def enstrophy(velocity: Tensor, geometry: Geometry) -> Tensor:
    """Return ½⟨|ω|²⟩, [...]."""
    return 0.5 * geometry.mean(vorticity(velocity, geometry).square().sum(-4))


def divergence_rms(velocity: Tensor, geometry: Geometry) -> Tensor:
    """Return √⟨(∇·u)²⟩, [...]; 0 for an incompressible flow."""
    divergence = sum(derivative(velocity.select(-4, i), i, geometry) for i in range(3))
    return geometry.mean(torch.as_tensor(divergence).square()).sqrt()


def kinetic_energy(velocity: Tensor, geometry: Geometry) -> Tensor:
    """Return ½⟨|u|²⟩ per unit mass, [...]."""
    return 0.5 * geometry.mean(_wide(velocity).square().sum(-4))


def energy_spectrum(velocity: Tensor, geometry: Geometry) -> Tensor:
    """Return E(k) in shells of unit width, Σ E(k) = ½⟨|u|²⟩ (Parseval).

    Shell k holds the modes whose index wavenumber, the length of (m_x, m_y, m_z), rounds to k: whole periods per
    domain, whatever the domain's shape. Axes that are not periodic are transformed as if they were.

    Args:
        velocity: [..., 3, H, W, D].
        geometry: of the grid.

    Returns:
        [..., shells], shell 0 first.

    Raises:
        PhysteerError: An axis is stretched: wavenumbers are those of evenly spaced cells.
    """
    if geometry.stretched:
        raise PhysteerError(NO_SPECTRUM.format(axes=", ".join("xyz"[axis] for axis in geometry.stretched)))
    amplitude = torch.fft.fftn(_wide(velocity), dim=SPACE, norm="forward")
    energy = 0.5 * (amplitude.real.square() + amplitude.imag.square()).sum(-4).flatten(-3)  # [..., H·W·D]
    modes = [torch.fft.fftfreq(n, 1 / n, device=velocity.device) for n in velocity.shape[-3:]]
    squared = sum(m.square() for m in torch.meshgrid(*modes, indexing="ij"))
    shell = torch.as_tensor(squared).sqrt().round().long().flatten()
    spectrum: Tensor = energy.new_zeros(*energy.shape[:-1], int(shell.max()) + 1)
    return spectrum.index_add_(-1, shell, energy)


def okubo_weiss(velocity: Tensor, geometry: Geometry) -> Tensor:
    """Return W/σ_W in the x-y plane, [..., H, W, D]: negative where rotation prevails, positive where strain does.

    W = s_n² + s_s² − ω_z², with normal strain s_n = ∂x u − ∂y v and shear strain s_s = ∂x v + ∂y u; σ_W is its standard
    deviation over space (Okubo 1970, Weiss 1991). In a fluid at rest it is 0.

    Args:
        velocity: [..., 3, H, W, D].
        geometry: of the grid.
    """
    u, v = velocity.select(-4, 0), velocity.select(-4, 1)
    (ux, uy), (vx, vy) = ([derivative(c, axis, geometry) for axis in (0, 1)] for c in (u, v))
    w = (ux - vy).square() + (vx + uy).square() - (vx - uy).square()
    return w / geometry.deviation(w).clamp_min(torch.finfo(w.dtype).tiny)


def vortex_area(velocity: Tensor, geometry: Geometry, threshold: float = 0.2) -> Tensor:
    """Return the share of space inside vortices: Okubo–Weiss W < −0.2 σ_W (`okubo_weiss`).

    Args:
        velocity: [..., 3, H, W, D].
        geometry: of the grid.
        threshold: in units of σ_W.

    Returns:
        [...], between 0 and 1.
    """
    w = okubo_weiss(velocity, geometry)
    return geometry.mean((w < -threshold).to(w.dtype))


def tracer_variance(tracer: Tensor, geometry: Geometry) -> Tensor:
    """Return ⟨(s − ⟨s⟩)²⟩ of a tracer [..., H, W, D], in its units squared: [...]."""
    return geometry.variance(_wide(tracer))


def momentum_thickness(velocity: Tensor, geometry: Geometry, stream: int = 0, across: int = 1) -> Tensor:
    """Return the momentum thickness of a shear layer, ∫ (¼ − (ū/ΔU)²) dy.

    ū(y) is the streamwise velocity averaged over the other axes, measured from the middle of its range, and ΔU is its
    range. Several layers add up. For ū = ½ ΔU tanh(2y/δ) it is δ/4.

    Args:
        velocity: [..., 3, H, W, D].
        geometry: of the grid.
        stream: component along the layer.
        across: axis that crosses it.

    Returns:
        [...], a length; NaN where ū is constant.
    """
    others = [axis for axis in range(3) if axis != across]
    profile = geometry.mean(_wide(velocity).select(-4, stream), others)  # [..., n across]
    high, low = profile.amax(-1, keepdim=True), profile.amin(-1, keepdim=True)
    scaled = (profile - 0.5 * (high + low)) / (high - low)
    deficit, spacing = 0.25 - scaled.square(), geometry.spacing[across]
    if isinstance(spacing, Tensor):
        return (deficit * cell_edges(spacing).diff().abs().to(deficit)).sum(-1)
    return deficit.sum(-1) * spacing


def _wide(field: Tensor) -> Tensor:
    return field.to(torch.promote_types(field.dtype, torch.float32))
