"""Predictions of probes at every token and frame of a few trajectories."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from physteer.analyses.probing.readings import RESOLUTIONS, Resolution
from physteer.analyses.probing.trajectory_maps import TrajectoryMaps
from physteer.data.batch import Batch, Window


@dataclass(frozen=True, eq=False)
class Piece:
    """One window of a trajectory; tensors on the CPU."""

    window: Window
    truth: dict[Resolution, Tensor]
    """Tokens [T, h, w, δ, m], and pooled [T, m]."""
    predicted: dict[tuple[str, Resolution], Tensor] = field(default_factory=dict)
    """By place and resolution, of the same shapes."""


class MapCollector:
    """Keeps the predictions of probes for some trajectories of a data set.

    Args:
        trajectories: (file, trajectory) of each.
    """

    def __init__(self, trajectories: Collection[tuple[str, int]]) -> None:
        self._trajectories = trajectories
        self.pieces: list[Piece] = []
        self._rows: list[tuple[int, Piece]] = []
        self._shape: tuple[int, ...] = ()

    def begin(self, batch: Batch, truths: Mapping[Resolution, Tensor], shape: Sequence[int]) -> None:
        """Start a batch.

        Args:
            batch: B windows.
            truths: [B, n, m] by resolution.
            shape: T, h, w, δ.
        """
        self._shape = tuple(shape)
        rows = [i for i, window in enumerate(batch.windows) if (window.file, window.trajectory) in self._trajectories]
        self._rows = [
            (row, Piece(batch.windows[row], {r: self._shaped(t[row], r) for r, t in truths.items()})) for row in rows
        ]
        self.pieces += [piece for _, piece in self._rows]

    def add(self, place: str, resolution: Resolution, predicted: Tensor) -> None:
        """Keep the predictions for the batch, [B, n, m]."""
        for row, piece in self._rows:
            piece.predicted[place, resolution] = self._shaped(predicted[row], resolution)

    def _shaped(self, values: Tensor, resolution: Resolution) -> Tensor:
        values = values.detach().float().cpu()
        return values.view(*self._shape, -1) if resolution == "token" else values


def assembled(
    pieces: Sequence[Piece], data: str, sites: Sequence[str], targets: Sequence[str], pooled_targets: Sequence[str]
) -> list[TrajectoryMaps]:
    """Join the windows of each trajectory; a frame in several windows is taken from the one with most context."""
    maps = []
    ordered = sorted(pieces, key=lambda piece: (*_trajectory(piece), piece.window.start))
    for (file, trajectory, stride), windows in groupby(ordered, key=_trajectory):
        best_window: dict[int, tuple[int, Piece]] = {}  # by frame: its position in the window
        for piece in windows:
            for position in range(len(piece.truth["pooled"])):
                frame = piece.window.start + stride * position
                if frame not in best_window or position > best_window[frame][0]:
                    best_window[frame] = (position, piece)
        chosen = [best_window[frame] for frame in sorted(best_window)]
        truth: dict[Resolution, Tensor] = {}  # [m, frames, …]
        predicted: dict[Resolution, Tensor] = {}  # [sites, m, frames, …]
        for resolution in RESOLUTIONS:
            truth[resolution] = torch.stack([piece.truth[resolution][i] for i, piece in chosen]).movedim(-1, 0)
            by_site = [torch.stack([piece.predicted[site, resolution][i] for i, piece in chosen]) for site in sites]
            predicted[resolution] = torch.stack(by_site).movedim(-1, 1)
        maps.append(
            TrajectoryMaps(
                name=f"{file}_trajectory{trajectory:04d}" + ("" if stride == 1 else f"_stride{stride}"),
                data=data,
                sites=tuple(sites),
                targets=tuple(targets),
                pooled_targets=tuple(pooled_targets),
                frames=torch.tensor(sorted(best_window)),
                prediction=predicted["token"],
                truth=truth["token"],
                pooled_prediction=predicted["pooled"],
                pooled_truth=truth["pooled"],
            )
        )
    return maps


def _trajectory(piece: Piece) -> tuple[str, int, int]:
    return piece.window.file, piece.window.trajectory, piece.window.stride
