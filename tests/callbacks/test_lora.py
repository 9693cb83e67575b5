"""LoRA: adapters trained on a frozen network, and what works on the adapted one."""

import copy
import csv
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
from einops.layers.torch import Rearrange
from helpers.channels_first import WIDTH, ConvolutionForecaster
from helpers.experiments import callback, experiment, random_walrus, weights
from peft import LoraConfig, PeftModel, inject_adapter_in_model, load_peft_weights, set_peft_model_state_dict
from torch import nn

from physteer import ForecastModule, WalrusModule, WellDataModule
from physteer.callbacks import LoRA
from physteer.cli import main
from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.forecast.lora import LoraSettings, inject, linear_layers
from physteer.forecast.lora_files import read_adapter
from physteer.interventions import captured, site_names
from physteer.walrus import model_id

PERIODIC = ((2, 2), (2, 2), (2, 2))
ADAPTER = {"rank": 2, "alpha": 3.0, "dropout": 0.2, "target_modules": ["blocks.*.time", "blocks.1.space.ff_out"]}


def training(folder, well, *callbacks, **trainer):
    model = {"checkpoint": str(folder / "walrus.safetensors"), "learning_rate": 1e-2, "warmup_steps": 1}
    settings = {
        "max_steps": 4,
        "val_check_interval": 2,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
    }
    settings |= {"default_root_dir": str(folder / "run"), "logger": False, **trainer}
    data = {"path": str(well), "rollout_steps": 1, "batch_size": 4, "one_step_every": 4}
    return str(experiment(folder / "fit.yaml", model=model, data=data, callbacks=list(callbacks), **settings))


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def read_rows(table: Path) -> list[dict[str, str]]:
    with table.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tiny_well, tmp_path_factory):
    """Four steps with dropout, a checkpoint at two, never interrupted."""
    folder = tmp_path_factory.mktemp("lora")
    weights(folder / "walrus.safetensors")
    every = callback(
        "lightning.pytorch.callbacks.ModelCheckpoint", every_n_train_steps=2, save_top_k=-1, save_last=True
    )
    assert main(["fit", "--config", training(folder, tiny_well, every, callback("LoRA", **ADAPTER))]) == 0
    return folder


def said(capsys, *words) -> str:
    """What a command refuses with."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("physteer: error: ")


def test_a_new_adapter_changes_no_output_and_no_site():
    walrus, fields = random_walrus(), torch.randn(1, 3, 1, 32, 64, 1)
    names, before = site_names(walrus), set(dict(walrus.named_modules()))
    layouts = {name: walrus.site_layout(name) for name in names}
    with torch.no_grad():
        y = walrus(fields, [7], PERIODIC)
    layers = linear_layers(walrus, ["blocks"])
    state = torch.get_rng_state()
    injected = inject(walrus, LoraSettings(4, 8.0, 0.0, layers), model_id(walrus), seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert len(layers) == 20 and len(injected.parameters) == 40 and before <= set(dict(walrus.named_modules()))
    assert site_names(walrus) == names and {name: walrus.site_layout(name) for name in names} == layouts
    with torch.no_grad(), captured(walrus, [*names, "blocks.0.time.q"]) as h:
        assert torch.equal(walrus(fields, [7], PERIODIC), y)
    assert h["blocks.0.time.q"].shape[-1] == 32
    assert {name for name, p in walrus.named_parameters() if p.requires_grad} == injected.parameters


def test_checkpoints_hold_the_adapter_alone(trained):
    checkpoint = torch.load(trained / "run/checkpoints/last.ckpt", weights_only=True)
    names = set(checkpoint["state_dict"])
    assert len(names) == 2 * 9 and all(".lora_" in name for name in names)
    assert checkpoint["network"] == model_id(random_walrus()) and checkpoint["lora"] == {"rank": 2, "alpha": 3.0}
    assert all(tensor.any() for tensor in checkpoint["state_dict"].values())  # B is 0 before training


def test_peft_reads_the_folder(trained):
    """Its values are those of the last checkpoint, and its own classes load them."""
    folder, last = trained / "run/lora", tensors(trained / "run/checkpoints/last.ckpt")
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    config = LoraConfig.from_pretrained(folder)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 3, 0.2)
    walrus = random_walrus()
    inject_adapter_in_model(config, walrus)
    stored = load_peft_weights(str(folder), device="cpu")
    stored = {name.removeprefix("base_model.model."): tensor for name, tensor in stored.items()}  # of a `PeftModel`
    result = set_peft_model_state_dict(walrus, stored)
    assert not result.unexpected_keys and not any("lora" in name for name in result.missing_keys)
    adapted = {name: p for name, p in walrus.named_parameters() if "lora" in name}
    assert {f"network.{name}" for name in adapted} == set(last)
    assert all(torch.equal(p, last[f"network.{name}"]) for name, p in adapted.items())
    wrapped = PeftModel.from_pretrained(random_walrus(), folder)
    state = {name.removeprefix("base_model.model."): p for name, p in wrapped.named_parameters() if "lora" in name}
    assert all(torch.equal(p, adapted[name]) for name, p in state.items()) and state.keys() == adapted.keys()


def test_resuming_gives_the_weights_of_an_uninterrupted_run(trained, tiny_well, tmp_path):
    shutil.copy(trained / "walrus.safetensors", tmp_path)
    config = training(tmp_path, tiny_well, callback("LoRA", **ADAPTER))
    checkpoint = next((trained / "run/checkpoints").glob("*step=2.ckpt"))
    assert main(["fit", "--config", config, "--ckpt_path", str(checkpoint)]) == 0
    last, whole = (tensors(folder / "run/checkpoints/last.ckpt") for folder in (tmp_path, trained))
    assert last.keys() == whole.keys() and all(torch.equal(last[name], whole[name]) for name in last)
    a, b = (folder / "run/lora" for folder in (tmp_path, trained))
    assert all((a / path.name).read_bytes() == path.read_bytes() for path in b.iterdir())


def test_what_does_not_fit_is_refused(trained, tiny_well, tmp_path, capsys):
    shutil.copy(trained / "walrus.safetensors", tmp_path)
    last = trained / "run/checkpoints/last.ckpt"

    def refused(command="fit", *words, others=(), **settings):
        config = training(tmp_path, tiny_well, callback("LoRA", **{**ADAPTER, **settings}), *others)
        return said(capsys, command, "--config", config, *words)

    resumed = ("fit", "--ckpt_path", last)
    assert refused(*resumed, alpha=4.0) == "the checkpoint has LoRA.alpha 3.0; here it is 4.0"
    assert refused(*resumed, rank=3) == "the checkpoint has LoRA.rank 2; here it is 3"
    assert "is not one of this model: it has unknown tensors: network.blocks" in refused(
        *resumed, target_modules=["blocks.*.time"]
    )
    assert refused(*resumed, "--model.checkpoint", weights(tmp_path / "other.safetensors", seed=1)).startswith(
        "the checkpoint was trained on the frozen model "
    )
    assert "in predict, set model.lora to the folder lora/" in refused("predict")
    wrong = refused(target_modules=["blocks.*.time.p"])
    assert wrong.startswith("LoRA.target_modules: 'blocks.*.time.p' names no Linear layer of Walrus; did you mean 'blo")
    assert "ExportWeights writes whole weights and LoRA an adapter" in refused(others=["ExportWeights"])
    assert "LoRA and LoRA cannot be in one run" in refused(others=["LoRA"])
    for name, value in (("rank", 0), ("alpha", 0), ("dropout", 1), ("target_modules", [])):
        assert f"LoRA.{name} must " in refused(**{name: value})
    config = training(tmp_path, tiny_well)
    assert "the checkpoint holds a LoRA adapter and no network" in said(
        capsys, "validate", "--config", config, "--ckpt_path", last
    )
    assert not (tmp_path / "run").exists()
    assert "LoRA has trained nothing before `physteer validate`: give the checkpoint" in refused("validate")


def test_without_peft(trained, tiny_well, tmp_path, capsys, monkeypatch):
    shutil.copy(trained / "walrus.safetensors", tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    line = said(capsys, "fit", "--config", training(tmp_path, tiny_well, "LoRA"))
    assert line == "LoRA needs the package peft; install it with: pip install 'physteer[lora]'"


def test_a_layer_that_does_nothing_is_refused(tiny_well, tmp_path):
    """Any forecaster can be trained; an adapter that gets no gradient would be written as if it had been."""
    forecaster = ConvolutionForecaster(("tracer", "pressure", "velocity_x", "velocity_y", "velocity_z"))
    head = (Rearrange("b c h w -> b h w c"), nn.Linear(WIDTH, 5), Rearrange("b h w c -> b c h w"))
    forecaster.network.out, forecaster.network.spare = nn.Sequential(*head), nn.Linear(2, 2)
    data = WellDataModule(str(tiny_well), n_steps_input=3, rollout_steps=1)
    quick = {"max_steps": 1, "limit_val_batches": 0, "inference_mode": False, "accelerator": "cpu"}
    quick |= dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    for modules, wrong in ((["out", "spare"], "output of spare: leave it out of LoRA.target_modules"), (["out"], "")):
        callbacks = [LoRA(rank=1, target_modules=modules)]
        trainer = L.Trainer(default_root_dir=tmp_path, callbacks=callbacks, **quick)
        module = ForecastModule(copy.deepcopy(forecaster))
        with pytest.raises(PhysteerError, match=wrong) if wrong else nullcontext():
            trainer.fit(module, data)
    assert list(read_adapter(tmp_path / "lora").layers) == ["out.1"]


def test_layers_that_are_never_called_are_left_alone():
    """`nn.MultiheadAttention` takes the weights of its projection; fast paths take those of whole layers."""
    network = nn.Module()
    network.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)]).eval()
    layers = linear_layers(network, ["blocks"])
    assert layers == ("blocks.0.linear1", "blocks.0.linear2")
    inject(network, LoraSettings(2, 1.0, 0.0, layers), "", seed=0)
    h, block = torch.randn(1, 3, 8), network.blocks[0]
    nn.init.ones_(block.linear2.lora_B.default.weight)
    with torch.no_grad():
        fast = block(h)
    assert torch.equal(fast, block(h).detach())
    nn.init.zeros_(block.linear2.lora_B.default.weight)
    assert not torch.equal(fast, block(h).detach())


def test_validation_of_a_checkpoint(trained, tiny_well, tmp_path):
    """With the callback a checkpoint is scored as in ``fit``."""
    shutil.copy(trained / "walrus.safetensors", tmp_path)
    config, last = training(tmp_path, tiny_well, callback("LoRA", **ADAPTER)), trained / "run/checkpoints/last.ckpt"
    assert main(["validate", "--config", config, "--ckpt_path", str(last)]) == 0
    scores = [(folder / "run/tables/scores_val.csv").read_text() for folder in (trained, tmp_path)]
    assert scores[0] == scores[1]


def test_everything_works_on_the_adapted_model(trained, tiny_well, tmp_path, capsys):
    """Scores are those of the checkpoint; ``predict`` captures and steers; DAS trains, and knows the adapter."""
    shutil.copy(trained / "walrus.safetensors", tmp_path)
    adapted = ["--model.lora", str(trained / "run/lora")]
    assert main(["validate", "--config", training(tmp_path, tiny_well), *adapted]) == 0
    table = "run/tables/scores_val.csv"
    scores = [[float(row["vrmse"]) for row in read_rows(folder / table)] for folder in (trained, tmp_path)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)

    network = WalrusModule(str(tmp_path / "walrus.safetensors"), lora=adapted[1])
    identity = network.forecaster.identity
    capture = callback("Capture", sites=["blocks.0"], name="re", feature="Reynolds >= 2000", control="Reynolds <= 500")
    config = training(tmp_path, tiny_well, capture, default_root_dir=str(tmp_path / "capture"))
    assert main(["predict", "--config", config, *adapted]) == 0
    (concept,) = (tmp_path / "capture/concepts").glob("*.safetensors")
    assert Concept.load(concept).model == identity
    steer = callback("Steer", concept=str(concept), strengths=[0.1])
    config = training(tmp_path, tiny_well, steer, default_root_dir=str(tmp_path / "steer"))
    assert main(["predict", "--config", config, *adapted, "--trainer.limit_predict_batches", "1"]) == 0
    assert f"was measured on model {identity}" in said(capsys, "predict", "--config", config)

    das = callback("DAS", sites=["blocks.0"], ranks=[2])
    pairs = ["--data", "physteer.CounterfactualDataModule", "--data.variables", "[Reynolds]", "--data.pair_every", "4"]
    quick = ["--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--trainer.limit_test_batches", "1"]
    config = training(tmp_path, tiny_well, das, default_root_dir=str(tmp_path / "das"))
    assert main(["fit", "--config", config, *adapted, *pairs, *quick]) == 0
    checkpoint = torch.load(tmp_path / "das/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["network"] == identity and not any(n.startswith("network.") for n in checkpoint["state_dict"])
