"""Train, inspect and steer physics foundation models.

``physteer.WalrusModule`` and ``physteer.WellDataModule`` are what YAML names; they are imported on first use, so that
commands that need no torch start at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physteer.data.module import WellDataModule
    from physteer.module import WalrusModule

__version__ = "0.1.0"
__all__ = ["WalrusModule", "WellDataModule", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "WalrusModule":
        from physteer.module import WalrusModule

        return WalrusModule
    if name == "WellDataModule":
        from physteer.data.module import WellDataModule

        return WellDataModule
    raise AttributeError(f"module 'physteer' has no attribute {name!r}")
