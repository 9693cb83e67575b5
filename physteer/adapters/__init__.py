"""Other emulators than Walrus, as networks for `physteer.EmulatorModule`.

Each is a `physteer.interventions.StagedNetwork`: a page of code to copy for an emulator of one's own.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physteer.adapters.fno import FNO
    from physteer.adapters.unet import UNet
    from physteer.adapters.vit import ViT

__all__ = ["FNO", "UNet", "ViT"]

_HOME = {"FNO": "physteer.adapters.fno", "UNet": "physteer.adapters.unet", "ViT": "physteer.adapters.vit"}


def __getattr__(name: str) -> Any:
    # on first use: `FNO` needs a package that is optional
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'physteer.adapters' has no attribute {name!r}")
