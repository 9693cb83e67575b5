"""Initial shear layers for the built-in simulator, after The Well's ``shear_flow``: width, n_shear, n_blobs, seed.

The x-velocity alternates between ±½ across `n_shear` tanh layers in y, the tracer follows the same profile, and the
y-velocity is a sum of waves in x localised at each layer, which grow into Kelvin–Helmholtz vortices. A layer of
half-width δ amplifies wavelengths above 2πδ (Michalke 1964), fastest near 14δ, so the default widths all roll up in a
box of width 1. Positions, phases and amplitudes are drawn from the seed, so distinct initial conditions never run out.

Differences from The Well: `width` is δ itself, waves are periodic in x for every `n_blobs`, velocities are ±½ instead
of 0 and −1 (a change of frame), and positions, phases, amplitudes and subharmonics vary.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from physteer.data.shear_flow import ShearFlowState
from physteer.errors import PhysteerError


@dataclass(frozen=True)
class ShearLayers:
    """One initial condition.

    Attributes:
        width: half-width δ of the tanh layers, in units of the box width.
        n_shear: number of layers, even (the profile is periodic in y).
        n_blobs: largest number of waves per layer along x; fewer are mixed in, so vortices can merge.
        positions: y of each layer, increasing, in [−1, 1).
        amplitudes: [n_shear][n_blobs] of the y-velocity waves.
        phases: [n_shear][n_blobs], radians.
    """

    width: float
    n_shear: int
    n_blobs: int
    positions: tuple[float, ...]
    amplitudes: tuple[tuple[float, ...], ...]
    phases: tuple[tuple[float, ...], ...]

    def fields(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return velocity [X, Y, 2] and tracer [X, Y], float64, on 0 ≤ x < 1, −1 ≤ y < 1."""
        x = torch.arange(shape[0], dtype=torch.float64)[:, None] / shape[0]  # [X, 1]
        y = -1 + 2 * torch.arange(shape[1], dtype=torch.float64)[None] / shape[1]  # [1, Y]
        profile = torch.full_like(y, 0.5)
        swing = torch.zeros(shape, dtype=torch.float64)
        for layer, position in enumerate(self.positions):
            sign = -1 if layer % 2 == 0 else 1
            # Layers alternate, so the tails of far images cancel: two images a side reach round-off.
            profile = profile + sum(sign * 0.5 * torch.tanh((y - position + 2 * k) / self.width) for k in range(-2, 3))
            distance = torch.remainder(y - position + 1, 2) - 1
            envelope = torch.exp(-((distance / (2 * self.width)) ** 2))
            for wave in range(self.n_blobs):
                amplitude, phase = self.amplitudes[layer][wave], self.phases[layer][wave]
                swing = swing + amplitude * torch.sin(2 * math.pi * (wave + 1) * x + phase) * envelope
        profile = profile.expand(shape)
        return torch.stack([profile, swing], -1), profile.clone()


def check_layers(widths: Sequence[float], shears: Sequence[int], blobs: Sequence[int]) -> None:
    """Check that layers can be drawn from these half-widths, numbers of layers and numbers of waves.

    Raises:
        PhysteerError: The number of layers is odd, or layers overlap.
    """
    for width, n_shear, n_blobs in itertools.product(widths, shears, blobs):
        if n_shear < 2 or n_shear % 2 or n_blobs < 1:
            raise PhysteerError(f"{n_shear} layers, {n_blobs} blobs: layers must be even, at least 2; blobs at least 1")
        if not 0 < width <= 0.5 / n_shear:
            raise PhysteerError(f"width {width:g} for {n_shear} layers: must be positive, at most {0.5 / n_shear:g}")


def draw_shear_layers(
    count: int,
    seed: Sequence[int],
    *,
    widths: Sequence[float] = (0.05, 0.065, 0.08),
    shears: Sequence[int] = (2, 4),
    blobs: Sequence[int] = (1, 2, 3),
) -> tuple[ShearLayers, ...]:
    """Draw initial conditions; number i depends on the seed and i alone, never on `count`.

    The combinations of width, n_shear and n_blobs are visited in a seeded order before any is repeated.

    Args:
        count: number of initial conditions.
        seed: integers naming the stream, such as (seed, split).
        widths: half-widths to choose from, at most a quarter of the layers' spacing.
        shears: numbers of layers to choose from, even.
        blobs: numbers of waves to choose from.

    Raises:
        PhysteerError: The number of layers is odd, or layers overlap.
    """
    check_layers(widths, shears, blobs)
    combinations = list(itertools.product(widths, shears, blobs))
    visiting_order = np.random.default_rng([*seed, 0]).permutation(len(combinations))
    drawn = []
    for number in range(count):
        width, n_shear, n_blobs = combinations[visiting_order[number % len(visiting_order)]]
        rng = np.random.default_rng([*seed, 1, number])
        spacing = 2 / n_shear
        offset = rng.uniform(-0.5, 0.5) * spacing
        jitter = rng.uniform(-0.1, 0.1, n_shear) * spacing
        positions = np.sort((np.arange(n_shear) * spacing + offset + jitter + 1) % 2 - 1)
        strength = np.exp(rng.uniform(math.log(0.1), math.log(0.3)))
        # The stated number of waves leads; longer ones are weaker seeds of the later merging.
        amplitudes = strength * rng.uniform(0.7, 1.3, (n_shear, n_blobs))
        amplitudes[:, :-1] *= 0.3
        phases = rng.uniform(0, 2 * math.pi, (n_shear, n_blobs))
        drawn.append(
            ShearLayers(
                float(width),
                int(n_shear),
                int(n_blobs),
                tuple(positions.tolist()),
                tuple(map(tuple, amplitudes.tolist())),
                tuple(map(tuple, phases.tolist())),
            )
        )
    return tuple(drawn)


def initial_state(
    layers: Sequence[ShearLayers], shape: tuple[int, int], device: torch.device | str = "cpu"
) -> ShearFlowState:
    """Return the states of several initial conditions as one batch, [B, X, Y, ·]."""
    velocity, tracer = zip(*(layer.fields(shape) for layer in layers), strict=True)
    return ShearFlowState(torch.stack(velocity).to(device), torch.stack(tracer).to(device))
