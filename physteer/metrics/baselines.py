"""Forecasts without a model, as baselines of learned ones."""

import torch
from torch import Tensor


def persistence(window: Tensor, n_steps: int) -> Tensor:
    """Forecast that nothing changes: u(t + k) = u(t).

    Args:
        window: [B, T, C, H, W, D].
        n_steps: steps to forecast.

    Returns:
        [B, n_steps, C, H, W, D], a view of the last frame.
    """
    return window[:, -1:].expand(-1, n_steps, -1, -1, -1, -1)


def linear_extrapolation(window: Tensor, n_steps: int) -> Tensor:
    """Forecast that the last change continues: u(t + k) = u(t) + k (u(t) − u(t − 1)).

    Args:
        window: [B, T, C, H, W, D] with T ≥ 2.
        n_steps: steps to forecast.

    Returns:
        [B, n_steps, C, H, W, D].
    """
    last = window[:, -1:]
    ahead = torch.arange(1, n_steps + 1, device=window.device, dtype=window.dtype).view(1, -1, 1, 1, 1, 1)
    return last + ahead * (last - window[:, -2:-1])
