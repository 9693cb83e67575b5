"""Weights of any network: written, read back, and taken from state dictionaries of others."""

import pytest
import torch
from helpers.emulators import FIELDS, KINDS, SETTINGS, emulator
from safetensors.torch import save_file
from torch import nn

from physteer import EmulatorModule
from physteer.errors import PhysteerError
from physteer.forecast.emulator_weights import load_weights, save_weights
from physteer.tensor_files import write_tensors


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written_is_read(name, tmp_path):
    trained, fresh, path = emulator(name, 1), emulator(name), tmp_path / "weights.safetensors"
    save_weights(trained, path, {"steps": "3"})
    assert not same(trained, fresh)
    load_weights(fresh, path)
    assert same(trained, fresh)
    again = tmp_path / "again.safetensors"
    save_weights(fresh, again, {"steps": "3"})
    assert path.read_bytes() == again.read_bytes()
    module = EmulatorModule(emulator(name), list(FIELDS), str(path))
    assert module.forecaster.identity == EmulatorModule(trained, list(FIELDS)).forecaster.identity


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"net.{name}": t for name, t in state.items()} | {"loss.weight": torch.ones(1)},
    ],
)
def test_state_dictionaries_of_others(wrapped, tmp_path):
    trained, fresh = emulator("UNet", 1), emulator("UNet")
    torch.save(wrapped(trained.state_dict()), tmp_path / "theirs.pt")
    load_weights(fresh, tmp_path / "theirs.pt")
    assert same(trained, fresh)


def test_a_state_dictionary_of_neuralop(tmp_path):
    from neuralop.models import FNO as Operator

    torch.manual_seed(1)
    theirs = Operator((6, 6), in_channels=12, out_channels=4, hidden_channels=8, n_layers=3, positional_embedding=None)
    torch.save(theirs.state_dict(), tmp_path / "all.pt")
    with pytest.raises(PhysteerError, match=r"holds more than tensors and was not opened: it would call .*gelu"):
        load_weights(emulator("FNO"), tmp_path / "all.pt")
    state = {name: tensor for name, tensor in theirs.state_dict().items() if name != "_metadata"}
    torch.save(state, tmp_path / "tensors.pt")
    network = emulator("FNO")
    load_weights(network, tmp_path / "tensors.pt")
    x = torch.randn(1, 3, 4, 32, 64, 1)
    with torch.no_grad():
        assert torch.equal(network(x)[:, 0, ..., 0], theirs(x[..., 0].flatten(1, 2)))


def test_safetensors_of_others_and_tied_weights(tmp_path):
    trained, fresh = emulator("ViT", 1), emulator("ViT")
    save_file(trained.state_dict(), tmp_path / "theirs.safetensors")
    load_weights(fresh, tmp_path / "theirs.safetensors")
    assert same(trained, fresh)
    tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    tied[1].weight = tied[0].weight
    save_weights(tied, tmp_path / "tied.safetensors", {})
    load_weights(tied, tmp_path / "tied.safetensors")
    assert tied[1].weight is tied[0].weight


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"blocks.9.weight": torch.ones(2)}, r"does not fit ViT as it is set: it lacks .* and \d+ more"),
        ({"epoch": 3}, "holds no state dictionary: tensors by name"),
        (torch.ones(3), "holds no state dictionary"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(PhysteerError, match=message):
        load_weights(emulator("ViT"), tmp_path / "other.pt")


def test_numbers_of_another_kind_are_refused_and_other_precisions_are_loaded(tmp_path):
    trained, fresh = emulator("ViT", 1), emulator("ViT")
    half = {name: tensor.bfloat16() for name, tensor in trained.state_dict().items()}
    torch.save(half, tmp_path / "half.pt")
    load_weights(fresh, tmp_path / "half.pt")
    torch.testing.assert_close(fresh.decoder.project.weight, trained.decoder.project.weight, atol=1e-2, rtol=1e-2)
    for kind in (torch.complex64, torch.int64):
        torch.save(half | {"decoder.project.bias": torch.ones(256, dtype=kind)}, tmp_path / "other.pt")
        with pytest.raises(PhysteerError, match=f"decoder.project.bias is of {kind}, not torch.float32"):
            load_weights(fresh, tmp_path / "other.pt")


def test_complex_numbers_must_be_pairs(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, "emulator weights", 1, {"real view of a": torch.ones(3)}, {"network": "FNO", "metadata": {}})
    with pytest.raises(PhysteerError, match=r"'real view of a' is \[3\] of torch.float32, not pairs of real numbers"):
        load_weights(emulator("FNO"), path)


def test_other_networks_and_endings_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(emulator("ViT"), path, {})
    with pytest.raises(PhysteerError, match=r"\(weights of a ViT\) does not fit UNet as it is set: it lacks"):
        load_weights(emulator("UNet"), path)
    wide = KINDS["ViT"](**SETTINGS["ViT"] | {"patch": 4})
    with pytest.raises(PhysteerError, match=r"decoder.project.bias is \[256\], not \[64\] and \d more"):
        load_weights(wide, path)
    deep = KINDS["ViT"](**SETTINGS["ViT"] | {"depth": 1})
    with pytest.raises(PhysteerError, match=r"it has unknown tensors: blocks.1"):
        load_weights(deep, path)
    with pytest.raises(PhysteerError, match=r"weights are written as .safetensors; found"):
        save_weights(emulator("ViT"), tmp_path / "weights.pt", {})
    for missing in ("gone.safetensors", "gone.pt"):
        with pytest.raises(PhysteerError, match="gone"):
            load_weights(wide, tmp_path / missing)


class Remembers(nn.Linear):
    def get_extra_state(self):
        return {"calls": print}


def test_states_that_are_no_tensors_are_refused_before_training():
    message = "the state dictionary of Remembers has '_extra_state', a dict: checkpoints hold tensors alone"
    with pytest.raises(PhysteerError, match=message):
        EmulatorModule(Remembers(2, 2), ["tracer"])
