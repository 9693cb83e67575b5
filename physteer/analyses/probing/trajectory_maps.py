"""The file of the probes' predictions along a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from physteer.errors import PhysteerError
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

    def __post_init__(self) -> None:
        shown = self.prediction.shape[2:]  # frames and token grid
        pooled = (len(self.pooled_targets), *shown[:1])
        wanted = {
            "frames": tuple(shown[:1]),
            "prediction": (len(self.sites), len(self.targets), *shown),
            "truth": (len(self.targets), *shown),
            "pooled_prediction": (len(self.sites), *pooled),
            "pooled_truth": pooled,
        }
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape or len(shown) != 4:
                raise PhysteerError(f"maps of probes hold {name} {list(getattr(self, name).shape)}, not {list(shape)}")
