"""Every shipped configuration parses, and those of the demo run on tiny data."""

import pytest
import yaml
from helpers.experiments import experiment
from helpers.paths import ROOT

from physteer.cli import main
from physteer.commands import data as data_command

CONFIGS = ROOT / "configs"
ALL = sorted(CONFIGS.rglob("*.yaml"))
EXPERIMENTS = [path for path in ALL if "trainer" in yaml.safe_load(path.read_text())]
PARTS = [path for path in ALL if path not in EXPERIMENTS]
COMMAND = {"fit": "fit", "test": "test", "validate": "validate", "equality": "fit", "das": "fit", "das_study": "fit"}
COMMAND |= {"probe": "fit", "classes": "fit", "das_class": "fit"}


def names(paths):
    return [str(path.relative_to(CONFIGS)) for path in paths]


def parsed(capsys, *words) -> dict:
    """Let the real parser merge and check a configuration, and return what it understood."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--print_config"])
    assert end.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


def test_there_are_some():
    assert {"demo/capture.yaml", "demo/steer.yaml", "demo/fit.yaml"} <= set(names(EXPERIMENTS))
    assert {"logger/wandb.yaml", "logger/csv.yaml"} <= set(names(PARTS))
    assert {path.parent.name for path in PARTS} <= {"model", "data", "logger"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=names(EXPERIMENTS))
def test_experiments_parse(path, capsys):
    settings = parsed(capsys, COMMAND.get(path.stem, "predict"), "--config", path)
    assert settings["model"]["class_path"] and settings["data"]["class_path"]
    if settings["data"]["class_path"].endswith("WellDataModule"):
        assert settings["data"]["init_args"]["path"]
    assert settings["trainer"]["default_root_dir"] != "runs/latest", "an experiment has a run folder of its own"
    header = path.read_text().split("\n\n")[0]
    assert header.startswith("# "), "says what it is for"
    assert f"--config {path.relative_to(CONFIGS.parent)}" in header, "gives its command"


@pytest.mark.parametrize("path", PARTS, ids=names(PARTS))
def test_parts_parse(path, capsys, tmp_path):
    config = experiment(tmp_path / "run.yaml", model={"network": {}}, data={"path": "somewhere"})
    settings = yaml.safe_load(config.read_text())
    place = settings if path.parent.name in ("model", "data") else settings["trainer"]
    place[path.parent.name] = str(path)
    config.write_text(yaml.safe_dump(settings))
    understood = parsed(capsys, "predict", "--config", config)
    found = (understood if path.parent.name in ("model", "data") else understood["trainer"])[path.parent.name]
    assert set(yaml.safe_load(path.read_text())["init_args"]) <= set(found["init_args"])
    assert path.read_text().startswith("# "), "says what it is for"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory as the configurations expect it, with tiny data of the size the shipped model is for."""
    folder = tmp_path_factory.mktemp("place")
    crossed = ["--reynolds", "250", "1000", "2000", "--schmidt", "0.5"]
    words = [*crossed, "--initial-conditions", "2", "--valid", "2", "--test", "2", "--frames", "8"]
    assert data_command.main(["shear-flow", str(folder / "runs/demo/data"), *words]) == 0
    words = ["--reynolds", "250", "2000", "--schmidt", "0.5", "--frames", "6"]
    words += ["--initial-conditions", "2", "--valid", "1", "--test", "1"]
    for flow in ("taylor-green", "advection", "diffusion"):
        assert data_command.main([flow, str(folder / "runs/demo/simple"), *words]) == 0
    (folder / "data").mkdir()
    (folder / "data/shear_flow_train").symlink_to(folder / "runs/demo/data")
    return folder


SHORT = ["--data.rollout_steps", "2"]
TWO_STEPS = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
FEW_PAIRS = ["--data.train_pairs", "4", "--data.evaluation_pairs", "2", "--data.batch_size", "2"]
FEW_PAIRS += ["--data.null_parameter", "null"]  # the tiny data have one Schmidt number
RUNS = {
    "fit": ["fit", *SHORT, *TWO_STEPS, "--data.batch_size", "1"],
    "test": ["test", *SHORT],
    "capture": ["predict"],
    "steer": ["predict", *SHORT],
    "das": ["fit", *TWO_STEPS, *FEW_PAIRS],
    "das_steer": ["predict", *SHORT],
    "classes": ["fit"],
    "das_class": ["fit", *TWO_STEPS, *FEW_PAIRS],
    "probe": ["fit"],
    "erase": ["predict", *SHORT],
}
MADE = {
    "fit": ("runs/fit", ["walrus.safetensors", "checkpoints/last.ckpt", "logs/version_0/metrics.csv"]),
    "test": ("runs/test", ["tables/scores_test.csv"]),
    "capture": ("runs/demo/capture", ["concepts/vortex_blocks.0.safetensors"]),
    "steer": ("runs/demo/steer", ["rollouts/unsteered/data/test", "report.html"]),
    "das": ("runs/demo/das", ["figures/recovery_test.png", "concepts/das_Reynolds_blocks.0_rank1.safetensors"]),
    "das_steer": ("runs/demo/das_steer", ["tables/metrics.csv", "report.html"]),
    "classes": ("runs/demo/classes", ["tables/class_probes.csv", "probes/blocks.3_Reynolds_classes.safetensors"]),
    "das_class": ("runs/demo/das_class", ["tables/interchange_test.csv", "report.html"]),
    "probe": ("runs/demo/probe", ["tables/probes.csv", "probes/blocks.2_token.safetensors", "report.html"]),
    "erase": ("runs/demo/erase", ["tables/metrics.csv", "report.html"]),
}


def test_the_demo_configurations_run(place, monkeypatch):
    """One after the other, as a user would: the concept that is steered along is the captured one."""
    monkeypatch.chdir(place)
    shipped = {path.stem for path in (CONFIGS / "demo").glob("*.yaml")}
    assert shipped == RUNS.keys()
    for name, (command, *words) in RUNS.items():
        assert main([command, "--config", str(CONFIGS / f"demo/{name}.yaml"), *words]) == 0, name
        folder, files = MADE[name]
        for file in [*files, "config.yaml", "environment.json"]:
            assert (place / folder / file).exists(), f"{name}: {file}"
    assert len(list((place / "runs/demo/steer/rollouts").iterdir())) >= 3
