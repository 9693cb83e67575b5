"""Small emulators that are not Walrus, on the tiny data set, and data for them."""

from pathlib import Path

import torch

from physteer import CounterfactualDataModule
from physteer.adapters import FNO, UNet, ViT
from physteer.forecast import FrameForecaster
from physteer.interventions import StagedNetwork

FIELDS = ("tracer", "pressure", "velocity_x", "velocity_y")
SETTINGS = {
    "ViT": {"fields": 4, "frames": 3, "patch": 8, "width": 16, "depth": 2, "heads": 2},
    "UNet": {"fields": 4, "frames": 3, "width": 8, "levels": 3},
    "FNO": {"fields": 4, "frames": 3, "modes": [6, 6], "width": 8, "depth": 3},
}
"""The adapters, small; each with the arguments it is made with."""
KINDS: dict[str, type[StagedNetwork]] = {"ViT": ViT, "UNet": UNet, "FNO": FNO}


def emulator(name: str, seed: int = 0) -> StagedNetwork:
    """One of the adapters with random weights."""
    torch.manual_seed(seed)
    return KINDS[name](**SETTINGS[name])


def forecaster(name: str, seed: int = 0) -> FrameForecaster:
    """One of the adapters as a forecaster."""
    return FrameForecaster(emulator(name, seed), FIELDS)


def pairs(path: Path | str) -> CounterfactualDataModule:
    """Pairs of the tiny data set that differ in the Reynolds number."""
    return CounterfactualDataModule(
        str(path), variables=["Reynolds"], n_steps_input=3, rollout_steps=2, batch_size=4, pair_every=4
    )
