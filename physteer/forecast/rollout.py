"""Autoregressive rollouts, and the scales that normalise a window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.data.batch import Channels
from physteer.interventions.seeds import generator_of


@dataclass(frozen=True)
class SampleScale:
    """The scales by which a window's fields are normalised, recomputed at every step (RevIN without the means)."""

    fields: Tensor
    """r, [B, 1, C, 1, 1, 1]: RMS over frames and space, in the fields' units."""
    differences: Tensor
    """r_Δ, [B, 1, C, 1, 1, 1]: RMS of the differences between frames, in the fields' units."""


def sample_scale(window: Tensor, eps: float) -> SampleScale:
    """Measure the scales of a window.

    Args:
        window: [B, T, C, H, W, D] with T ≥ 2.
        eps: the smallest scale, in the fields' units.
    """
    return SampleScale(_rms(window).clamp_min(eps), _rms(window.diff(dim=1)).clamp_min(eps))


def advanced(last: Tensor, y: Tensor, scale: SampleScale, channels: Channels) -> Tensor:
    """Return the frame u + y r_Δ that follows the last one.

    Channels that do not evolve keep their value, and inside a constant field ``mask`` the solution is 0.

    Args:
        last: [N, 1, C, H, W, D], in the data set's units.
        y: the change in units of r_Δ, the same shape.
        scale: of the windows.
        channels: C of them.
    """
    evolving = torch.tensor(channels.evolving, device=last.device)[:, None, None, None]
    frame = torch.where(evolving, last + y.to(last.dtype) * scale.differences, last)
    if "mask" in channels.names:
        solid = last[:, :, [channels.index("mask")]] > 0
        frame = torch.where(evolving & solid, 0.0, frame)
    return frame


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(dim=(1, 3, 4, 5), keepdim=True).sqrt()


def rollout(predict: Callable[[Tensor, int], Tensor], window: Tensor, n_steps: int) -> Iterator[Tensor]:
    """Yield the frames that follow a window, one at a time.

    Args:
        predict: (window [B, T, C, H, W, D], step from 0) → next frame [B, 1, C, H, W, D].
        window: the frames to start from; the oldest is dropped as each prediction is appended.
        n_steps: how many frames.

    Yields:
        Each next frame, [B, 1, C, H, W, D], in the fields' units.
    """
    for step in range(n_steps):
        frame = predict(window, step)
        yield frame
        window = torch.cat([window[:, 1:], frame], dim=1)


def jitter_generator(seed: int, trajectory: str, step: int) -> torch.Generator:
    """Return the random generator of one forward's jitter.

    It depends on seed, trajectory and step alone. Runs that are compared (steered and unsteered, on one process or
    many) therefore share their draws, whatever batches they use.
    """
    return generator_of(seed, trajectory, step)
