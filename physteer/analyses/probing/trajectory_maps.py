"""The file of the probes' predictions along a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from physteer.tensor_files import write_tensors

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class TrajectoryMaps:
    """Predictions of the probes of every site, layers × frames × tokens, and the truth."""

    name: str
    """Name of the trajectory."""
    data: str
    """``simple`` or ``full``."""
    sites: tuple[str, ...]
    targets: tuple[str, ...]
    pooled_targets: tuple[str, ...]
    """Targets whose means over frames vary."""
    frames: Tensor
    """[F], indices of the trajectory's frames."""
    prediction: Tensor
    """[sites, targets, F, h, w, δ], float32, in the targets' units."""
    truth: Tensor
    """[targets, F, h, w, δ]."""
    pooled_prediction: Tensor
    """[sites, pooled targets, F], of the pooled probes."""
    pooled_truth: Tensor
    """[pooled targets, F]."""

    def save(self, path: Path) -> None:
        """Write a safetensors file atomically; the names of sites and targets are in its metadata."""
        tensors = {name: getattr(self, name) for name in ("frames", "prediction", "truth")}
        tensors |= {name: getattr(self, name) for name in ("pooled_prediction", "pooled_truth")}
        described = {name: getattr(self, name) for name in ("name", "data", "sites", "targets", "pooled_targets")}
        write_tensors(path, "probe maps", FORMAT_VERSION, tensors, described)
