"""The configurations of the published runs, on miniature sets laid out like The Well's, with a tiny 40-block model."""

import pickle
import re
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.published import (
    CONFIGS,
    LAST,
    LAYOUTS,
    ROLL,
    WIDTH,
    settings,
    used_files,
    well_files,
    write_walrus,
    write_well,
)

from physteer.cli import main
from physteer.concepts import Concept, Selection
from physteer.data import Window

ROLLOUTS = {"rollout_vortex": 28, "rollout_speed": 20}
"""Windows that are rolled out, for the captures below."""
CAPTURES = {  # windows per class, and the rollouts that they are of
    "capture_vortex_rollout": ("vortex", 18, 10, "rollout_vortex"),
    "capture_vortex_2_2_rollout": ("vortex_2_2", 2, 2, "rollout_vortex"),
    "capture_vortex_1_1_rollout": ("vortex_1_1", 1, 1, "rollout_vortex"),
    "capture_speed_rollout": ("speed", 10, 10, "rollout_speed"),
    "capture_vortex_stored_frames": ("vortex", 18, 10, None),
    "capture_speed_stored_frames": ("speed", 10, 10, None),
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
TRAJECTORIES = 4
SHORT = ["--data.rollout_steps", "1", "--data.trajectories", "[0]", "--model.conditions_per_forward", "null"]


def used_windows(name: str) -> list[dict]:
    """What selections see of the windows that a configuration reads; rollouts are named after their windows."""
    data = settings(name)["data"]["init_args"]
    return [
        {"file": file, "stride": float(stride)} for file in used_files(name) for stride in data.get("time_strides", [1])
    ]


def rolled_out(name: str, windows: list[dict]) -> list[dict]:
    parts = settings(name)["data"]["init_args"].get("include", [""])
    names = [str(Window(window["file"], 0, 0, int(window["stride"]))) for window in windows]
    return [{"file": name, "stride": 1.0} for name in names if any(part in name for part in parts)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with miniature sets under The Well's file names, and weights."""
    folder = tmp_path_factory.mktemp("published")
    for split in ("valid", "test"):
        write_well(folder, "shear_flow", split, well_files("shear_flow", split))
    for dataset in LAYOUTS.keys() - {"shear_flow"}:
        used = {file for name in STEERS for file in used_files(name) if file.startswith(dataset)}
        write_well(folder, dataset, "test", sorted(used))
    write_walrus(folder / "walrus.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(place: Path):
    """Run a configuration where its relative paths lead into the folder, with the paths on the command line."""

    def run(name: str, *words: str) -> Path:
        given = settings(name)
        path = given["data"]["init_args"]["path"]
        paths = ["--data.path", str(place / PurePosixPath(path).name)] if path.startswith("hf://") else []
        paths += ["--model.checkpoint", str(place / "walrus.safetensors")]
        assert main(["predict", "--config", str(CONFIGS / f"{name}.yaml"), *paths, *words]) == 0, name
        return Path(given["trainer"]["default_root_dir"])

    return run


@pytest.fixture(scope="module")
def concepts(place: Path, run) -> dict[str, Concept]:
    """The concepts, captured where steering looks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, windows in ROLLOUTS.items():
            folder = run(name, *ROLL)
            assert [path.name for path in (folder / "rollouts").iterdir()] == ["unsteered"]
            assert len(list((folder / "rollouts/unsteered/data/test").iterdir())) == windows
        folders = {name: run(name, *(LAST if rolled else [])) for name, (*_, rolled) in CAPTURES.items()}
        found = {name: list((folder / "concepts").glob("*.safetensors")) for name, folder in folders.items()}
        return {name: Concept.load(path) for name, (path,) in found.items()}


def test_every_configuration_is_here():
    names = ROLLOUTS.keys() | CAPTURES.keys() | STEERS.keys() | CAUSAL
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == names


@pytest.mark.parametrize("name", CAPTURES)
def test_classes_are_those_of_the_wells_files(name):
    """The Well's own list of files, put through the selections, gives the published numbers."""
    capture = settings(name)["trainer"]["callbacks"][0]["init_args"]
    rollouts = CAPTURES[name][-1]
    samples = rolled_out(name, used_windows(rollouts)) if rollouts else used_windows(name)
    feature, control = (list(filter(Selection(capture[label]), samples)) for label in ("feature", "control"))
    assert (capture["name"], len(feature), len(control)) == CAPTURES[name][:3]
    assert not [sample for sample in feature if sample in control]
    assert len(samples) == len(feature) + len(control), "every file that is read belongs to a class"


@pytest.mark.parametrize("name", CAPTURES)
def test_concepts_are_captured(name, concepts):
    _, n_feature, n_control, _ = CAPTURES[name]
    concept = concepts[name]
    assert concept.site == "blocks.39" and concept.direction.shape == (4, 4, 1, WIDTH)
    assert concept.counts == {"feature": n_feature, "control": n_control}
    assert float(concept.direction.norm()) > 0


def test_the_target_can_be_held_out(run, tmp_path, monkeypatch):
    """As the comment in the file says."""
    monkeypatch.chdir(tmp_path)
    words = re.search(r"#   (--data\.exclude) '(.+)'\n", (CONFIGS / "capture_vortex_stored_frames.yaml").read_text())
    assert words[0] in (CONFIGS / "capture_vortex_rollout.yaml").read_text()
    folder = run("capture_vortex_stored_frames", *words.groups())
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
