"""Simple flows whose fields are known exactly at any time, on which probes are trained.

Solutions of the built-in simulator's equations, in its box and with its parameters (ν = 1/Re, κ = 1/(Re Sc)):

* Taylor–Green: ψ = A sin(kξ + φ) sin(mη + θ) decays as e^{−ν(k² + m²)t} in a mean flow (ξ = x − Ut, η = y − Vt). The
  tracer follows ψ; the flow is along its contours, so it decays as e^{−κ(k² + m²)t}.
* Advection: Gaussian blobs of tracer in a uniform flow, which carries them and lets them spread: σ² → σ² + 2κt.
* Diffusion: the same at rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from physteer.data.shear_flow import LENGTHS, Frame

_TAIL = 37.0
"""Fourier modes of a blob below e⁻³⁷ of the first are left out: round-off."""


class ExactFlow(Protocol):
    """An initial condition whose later states have a closed form."""

    def at(self, time: float, shape: tuple[int, int], viscosity: float, diffusivity: float) -> Frame:
        """Return tracer and pressure [X, Y] and velocity [X, Y, 2] on 0 ≤ x < 1, −1 ≤ y < 1, float64."""


@dataclass(frozen=True)
class TaylorGreen:
    """Counter-rotating vortices in a mean flow (Taylor & Green 1937)."""

    modes: tuple[int, int]
    """Periods of ψ along x and y."""
    speed: float
    """Largest velocity component at the start, in the frame of the mean flow."""
    mean_flow: tuple[float, float]
    phases: tuple[float, float]
    """φ and θ, radians."""

    def at(self, time: float, shape: tuple[int, int], viscosity: float, diffusivity: float) -> Frame:
        """Return the state at a time."""
        x, y = _points(shape)
        kx, ky = (2 * math.pi * mode / length for mode, length in zip(self.modes, LENGTHS, strict=True))
        a = kx * (x - self.mean_flow[0] * time) + self.phases[0]  # [X, 1]
        b = ky * (y - self.mean_flow[1] * time) + self.phases[1]  # [1, Y]
        psi = self.speed / max(kx, ky) * math.exp(-viscosity * (kx**2 + ky**2) * time)
        u = self.mean_flow[0] + psi * ky * a.sin() * b.cos()  # ∂ψ/∂y
        v = self.mean_flow[1] - psi * kx * a.cos() * b.sin()
        pressure = psi**2 / 4 * (ky**2 * (2 * a).cos() + kx**2 * (2 * b).cos())
        tracer = 0.5 * math.exp(-diffusivity * (kx**2 + ky**2) * time) * a.sin() * b.sin()
        return Frame(time, tracer, pressure, torch.stack([u, v], -1))


@dataclass(frozen=True)
class Blobs:
    """Gaussian blobs of tracer in a uniform flow."""

    flow: tuple[float, float]
    centres: tuple[tuple[float, float], ...]
    widths: tuple[float, ...]
    """σ of each blob at the start."""
    amplitudes: tuple[float, ...]

    def at(self, time: float, shape: tuple[int, int], viscosity: float, diffusivity: float) -> Frame:
        """Return the state at a time; viscosity has nothing to act on."""
        tracer = torch.zeros(shape, dtype=torch.float64)
        for centre, width, amplitude in zip(self.centres, self.widths, self.amplitudes, strict=True):
            profiles = [
                _periodic_gaussian(points - start - speed * time, width, 2 * diffusivity * time, length)
                for points, start, speed, length in zip(_points(shape), centre, self.flow, LENGTHS, strict=True)
            ]
            tracer += amplitude * profiles[0] * profiles[1]  # [X, 1] · [1, Y]
        velocity = torch.tensor(self.flow, dtype=torch.float64).expand(*shape, 2)
        return Frame(time, tracer, torch.zeros(shape, dtype=torch.float64), velocity)


def draw_taylor_green(count: int, seed: Sequence[int]) -> tuple[TaylorGreen, ...]:
    """Draw vortices; number i depends on the seed and i alone."""
    drawn = []
    for number in range(count):
        rng = np.random.default_rng([*seed, number])
        modes = (int(rng.integers(1, 3)), int(rng.integers(1, 5)))
        mean_flow = rng.uniform(-0.3, 0.3, 2)
        phases = rng.uniform(0, 2 * math.pi, 2)
        drawn.append(TaylorGreen(modes, float(rng.uniform(0.2, 0.5)), _pair(mean_flow), _pair(phases)))
    return tuple(drawn)


def draw_advection(count: int, seed: Sequence[int]) -> tuple[Blobs, ...]:
    """Draw blobs and the flow that carries them; number i depends on the seed and i alone."""
    return tuple(_draw_blobs(np.random.default_rng([*seed, number]), moving=True) for number in range(count))


def draw_diffusion(count: int, seed: Sequence[int]) -> tuple[Blobs, ...]:
    """Draw blobs at rest; number i depends on the seed and i alone."""
    return tuple(_draw_blobs(np.random.default_rng([*seed, number]), moving=False) for number in range(count))


def stacked(flows: Sequence[ExactFlow], time: float, shape: tuple[int, int], reynolds: float, schmidt: float) -> Frame:
    """Return the state of several flows as one batch, [B, X, Y, ·]."""
    frames = [flow.at(time, shape, 1 / reynolds, 1 / (reynolds * schmidt)) for flow in flows]
    tracer, pressure, velocity = (
        torch.stack([getattr(frame, name) for frame in frames]) for name in ("tracer", "pressure", "velocity")
    )
    return Frame(time, tracer, pressure, velocity)


def _draw_blobs(rng: np.random.Generator, moving: bool) -> Blobs:
    n = int(rng.integers(2, 6))
    centres = rng.uniform((0, -1), (1, 1), (n, 2))
    speed, angle = (rng.uniform(0.1, 0.7), rng.uniform(0, 2 * math.pi)) if moving else (0.0, 0.0)
    return Blobs(
        flow=(speed * math.cos(angle), speed * math.sin(angle)),
        centres=tuple(_pair(centre) for centre in centres),
        widths=tuple(rng.uniform(0.1, 0.2, n).tolist()),
        amplitudes=tuple((rng.choice((-1, 1), n) * rng.uniform(0.5, 1, n)).tolist()),
    )


def _periodic_gaussian(x: Tensor, width: float, spread: float, length: float) -> Tensor:
    """Return Σ_n g(x + n·length) of a Gaussian g of variance width² + spread that was 1 high at variance width².

    As its Fourier series, √(2π) width/length (1 + 2 Σ_k e^{−½(width² + spread)k²} cos kx), which needs no more terms as
    the Gaussian spreads.
    """
    modes = math.ceil(length / (2 * math.pi * width) * math.sqrt(2 * _TAIL))
    k = 2 * math.pi / length * torch.arange(1, modes + 1, dtype=torch.float64)
    waves = (x[..., None] * k).cos() @ torch.exp(-0.5 * (width**2 + spread) * k**2)
    return math.sqrt(2 * math.pi) * width / length * (1 + 2 * waves)


def _points(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return x [X, 1] and y [1, Y]."""
    x = torch.arange(shape[0], dtype=torch.float64)[:, None] * (LENGTHS[0] / shape[0])
    y = -1 + torch.arange(shape[1], dtype=torch.float64)[None] * (LENGTHS[1] / shape[1])
    return x, y


def _pair(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])
