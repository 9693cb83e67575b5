"""What probes look for: flow quantities in the units the network sees, per token or pooled.

The network gets every field divided by the window's own scale r, so amplitude is not in its activations; targets are
computed from the same divided fields. Lengths stay those of the grid. Viscosity and diffusivity are the parameters'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.errors import PhysteerError, did_you_mean
from physteer.metrics.flow import SPACE, Periodic, Spacing, derivative, vorticity


@dataclass(frozen=True, eq=False)
class Flow:
    """Fields as the network sees them, divided by the window's scales r, and their grid."""

    spacing: Spacing
    periodic: Periodic
    velocity: Tensor | None = None
    """[B, T, 3, H, W, D]."""
    tracer: Tensor | None = None
    """[B, T, H, W, D]."""
    pressure: Tensor | None = None
    """[B, T, H, W, D]."""
    viscosity: Tensor | None = None
    """[B], kinematic."""
    diffusivity: Tensor | None = None
    """[B], of the tracer."""


@dataclass(frozen=True)
class Target:
    """A quantity to probe for."""

    compute: Callable[[Flow], Tensor]
    """[B, T, H, W, D], or [B] for a parameter, which every cell of a window shares."""
    units: str
    """r is the scale of the field that the quantity is of, L the data set's unit of length."""
    needs: tuple[str, ...]
    """Fields of `Flow`."""


def _vorticity(flow: Flow) -> Tensor:
    return vorticity(_there(flow.velocity), flow.spacing, flow.periodic).select(-4, 2)


def _speed_squared(flow: Flow) -> Tensor:
    return _there(flow.velocity).square().sum(-4)


def _strain_squared(flow: Flow) -> Tensor:
    """Return S:S = ¼ Σ_ij (∂_i u_j + ∂_j u_i)², [B, T, H, W, D]."""
    u = _there(flow.velocity)
    d = [[derivative(u.select(-4, j), i, flow.spacing, flow.periodic) for j in range(3)] for i in range(3)]
    return torch.stack([(d[i][j] + d[j][i]).square() for i in range(3) for j in range(3)]).sum(0) / 4


def _dissipation(flow: Flow) -> Tensor:
    return 2 * _there(flow.viscosity).view(-1, 1, 1, 1, 1).to(_there(flow.velocity)) * _strain_squared(flow)


def _gradient(flow: Flow) -> Tensor:
    slopes = [derivative(_there(flow.tracer), axis, flow.spacing, flow.periodic) for axis in range(3)]
    return torch.stack(slopes).square().sum(0).sqrt()


TARGETS: dict[str, Target] = {
    "vorticity": Target(_vorticity, "r/L", ("velocity",)),  # ω_z = ∂x v − ∂y u
    "speed_squared": Target(_speed_squared, "r²", ("velocity",)),
    "kinetic_energy": Target(lambda flow: 0.5 * _speed_squared(flow), "r²", ("velocity",)),
    "shear_rate": Target(lambda flow: (2 * _strain_squared(flow)).sqrt(), "r/L", ("velocity",)),  # √(2 S:S)
    "dissipation_rate": Target(_dissipation, "ν r²/L²", ("velocity", "viscosity")),  # 2ν S:S
    "tracer_gradient": Target(_gradient, "r/L", ("tracer",)),  # |∇c|
    "pressure": Target(lambda flow: _there(flow.pressure), "r", ("pressure",)),
    "log_viscosity": Target(lambda flow: _there(flow.viscosity).log10(), "log10 L²/time", ("viscosity",)),
    "log_diffusivity": Target(lambda flow: _there(flow.diffusivity).log10(), "log10 L²/time", ("diffusivity",)),
}
"""Name → quantity."""


def target(name: str, flow: Flow) -> Tensor:
    """Compute a quantity: [B, T, H, W, D], or [B] for a parameter.

    Raises:
        PhysteerError: There is no such quantity, or the data lack what it is made of.
    """
    if name not in TARGETS:
        raise PhysteerError(f"no probe target {name!r}, only {', '.join(TARGETS)}{did_you_mean(name, TARGETS)}")
    lacking = [need for need in TARGETS[name].needs if getattr(flow, need) is None]
    if lacking:
        raise PhysteerError(f"the probe target {name!r} needs the {lacking[0]}, which this data set lacks")
    return TARGETS[name].compute(flow)


@dataclass(frozen=True)
class TokenAxis:
    """How the cells of one axis belong to tokens: token i has `cells` cells, from cell `first` + i · `cells`."""

    tokens: int
    cells: int = 1
    first: int = 0
    """Negative where tokens begin in the padding."""

    def weights(self, size: int, periodic: bool) -> Tensor:
        """Return the averages over tokens' cells as a matrix [tokens, size] whose rows add up to 1.

        Cells beyond the end are those of the other end on a periodic axis. Elsewhere they are left out; a token with
        no cell inside gets the nearest one.
        """
        cells = self.first + torch.arange(self.tokens * self.cells).view(self.tokens, self.cells)
        inside = torch.ones_like(cells) if periodic else ((cells >= 0) & (cells < size)).long()
        cells = cells % size if periodic else cells.clamp(0, size - 1)
        lonely = inside.sum(1, keepdim=True) == 0
        inside = torch.where(lonely, 1, inside)
        counts = torch.zeros(self.tokens, size, dtype=torch.float64).scatter_add_(1, cells, inside.double())
        return counts / counts.sum(1, keepdim=True)


TokenGrid = tuple[TokenAxis, TokenAxis, TokenAxis]
"""Along H, W, D."""


def token_means(field: Tensor, grid: TokenGrid, periodic: Periodic) -> Tensor:
    """Average a field over the cells of each token.

    Args:
        field: [..., H, W, D].
        grid: how cells belong to tokens.
        periodic: per axis.

    Returns:
        [..., h, w, δ].
    """
    for axis in range(3):
        dim = axis - 3
        weights = grid[axis].weights(field.shape[dim], periodic[axis]).to(field)  # [tokens, size]
        field = torch.tensordot(field, weights, dims=([dim], [1])).movedim(-1, dim)
    return field


def token_targets(names: Sequence[str], flow: Flow, grid: TokenGrid) -> Tensor:
    """Compute quantities at token resolution; a parameter is the same at every token of a window.

    Returns:
        [B, T, h, w, δ, m] for m names.

    Raises:
        PhysteerError: There is no such quantity, or the data lack what it is made of.
    """
    like = _any_field(flow)
    shape = (*like.shape[:2], *(axis.tokens for axis in grid))
    means = []
    for name in names:
        field = target(name, flow)
        shared = field.ndim == 1
        means.append(
            field.to(like).view(-1, 1, 1, 1, 1).expand(shape) if shared else token_means(field, grid, flow.periodic)
        )
    return torch.stack(means, -1)


def pooled_targets(names: Sequence[str], flow: Flow) -> Tensor:
    """Compute quantities averaged over space, frame by frame: [B, T, m].

    Raises:
        PhysteerError: There is no such quantity, or the data lack what it is made of.
    """
    like = _any_field(flow)
    fields = [target(name, flow) for name in names]
    return torch.stack(
        [f.to(like).view(-1, 1).expand(like.shape[:2]) if f.ndim == 1 else f.mean(SPACE) for f in fields], -1
    )


def patches(fields: Tensor, grid: TokenGrid, periodic: Periodic) -> Tensor:
    """Return the raw cells of every token, as features: does a layer add anything to its input?

    Cells beyond an end are those of the other end on a periodic axis, elsewhere those at the end.

    Args:
        fields: [B, T, C, H, W, D], as the network sees them.
        grid: how cells belong to tokens.
        periodic: per axis.

    Returns:
        [B, T, h, w, δ, C · cells].
    """
    for axis in range(3):
        one, size = grid[axis], fields.shape[3 + axis]
        cells = one.first + torch.arange(one.tokens * one.cells)
        cells = cells % size if periodic[axis] else cells.clamp(0, size - 1)
        fields = fields.index_select(3 + axis, cells.to(fields.device))
    split = [count for one in grid for count in (one.tokens, one.cells)]
    cells = fields.view(*fields.shape[:3], *split)  # [B, T, C, h, p, w, q, δ, r]
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).flatten(5)


def _any_field(flow: Flow) -> Tensor:
    """Return a field [B, T, …], for its batch, frames, precision and device."""
    for field in (flow.velocity, flow.tracer, flow.pressure):
        if field is not None:
            return field
    raise PhysteerError("a flow without velocity, tracer and pressure has nothing to probe for")


def _there(field: Tensor | None) -> Tensor:
    """Return what `target` has checked to be there."""
    assert field is not None
    return field
