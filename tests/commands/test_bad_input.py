"""Mistakes a user can make: one line that names the thing and what is allowed, status 2, nothing half-written."""

import os
import pickle
import re
import shutil
from pathlib import Path

import h5py
import pytest
import torch
from helpers.experiments import NETWORK, callback, concept, experiment, weights

from physteer.cli import main
from physteer.concepts import Concept

CAPTURE = {"name": "vortex", "sites": ["blocks.0"], "feature": "Reynolds >= 2000", "control": "Reynolds <= 500"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Weights, and concepts that fit and that do not; and a ``bin`` with what a cluster's login node has."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "bin").mkdir()
    (folder / "bin/srun").write_text("#!/bin/sh\nexit 1\n")
    (folder / "bin/srun").chmod(0o755)
    weights(folder / "walrus.safetensors")
    weights(folder / "other.safetensors", seed=1)
    concept(folder / "fits.safetensors")
    concept(folder / "wide.safetensors", (8, 8, 1, 48))
    concept(folder / "ff.safetensors", (8, 8, 1, 64), "blocks.0.space.ff_hidden")
    concept(folder / "grid.safetensors", (4, 8, 1, 32))
    Concept(torch.zeros(8, 8, 1, 32), "blocks.0").save(folder / "zero.safetensors")
    return folder


@pytest.fixture
def attempt(shared, tiny_well, tmp_path, capfd, monkeypatch):
    """Run `predict` with some settings changed; return the one line it must end with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(shared / "bin"), prepend=os.pathsep)

    def run(*words, model=None, data=None, callbacks=(), command="predict", **trainer) -> str:
        config = experiment(
            tmp_path / "run.yaml",
            model=model or {"checkpoint": str(shared / "walrus.safetensors")},
            data={"path": str(tiny_well), "rollout_steps": 2, "batch_size": 8, **(data or {})},
            callbacks=list(callbacks),
            **{"default_root_dir": str(tmp_path / "run"), **trainer},
        )
        return fails(command, "--config", str(config), *words)

    def fails(*words) -> str:
        capfd.readouterr()
        assert main(list(words)) == 2
        said = capfd.readouterr()
        lines = said.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("physteer: error: "), said.err
        assert "Traceback" not in said.out and len(lines[0]) < 500
        left = [p for p in tmp_path.rglob("*") if p.is_file() and "run" in p.relative_to(tmp_path).parts[:1]]
        assert {p.name for p in left} <= {"config.yaml", "environment.json", "experiment.json", "hparams.yaml"}, left
        return lines[0].removeprefix("physteer: error: ")

    run.words = fails
    run.folder = tmp_path
    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["predit"],
            "unknown command 'predit'; there are fit, validate, test, predict, demo, data, sites, ",
        ),
        (["predict", "--config", "no.yaml"], "config: file does not exist: .*no.yaml"),
        (["predict", "--config", "syntax.yaml"], "syntax.yaml, line 2, column 7 is not YAML: .*"),
        (["predict", "--config", "list.yaml"], "list.yaml holds no settings; a configuration has the keys model, data"),
        (["predict", "--config=binary.yaml"], "binary.yaml is not a text file"),
        (
            ["predict", "--config", "typo.yaml"],
            "there is no setting 'trainer.max_step'; did you mean 'trainer.max_s",
        ),
        (["predict", "--config", "top.yaml"], "there is no setting 'modle'; did you mean 'model'"),
        (["predict", "--config", "part.yaml"], "model: there is no file model/none.yaml"),
        (["predict", "--config", "broken_part.yaml"], "model: invalid content in sub-config file syntax.yaml"),
        (["predict"], "data: the following arguments are required: path"),
        (["fit", "--trainer.max_steps", "many"], "trainer.max_steps: expected int; found many"),
        (["fit", "--trainer.precision", "8"], "trainer.precision: .*found 8"),
        (["fit", "--nonsense", "1"], "there is no setting 'nonsense'; there are ckpt_path, config, data, model"),
        (["fit", "--data", "nowhere.Data"], "data: problem with given class_path 'nowhere.Data'"),
        (["fit", "--seed_everything", "x"], "seed_everything: expected bool or int; found x"),
        (["sites"], "name a model: --config CONFIG, or --model"),
        (
            ["sites", "--config", "x.yaml", "--grid", "64", "0", "1"],
            "argument --grid: 0 is not a whole number of at",
        ),
        (["demo", "--speed", "2"], "unrecognized arguments: --speed 2"),
        (["demo", "--steps", "0"], "argument --steps: 0 is not a whole number of at least 1"),
        (["demo", "--out", "list.yaml"], "cannot make the folder list.yaml: File exists"),
        (["data"], "the following arguments are required: GENERATOR"),
        (["data", "shear"], "argument GENERATOR: invalid choice: 'shear' "),
        (["data", "shear-flow", "list.yaml"], "cannot make the folder list.yaml: File exists"),
        (["convert", "a.pt"], "the following arguments are required: OUT "),
        (["convert", "a.pt", "b.safetensors"], "checkpoint a.pt does not exist"),
        (["convert", "physteer://walrus-demo", "list.yaml/b.safetensors"], "cannot write list.yaml/b.safetensors: "),
        (["report", "list.yaml"], "no run folder list.yaml"),
        (["report", ".", "--windows", "all"], "argument --windows: all is not a whole number of at least 1"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_words_and_files(attempt, words, message):
    files = {
        "syntax.yaml": "model:\n  a: b: c\n",
        "list.yaml": "- 1\n",
        "typo.yaml": "trainer:\n  max_step: 1\n",
        "top.yaml": "modle: 1\ndata: {path: well}\n",
        "part.yaml": "model: model/none.yaml\n",
        "broken_part.yaml": "model: syntax.yaml\n",
    }
    for name, text in files.items():
        (attempt.folder / name).write_text(text)
    (attempt.folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert re.match(message, attempt.words(*words))


def test_unknown_settings_in_yaml(attempt):
    line = attempt(data={"batch_sise": 3})
    assert line == "data: there is no setting 'batch_sise'; did you mean 'batch_size'?"
    line = attempt(callbacks=[callback("Capture", **CAPTURE, site="blocks.0")])
    assert line == "trainer.callbacks: there is no setting 'site'; did you mean 'sites'?"
    line = attempt(callbacks=[callback("Captur", **CAPTURE)])
    assert "Captur" in line
    line = attempt("--trainer.callbacks=Captur")
    assert line == "trainer.callbacks: there is no class 'Captur'; did you mean 'Capture'?"
    line = attempt(model={"network": NETWORK | {"hidden": 3}})
    assert line == "model: network: there is no setting 'hidden'; did you mean 'hidden_dim'?"
    line = attempt(callbacks=[callback("Steer", concept="a", strengths=[0.1], mode="dropp")])
    assert line == "trainer.callbacks: mode: expected one of 'drop', 'pad', 'interpolate', 'none'; found dropp"


def test_values_that_lightning_refuses(attempt):
    assert "gpu" in attempt(accelerator="gpu") or torch.cuda.is_available()
    assert "invalid strategy name: `strategy='ddpp'`" in attempt(strategy="ddpp")
    line = attempt(command="fit", max_steps=1, val_check_interval=10**6)
    assert "`val_check_interval` (1000000) must be less than or equal" in line


def test_both_or_neither_of_checkpoint_and_network(attempt, shared):
    wanted = "give either model.checkpoint (weights to start from) or model.network (a new model)"
    assert attempt(model={"learning_rate": 1e-3}) == wanted
    assert attempt(model={"checkpoint": str(shared / "walrus.safetensors"), "network": NETWORK}) == wanted


def test_settings_of_the_model_out_of_range(attempt, shared):
    model = {"checkpoint": str(shared / "walrus.safetensors")}
    assert (
        attempt(model=model | {"conditions_per_forward": 0})
        == "model.conditions_per_forward must be at least 1, found 0"
    )
    assert attempt(model=model | {"learning_rate": -1.0}) == "model.learning_rate must be at least 0, found -1.0"


def test_networks_that_cannot_be(attempt):
    assert "hidden_dim 33 must be n_heads × a multiple of 8" in attempt(model={"network": NETWORK | {"hidden_dim": 33}})
    assert "must start with closed_boundary" in attempt(model={"network": NETWORK | {"fields": ["pressure"]}})


class Code:
    """What a hostile pickle does when it is opened carelessly."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


def test_weights_that_are_none(attempt):
    folder = attempt.folder
    assert attempt(model={"checkpoint": "none.pt"}) == "checkpoint none.pt does not exist"
    torch.save({"app": {"model": Code(folder / "touched")}}, folder / "evil.pt")
    assert "evil.pt holds more than tensors and was not opened" in attempt(model={"checkpoint": "evil.pt"})
    (folder / "old.pth").write_bytes(pickle.dumps(Code(folder / "touched")))
    assert "old.pth holds more than tensors and was not opened" in attempt(model={"checkpoint": "old.pth"})
    torch.save({"app": {"model": {"blocks.0.weight": torch.ones(2)}}}, folder / "other.pt")
    assert "is not a Walrus" in attempt(model={"checkpoint": "other.pt"})
    whole = weights(folder / "part.safetensors").read_bytes()
    (folder / "part.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "part.safetensors is not a whole safetensors file" in attempt(model={"checkpoint": "part.safetensors"})
    assert not (folder / "touched").exists()


def test_training_checkpoints_that_are_none(attempt):
    folder = attempt.folder
    assert attempt("--ckpt_path", "no.ckpt").startswith("ckpt_path no.ckpt does not exist; it is a file, or 'last'")
    assert "ckpt_path last: there is no checkpoint in" in attempt("--ckpt_path", "last")
    torch.save({"state_dict": {}, "code": Code(folder / "touched")}, folder / "evil.ckpt")
    (folder / "old.ckpt").write_bytes(pickle.dumps(Code(folder / "touched")))
    for name in ("evil.ckpt", "old.ckpt"):
        for command in ("predict", "fit", "validate"):
            line = attempt("--ckpt_path", name, command=command)
            assert f"{name} holds more than tensors and was not opened" in line
    assert not (folder / "touched").exists()
    torch.save({"weight": torch.ones(3)}, folder / "plain.ckpt")
    assert "is not a checkpoint of `physteer fit`; weights to start from go to" in attempt("--ckpt_path", "plain.ckpt")
    torch.save({"state_dict": {"network.a": torch.ones(3)}, "pytorch-lightning_version": "2.6.0"}, folder / "a.ckpt")
    assert "lacks network." in attempt("--ckpt_path", "a.ckpt")
    (folder / "b.ckpt").write_bytes((folder / "a.ckpt").read_bytes()[:400])
    assert "b.ckpt is not a whole checkpoint" in attempt("--ckpt_path", "b.ckpt")


def test_data_that_are_not_there(attempt, tiny_well):
    folder = attempt.folder
    assert attempt(data={"path": "nowhere"}).startswith("no HDF5 files in nowhere/data/test; ")
    assert "predict_split: expected one of 'train', 'valid', 'test'; found dev" in attempt(
        data={"predict_split": "dev"}
    )
    shutil.copytree(tiny_well / "data/train", folder / "well/data/train")
    line = attempt(data={"path": str(folder / "well")})
    assert "well/data/test" in line and "has train" in line
    line = attempt(data={"include": ["Reynolds_7"]})
    assert "the filters leave none of the 4 files" in line
    assert "no window fits" in attempt(data={"rollout_steps": 100})


def test_a_truncated_file(attempt, tiny_well):
    broken = attempt.folder / "well"
    shutil.copytree(tiny_well, broken)
    victim = next(iter(sorted((broken / "data/test").glob("*.hdf5"))))
    victim.write_bytes(victim.read_bytes()[:3000])
    line = attempt(data={"path": str(broken)}, callbacks=["RolloutWriter"])
    assert victim.name in line
    assert not (attempt.folder / "run").exists()


def test_a_field_the_model_does_not_know(attempt):
    network = NETWORK | {"fields": ["closed_boundary", "open_boundary", "bias_correction", "velocity_x", "velocity_y"]}
    for callbacks in ([], [callback("Capture", **CAPTURE)]):
        line = attempt(model={"network": network}, callbacks=[*callbacks, "RolloutWriter"])
        assert "tracer" in line and "velocity_x" in line
    assert "cannot rename 'tracr'" in attempt(data={"fields": {"tracr": "density"}})


def test_a_grid_no_stride_fits(attempt):
    line = attempt(model={"network": NETWORK | {"tokens_2d": 5}}, callbacks=["RolloutWriter"])
    assert line == "axis H has 32 cells; with 5 tokens per axis it may have 5, 20, 40, 60, 80, 120, 160"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": ["block.0"]}, "site 'block.0' not found; did you mean .*'blocks.0'.* 'physteer sites' lists all 17"),
        (
            {"sites": ["blocks.7"]},
            "site 'blocks.7' not found; .*'physteer sites' lists all 17",
        ),
        ({"sites": ["blocks"]}, "site 'blocks' has no activation: the forward does not call that module"),
        (
            {"sites": ["blocks.0.time.heads[9]"]},
            r"site blocks.0.time.heads\[9\]: head 9 is asked for, but the activation has 2 heads",
        ),
        ({"sites": ["a b"]}, "'a b' is not a site"),
        ({"sites": []}, r"Capture.sites must name one or more different sites; found \[\]"),
        ({"name": "a/b"}, "Capture.name becomes a file's name: .* found 'a/b'"),
        (
            {"feature": "Reynold > 1"},
            ".*selection 'Reynold > 1': there is no 'Reynold', only .*did you mean 'Reynolds'",
        ),
        ({"feature": "Reynolds >"}, "cannot read the selection 'Reynolds >'"),
        ({"feature": "__import__('os')"}, "cannot read the selection"),
        (
            {"feature": "Reynolds > 1e9"},
            "concept 'vortex': class 'feature' is empty: none of the .*1e9",
        ),
        (
            {"control": "Reynolds > 500"},
            "concept 'vortex': shear_flow_.* is in both classes: feature: 'Reynolds >= 2000', c",
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_captures_that_cannot_be(attempt, settings, message):
    line = attempt(callbacks=[callback("Capture", **(CAPTURE | settings))])
    assert re.match(message, line), line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concept": "none.safetensors"}, "there is no concept file .*none.safetensors"),
        ({"concept": "walrus.safetensors"}, ".*walrus.safetensors is not a concept"),
        ({"concept": "wide.safetensors"}, "concept has width 48, site blocks.0 has 32"),
        ({"site": "blocks.0.space.ff_hidden"}, "concept has width 32, site blocks.0.space.ff_hidden has 64"),
        ({"concept": "ff.safetensors", "site": "encoder"}, "concept has width 64, site encoder has 32"),
        ({"site": "blocks.0.time.heads[1]"}, r"concept has width 32, site blocks.0.time.heads\[1\] has 16"),
        ({"site": "blocks.0.tim"}, "site 'blocks.0.tim' not found; did you mean 'blocks.0.time'"),
        ({"concept": "grid.safetensors", "mode": "none"}, r"mode 'none' takes a direction on the grid \[8, 8, 1\]"),
        ({"concept": "zero.safetensors"}, "the direction is zero in mode 'drop'"),
        ({"strengths": [float("nan")]}, "Steer.strengths must be one or more finite numbers"),
        ({"strengths": []}, "Steer.strengths must be one or more finite numbers"),
        ({"strengths": [0.1, 0.1]}, "Steer.strengths must be one or more, all different"),
        ({"rollout_steps": []}, "Steer.rollout_steps must be steps from 0, or null"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_steering_that_cannot_be(attempt, shared, settings, message):
    settings = {"concept": "fits.safetensors", "strengths": [0.1], **settings}
    settings["concept"] = str(shared / settings["concept"])
    line = attempt(callbacks=[callback("Steer", **settings), "RolloutWriter"])
    assert re.match(message, line), line
    assert not (attempt.folder / "run").exists()


def test_a_concept_of_another_model(attempt, shared, tmp_path):
    Concept(torch.ones(8, 8, 1, 32), "blocks.0", model="0123456789abcdef").save(tmp_path / "c.safetensors")
    line = attempt(callbacks=[callback("Steer", concept=str(tmp_path / "c.safetensors"), strengths=[0.1])])
    assert "was measured on model 0123456789abcdef; this model is" in line and "capture it again" in line


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_callbacks_of_predict_elsewhere(attempt, shared, command):
    listed = [
        callback("Capture", **CAPTURE),
        callback("Steer", concept=str(shared / "fits.safetensors"), strengths=[0.1]),
    ]
    for one in listed:
        line = attempt(command=command, callbacks=[one], logger=False, max_steps=1)
        assert f"acts in `physteer predict` alone; in `physteer {command}` it would do nothing" in line


def test_sites_inside_compiled_blocks(attempt, shared):
    model = {"checkpoint": str(shared / "walrus.safetensors"), "compile": True}
    line = attempt(model=model, callbacks=[callback("Capture", **CAPTURE | {"sites": ["blocks.0.time"]})])
    assert "lies inside the compiled 'blocks.0'" in line


@pytest.mark.parametrize("command", ["predict", "fit", "validate"])
def test_a_run_folder_that_cannot_be_made(attempt, command):
    (attempt.folder / "file").write_text("")
    where = str(attempt.folder / "file/run")
    callbacks = ["RolloutWriter"] if command == "predict" else []
    line = attempt(command=command, callbacks=callbacks, default_root_dir=where, max_steps=1)
    assert "file" in line and "Not a directory" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_folder_that_is_read_only(attempt):
    (attempt.folder / "closed").mkdir(mode=0o500)
    line = attempt(callbacks=["RolloutWriter"], default_root_dir=str(attempt.folder / "closed/run"))
    assert "cannot write" in line and "Permission denied" in line


def test_files_written_before_an_error_are_whole(shared, tiny_well, tmp_path, capfd):
    """Values that are not finite in the second file: the first batch's rollouts stay, nothing half-written beside."""
    well, run = tmp_path / "well", tmp_path / "run"
    shutil.copytree(tiny_well, well)
    second = sorted((well / "data/test").glob("*.hdf5"))[1]
    with h5py.File(second, "r+") as file:
        file["t0_fields/tracer"][0, 3] = float("nan")
    steer = callback("Steer", concept=str(shared / "fits.safetensors"), strengths=[0.1])
    config = experiment(
        tmp_path / "run.yaml",
        model={"checkpoint": str(shared / "walrus.safetensors")},
        data={"path": str(well), "rollout_steps": 2, "batch_size": 2},
        callbacks=[steer, "RolloutWriter"],
        default_root_dir=str(run),
    )
    assert main(["predict", "--config", str(config)]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("physteer: error: ") and "tracer" in line and second.name in line and "finite" in line
    written = [path for path in (run / "rollouts").rglob("*") if path.is_file()]
    assert len(written) == 3 * 2 and {path.suffix for path in written} == {".hdf5"}
    for path in written:
        with h5py.File(path) as file:
            assert file["t0_fields/tracer"].shape == (1, 5, 32, 64)
