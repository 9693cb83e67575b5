"""Every shipped configuration parses."""

import pytest
import yaml
from helpers.experiments import experiment
from helpers.paths import ROOT

from physteer.cli import main

CONFIGS = ROOT / "configs"
ALL = sorted(CONFIGS.rglob("*.yaml"))
EXPERIMENTS = [path for path in ALL if "trainer" in yaml.safe_load(path.read_text())]
PARTS = [path for path in ALL if path not in EXPERIMENTS]
COMMAND = {"fit": "fit", "test": "test", "validate": "validate", "equality": "fit", "das": "fit", "das_study": "fit"}
COMMAND |= {"probe": "fit", "classes": "fit", "das_class": "fit", "known_circuit": "fit"}
COMMAND |= {"effects": "validate", "circuit": "validate", "basis": "fit", "basis_shear_flow": "fit"}
COMMAND |= {"effects_shear_flow": "validate", "circuit_shear_flow": "validate"}


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
