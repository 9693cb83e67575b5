"""What is measured of rollouts; what they are compared with is prepared once per batch of windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from physteer.data.batch import Batch
from physteer.data.readouts import VELOCITY
from physteer.metrics import (
    TrueChange,
    alignment,
    blow_up_step,
    divergence_rms,
    enstrophy,
    kinetic_energy,
    movement,
    recovery_terms,
    reference_spectrum,
    spectrum_distance,
    tracer_mass,
    tracer_variance,
    true_change,
    vortex_area,
    vrmse,
)

Measured = Iterator[tuple[str, str, Tensor]]
"""Field, metric and values [B, T]; the field is empty for metrics of the whole flow."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """One batch of windows with everything that the rollouts from them are compared with, on the CPU."""

    batch: Batch
    unsteered: Tensor
    """ŷ_unsteered [B, T, C, H, W, D]."""
    targets: Mapping[int, Tensor]
    """y(θ') by the sign of α, shaped alike; NaN in the rows of windows that have no such θ'."""
    base: Tensor | None
    """y(θ), from the same solver and state as the targets; None without targets."""

    @property
    def fields(self) -> dict[str, int]:
        """The predicted channels by name."""
        channels = self.batch.channels
        return {channels.names[i]: i for i in channels.predicted}

    @cached_property
    def truth(self) -> Tensor:
        """The stored frames, [B, T, C, H, W, D]."""
        return self.batch.targets.cpu()

    @cached_property
    def velocity(self) -> list[int] | None:
        """The channels of the velocity; None where there is none."""
        names = self.batch.channels.names
        return [names.index(name) for name in VELOCITY] if set(VELOCITY) <= set(names) else None

    @cached_property
    def spread(self) -> Tensor:
        """Standard deviation of the truth over space, [B, T, C]."""
        return self.truth.double().var((-3, -2, -1)).sqrt()

    @cached_property
    def spectrum(self) -> Tensor:
        """E(k) of the truth, [B, T, shells]."""
        assert self.velocity is not None
        return reference_spectrum(self.truth[:, :, self.velocity])

    @cached_property
    def true_changes(self) -> dict[tuple[int, int], TrueChange]:
        """y(θ') − y(θ) by sign and channel, each [B, T, H, W, D]."""
        if self.base is None:
            return {}
        return {
            (sign, i): true_change(target[:, :, i], self.base[:, :, i])
            for sign, target in self.targets.items()
            for i in self.fields.values()
        }

    def flow(self, frames: Tensor) -> Measured:
        """Measure what needs nothing beside it, and the errors against the stored truth.

        Args:
            frames: [B, T, C, H, W, D].
        """
        grid, fields = self.batch.grid, self.fields
        for name, i in fields.items():
            yield name, "vrmse", vrmse(frames[:, :, i], self.truth[:, :, i])
        if self.velocity is not None:
            velocity = frames[:, :, self.velocity]
            yield "", "enstrophy", enstrophy(velocity, grid.spacing, grid.periodic)
            yield "", "vortex_area", vortex_area(velocity, grid.spacing, grid.periodic)
            yield "", "kinetic_energy", kinetic_energy(velocity)
            yield "", "divergence_rms", divergence_rms(velocity, grid.spacing, grid.periodic)
            yield "", "spectrum_distance", spectrum_distance(velocity, self.spectrum)
        if "tracer" in fields:
            yield "", "tracer_variance", tracer_variance(frames[:, :, fields["tracer"]])
            yield "", "tracer_mass", tracer_mass(frames[:, :, fields["tracer"]])
        scored = self.batch.channels.predicted
        first = blow_up_step(frames[:, :, scored], self.batch.context[:, -1, scored].cpu()).amin(-1, keepdim=True)
        steps = torch.arange(1, frames.shape[1] + 1, dtype=first.dtype)
        yield "", "blow_up_step", torch.where(steps == first, first, torch.nan)  # first [B, 1]

    def movement(self, frames: Tensor) -> Measured:
        """Measure how far steered rollouts [B, T, C, H, W, D] are from the unsteered ones."""
        for name, i in self.fields.items():
            yield name, "movement", movement(frames[:, :, i], self.unsteered[:, :, i], self.spread[:, :, i])

    def has_target(self, strength: float) -> list[bool]:
        """Say of each window whether there is a y(θ') for this sign of α."""
        target = self.targets.get(sign_of(strength))
        return [False] * len(self.batch) if target is None else (~target.isnan().flatten(1).any(1)).tolist()

    def alignment(self, frames: Tensor, strength: float) -> Measured:
        """Compare the change from the unsteered rollouts with the true one for this sign of α.

        Args:
            frames: [B, T, C, H, W, D].
            strength: α; windows without a target have NaN.
        """
        sign = sign_of(strength)
        if sign in self.targets:
            for name, i in self.fields.items():
                steered, unsteered = frames[:, :, i], self.unsteered[:, :, i]
                aligned = alignment(steered, unsteered, self.true_changes[sign, i])
                terms = recovery_terms(steered, unsteered, self.targets[sign][:, :, i])
                yield name, "alignment_cosine", aligned.cosine
                yield name, "alignment_gain", aligned.gain
                yield name, "error_steered", terms.error_steered
                yield name, "error_unsteered", terms.error_unsteered


def sign_of(strength: float) -> int:
    """Return which neighbour of the parameter a strength steers towards: 1 for the next one up, −1 down."""
    return 1 if strength > 0 else -1
