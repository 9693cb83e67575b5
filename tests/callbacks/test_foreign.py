"""Models and data that are not ours: every callback acts, or says in one sentence why it does not."""

from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from helpers.experiments import NETWORK, callback, concept, experiment, weights
from torch.utils.data import DataLoader

import physteer.callbacks
from physteer.callbacks import DAS, Effects, RolloutVideo
from physteer.cli import main

SITES = {"sites": ["blocks.0"]}
SETTINGS = {
    "ActivationStore": SITES,
    "Capture": SITES | {"name": "re", "feature": "Reynolds >= 2000", "control": "Reynolds <= 500"},
    "CausalBasis": SITES,
    "Circuit": {},
    "Controls": {"random": 1},
    "DAS": SITES | {"ranks": [2]},
    "DataInterpolation": {"parameter": "Reynolds", "values": [200, 2000], "strengths": [0.5]},
    "Diagnostics": {},
    "Effects": {},
    "Erase": {"erasers": ["eraser.safetensors"]},
    "ExportWeights": {},
    "Figures": {},
    "Journal": {},
    "LoRA": {},
    "NaturalSpaces": SITES,
    "Probe": SITES,
    "RolloutVideo": {},
    "RolloutWriter": {},
    "Steer": {"concept": "concept.safetensors", "strengths": [0.1]},
}
"""Callbacks that need a forecaster, and what they need to be made."""
EVERY_RUN = {"Interrupts", "RolloutProgress", "ScoreTable", "WandbReport"}
"""Callbacks of every run: without a forecaster they have nothing to do, and stay silent."""
COMMANDS = {"CausalBasis": "fit", "Circuit": "validate", "DAS": "fit", "Effects": "test", "ExportWeights": "fit"}
COMMANDS |= {"LoRA": "fit", "Probe": "fit"}
"""The command in which a callback acts, if it is not predict."""
QUICK = {"max_steps": 1, "limit_val_batches": 1, "limit_test_batches": 1, "num_sanity_val_steps": 0}
QUICK |= {"logger": False, "enable_progress_bar": False}


class Foreign(L.LightningModule):
    """A user's own model."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch, i):
        return self.net(torch.ones(1, 1)).mean()

    def validation_step(self, batch, i, dataloader_idx=0):
        self.log("loss", self.training_step(batch, i))

    test_step = validation_step

    def predict_step(self, batch, i, dataloader_idx=0):
        return self.training_step(batch, i)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class ForeignData(L.LightningDataModule):
    """A user's own data."""

    def loader(self):
        return DataLoader([{"x": torch.zeros(1)}] * 3)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


@pytest.fixture
def run(tiny_well, tmp_path, monkeypatch, capsys):
    """Run a command; return its exit status and what it said as errors."""
    monkeypatch.chdir(tmp_path)
    weights(tmp_path / "walrus.safetensors")
    concept(tmp_path / "concept.safetensors")

    def attempt(command, *words, model=None, data=None, callbacks=(), **trainer) -> tuple[int, list[str]]:
        config = experiment(
            tmp_path / "run.yaml",
            model={"checkpoint": "walrus.safetensors"},
            data={"path": str(tiny_well), "rollout_steps": 1, "batch_size": 8},
            callbacks=list(callbacks),
            **{**QUICK, "default_root_dir": str(tmp_path / "run"), **trainer},
        )
        settings = yaml.safe_load(config.read_text())
        for name, chosen in (("model", model), ("data", data)):
            if chosen is not None:
                settings[name] = {"class_path": f"{__name__}.{chosen.__name__}"}
        config.write_text(yaml.safe_dump(settings))
        capsys.readouterr()
        status = main([command, "--config", str(config), *words])
        return status, [line for line in capsys.readouterr().err.splitlines() if "error:" in line]

    return attempt


def test_every_callback_is_listed():
    assert {*SETTINGS, *EVERY_RUN, "RolloutCallback", "RunRecord"} == set(physteer.callbacks.__all__)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_foreign_model_is_refused(run, name):
    status, errors = run(COMMANDS.get(name, "predict"), model=Foreign, callbacks=[callback(name, **SETTINGS[name])])
    (line,) = errors
    assert status == 2 and line.startswith(f"physteer: error: {name} needs a forecaster: ")
    assert line.endswith("; the model is a Foreign") and not Path("run").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_callbacks_of_every_run_let_a_foreign_model_be(run, command):
    listed = sorted(EVERY_RUN)
    for data in (None, ForeignData):
        assert run(command, model=Foreign, data=data, callbacks=listed, enable_progress_bar=True) == (0, [])


@pytest.mark.parametrize("name", SETTINGS)
def test_foreign_data_are_refused(run, name):
    status, errors = run(COMMANDS.get(name, "predict"), data=ForeignData, callbacks=[callback(name, **SETTINGS[name])])
    (line,) = errors
    assert status == 2 and " needs " in line and ": set data.class_path to physteer." in line, line
    assert name == "ExportWeights" or line.startswith(f"physteer: error: {name} needs "), line


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_foreign_data_without_callbacks(run, command):
    status, (line,) = run(command, data=ForeignData, enable_progress_bar=True)
    assert status == 2 and "needs windows: set data.class_path to physteer.WellDataModule; " in line
    kind = "CounterfactualDataModule"
    words = ["--data", f"physteer.{kind}", "--data.variables", "[Reynolds]", "--data.pair_every", "4"]
    status, errors = run(command, *words)
    assert not errors if command == "predict" else ("needs windows" in errors[0] and "Pair" in errors[0])


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in COMMANDS])
def test_callbacks_of_predict_refuse_other_commands(run, name):
    status, (line,) = run("validate", callbacks=[callback(name, **SETTINGS[name])])
    assert status == 2
    assert (
        line == f"physteer: error: {name} acts in `physteer predict` alone; in `physteer validate` it would do nothing"
    )


def test_two_callbacks_with_scores_of_their_own(run):
    das = callback("DAS", **SETTINGS["DAS"])
    words = ["--data", "physteer.CounterfactualDataModule", "--data.variables", "[Reynolds]", "--data.pair_every", "4"]
    for command, listed, names in (("fit", [das, das], "DAS and DAS"), ("test", ["Effects", das], "Effects and DAS")):
        status, (line,) = run(command, *words, callbacks=listed)
        assert status == 2 and f"{names} each bring scores of their own to a run: list one of them" in line
    assert DAS.brings_scores and Effects.brings_scores and not hasattr(RolloutVideo, "brings_scores")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_no_batches_at_all(run, command):
    name = f"limit_{'val' if command == 'validate' else command}_batches"
    status, (line,) = run(command, **{name: 0})
    assert status == 2 and line == f"physteer: error: trainer.{name} is 0, so `physteer {command}` would do nothing"
    assert not Path("run").exists()


def test_videos_of_nothing(run):
    status, (line,) = run("predict", callbacks=["RolloutWriter", "RolloutVideo"])
    assert status == 2 and "RolloutVideo shows what Steer and Erase do, and this run has neither" in line


def test_a_barebones_run_steers_and_writes(run):
    steer = callback("Steer", **SETTINGS["Steer"])
    settings = dict.fromkeys(QUICK) | {"barebones": True, "max_steps": 1}
    assert run("predict", callbacks=[steer, "RolloutWriter"], **settings) == (0, [])
    assert len(list(Path("run/rollouts").iterdir())) == 3


def test_sites_of_foreign_models_and_data(run, tmp_path, capsys):
    for chosen in ({"model": Foreign}, {"data": ForeignData}):
        run("validate", **chosen)  # writes the configuration
        assert main(["sites", "--config", str(tmp_path / "run.yaml")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("physteer: error: physteer sites needs "), line


def test_a_network_that_is_smaller_than_the_data_is_told(run):
    status, (line,) = run("predict", "--model.checkpoint", "null", "--model.network", str(NETWORK | {"tokens_2d": 5}))
    assert status == 2 and "cells; with 5 tokens per axis" in line
