"""Steering: an activation moved along a direction, in proportion to its own norm."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional

from physteer.errors import PhysteerError, did_you_mean
from physteer.interventions.constant import Constant
from physteer.interventions.replacements import Reads, Replacement

_SHORT_SUM = 2**16
"""So many squares are summed in one go, in float32."""

SteerMode = Literal["drop", "pad", "interpolate", "none"]


class Steer(Replacement):
    """r(h) = h + α v ‖h‖/‖v‖, norms over space and channels per row and frame (Fear et al., arXiv 2511.20798).

    v is the direction, fitted to h's token grid (`fit_to_grid`) once per grid and device. A rollout step then costs one
    norm and one fused multiply-add. At α = 0 the activation itself is returned.
    """

    def __init__(self, direction: Tensor, strength: float, mode: SteerMode = "drop") -> None:
        """Keep a direction.

        Args:
            direction: [h, w, δ, d], on the grid where it was measured; or [d], the same direction at every token, in
                mode `drop`.
            strength: α, signed.
            mode: how the direction is fitted to another grid.

        Raises:
            PhysteerError: There is no such mode, or strength or direction are not finite or not of that shape.
        """
        super().__init__()
        if not math.isfinite(strength):
            raise PhysteerError(f"the strength of steering must be finite; it is {strength}")
        if mode not in get_args(SteerMode):
            allowed = ", ".join(get_args(SteerMode))
            raise PhysteerError(
                f"steering mode {mode!r} is not one of {allowed}{did_you_mean(mode, get_args(SteerMode))}"
            )
        if direction.ndim not in (1, 4):
            raise PhysteerError(
                "a direction is [d], the same at every token, or [h, w, δ, d], on a grid of tokens; it has shape "
                f"{list(direction.shape)}"
            )
        if direction.ndim == 1:
            if mode != "drop":
                raise PhysteerError(
                    f"a direction [d] is the same at every token, in mode 'drop'; for mode {mode!r} give [h, w, δ, d]"
                )
            direction = direction[None, None, None]
        if not bool(torch.isfinite(direction).all()):
            raise PhysteerError("the direction has values that are not finite")
        self.direction = direction.detach().to(torch.promote_types(direction.dtype, torch.float32))
        self.strength = strength
        self.mode = mode
        self._fitted: dict[tuple[int, ...], Constant] = {}

    def forward(self, h: Tensor) -> Tensor:
        """Return the steered activation, in h's precision; sums are float32 or wider.

        Args:
            h: [B, T, h, w, δ, d], or with fewer axes of space: a direction [h, w, 1, d] steers [B, T, h, w, d].
        """
        if self.strength == 0:
            return h
        unit = self.unit(h)
        if h.dtype == unit.dtype:
            return torch.addcmul(h, self.strength * _norm(h), unit)
        dtype = torch.promote_types(h.dtype, unit.dtype)
        wide = h.to(dtype)
        return torch.addcmul(wide, self.strength * _norm(wide), unit.to(dtype)).to(h.dtype)

    def unit(self, h: Tensor) -> Tensor:
        """Return v/‖v‖ on h's grid and device: [h, w, δ, d] with h's axes of space, or 1 where v does not vary.

        Raises:
            PhysteerError: The direction does not fit the activation, or is zero after fitting.
        """
        if not 3 <= h.ndim <= 6:
            raise PhysteerError(f"steering needs an activation [B, T, h, w, δ, d]; this has shape {list(h.shape)}")
        if h.shape[-1] != self.direction.shape[-1]:
            raise PhysteerError(f"the direction has width {self.direction.shape[-1]}, the activation {h.shape[-1]}")
        space = h.shape[2:-1]
        fitted = self._fitted.get(space)
        if fitted is None:
            unit = fit_to_grid(self.direction, (*space, 1, 1, 1)[:3], self.mode)
            fitted = self._fitted[space] = Constant(unit.reshape(*unit.shape[: len(space)], -1))
        return fitted.on(h.device)

    def reads(self, ndim: int) -> Reads:
        """Return "axes": norms are over space and channels, per row and frame."""
        return "axes"

    def extra_repr(self) -> str:
        """Return the direction's shape, the strength and the mode."""
        return f"direction={list(self.direction.shape)}, strength={self.strength}, mode={self.mode!r}"


def _norm(h: Tensor) -> Tensor:
    """Return norms [B, T, 1, …, 1] over space and channels of an activation [B, T, …, d].

    In one go, float32 sums of a million squares are off by 1e-5 to 1e-4: neighbours in memory are summed first.
    """
    n_tokens = h.shape[2:-1].numel()
    if n_tokens == 1:
        norm: Tensor = vector_norm(h, dim=-1, keepdim=True)
        return norm
    space = tuple(range(2, h.ndim - 1))
    if h.stride(-1) == 1:
        first: tuple[int, ...] = (-1,)
    else:  # channels lie in front of space
        first = space if n_tokens <= _SHORT_SUM else space[1:] or space
    norm = vector_norm(vector_norm(h, dim=first, keepdim=True), dim=(*space, -1), keepdim=True)
    return norm


def fit_to_grid(direction: Tensor, grid: tuple[int, ...], mode: SteerMode) -> Tensor:
    """Fit a direction to a token grid and divide it by its norm, as published.

    * `drop`: the mean over space; its norm is that of the mean repeated over the whole grid.
    * `pad`: cut to the centre where the direction is larger, zeros at the high end where it is smaller.
    * `interpolate`: cut to the centre where it is larger, trilinear (`align_corners=False`) where it is smaller.
    * `none`: unchanged, with its own norm; a one-token direction is therefore √tokens stronger than in `drop`.

    Args:
        direction: [h', w', δ', d].
        grid: (h, w, δ).
        mode: one of the above.

    Returns:
        [h, w, δ, d], or broadcastable to it; float64 inside, the direction's precision outside.

    Raises:
        PhysteerError: The direction cannot be broadcast (`none`) or is zero after fitting.
    """
    fitted = direction.double()
    repeats = 1
    if mode == "drop":
        fitted = fitted.mean(dim=(0, 1, 2), keepdim=True)  # [1, 1, 1, d]
        repeats = math.prod(grid)
    elif mode == "none":
        if any(have not in (1, want) for have, want in zip(fitted.shape, grid, strict=False)):
            raise PhysteerError(
                f"mode 'none' takes a direction on the grid {list(grid)} or on one token; it is on "
                f"{list(fitted.shape[:3])}: use 'drop', 'pad' or 'interpolate'"
            )
    else:
        fitted = _centre(fitted, grid)
        if mode == "pad":
            missing = [(0, want - have) for have, want in zip(fitted.shape, grid, strict=False)]
            fitted = functional.pad(fitted, [0, 0, *(n for pair in reversed(missing) for n in pair)])
        elif tuple(fitted.shape[:3]) != grid:
            channels_first = fitted.permute(3, 0, 1, 2)[None]
            resized = functional.interpolate(channels_first, size=grid, mode="trilinear", align_corners=False)
            fitted = resized[0].permute(1, 2, 3, 0).contiguous()
    norm = math.sqrt(repeats) * vector_norm(fitted)
    if not float(norm) > 0:
        raise PhysteerError(f"the direction is zero in mode {mode!r}: there is nothing to steer along")
    unit: Tensor = fitted / norm
    return unit.to(direction.dtype)


def _centre(direction: Tensor, grid: tuple[int, ...]) -> Tensor:
    for axis, (have, want) in enumerate(zip(direction.shape, grid, strict=False)):
        if have > want:
            direction = direction.narrow(axis, (have - want) // 2, want)
    return direction
