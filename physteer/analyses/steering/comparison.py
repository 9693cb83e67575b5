"""What is measured of rollouts; what they are compared with is prepared once per batch of windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from physteer.analyses.steering.blurred import blurred_rollouts
from physteer.data.batch import Batch, SplitMetadata
from physteer.data.counterfactual import next_values, solver_truth
from physteer.data.readouts import VELOCITY
from physteer.errors import PhysteerError
from physteer.metrics import (
    Geometry,
    TrueChange,
    alignment,
    blow_up_step,
    divergence_rms,
    energy_spectrum,
    enstrophy,
    kinetic_energy,
    movement,
    nearness_terms,
    reference_spectrum,
    spectrum_distance,
    tracer_mass,
    tracer_variance,
    true_change,
    vortex_area,
    vrmse,
)
from physteer.metrics.flow import NO_SPECTRUM

Measured = Iterator[tuple[str, str, Tensor]]
"""Field, metric and values [B, T]; the field is empty for metrics of the whole flow."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """One batch of windows with everything that the rollouts from them are compared with, on the CPU."""

    batch: Batch
    unsteered: Tensor
    """ŷ_unsteered [B, T, C, H, W, D]."""
    truth: Tensor | None
    """The stored frames, shaped alike; None where a run did not keep them: errors are not measured then."""
    targets: Mapping[int, Tensor] = field(default_factory=dict)
    """y(θ') by the sign of α, shaped alike; NaN in the rows of windows that have no such θ'."""
    base: Tensor | None = None
    """y(θ), from the same solver and state as the targets; None without targets."""
    parameter: str = ""
    """What differs between θ and θ'; empty without targets."""
    blurred: Mapping[int, Tensor] = field(default_factory=dict)
    """The unsteered rollouts with the diffusion of θ' instead of θ, by the sign of α (`blurred_rollouts`): what
    smoothing alone does. Empty where the parameter is no viscosity or diffusivity."""

    @property
    def fields(self) -> dict[str, int]:
        """The predicted channels by name."""
        channels = self.batch.channels
        return {channels.names[i]: i for i in channels.predicted}

    @cached_property
    def velocity(self) -> list[int] | None:
        """The channels of the velocity; None where there is none, or the grid has no geometry (`left_out`)."""
        names = self.batch.channels.names
        known = self.geometry is not None and set(VELOCITY) <= set(names)
        return [names.index(name) for name in VELOCITY] if known else None

    @cached_property
    def geometry(self) -> Geometry | None:
        """The lengths of the grid; None where it has none (`left_out`)."""
        return None if self.batch.grid.obstacle else self.batch.grid.geometry

    @cached_property
    def spread(self) -> Tensor | None:
        """Standard deviation of the truth over cells, all alike as in VRMSE, [B, T, C]; None without a truth."""
        return None if self.truth is None else self.truth.double().var((-3, -2, -1)).sqrt()

    @cached_property
    def spectrum(self) -> Tensor | None:
        """E(k) of the truth, [B, T, shells]; None without truth or velocity, or on a stretched grid."""
        if self.truth is None or self.velocity is None or self.geometry is None or self.geometry.stretched:
            return None
        return reference_spectrum(self.truth[:, :, self.velocity], self.geometry)

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
        """Measure the flow, and the errors against the stored truth.

        Args:
            frames: [B, T, C, H, W, D].
        """
        fields, geometry = self.fields, self.geometry
        if self.truth is not None:
            for name, i in fields.items():
                yield name, "vrmse", vrmse(frames[:, :, i], self.truth[:, :, i])
        if self.velocity is not None and geometry is not None:
            velocity = frames[:, :, self.velocity]
            yield "", "enstrophy", enstrophy(velocity, geometry)
            yield "", "vortex_area", vortex_area(velocity, geometry)
            yield "", "kinetic_energy", kinetic_energy(velocity, geometry)
            yield "", "divergence_rms", divergence_rms(velocity, geometry)
            if self.spectrum is not None:
                yield "", "spectrum_distance", spectrum_distance(velocity, self.spectrum, geometry)
        if "tracer" in fields and geometry is not None:
            yield "", "tracer_variance", tracer_variance(frames[:, :, fields["tracer"]], geometry)
            yield "", "tracer_mass", tracer_mass(frames[:, :, fields["tracer"]], geometry)
        scored = self.batch.channels.predicted
        first = blow_up_step(frames[:, :, scored], self.batch.context[:, -1, scored].cpu()).amin(-1, keepdim=True)
        steps = torch.arange(1, frames.shape[1] + 1, dtype=first.dtype)
        yield "", "blow_up_step", torch.where(steps == first, first, torch.nan)  # first [B, 1]

    def movement(self, frames: Tensor) -> Measured:
        """Measure how far steered rollouts [B, T, C, H, W, D] are from the unsteered ones, in units of the spread."""
        if self.spread is not None:
            for name, i in self.fields.items():
                yield name, "movement", movement(frames[:, :, i], self.unsteered[:, :, i], self.spread[:, :, i])

    def spectra(self, frames: Tensor, steps: Sequence[int]) -> Tensor | None:
        """Return E(k) at some steps, up to the last shell that the shortest axis holds completely.

        Args:
            frames: [B, T, C, H, W, D].
            steps: from 1.

        Returns:
            [B, steps, shells] float64, NaN where a frame is not finite; None without a velocity,
            or on a stretched grid.
        """
        if self.velocity is None or self.geometry is None or self.geometry.stretched:
            return None
        velocity = frames[:, [step - 1 for step in steps]][:, :, self.velocity]
        present = [n for n in velocity.shape[-3:] if n > 1]
        if not present:
            return None
        energy = energy_spectrum(velocity.double(), self.geometry)[..., : min(present) // 2 + 1]
        return energy.where(velocity.isfinite().flatten(2).all(2)[..., None], torch.nan)

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
                terms = nearness_terms(steered, unsteered, self.targets[sign][:, :, i])
                yield name, "alignment_cosine", aligned.cosine
                yield name, "alignment_gain", aligned.gain
                yield name, "change_product", aligned.product
                yield name, "change_error", aligned.error
                yield name, "change_truth", aligned.truth
                yield name, "error_steered", terms.error_steered
                yield name, "error_unsteered", terms.error_unsteered


def solver_comparison(batch: Batch, unsteered: Tensor, parameter: str | None, values: Sequence[float]) -> Comparison:
    """Prepare what the rollouts from a batch are compared with: the stored truth, and where a parameter would lead.

    Args:
        batch: windows.
        unsteered: their unsteered rollouts, [B, T, C, H, W, D].
        parameter: what θ and θ' differ in; None for no comparison with other parameters.
        values: the parameter's values in the concept's direction (`next_values`).

    Raises:
        PhysteerError: there is no such parameter, or the built-in solver cannot continue the data.
    """
    truth = batch.targets.cpu()
    if parameter is None:
        return Comparison(batch, unsteered, truth)
    if parameter not in batch.parameters:
        known = ", ".join(batch.parameters)
        raise PhysteerError(f"Diagnostics: the data have no parameter {parameter!r}; they have {known}")
    n_steps = truth.shape[1]
    following = {sign: next_values(batch.parameters[parameter], values, sign) for sign in (1, -1)}
    targets = {
        sign: solver_truth(batch, n_steps, {parameter: value}).cpu()
        for sign, value in following.items()
        if bool(value.isfinite().any())
    }
    # restarted too, so that nothing but the parameter is between the two
    base = solver_truth(batch, n_steps, {}).cpu() if targets else None
    blurred = {
        sign: blurred_rollouts(batch, unsteered, {parameter: value})
        for sign, value in following.items()
        if sign in targets
    }
    return Comparison(batch, unsteered, truth, targets, base, parameter, blurred)


def left_out(metadata: SplitMetadata) -> str:
    """Return what of a data set's flow is not measured because of its grid, and why; empty where all is."""
    names, grid = metadata.channels.names, metadata.grid
    moving = set(VELOCITY) <= set(names)
    if grid.obstacle and (moving or "tracer" in names):
        return f"{metadata.path}: metrics of the whole flow are left out: {grid.obstacle}"
    if moving and not grid.obstacle and grid.geometry.stretched:
        axes = ", ".join(grid.axes[axis] for axis in grid.geometry.stretched)
        return f"{metadata.path}: {NO_SPECTRUM.format(axes=axes)}; they are left out"
    return ""


def sign_of(strength: float) -> int:
    """Return which neighbour of the parameter a strength steers towards: 1 for the next one up, −1 down."""
    return 1 if strength > 0 else -1
