"""Targets of probes: flow quantities in the units of the network's inputs, per token or pooled.

The network gets every field divided by the window's own scale r, so that activations do not contain amplitudes. Targets
are computed from the same divided fields. Lengths are those of the grid, and means weigh cells by volume. Viscosity and
diffusivity are parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from physteer.errors import PhysteerError, did_you_mean
from physteer.metrics.flow import derivative, vorticity
from physteer.metrics.geometry import Geometry, Periodic

_Part = TypeVar("_Part")


@dataclass(frozen=True, eq=False)
class Flow:
    """Fields divided by the window's scales r, as in the network's inputs, and their grid."""

    geometry: Geometry | None
    """Of the grid; None where its lengths are not known."""
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
    obstacle: str = ""
    """Why the lengths of the grid are not known."""


@dataclass(frozen=True)
class Target:
    """A flow quantity that probes are fitted to."""

    compute: Callable[[Flow], Tensor]
    """Returns [B, T, H, W, D], or [B] for a parameter, which is the same in every cell of a window."""
    units: str
    """With r the scale of the quantity's field, and L the data set's unit of length."""
    needs: tuple[str, ...]
    """Names of the parts of `Flow` that it, and its means over tokens or space, are computed from."""


def _vorticity(flow: Flow) -> Tensor:
    return vorticity(_present(flow.velocity), _present(flow.geometry)).select(-4, 2)


def _speed_squared(flow: Flow) -> Tensor:
    return _present(flow.velocity).square().sum(-4)


def _strain_squared(flow: Flow) -> Tensor:
    """Return S:S = ¼ Σ_ij (∂_i u_j + ∂_j u_i)², [B, T, H, W, D]."""
    u = _present(flow.velocity)
    d = [[derivative(u.select(-4, j), i, _present(flow.geometry)) for j in range(3)] for i in range(3)]
    return torch.stack([(d[i][j] + d[j][i]).square() for i in range(3) for j in range(3)]).sum(0) / 4


def _dissipation(flow: Flow) -> Tensor:
    return 2 * _present(flow.viscosity).view(-1, 1, 1, 1, 1).to(_present(flow.velocity)) * _strain_squared(flow)


def _gradient(flow: Flow) -> Tensor:
    slopes = [derivative(_present(flow.tracer), axis, _present(flow.geometry)) for axis in range(3)]
    return torch.stack(slopes).square().sum(0).sqrt()


TARGETS: dict[str, Target] = {
    "vorticity": Target(_vorticity, "r/L", ("velocity", "geometry")),  # ω_z = ∂x v − ∂y u
    "speed_squared": Target(_speed_squared, "r²", ("velocity", "geometry")),
    "kinetic_energy": Target(lambda flow: 0.5 * _speed_squared(flow), "r²", ("velocity", "geometry")),
    "shear_rate": Target(lambda flow: (2 * _strain_squared(flow)).sqrt(), "r/L", ("velocity", "geometry")),  # √(2 S:S)
    "dissipation_rate": Target(_dissipation, "ν r²/L²", ("velocity", "viscosity", "geometry")),  # 2ν S:S
    "tracer_gradient": Target(_gradient, "r/L", ("tracer", "geometry")),  # |∇c|
    "pressure": Target(lambda flow: _present(flow.pressure), "r", ("pressure", "geometry")),
    "log_viscosity": Target(lambda flow: _present(flow.viscosity).log10(), "log10 L²/time", ("viscosity",)),
    "log_diffusivity": Target(lambda flow: _present(flow.diffusivity).log10(), "log10 L²/time", ("diffusivity",)),
}
"""Name → quantity."""


def target(name: str, flow: Flow) -> Tensor:
    """Compute a quantity: [B, T, H, W, D], or [B] for a parameter.

    Raises:
        PhysteerError: There is no such quantity, the data lack a field that it is computed from, or the grid has no
            lengths.
    """
    if name not in TARGETS:
        raise PhysteerError(f"no probe target {name!r}, only {', '.join(TARGETS)}{did_you_mean(name, TARGETS)}")
    lacking = [need for need in TARGETS[name].needs if getattr(flow, need) is None]
    if lacking == ["geometry"]:
        raise PhysteerError(f"the probe target {name!r} needs the lengths of the grid: {flow.obstacle or 'none given'}")
    if lacking:
        raise PhysteerError(f"the probe target {name!r} needs the {lacking[0]}, which this data set lacks")
    return TARGETS[name].compute(flow)


@dataclass(frozen=True)
class TokenAxis:
    """The tokens along one axis: token i covers `cells` cells, from cell `first` + i · `cells` on."""

    tokens: int
    cells: int = 1
    first: int = 0
    """Negative where the first token begins in the padding."""

    def weights(self, size: int, periodic: bool, widths: Tensor | None = None) -> Tensor:
        """Return the matrix [tokens, size] that averages cells over tokens; its rows sum to 1.

        Cells count by their widths [size], all alike when None.

        On a periodic axis, cells beyond an end are those of the other end. Elsewhere they are left out; a token without
        any cell inside gets the nearest cell.
        """
        cells = self.first + torch.arange(self.tokens * self.cells).view(self.tokens, self.cells)
        inside = torch.ones_like(cells) if periodic else ((cells >= 0) & (cells < size)).long()
        cells = cells % size if periodic else cells.clamp(0, size - 1)
        empty = inside.sum(1, keepdim=True) == 0
        inside = torch.where(empty, 1, inside)
        counts = torch.zeros(self.tokens, size, dtype=torch.float64).scatter_add_(1, cells, inside.double())
        counts = counts if widths is None else counts * widths
        return counts / counts.sum(1, keepdim=True)


TokenGrid = tuple[TokenAxis, TokenAxis, TokenAxis]
"""Along H, W, D."""


def token_means(field: Tensor, grid: TokenGrid, geometry: Geometry) -> Tensor:
    """Average a field over the cells of each token, weighed by their volumes.

    Args:
        field: [..., H, W, D].
        grid: the cells of each token.
        geometry: of the cells.

    Returns:
        [..., h, w, δ].
    """
    for axis in range(3):
        dim = axis - 3
        weights = grid[axis].weights(field.shape[dim], geometry.periodic[axis], geometry.widths[axis])
        field = torch.tensordot(field, weights.to(field), dims=([dim], [1])).movedim(-1, dim)
    return field


def token_targets(names: Sequence[str], flow: Flow, grid: TokenGrid) -> Tensor:
    """Compute quantities at token resolution; a parameter is the same at every token of a window.

    Returns:
        [B, T, h, w, δ, m] for m names.

    Raises:
        PhysteerError: There is no such quantity, or the data lack a field that it is computed from.
    """
    like = _any_field(flow)
    shape = (*like.shape[:2], *(axis.tokens for axis in grid))
    means = []
    for name in names:
        field = target(name, flow)
        shared = field.ndim == 1
        means.append(
            field.to(like).view(-1, 1, 1, 1, 1).expand(shape)
            if shared
            else token_means(field, grid, _present(flow.geometry))
        )
    return torch.stack(means, -1)


def pooled_targets(names: Sequence[str], flow: Flow) -> Tensor:
    """Compute quantities averaged over space, weighed by volume, frame by frame: [B, T, m].

    Raises:
        PhysteerError: There is no such quantity, or the data lack a field that it is computed from.
    """
    like = _any_field(flow)
    fields = [target(name, flow) for name in names]
    return torch.stack(
        [
            f.to(like).view(-1, 1).expand(like.shape[:2]) if f.ndim == 1 else _present(flow.geometry).mean(f)
            for f in fields
        ],
        -1,
    )


def patches(fields: Tensor, grid: TokenGrid, periodic: Periodic) -> Tensor:
    """Return the raw cells of every token, as features of a control: a layer's probes should beat those of its input.

    On a periodic axis, cells beyond an end are those of the other end; elsewhere they repeat the last cell.

    Args:
        fields: [B, T, C, H, W, D], as in the network's inputs.
        grid: the cells of each token.
        periodic: per axis.

    Returns:
        [B, T, h, w, δ, C · cells].
    """
    for axis in range(3):
        axis_tokens, size = grid[axis], fields.shape[3 + axis]
        cells = axis_tokens.first + torch.arange(axis_tokens.tokens * axis_tokens.cells)
        cells = cells % size if periodic[axis] else cells.clamp(0, size - 1)
        fields = fields.index_select(3 + axis, cells.to(fields.device))
    split = [count for axis_tokens in grid for count in (axis_tokens.tokens, axis_tokens.cells)]
    cells = fields.view(*fields.shape[:3], *split)  # [B, T, C, h, p, w, q, δ, r]
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).flatten(5)


def _any_field(flow: Flow) -> Tensor:
    """Return some field [B, T, …], whose batch, frames, precision and device the targets take."""
    for field in (flow.velocity, flow.tracer, flow.pressure):
        if field is not None:
            return field
    raise PhysteerError("a flow without velocity, tracer and pressure has nothing to probe for")


def _present(part: _Part | None) -> _Part:
    """Return a part of a flow that `target` has checked to be present."""
    assert part is not None
    return part
