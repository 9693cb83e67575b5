"""The published capture is of the last forward of the model's own rollout: run from YAML, and written out in torch."""

import re
from pathlib import Path

import h5py
import pytest
import torch
from helpers.paths import ROOT
from helpers.published import CONFIGS, CONTEXT, LAST, ROLL, STEPS, settings, well_files, write_walrus, write_well
from torch import Tensor

from physteer.cli import main
from physteer.concepts import Concept, Selection
from physteer.data import Window
from physteer.forecast.rollout import jitter_generator
from physteer.walrus import PERIODIC, Walrus, load

FILES = well_files("shear_flow", "test")
GRID, ENDS = (16, 32, 1), ((PERIODIC, PERIODIC),) * 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a miniature of the test split, and weights."""
    folder = tmp_path_factory.mktemp("published")
    write_well(folder, "shear_flow", "test", FILES)
    write_walrus(folder / "walrus.safetensors")
    return folder


def captured(place: Path, *words: str) -> Tensor:
    """Run both configurations where their relative paths lead into the folder."""
    weights = ["--model.checkpoint", str(place / "walrus.safetensors"), *words]
    for name, more in (
        ("rollout_vortex", ["--data.path", str(place / "shear_flow"), *ROLL]),
        ("capture_vortex_rollout", LAST),
    ):
        assert main(["predict", "--config", str(CONFIGS / f"{name}.yaml"), *weights, *more]) == 0, name
    return Concept.load("runs/published/capture_vortex_rollout/concepts/vortex_blocks.39.safetensors").direction


def context(file: Path) -> Tensor:
    """The first frames of trajectory 0, [1, T, C, H, W, 1]: tracer, pressure, velocity in three components."""
    with h5py.File(file) as stored:
        scalars = [torch.from_numpy(stored[f"t0_fields/{name}"][0, :CONTEXT]) for name in ("tracer", "pressure")]
        velocity = torch.from_numpy(stored["t1_fields/velocity"][0, :CONTEXT])  # [T, H, W, 2]
    fields = [*scalars, velocity[..., 0], velocity[..., 1], torch.zeros_like(scalars[0])]
    return torch.stack(fields, 1)[None, ..., None].float()


@torch.no_grad()
def last_activation(walrus: Walrus, window: Tensor, name: str, seed: int | None) -> Tensor:
    """Roll out; a hook overwrites what it saw before, as the published one does. [1, T, h, w, δ, d]."""
    labels = walrus.config.labels(["tracer", "pressure", "velocity_x", "velocity_y", "velocity_z"])
    kept = {}
    hook = walrus.blocks[-1].register_forward_hook(lambda block, inputs, output: kept.update(h=output))
    for step in range(STEPS):
        r, r_delta = (
            part.square().mean((1, 3, 4, 5), keepdim=True).sqrt().clamp(min=1e-5)
            for part in (window, window.diff(dim=1))
        )
        shifts = None
        if seed is not None:  # the window that is captured draws under its own name, as the first step of its own run
            last = step == STEPS - 1
            drawn = (str(Window(name, 0, STEPS - 1)), 0) if last else (name, step)
            shifts = walrus.draw_shifts(GRID, ENDS, [jitter_generator(seed, *drawn)])
        change = walrus(window / r, labels, ENDS, shifts)[:, -1:] * r_delta
        change[:, :, -1] = 0  # velocity has two components
        window = torch.cat([window[:, 1:], window[:, -1:] + change], dim=1)
    hook.remove()
    return kept["h"]


def direction(place: Path, seed: int | None) -> Tensor:
    """Mean over files and frames of (a − mean)/std: those with vortices minus those without, [h, w, δ, d]."""
    walrus = load(place / "walrus.safetensors").eval()
    capture = settings("capture_vortex_rollout")["trainer"]["callbacks"][0]["init_args"]
    classes = {label: Selection(capture[label]) for label in ("feature", "control")}
    members: dict[str, list[Tensor]] = {label: [] for label in classes}
    for file in FILES:
        name = str(Window(file, 0, 0))
        h = last_activation(walrus, context(place / f"shear_flow/data/test/{file}.hdf5"), name, seed).double()
        z = (h - h.mean((2, 3, 4, 5), keepdim=True)) / h.flatten(2).std(-1)[..., None, None, None, None]
        (label,) = [label for label, select in classes.items() if select({"file": name})]
        members[label].append(z.mean((0, 1)))
    feature, control = (torch.stack(members[label]).mean(0) for label in ("feature", "control"))
    return (feature - control).float()


@pytest.mark.parametrize("seed", [None, 0], ids=["without shifts", "as shipped"])
def test_the_concept_is_that_of_the_last_forward(place, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    found = captured(place, *([] if seed == 0 else ["--model.jitter_seed", "null"]))
    wanted = direction(place, seed)
    assert found.shape == wanted.shape
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_the_steps_are_the_published_ones():
    """65 steps from the first frame of trajectory 0 of `test`, and the last window."""
    for kind in ("vortex", "speed"):
        rolled, seen = (
            settings(f"{name}")["data"]["init_args"] for name in (f"rollout_{kind}", f"capture_{kind}_rollout")
        )
        assert rolled["rollout_steps"] == 60 + rolled["n_steps_input"] - 1 == 65
        assert (rolled["predict_split"], rolled["trajectories"]) == ("test", [0]) and "first_start" not in rolled
        assert (seen["first_start"], seen["n_steps_input"], seen["predict_split"]) == (64, CONTEXT, "test")
        assert seen["path"] == f"runs/published/rollout_{kind}/rollouts/unsteered"
        for name in (f"rollout_{kind}", f"capture_{kind}_rollout"):
            assert settings(name)["model"] == "../model/walrus_published_jitter.yaml"


def test_make_runs_one_after_the_other():
    recipe = re.search(r"^published-capture: \$\(READY\)\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    commands = re.findall(r"physteer predict --config (\S+)", recipe[1])
    assert commands == [f"configs/published/{name}.yaml" for name in ("rollout_vortex", "capture_vortex_rollout")]
