"""The shipped configurations of other emulators: trained, captured, steered, searched and probed by YAML."""

import shutil

import h5py
import pandas as pd
import pytest
import torch
import yaml
from helpers.emulators import KINDS, SETTINGS, emulator
from helpers.paths import ROOT

from physteer.cli import main
from physteer.commands import data as data_command
from physteer.forecast.emulator_weights import load_weights

CONFIGS = ROOT / "configs"
CONCEPT, NATURAL = "concepts/vortex_blocks.0.safetensors", "natural/blocks.0.safetensors"


@pytest.fixture(scope="module")
def simple(tmp_path_factory):
    """Simple flows for probes."""
    out = tmp_path_factory.mktemp("simple") / "simple"
    words = ["--reynolds", "200", "2000", "--schmidt", "0.5", "--frames", "7", "--resolution", "32", "64"]
    words += ["--initial-conditions", "2", "--valid", "1", "--test", "1"]
    for flow in ("taylor-green", "diffusion"):
        assert data_command.main([flow, str(out), *words]) == 0
    return out


def blocks(name):
    """The blocks of an adapter, as sites."""
    return [f"blocks.{i}" for i in range(len(emulator(name).blocks))]


class Runner:
    """Runs shipped configurations of one adapter, made small."""

    def __init__(self, name, folder, well, simple) -> None:
        self.name, self.folder, self.well, self.simple = name, folder, well, simple

    def __call__(self, command, config, *words, callbacks=None, data=None, learning_rate=None) -> None:
        settings = yaml.safe_load((CONFIGS / "emulator" / config).read_text())
        model = yaml.safe_load((CONFIGS / "model/vit.yaml").read_text())
        arguments = model["init_args"]
        arguments["network"] = {"class_path": f"physteer.adapters.{self.name}", "init_args": SETTINGS[self.name]}
        if command != "fit" or config != "fit.yaml":
            arguments["checkpoint"] = str(self.folder / "fit/weights.safetensors")
        if learning_rate:
            arguments["learning_rate"] = learning_rate
        settings["model"] = model
        arguments = settings["data"]["init_args"]
        arguments |= {"path": str(self.well), "n_steps_input": 3, "batch_size": 4, "rollout_steps": 2, **(data or {})}
        arguments.pop("include", None)
        trainer = settings["trainer"]
        trainer |= {"default_root_dir": str(self.folder / config.removesuffix(".yaml")), "accelerator": "cpu"}
        trainer |= {"enable_progress_bar": False}
        for callback in trainer["callbacks"]:
            changed = (callbacks or {}).get(callback["class_path"], {})
            callback["init_args"] = {**callback.get("init_args", {}), **changed}
        path = self.folder / config
        path.write_text(yaml.safe_dump(settings))
        assert main([command, "--config", str(path), *map(str, words)]) == 0


@pytest.mark.parametrize("name", KINDS)
def test_everything_by_yaml(name, tiny_well, simple, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Runner(name, tmp_path, tiny_well, simple)
    steps = ["--trainer.max_steps", 60, "--trainer.val_check_interval", 60, "--trainer.limit_val_batches", 2]
    run("fit", "fit.yaml", *steps, learning_rate=5e-3)
    scores = pd.read_csv(tmp_path / "fit/tables/scores_val.csv").query("loader == 'one_step' and field == 'velocity_x'")
    errors = scores.set_index("forecast").vrmse
    assert errors["model"] < 0.95 * errors["persistence"], "it has learned something"
    trained = emulator(name)
    load_weights(trained, tmp_path / "fit/weights.safetensors")
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), emulator(name).parameters(), strict=True)]
    assert all(moved)

    sites = ["blocks.0", "blocks.1"]
    classes = {"feature": "Reynolds >= 2000", "control": "Reynolds <= 500"}
    run("predict", "capture.yaml", data={"rollout_every": 4}, callbacks={"Capture": classes})
    concept, natural = (str(tmp_path / "capture" / path) for path in (CONCEPT, NATURAL))
    steered = {
        "Steer": {"concept": concept, "strengths": [0.0, 0.3]},
        "Controls": {"random": 1, "strengths": [0.3]},
        "Diagnostics": {"parameter": "Reynolds", "values": [200, 2000], "natural": [natural]},
    }
    run("predict", "steer.yaml", callbacks=steered)
    metrics = pd.read_parquet(tmp_path / "steer/tables/metrics.parquet")
    scores = metrics[metrics.metric == "vrmse"].groupby("condition").value.sum()
    null, strong = (next(c for c in scores.index if c.startswith("vortex") and c.endswith(e)) for e in ("+0", "+0.3"))
    assert scores[null] == scores["unsteered"] != scores[strong]

    few = {"train_pairs": 8, "evaluation_pairs": 4, "pair_every": 4}
    with_null = few | {"null_parameter": "Schmidt"}
    steps = ["--trainer.max_steps", 2, "--trainer.val_check_interval", 1]
    rotations = {"DAS": {"sites": sites, "ranks": [2]}}
    run("fit", "das.yaml", *steps, learning_rate=0.03, data=with_null, callbacks=rotations)
    assert {*sites} <= {*pd.read_parquet(tmp_path / "das/tables/interchange_test.parquet").site}

    probes = {"path": str(simple), "full": str(tiny_well), "window_every": 3}
    targets = {"targets": ["vorticity", "speed_squared"], "random_erasers": 1}
    second = "operator.fno_blocks.convs.0" if name == "FNO" else "blocks.0"
    run("fit", "probe.yaml", data=probes, callbacks={"Probe": {"sites": ["encoder", second], **targets}})
    scores = pd.read_parquet(tmp_path / "probe/tables/probes.parquet")
    assert {"encoder", second} <= {*scores.site} and "raw_patch" in {*scores.control}
    said = capsys.readouterr().err
    assert ("The decoder lens needs blocks that add to one residual stream; those of UNet" in said) == (name == "UNet")

    run("validate", "effects.yaml", data=with_null)
    effects = pd.read_parquet(tmp_path / "effects/tables/effects_valid.parquet")
    assert {"encoder", *sites} <= {*effects.node}
    shutil.rmtree(tmp_path / "effects")
    run("validate", "effects.yaml", data=with_null, callbacks={"Effects": {"nodes": None, "rollouts": []}})
    nodes = {*pd.read_parquet(tmp_path / "effects/tables/effects_valid.parquet").node}
    heads = {f"blocks.{i}.attention.heads[{k}]" for i in range(2) for k in range(2)}
    assert nodes == ({*heads, "blocks.0.mlp", "blocks.1.mlp"} if name == "ViT" else {*blocks(name)})
    run("fit", "basis.yaml", data=few, callbacks={"CausalBasis": {"k": 1, "max_iter": 3, "halves": False}})
    assert (tmp_path / "basis/basis/blocks.0.safetensors").is_file()

    if name == "ViT":
        adapted_by_lora(run, tmp_path)
    shutil.rmtree(tmp_path)


def adapted_by_lora(run, folder):
    """A LoRA adapter is trained beside the ViT, and then is part of the model that a rollout is of."""
    settings = yaml.safe_load((folder / "fit.yaml").read_text())
    settings["model"]["init_args"] |= {"checkpoint": str(folder / "fit/weights.safetensors"), "warmup_steps": 0}
    settings["model"]["init_args"] |= {"learning_rate": 0.1}
    settings["trainer"] |= {"default_root_dir": str(folder / "adapted"), "max_steps": 3, "val_check_interval": 3}
    settings["trainer"]["callbacks"] = [{"class_path": "LoRA", "init_args": {"rank": 2}}]
    (folder / "adapted.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(folder / "adapted.yaml")]) == 0
    rolled = yaml.safe_load((folder / "steer.yaml").read_text())
    rolled["trainer"]["callbacks"] = [{"class_path": "RolloutWriter"}]
    (folder / "rolled.yaml").write_text(yaml.safe_dump(rolled))
    for words in ([], ["--model.lora", str(folder / "adapted/lora")]):
        root = ["--trainer.default_root_dir", str(folder / f"rolled{len(words)}")]
        assert main(["predict", "--config", str(folder / "rolled.yaml"), *root, *words]) == 0
    files = [next((folder / f"rolled{n}/rollouts/unsteered").rglob("*.hdf5")) for n in (0, 2)]
    plain, adapted = (h5py.File(file)["t0_fields/tracer"][:] for file in files)
    assert plain.shape == adapted.shape and (plain != adapted).any()
