"""Adapters of others: merged into weights as peft does, and refused in one sentence where they do not fit."""

import json
import math

import pytest
import torch
from helpers.experiments import random_walrus, weights
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from physteer import WalrusModule
from physteer.cli import main
from physteer.errors import PhysteerError
from physteer.forecast.lora import LoraSettings, inject, merge_lora
from physteer.forecast.lora_files import read_adapter
from physteer.walrus import load, model_id, read_metadata, save

PERIODIC = ((2, 2), (2, 2), (2, 2))
FIELDS = torch.randn(1, 3, 1, 32, 64, 1, generator=torch.Generator().manual_seed(0))


def output(walrus):
    with torch.no_grad():
        return walrus.eval()(FIELDS, [7], PERIODIC)


def adapter(folder, scale=0.1, **settings):
    """Write what peft itself saves: an adapter of random matrices."""
    settings = {"r": 2, "lora_alpha": 3, "target_modules": ["q", "ff_out"], "lora_dropout": 0.5, **settings}
    model = PeftModel(random_walrus(), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


PATTERNS = {"rank_pattern": {"blocks.0.time.q": 3, "ff_out": 1}, "alpha_pattern": {"q": 5}, "use_rslora": True}


@pytest.mark.parametrize("settings", [{}, PATTERNS])
def test_merging_equals_peft(tmp_path, settings):
    folder = adapter(tmp_path / "lora", **settings)
    wrapped = PeftModel.from_pretrained(random_walrus(), folder)
    injected = output(wrapped.base_model.model)
    theirs = dict(wrapped.merge_and_unload().named_parameters())
    ours, base = random_walrus(), random_walrus()
    merge_lora(ours, folder, "whatever: the folder names no base")
    changed = {name for name, p in ours.named_parameters() if not torch.equal(p, base.get_parameter(name))}
    assert changed == {f"{name}.weight" for name in read_adapter(folder).layers} and len(changed) == 6
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(output(ours), injected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(output(base), injected, rtol=1e-2)


def test_the_identity_is_the_adapters_too(tmp_path):
    checkpoint = str(weights(tmp_path / "walrus.safetensors"))
    folder, tiny = str(adapter(tmp_path / "lora")), str(adapter(tmp_path / "tiny", scale=1e-9))
    base, first, again, small = (
        WalrusModule(checkpoint, lora=lora).forecaster.identity for lora in (None, folder, folder, tiny)
    )
    assert first == again and len({base, first, small}) == 3
    target = tmp_path / "merged.safetensors"
    assert main(["convert", checkpoint, str(target), "--lora", folder]) == 0
    assert model_id(load(target)) == first and read_metadata(target)["lora"] == folder
    assert torch.equal(output(load(target)), output(WalrusModule(checkpoint, lora=folder).network))


@pytest.mark.parametrize("nothing", ["B", "alpha"])
def test_an_adapter_of_nothing_changes_no_bit(tmp_path, nothing):
    folder = adapter(tmp_path / "lora", lora_alpha=0 if nothing == "alpha" else 3)
    if nothing == "B":
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file({n: t * ("lora_A" in n) for n, t in tensors.items()}, folder / "adapter_model.safetensors")
    walrus = random_walrus()
    merge_lora(walrus, folder, "")
    assert torch.equal(output(walrus), output(random_walrus()))


def test_an_injected_network_is_not_written(tmp_path):
    walrus = random_walrus()
    inject(walrus, LoraSettings(2, 1.0, 0.0, ("blocks.0.time.q",)), "", seed=0)
    with pytest.raises(PhysteerError, match=r"base_layer.bias and 3 more are no weights of a Walrus; merge adapters"):
        save(walrus, tmp_path / "walrus.safetensors")
    assert not list(tmp_path.iterdir())


def config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def values(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def without(word):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if word not in name}


def only_a_pickle(folder):
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


LAYER = "blocks.0.space.ff_out"
BAD = {
    "no folder": (lambda f: f.rename(f.with_name("x")), "is not the folder of a LoRA adapter: there is no such folder"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "it holds no adapter_config.json"),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json is not JSON"),
    "large": (lambda f: config(f, revision="x" * 2**20), "is larger than 1 MiB, so no configuration of an adapter"),
    "another kind": (lambda f: config(f, peft_type="LOHA"), "is of peft_type 'LOHA'; physteer reads LORA"),
    "DoRA": (lambda f: config(f, use_dora=True), "sets use_dora: physteer reads plain LoRA"),
    "biases": (lambda f: config(f, bias="all"), "sets bias: physteer reads plain LoRA"),
    "changed base": (lambda f: config(f, init_lora_weights="pissa"), "sets init_lora_weights: physteer reads plain"),
    "modules": (lambda f: config(f, modules_to_save=["decoder"]), "sets modules_to_save: physteer reads plain LoRA"),
    "patterns": (lambda f: config(f, alpha_pattern={"(a+)+$": 1}), "alpha_pattern must give numbers by paths"),
    "rank": (lambda f: config(f, r=3), "A is [2, 64] and B is [32, 2], and adapter_config.json says rank 3"),
    "alpha": (lambda f: config(f, lora_alpha=math.nan), f"lora_alpha of {LAYER} is nan, not a number"),
    "no alpha": (lambda f: config(f, lora_alpha="x"), "is 'x', not a number"),
    "targets": (lambda f: config(f, target_modules=["q", "query"]), "holds nothing for the target module query"),
    "a pickle": (only_a_pickle, "adapter_model.bin is a pickle, which may run code and is not read: save the adapter"),
    "cut": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99), "is not a whole safetensors file"),
    "empty": (lambda f: values(f, lambda tensors: {}), "holds no tensors"),
    "no B": (lambda f: values(f, without(f"{LAYER}.lora_B")), f"{LAYER} lacks its lora_B"),
    "a vector": (
        lambda f: values(f, lambda t: {n: x[0] for n, x in t.items()}),
        "has matrices lora_A and lora_B alone",
    ),
    "other names": (lambda f: values(f, renamed("lora_A", "lora_C")), "has matrices lora_A and lora_B alone"),
    "other layers": (
        lambda f: values(f, renamed("0.space.ff_out", "9.space.ff_out")),
        "does not fit: Walrus has no Linear layer blocks.9.space.ff_out; did you mean 'blocks.",
    ),
    "other shapes": (
        lambda f: values(f, lambda t: {n: x[:, :9].clone() if "lora_A" in n else x for n, x in t.items()}),
        f"does not fit: it changes {LAYER} by [32, 9]; its weight is [32, 64]",
    ),
    "not finite": (lambda f: values(f, lambda t: {n: x / 0 for n, x in t.items()}), "that are not finite"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return adapter(tmp_path_factory.mktemp("saved") / "lora")


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused(saved, tmp_path, name):
    folder, walrus = tmp_path / "lora", random_walrus()
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    spoil, sentence = BAD[name]
    spoil(folder)
    with pytest.raises(PhysteerError) as refusal:
        merge_lora(walrus, folder, "")
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)
    assert all(torch.equal(p, q) for p, q in zip(walrus.parameters(), random_walrus().parameters(), strict=True))
