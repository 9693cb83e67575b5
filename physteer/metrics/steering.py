"""What steering did to a rollout: whether it went where the parameter would have gone, and what it damaged.

Fields are [..., H, W, D] and reduced over space; everything before (conditions, rows, steps, fields) is kept and
broadcasts. Sums are in float64, and what is summed is returned, so that ratios can be pooled over rows:
a mean of ratios would let rows with a tiny denominator decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.metrics.flow import SPACE, energy_spectrum

SPECTRUM_FLOOR = 1e-8
"""Of the reference's energy: what a shell holds below it is round-off of float32 fields, not flow."""
ROUND_OFF = 1e-6
"""Of the truth's RMS: a true change below it is round-off of float32 fields and of restarted solvers, not physics."""
BLOW_UP = 100.0
"""A field whose RMS exceeds this many times its initial one has blown up."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Inner products of the change that steering made with the true change, as means over space.

    Add them up over rows before reading `cosine` or `gain`, and these are pooled.
    """

    product: Tensor
    """⟨Δŷ Δy⟩, [...] in the field's units squared."""
    steered: Tensor
    """⟨Δŷ²⟩, [...]."""
    truth: Tensor
    """⟨Δy²⟩, [...]."""

    @property
    def cosine(self) -> Tensor:
        """⟨Δŷ Δy⟩ / √(⟨Δŷ²⟩⟨Δy²⟩), between −1 and 1; NaN where one of the changes is zero."""
        return (self.product / (self.steered.sqrt() * self.truth.sqrt())).clamp(-1, 1)

    @property
    def gain(self) -> Tensor:
        """⟨Δŷ Δy⟩ / ⟨Δy²⟩: how much of the true change there is in the steered one; NaN where nothing truly changes."""
        return self.product / self.truth


@dataclass(frozen=True, eq=False)
class TrueChange:
    """Δy = y(θ') − y(θ_b), from the same state; the same for everything that is compared with it."""

    change: Tensor
    """[..., H, W, D], float64; 0 where nothing truly changes."""
    square: Tensor
    """⟨Δy²⟩, [...]."""


def true_change(truth_target: Tensor, truth_base: Tensor) -> TrueChange:
    """Return Δy, set to 0 where its RMS is below 1e-6 of that of y(θ_b).

    Nothing truly changes there: an exact null, such as the velocity when only a passive tracer's diffusivity does.

    Args:
        truth_target: y(θ') [..., H, W, D], the truth at the parameters that steering is towards.
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

    Where nothing truly changes, cosine and gain are NaN, and ⟨Δŷ Δy⟩ = ⟨Δy²⟩ = 0 add nothing to pooled ones.

    Args:
        steered: ŷ_steered [..., H, W, D], such as [conditions, B, T, C, H, W, D].
        unsteered: ŷ_unsteered; this and what follows may lack or repeat leading axes.
        true: from `true_change`.

    Returns:
        Inner products, each [...] in float64.

    Raises:
        PhysteerError: The fields lie on different grids.
    """
    _same_grid(steered, unsteered, true.change)
    made = steered.double() - unsteered.double()
    product = (made * true.change).mean(SPACE)
    return Alignment(product, made.square().mean(SPACE).expand_as(product), true.square.expand_as(product))


@dataclass(frozen=True, eq=False)
class RecoveryTerms:
    """Squared errors against the truth at the target parameters, as means over space."""

    error_steered: Tensor
    """⟨(ŷ_steered − y(θ'))²⟩, [...] in the field's units squared."""
    error_unsteered: Tensor
    """⟨(ŷ_unsteered − y(θ'))²⟩, [...]."""

    @property
    def recovery(self) -> Tensor:
        """Counterfactual recovery 1 − ⟨error_steered⟩/⟨error_unsteered⟩ of each row; sum the terms first to pool rows.

        0 is no better than not steering, 1 is exact, below 0 is worse.
        """
        return 1 - self.error_steered / self.error_unsteered


def recovery_terms(steered: Tensor, unsteered: Tensor, truth_target: Tensor) -> RecoveryTerms:
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
    return RecoveryTerms(error, (unsteered.double() - target).square().mean(SPACE).expand_as(error))


def spectrum_distance(velocity: Tensor, reference: Tensor, floor: float = SPECTRUM_FLOOR) -> Tensor:
    """Return the RMS over shells of ln(E(k)/E_ref(k)): 0 for equal spectra, 0.1 where shells differ by about 10 %.

    Logarithms weigh every scale alike. In a relative L2 norm of E(k) only the few largest scales would count, and it is
    small scales that damage shows in first. Shells go from 1 (a mean flow is a change of frame) to the last one that
    the shortest axis holds completely; to both spectra `floor` times the reference's total energy without shell 0 is
    added, so that shells without energy in either do not count.

    Args:
        velocity: [..., 3, H, W, D].
        reference: E_ref(k) [..., shells], from `reference_spectrum`; may lack or repeat leading axes.
        floor: of the reference's energy.

    Returns:
        [...], float64; not finite where either is not, or where the reference does not vary.

    Raises:
        PhysteerError: The fields lie on different grids, of fewer than two cells along every axis.
    """
    present = [n for n in velocity.shape[-3:] if n > 1]
    if not present:
        raise PhysteerError("a spectrum needs an axis of two or more cells")
    shells = slice(1, min(present) // 2 + 1)
    energy = reference_spectrum(velocity)
    if energy.shape[-1] != reference.shape[-1]:
        raise PhysteerError(f"a spectrum of {energy.shape[-1]} shells cannot be compared with {reference.shape[-1]}")
    least = floor * reference[..., 1:].sum(-1, keepdim=True)
    return ((energy[..., shells] + least) / (reference[..., shells] + least)).log().square().mean(-1).sqrt()


def reference_spectrum(velocity: Tensor) -> Tensor:
    """Return E(k) of a velocity [..., 3, H, W, D] in float64, [..., shells], for `spectrum_distance`."""
    return energy_spectrum(velocity.double())


def movement(steered: Tensor, unsteered: Tensor, spread: Tensor) -> Tensor:
    """Return √⟨(ŷ_steered − ŷ_unsteered)²⟩ / σ: how far steering moves a field, in units of its spread.

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


def tracer_mass(tracer: Tensor) -> Tensor:
    """Return ⟨s⟩ of a tracer [..., H, W, D], in its units: [...], float64; conserved in a periodic box."""
    return tracer.double().mean(SPACE)


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
