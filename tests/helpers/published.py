"""Miniature data sets under The Well's file names, and a tiny 40-block Walrus, for the published configurations."""

import re
from importlib.resources import files
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import yaml

from helpers.paths import ROOT
from physteer.data.well_format import Axis, WellField, WellFile, WellWriter
from physteer.walrus import Walrus, WalrusConfig, save

CONFIGS = ROOT / "configs/published"
PERIODIC, OPEN, WALL = ("periodic", "periodic"), ("open", "open"), ("wall", "wall")
LAYOUTS = {  # as The Well describes them: axes, boundaries, scalars, vectors; the grids are an eighth of its tokens
    "shear_flow": ((16, 32), (PERIODIC, PERIODIC), ("tracer", "pressure"), ("velocity",)),
    "euler_multi_quadrants_openBC": ((16, 16), (OPEN, OPEN), ("energy", "density", "pressure"), ("momentum",)),
    "rayleigh_benard": ((64, 16), (PERIODIC, WALL), ("buoyancy", "pressure"), ("velocity",)),
    "gray_scott_reaction_diffusion": ((16, 16), (PERIODIC, PERIODIC), ("A", "B"), ()),
}
CONTEXT, STEPS = 6, 3  # the published rollouts have 65 steps
WIDTH = 8
FRAMES = {"valid": 77, "test": 2 * (CONTEXT + STEPS) - 1}  # 6 + 1 from frame 64, rollouts at stride 2
ROLL = ["--data.rollout_steps", str(STEPS)]
LAST = ["--data.first_start", str(STEPS - 1)]


def settings(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def well_files(dataset: str, split: str) -> list[str]:
    """The names of The Well's own files, from the list of downloads in its package."""
    registry = yaml.safe_load(files("the_well.utils").joinpath("registry.yaml").read_text())
    return sorted(PurePosixPath(address).stem for address in registry[dataset][split])


def used_files(name: str) -> list[str]:
    data = settings(name)["data"]["init_args"]
    dataset = PurePosixPath(data["path"]).name
    names = well_files(dataset, data["predict_split"])
    parts = data.get("include", [""])
    assert all(any(part in file for file in names) for part in parts), f"{name}: each part of include is of some file"
    return [file for file in names if any(part in file for part in parts)]


def parameters(file: str) -> dict[str, float]:
    found = re.findall(r"_(Rayleigh|Prandtl|Reynolds|Schmidt|gamma|F|k)_([\d.e-]+)", file)
    return {name: float(value) for name, value in found}


def write_well(folder: Path, dataset: str, split: str, names: list[str]) -> None:
    """Write files of one trajectory each."""
    (shape, boundaries, scalars, vectors), frames = LAYOUTS[dataset], FRAMES[split]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        axes = tuple(
            Axis(axis, np.arange(size) / size, ends) for axis, size, ends in zip("xy", shape, boundaries, strict=True)
        )
        fields = [*(WellField(one) for one in scalars), *(WellField(one, order=1) for one in vectors)]
        content = WellFile(dataset, axes, np.arange(frames) / 10, 1, tuple(fields), parameters(name))
        with WellWriter(folder / dataset / "data" / split / f"{name}.hdf5", content) as writer:
            for field in fields:
                drawn = rng.random(content.shape_of(field)) + 0.5
                writer.write({field.name: drawn})


def write_walrus(path: Path) -> None:
    """Write weights with the blocks of the published model."""
    torch.manual_seed(0)
    walrus = Walrus(
        WalrusConfig(hidden_dim=WIDTH, intermediate_dim=4, n_heads=1, tokens_2d=4, dimensions=(2,), n_blocks=40)
    )
    with torch.no_grad():
        walrus.decoder.debed["2"].proj2.mul_(10)  # a fresh model's last convolution is nearly zero
    save(walrus, path)
