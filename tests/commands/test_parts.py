"""A part's file on the command line stands for all settings of its class."""

import json

import pytest
import yaml
from helpers.experiments import experiment
from helpers.paths import ROOT

from physteer.cli import main
from physteer.commands.parts import with_whole_parts


def merged(capsys, *words) -> dict:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*map(str, words), "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_a_file_replaces_what_the_configuration_has_set(tmp_path, capsys):
    config = experiment(
        tmp_path / "run.yaml", model={"checkpoint": "a.safetensors", "learning_rate": 0.5}, data={"path": "x"}
    )
    net = tmp_path / "net.yaml"
    net.write_text((ROOT / "configs/model/unet.yaml").read_text().replace("      width: 24\n", ""))
    vit = ROOT / "configs/model/vit.yaml"
    model = merged(capsys, "fit", "--config", config, "--model", vit, "--model", net, "--model.warmup_steps", 7)[
        "model"
    ]
    assert model["class_path"] == "physteer.EmulatorModule"
    settings = model["init_args"]
    assert settings["checkpoint"] is None and settings["warmup_steps"] == 7 and settings["learning_rate"] == 2e-3
    assert settings["network"]["init_args"] == {"fields": 4, "frames": 5, "width": 24, "levels": 3}  # not the ViT's 96
    data = tmp_path / "data.yaml"
    data.write_text("class_path: physteer.WellDataModule\ninit_args: {path: elsewhere}\n")
    assert merged(capsys, "fit", "--config", config, f"--data={data}")["data"]["init_args"]["n_steps_input"] == 6


def test_settings_without_a_class_are_merged(tmp_path, capsys):
    config = experiment(
        tmp_path / "run.yaml", model={"checkpoint": "a.safetensors", "warmup_steps": 3}, data={"path": "x"}
    )
    some = tmp_path / "some.yaml"
    some.write_text("init_args: {learning_rate: 0.25}\n")
    settings = merged(capsys, "fit", "--config", config, "--model", some)["model"]["init_args"]
    assert (settings["checkpoint"], settings["warmup_steps"], settings["learning_rate"]) == ("a.safetensors", 3, 0.25)


def test_other_words_are_left_as_they_are(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("class_path: [")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("class_path: no.such.Class\n")
    words = [
        "fit",
        "--model",
        "physteer.WalrusModule",
        "--model",
        str(broken),
        f"--data={unknown}",
        "--data",
        "gone.yaml",
    ]
    assert with_whole_parts(words) == words
    (_, option, value) = with_whole_parts(["fit", "--model", str(ROOT / "configs/model/walrus_small.yaml")])
    assert option == "--model" and json.loads(value)["init_args"]["jitter_seed"] == 0
