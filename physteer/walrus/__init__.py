"""The Walrus network alone (torch only): stems, blocks, decoder, published checkpoints.

Both published variants at every size are one class, `Walrus`, whose `encode`, `run_blocks` and `decode` are its three
stages. Fields are [B, T, C, H, W, D], activations [B, T, h, w, δ, d].
"""

from physteer.walrus.checkpoints import load, load_config, model_id, read_metadata, save
from physteer.walrus.config import WalrusConfig
from physteer.walrus.context import Context, roll_tokens
from physteer.walrus.grid import OPEN, PERIODIC, WALL, Boundaries, Grid, Shifts
from physteer.walrus.network import Walrus
from physteer.walrus.sites import output_shapes
from physteer.walrus.vocabulary import PREVIEW_FIELDS, RELEASED_FIELDS

__all__ = [
    "OPEN",
    "PERIODIC",
    "PREVIEW_FIELDS",
    "RELEASED_FIELDS",
    "WALL",
    "Boundaries",
    "Context",
    "Grid",
    "Shifts",
    "Walrus",
    "WalrusConfig",
    "load",
    "load_config",
    "model_id",
    "output_shapes",
    "read_metadata",
    "roll_tokens",
    "save",
]
