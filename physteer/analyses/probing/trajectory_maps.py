"""The file of the probes' predictions along a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from physteer.tensor_files import TensorFile


@dataclass(frozen=True, eq=False)
class TrajectoryMaps(TensorFile):
    """Predictions of the probes of every site, layers × frames × tokens, and the truth."""

    KIND: ClassVar[str] = "probe maps"
    VERSION: ClassVar[int] = 1

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
