"""Train, inspect and steer physics foundation models.

``physteer.WalrusModule`` and ``physteer.WellDataModule`` are what YAML names; they are imported on first use, so that
commands that need no torch start at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physteer.data.module import WellDataModule
    from physteer.data.pair_module import CounterfactualDataModule
    from physteer.data.transfer_module import TransferDataModule
    from physteer.forecast.emulator_module import EmulatorModule
    from physteer.forecast.module import ForecastModule
    from physteer.forecast.walrus_module import WalrusModule

__version__ = "0.1.0"
__all__ = [
    "CounterfactualDataModule",
    "EmulatorModule",
    "ForecastModule",
    "TransferDataModule",
    "WalrusModule",
    "WellDataModule",
    "__version__",
]

_HOME = {
    "CounterfactualDataModule": "physteer.data.pair_module",
    "TransferDataModule": "physteer.data.transfer_module",
    "EmulatorModule": "physteer.forecast.emulator_module",
    "ForecastModule": "physteer.forecast.module",
    "WalrusModule": "physteer.forecast.walrus_module",
    "WellDataModule": "physteer.data.module",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'physteer' has no attribute {name!r}")
