"""``physteer demo`` in miniature, and every configuration of ``configs/demo`` on what it leaves."""

import contextlib
import io

import pytest
from helpers.paths import ROOT

from physteer.cli import main
from physteer.commands import data as data_command

CONFIGS = ROOT / "configs/demo"
SHORT = ["--data.rollout_steps", "2"]
FIRST = ["--data.trajectories", "[0]"]
TWO_STEPS = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
FEW_WINDOWS = ["--data.window_every", "4"]
FEW_PAIRS = ["--data.train_pairs", "4", "--data.evaluation_pairs", "2", "--data.batch_size", "2"]
FEW_NODES = ["--trainer.callbacks.nodes", '["blocks.3.time.heads[*]", "blocks.3.space.heads[*]"]']
RUNS = {
    "fit": ["fit", *SHORT, *TWO_STEPS, "--data.batch_size", "1"],
    "test": ["test", *SHORT, *FIRST],
    "das": ["fit", *TWO_STEPS, *FEW_PAIRS],
    "das_steer": ["predict", *SHORT, *FIRST],
    "classes": ["fit", *FEW_WINDOWS],
    "das_class": ["fit", *TWO_STEPS, *FEW_PAIRS],
    "probe": ["fit", *FEW_WINDOWS],
    "erase": ["predict", *SHORT],
    "effects": ["validate", *FEW_PAIRS, *FEW_NODES, "--data.horizon", "2"],
    "circuit": ["validate", *FEW_PAIRS, *FEW_NODES],
    "basis": ["fit", *FEW_PAIRS, "--trainer.callbacks.k", "1"],
}
"""The words of the command line beside those of `physteer demo` itself, capture and steer."""
NEEDS = {"das_steer": ["das"], "das_class": ["classes"], "erase": ["probe"]}
"""Which configurations read what others wrote."""
MADE = {
    "capture": ("runs/demo/capture", ["concepts/vortex_blocks.0.safetensors"]),
    "steer": ("runs/demo/steer", ["rollouts/unsteered/data/test", "report.html"]),
    "fit": ("runs/fit", ["weights.safetensors", "checkpoints/last.ckpt", "logs/version_0/metrics.csv"]),
    "test": ("runs/test", ["tables/scores_test.csv"]),
    "das": ("runs/demo/das", ["figures/recovery_test.png", "concepts/das_Reynolds_blocks.0_rank1.safetensors"]),
    "das_steer": ("runs/demo/das_steer", ["tables/metrics.csv", "report.html"]),
    "classes": ("runs/demo/classes", ["tables/class_probes.csv", "probes/blocks.3_Reynolds_classes.safetensors"]),
    "das_class": ("runs/demo/das_class", ["tables/interchange_test.csv", "report.html"]),
    "probe": ("runs/demo/probe", ["tables/probes.csv", "probes/blocks.2_token.safetensors", "report.html"]),
    "erase": ("runs/demo/erase", ["tables/metrics.csv", "report.html"]),
    "effects": ("runs/demo/effects", ["tables/effects_valid.parquet", "figures/effects_heads_valid.png"]),
    "circuit": ("runs/demo/circuit", ["circuit.json", "tables/circuit_test.csv", "figures/circuit_test.png"]),
    "basis": ("runs/demo/basis", ["basis/blocks.0.safetensors", "report.html"]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory in which `physteer demo` has run, and what it said."""
    folder, said = tmp_path_factory.mktemp("place"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        assert main(["demo", "--steps", "2", "--initial-conditions", "2", "--held-out", "2"]) == 0
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def folder(place):
    """The working directory, with the other data that the configurations are written for."""
    folder, _ = place
    words = ["--reynolds", "250", "2000", "--schmidt", "0.5", "--frames", "6"]
    words += ["--initial-conditions", "2", "--valid", "1", "--test", "1"]
    for flow in ("taylor-green", "advection", "diffusion"):
        assert data_command.main([flow, str(folder / "runs/demo/simple"), *words]) == 0
    (folder / "data").mkdir()
    (folder / "data/shear_flow_train").symlink_to(folder / "runs/demo/data")
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """Runs a configuration after those that it needs, each of them once."""
    done = {"capture", "steer"}

    def run(name):
        for needed in NEEDS.get(name, []):
            run(needed)
        if name not in done:
            command, *words = RUNS[name]
            assert main([command, "--config", str(CONFIGS / f"{name}.yaml"), *words]) == 0, name
            done.add(name)

    return run


def test_the_demo_says_where_it_is_and_what_it_found(place):
    folder, said = place
    stages = [line[:5] for line in said.splitlines() if line[1:4] in ("1/3", "2/3", "3/3")]
    assert stages == ["[1/3]", "[2/3]", "[3/3]"]
    assert "19 random directions" in said, "the summary with its controls"
    assert said.splitlines()[-1].endswith("runs/demo/steer/report.html")
    assert len(list((folder / "runs/demo/steer/rollouts").iterdir())) >= 3
    assert {path.name for path in (folder / "runs").iterdir()} >= {"demo"}


def test_every_configuration_is_run():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == MADE.keys() == {"capture", "steer", *RUNS}


@pytest.mark.parametrize("name", MADE)
def test_a_configuration_runs(name, runs, folder, monkeypatch):
    monkeypatch.chdir(folder)
    runs(name)
    run, files = MADE[name]
    for file in [*files, "config.yaml", "environment.json"]:
        assert (folder / run / file).exists(), file
