"""Effects of steering on a rollout: its agreement with the true change of a parameter, and its damage to the flow.

Fields are [..., H, W, D] and are reduced over space. The leading axes (conditions, rows, steps, fields) are kept and
broadcast. Sums are in float64. Errors, changes and distances between fields weigh all cells alike, as VRMSE and the
network's loss do, whatever the grid; the tracer's mean weighs cells by volume. The terms of ratios are returned, so
that ratios can be pooled over rows: a mean of ratios would be dominated by rows with a small denominator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.metrics.flow import energy_spectrum
from physteer.metrics.geometry import SPACE, Geometry

SPECTRUM_FLOOR = 1e-8
"""Share of the reference's energy; the energy of a shell below it is round-off of float32 fields."""
ROUND_OFF = 1e-6
"""Share of the truth's RMS; a true change below it is round-off of float32 fields and of restarted solvers."""
BLOW_UP = 100.0
"""A field whose RMS exceeds this many times its initial one has blown up."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Products and squares of the change made by steering, Δŷ, and the true change, Δy, as means over space.

    For a pooled `cosine`, `gain` or `recovery`, first sum the terms over rows.
    """

    product: Tensor
    """⟨Δŷ Δy⟩, [...] in the field's units squared."""
    steered: Tensor
    """⟨Δŷ²⟩, [...]."""
    truth: Tensor
    """⟨Δy²⟩, [...]."""
    error: Tensor
    """⟨(Δŷ − Δy)²⟩, [...]."""

    @property
    def recovery(self) -> Tensor:
        """Recovery of the change, 1 − ⟨(Δŷ − Δy)²⟩ / ⟨Δy²⟩: 1 is exact, 0 as good as no steering, below 0 worse.

        NaN or −∞ where the true change is 0.
        """
        return 1 - self.error / self.truth

    @property
    def cosine(self) -> Tensor:
        """⟨Δŷ Δy⟩ / √(⟨Δŷ²⟩⟨Δy²⟩), between −1 and 1; NaN where one of the changes is zero."""
        return (self.product / (self.steered.sqrt() * self.truth.sqrt())).clamp(-1, 1)

    @property
    def gain(self) -> Tensor:
        """⟨Δŷ Δy⟩ / ⟨Δy²⟩: the share of the true change that steering makes; NaN where the true change is 0."""
        return self.product / self.truth


@dataclass(frozen=True, eq=False)
class TrueChange:
    """Δy = y(θ') − y(θ_b), both from the same state."""

    change: Tensor
    """[..., H, W, D], float64; exactly 0 where it is round-off."""
    square: Tensor
    """⟨Δy²⟩, [...]."""


def true_change(truth_target: Tensor, truth_base: Tensor) -> TrueChange:
    """Return Δy, set to 0 where its RMS is below 1e-6 of that of y(θ_b).

    Such a change is an exact null, for example the velocity's when only the diffusivity of a passive tracer changes.

    Args:
        truth_target: y(θ') [..., H, W, D], the truth at the target parameters of steering.
        truth_base: y(θ_b), the truth at the parameters of the window.

    Raises:
        PhysteerError: The fields lie on different grids.
    """
    _same_grid(truth_target, truth_base)
    base = truth_base.double()
    change = truth_target.double() - base
    null = _rms(change) <= ROUND_OFF * _rms(base)
    change = change.where(~null[..., None, None, None], 0.0)
    return TrueChange(change, change.square().mean(SPACE))


def alignment(steered: Tensor, unsteered: Tensor, true: TrueChange) -> Alignment:
    """Compare Δŷ = ŷ_steered − ŷ_unsteered with Δy, all from the same state.

    Where Δy is 0, cosine and gain are NaN; ⟨Δŷ Δy⟩ = ⟨Δy²⟩ = 0 add nothing to pooled ones, but the error is ⟨Δŷ²⟩.

    Args:
        steered: ŷ_steered [..., H, W, D], such as [conditions, B, T, C, H, W, D].
        unsteered: ŷ_unsteered; this and what follows may lack or repeat leading axes.
        true: from `true_change`.

    Returns:
        Means over space, each [...] in float64.

    Raises:
        PhysteerError: The fields lie on different grids.
    """
    _same_grid(steered, unsteered, true.change)
    steered_change = steered.double() - unsteered.double()
    product = (steered_change * true.change).mean(SPACE)
    return Alignment(
        product=product,
        steered=steered_change.square().mean(SPACE).expand_as(product),
        truth=true.square.expand_as(product),
        error=(steered_change - true.change).square().mean(SPACE),
    )


@dataclass(frozen=True, eq=False)
class NearnessTerms:
    """Squared errors against the truth at the target parameters, as means over space."""

    error_steered: Tensor
    """⟨(ŷ_steered − y(θ'))²⟩, [...] in the field's units squared."""
    error_unsteered: Tensor
    """⟨(ŷ_unsteered − y(θ'))²⟩, [...]."""

    @property
    def nearness(self) -> Tensor:
        """Nearness to y(θ'), 1 − ⟨error_steered⟩/⟨error_unsteered⟩ of each row; sum the terms first to pool rows.

        1 is exact, 0 is as near as without steering, below 0 is farther. It counts the model's own error as distance:
        an edit that only makes the forecast better is near too. `Alignment.recovery` does not.
        """
        return 1 - self.error_steered / self.error_unsteered


def nearness_terms(steered: Tensor, unsteered: Tensor, truth_target: Tensor) -> NearnessTerms:
    """Return the squared errors of steered and unsteered rollouts against y(θ').

    Args:
        steered: [..., H, W, D].
        unsteered: may lack or repeat leading axes, as may `truth_target`.
        truth_target: the truth at the target parameters.

    Raises:
        PhysteerError: The fields lie on different grids.
    """
    _same_grid(steered, unsteered, truth_target)
    target = truth_target.double()
    error = (steered.double() - target).square().mean(SPACE)
    return NearnessTerms(error, (unsteered.double() - target).square().mean(SPACE).expand_as(error))


def spectrum_distance(velocity: Tensor, reference: Tensor, geometry: Geometry, floor: float = SPECTRUM_FLOOR) -> Tensor:
    """Return the RMS over shells of ln(E(k)/E_ref(k)): 0 for equal spectra, 0.1 where shells differ by about 10 %.

    Logarithms give every scale the same weight. In a relative L2 norm of E(k) only the few largest scales would count,
    but damage appears first in the small ones. Shells are 1 (shell 0 is the mean flow, a change of frame) to the last
    one that fits the shortest axis. `floor` times the reference's total energy without shell 0 is added to both
    spectra, so that shells without energy in either do not count.

    Args:
        velocity: [..., 3, H, W, D].
        reference: E_ref(k) [..., shells], from `reference_spectrum`; may lack or repeat leading axes.
        geometry: of the grid.
        floor: share of the reference's energy.

    Returns:
        [...], float64; not finite where either is not, or where the reference does not vary.

    Raises:
        PhysteerError: The fields lie on different grids, of fewer than two cells along every axis, or stretched ones.
    """
    present = [n for n in velocity.shape[-3:] if n > 1]
    if not present:
        raise PhysteerError("a spectrum needs an axis of two or more cells")
    shells = slice(1, min(present) // 2 + 1)
    energy = reference_spectrum(velocity, geometry)
    if energy.shape[-1] != reference.shape[-1]:
        raise PhysteerError(f"a spectrum of {energy.shape[-1]} shells cannot be compared with {reference.shape[-1]}")
    least = floor * reference[..., 1:].sum(-1, keepdim=True)
    return ((energy[..., shells] + least) / (reference[..., shells] + least)).log().square().mean(-1).sqrt()


def reference_spectrum(velocity: Tensor, geometry: Geometry) -> Tensor:
    """Return E(k) of a velocity [..., 3, H, W, D] in float64, [..., shells], for `spectrum_distance`.

    Raises:
        PhysteerError: The grid is stretched.
    """
    return energy_spectrum(velocity.double(), geometry)


def movement(steered: Tensor, unsteered: Tensor, spread: Tensor) -> Tensor:
    """Return √⟨(ŷ_steered − ŷ_unsteered)²⟩ / σ: the change of a field by steering, in units of its spread.

    Args:
        steered: [..., H, W, D].
        unsteered: may lack or repeat leading axes.
        spread: σ [...], the standard deviation over space of the truth.

    Returns:
        [...], float64; NaN where the field does not vary.
    """
    _same_grid(steered, unsteered)
    moved = _rms(steered.double() - unsteered.double())
    return (moved / spread).where(spread > 0, torch.nan)


def tracer_mass(tracer: Tensor, geometry: Geometry) -> Tensor:
    """Return ⟨s⟩ of a tracer [..., H, W, D], in its units: [...], float64; conserved in a periodic box."""
    return geometry.mean(tracer.double())


def blow_up_step(frames: Tensor, initial: Tensor, factor: float = BLOW_UP) -> Tensor:
    """Return the first step at which a field is not finite, or its RMS above `factor` times its initial one.

    A field that is zero at first has no scale of its own and is judged by finiteness alone.

    Args:
        frames: [..., T, C, H, W, D], the predicted frames.
        initial: [..., C, H, W, D], the frame they start from.
        factor: see above.

    Returns:
        [..., C], float64: steps from 1, ∞ for never. The minimum over fields is the rollout's.
    """
    limit = factor * _rms(initial.double()).unsqueeze(-2)  # [..., 1, C]
    rms = _rms(frames.double())  # [..., T, C]; NaN and ∞ pass through
    bad = ~rms.isfinite() | ((limit > 0) & (rms > limit))
    steps = torch.arange(1, rms.shape[-2] + 1, dtype=torch.float64, device=rms.device)[:, None]
    return torch.where(bad, steps, math.inf).amin(-2)


def _rms(field: Tensor) -> Tensor:
    return field.square().mean(SPACE).sqrt()


def _same_grid(*fields: Tensor) -> None:
    grids = [list(field.shape[-3:]) for field in fields]
    for grid in grids:
        if grid != grids[0]:
            raise PhysteerError(f"fields on the grids {grids[0]} and {grid} cannot be compared")
