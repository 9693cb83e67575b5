"""The configurations of the published runs, on miniature sets laid out like The Well's, with a tiny 40-block model."""

import pickle
import re
from importlib.resources import files
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers.paths import ROOT

from physteer.cli import main
from physteer.concepts import Concept, Selection
from physteer.data.well_format import Axis, WellField, WellFile, WellWriter
from physteer.walrus import Walrus, WalrusConfig, save

CONFIGS = ROOT / "configs/published"
CAPTURES = {  # windows per class
    "capture_vortex": ("vortex", 18, 10),
    "capture_vortex_2_2": ("vortex_2_2", 2, 2),
    "capture_vortex_1_1": ("vortex_1_1", 1, 1),
    "capture_speed": ("speed", 10, 10),
}
STEERS = {  # files, and what is steered along with which mode and strength
    "steer_shear_flow": (
        ["shear_flow_Reynolds_1e5_Schmidt_2e-1"],
        {("vortex", "drop", 0.7), ("vortex", "drop", -0.5), ("vortex", "pad", 0.5), ("vortex", "pad", -0.4)}
        | {("vortex_2_2", "drop", 0.6)},
    ),
    "steer_shear_flow_schmidt_5": (["shear_flow_Reynolds_1e5_Schmidt_5e0"], {("vortex_1_1", "pad", 0.4)}),
    "steer_speed": (["shear_flow_Reynolds_1e5_Schmidt_2e-1"], {("speed", "drop", 0.5), ("speed", "drop", -0.5)}),
    "steer_euler": (
        [f"euler_multi_quadrants_openBC_gamma_{gas}" for gas in ("1.33_H2O_20", "1.404_H2_100_Dry_air_-15")],
        {("vortex", "interpolate", 0.1), ("vortex", "interpolate", -0.1)},
    ),
    "steer_rayleigh_benard": (
        ["rayleigh_benard_Rayleigh_1e9_Prandtl_10"],
        {("vortex", "interpolate", 0.1), ("vortex", "interpolate", -0.1)},
    ),
    "steer_gray_scott": (
        [
            f"gray_scott_reaction_diffusion_{pattern}"
            for pattern in ("gliders_F_0.014_k_0.054", "spirals_F_0.018_k_0.051")
        ],
        {("vortex", "drop", 0.1), ("vortex", "drop", -0.1)},
    ),
}
CAUSAL = {"effects_shear_flow", "circuit_shear_flow", "basis_shear_flow"}
"""What the model does on pairs; parsed in test_configs.py, run on the demo's model in test_demo.py."""
PERIODIC, OPEN, WALL = ("periodic", "periodic"), ("open", "open"), ("wall", "wall")
LAYOUTS = {  # as The Well describes them: axes, boundaries, scalars, vectors; the grids are an eighth of its tokens
    "shear_flow": ((16, 32), (PERIODIC, PERIODIC), ("tracer", "pressure"), ("velocity",)),
    "euler_multi_quadrants_openBC": ((16, 16), (OPEN, OPEN), ("energy", "density", "pressure"), ("momentum",)),
    "rayleigh_benard": ((64, 16), (PERIODIC, WALL), ("buoyancy", "pressure"), ("velocity",)),
    "gray_scott_reaction_diffusion": ((16, 16), (PERIODIC, PERIODIC), ("A", "B"), ()),
}
WIDTH, FRAMES, TRAJECTORIES = 8, {"valid": 73, "test": 8}, 4
SHORT = ["--data.rollout_steps", "1", "--data.trajectories", "[0]", "--model.conditions_per_forward", "null"]


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


def write_well(folder: Path, dataset: str, split: str, names: list[str], trajectories: int) -> None:
    (shape, boundaries, scalars, vectors), frames = LAYOUTS[dataset], FRAMES[split]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        axes = tuple(
            Axis(axis, np.arange(size) / size, ends) for axis, size, ends in zip("xy", shape, boundaries, strict=True)
        )
        fields = [*(WellField(one) for one in scalars), *(WellField(one, order=1) for one in vectors)]
        content = WellFile(dataset, axes, np.arange(frames) / 10, trajectories, tuple(fields), parameters(name))
        with WellWriter(folder / dataset / "data" / split / f"{name}.hdf5", content) as writer:
            for field in fields:
                drawn = rng.random(content.shape_of(field)) + 0.5
                writer.write({field.name: drawn})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with miniature sets under The Well's file names, and weights."""
    folder = tmp_path_factory.mktemp("published")
    write_well(folder, "shear_flow", "valid", well_files("shear_flow", "valid"), 1)
    for dataset in LAYOUTS:
        used = {file for name in STEERS for file in used_files(name) if file.startswith(dataset)}
        write_well(folder, dataset, "test", sorted(used), 1)
    torch.manual_seed(0)
    walrus = Walrus(
        WalrusConfig(hidden_dim=WIDTH, intermediate_dim=4, n_heads=1, tokens_2d=4, dimensions=(2,), n_blocks=40)
    )
    with torch.no_grad():
        walrus.decoder.debed["2"].proj2.mul_(10)  # a fresh model's last convolution is nearly zero
    save(walrus, folder / "walrus.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(place: Path):
    """Run a configuration where its relative paths lead into the folder, with the paths on the command line."""

    def run(name: str, *words: str) -> Path:
        given = settings(name)
        dataset = PurePosixPath(given["data"]["init_args"]["path"]).name
        paths = ["--data.path", str(place / dataset), "--model.checkpoint", str(place / "walrus.safetensors")]
        assert main(["predict", "--config", str(CONFIGS / f"{name}.yaml"), *paths, *words]) == 0, name
        return Path(given["trainer"]["default_root_dir"])

    return run


@pytest.fixture(scope="module")
def concepts(place: Path, run) -> dict[str, Concept]:
    """The concepts, captured where steering looks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        folders = {name: run(name) for name in CAPTURES}
        found = {name: list((folder / "concepts").glob("*.safetensors")) for name, folder in folders.items()}
        return {paths[0].stem.removesuffix("_blocks.39"): Concept.load(paths[0]) for paths in found.values()}


def test_every_configuration_is_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == CAPTURES.keys() | STEERS.keys() | CAUSAL


@pytest.mark.parametrize("name", CAPTURES)
def test_classes_are_those_of_the_wells_files(name):
    """The Well's own list of files, put through the selections, gives the published numbers."""
    capture = settings(name)["trainer"]["callbacks"][0]["init_args"]
    strides = settings(name)["data"]["init_args"].get("time_strides", [1])
    samples = [{"file": file, "stride": float(stride)} for file in used_files(name) for stride in strides]
    feature, control = (list(filter(Selection(capture[label]), samples)) for label in ("feature", "control"))
    assert (capture["name"], len(feature), len(control)) == CAPTURES[name]
    assert not [sample for sample in feature if sample in control]
    assert len(samples) == len(feature) + len(control), "every file that is read belongs to a class"


@pytest.mark.parametrize("name", CAPTURES)
def test_concepts_are_captured(name, concepts):
    label, n_feature, n_control = CAPTURES[name]
    concept = concepts[label]
    assert concept.site == "blocks.39" and concept.direction.shape == (4, 4, 1, WIDTH)
    assert concept.counts == {"feature": n_feature, "control": n_control}
    assert float(concept.direction.norm()) > 0


def test_the_target_can_be_held_out(run, tmp_path, monkeypatch):
    """As the comment in the file says."""
    monkeypatch.chdir(tmp_path)
    words = re.search(r"#   (--data\.exclude) '(.+)'\n", (CONFIGS / "capture_vortex.yaml").read_text())
    folder = run("capture_vortex", *words.groups())
    concept = Concept.load(folder / "concepts/vortex_blocks.39.safetensors")
    assert concept.counts == {"feature": 18, "control": 9}


@pytest.mark.parametrize("name", STEERS)
def test_steering_runs(name, place, run, concepts, monkeypatch):
    monkeypatch.chdir(place)
    targets, steered = STEERS[name]
    assert used_files(name) == targets
    conditions = check_run(run(name, *SHORT), steered, len(targets))
    data = settings(name)["data"]["init_args"]
    windows, steps = len(targets) * len(data.get("trajectories", range(TRAJECTORIES))), data["rollout_steps"]
    cost = f"{windows} windows × {steps} steps × {conditions} conditions = {windows * steps * conditions:,} forwards"
    assert cost in (CONFIGS / f"{name}.yaml").read_text()
    table = (CONFIGS / "README.md").read_text()
    assert f"{windows * steps * conditions:,}" in table and f"`{name}.yaml`" in table


def check_run(folder: Path, steered: set, windows: int) -> int:
    """Every setting ran beside the unsteered model and 19 random directions, and did something; how many conditions."""
    rows = pq.read_table(folder / "tables/metrics.parquet").to_pylist()
    assert len({row["window"] for row in rows}) == windows
    found = {(row["direction"], row["mode"], row["strength"]) for row in rows if row["role"] == "concept"}
    assert found == {(f"{concept}_blocks.39", mode, strength) for concept, mode, strength in steered}
    assert len({row["condition"] for row in rows if row["role"] == "random"}) == 19 * len(steered)

    def values(role: str) -> set[float]:
        return {row["value"] for row in rows if row["role"] == role and row["metric"] == "vrmse" and row["field"]}

    assert all(np.isfinite(list(values("concept")))) and not values("concept") & values("unsteered")
    folders = {path.name for path in (folder / "rollouts").iterdir()}
    assert len(folders) == 2 + len(steered) and {"truth", "unsteered"} <= folders
    assert all(len(list((folder / "rollouts" / one).rglob("*.hdf5"))) == windows for one in folders)
    assert (folder / "report.html").stat().st_size > 10_000
    return len({row["condition"] for row in rows if row["role"] != "truth"})


def test_a_published_pickle_is_converted_and_steered_along(run, tmp_path, monkeypatch):
    """Its grid is not the target's, like that of the published one, and it names no model: it is taken as it is."""
    monkeypatch.chdir(tmp_path)
    name = "steer_rayleigh_benard"
    path = Path("newTensor:(18vortex_group)-(10laminar_group)[+].pickle")
    path.write_bytes(pickle.dumps(torch.randn(1, 1, WIDTH, 3, 4, 1, generator=torch.Generator().manual_seed(0))))
    wanted = Path(settings(name)["trainer"]["callbacks"][0]["init_args"]["concept"])
    words = re.search(r"physteer convert '(.+)' \\\n +(\S+)\n", (CONFIGS / "README.md").read_text())
    assert words.groups() == (path.name, str(wanted))
    assert main(["convert", *words.groups()]) == 0
    check_run(run(name, *SHORT), STEERS[name][1], windows=1)
