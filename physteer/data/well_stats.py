"""``stats.yaml``: the normalisation constants The Well ships beside each data set, from its training split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray

from physteer.files import atomic_write


@dataclass
class _Moments:
    """Running mean and centred second moment per component, updated chunk by chunk (Chan et al. 1983).

    It is not `physteer.concepts.Covariance`: this room needs no torch, and no covariance between components.
    """

    count: int = 0
    mean: NDArray[np.float64] | float = 0.0
    scatter: NDArray[np.float64] | float = 0.0

    def update(self, values: NDArray[np.float64]) -> None:
        """Take in values [n, components]."""
        added, mean = len(values), values.mean(0)
        total = self.count + added
        shift = mean - self.mean
        self.scatter = self.scatter + ((values - mean) ** 2).sum(0) + shift**2 * self.count * added / total
        self.mean = self.mean + shift * added / total
        self.count = total

    @property
    def std(self) -> NDArray[np.floating]:
        """Standard deviation, unbiased."""
        return np.asarray(np.sqrt(np.asarray(self.scatter) / max(self.count - 1, 1)))

    @property
    def rms(self) -> NDArray[np.floating]:
        """Root mean square."""
        return np.asarray(np.sqrt(np.asarray(self.scatter) / self.count + np.asarray(self.mean) ** 2))


def write_stats(files: Sequence[Path | str], path: Path | str) -> None:
    """Write The Well's ``stats.yaml``: six tables, field → number, or nested lists of numbers for vectors and tensors.

    ``mean``, ``std``, ``rms`` are over trajectories, times and space; ``mean_delta``, ``std_delta``, ``rms_delta`` the
    same of the difference between successive frames, for evolving fields. One trajectory of one field is in memory at
    a time.

    Args:
        files: training files in The Well's layout.
        path: where to write.
    """
    values: dict[str, _Moments] = {}
    deltas: dict[str, _Moments] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in files:
        with h5py.File(name) as file:
            for order in range(3):
                for field, dataset in file[f"t{order}_fields"].items():
                    shapes[field] = dataset.shape[dataset.ndim - order :]
                    for run in range(len(dataset)) if dataset.attrs["sample_varying"] else (slice(None),):
                        array = np.asarray(dataset[run], dtype=np.float64)
                        components = int(np.prod(shapes[field]))
                        values.setdefault(field, _Moments()).update(array.reshape(-1, components))
                        if dataset.attrs["time_varying"] and len(array) > 1:
                            delta = np.diff(array, axis=0).reshape(-1, components)
                            deltas.setdefault(field, _Moments()).update(delta)
    table = {}
    for suffix, moments in (("", values), ("_delta", deltas)):
        for key in ("mean", "std", "rms"):
            table[key + suffix] = {
                field: np.reshape(getattr(moments_of_field, key), shapes[field]).tolist()
                for field, moments_of_field in moments.items()
            }
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(table, sort_keys=False))
