"""Small files that declare much: refused in a second, in one line, before anything of that size is made."""

from __future__ import annotations

import collections
import io
import pickle
import resource
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from helpers.experiments import NETWORK

from physteer.cli import main
from physteer.concepts import read_published_concept
from physteer.errors import PhysteerError
from physteer.untrusted.torch_files import load_tensors
from physteer.untrusted.yaml_text import DEEPEST, check_bounds, load_yaml, read_yaml
from physteer.walrus import WalrusConfig, load
from physteer.walrus.sizes import check_fits, parameter_count

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.fixture(autouse=True)
def quick_and_small():
    """What makes something large, or takes long, fails."""
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 * 2**10  # KiB
    assert time.monotonic() - began < 10


class Call:
    """Pickled, it calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def lie(numbers: int, *shape: int, strides: tuple[int, ...] = ()) -> Call:
    """A tensor that declares a shape which its numbers do not have."""
    strides = strides or tuple(torch.empty(shape, device="meta").stride())
    storage = torch.zeros(numbers)._typed_storage()
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, shape, strides, False, collections.OrderedDict())


def refusal(path: Path, content: bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PhysteerError) as error:
        load_tensors(path, "checkpoint")
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value).removeprefix(f"{path} ")


# --- YAML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES, "stands for more than 200000 values"),
        (yaml.safe_dump({"model": ALIASES}), "stands for more than 200000 values"),  # the parser reads values again
        (
            "m: &m {a: 1}\n" + "".join(f"n{i}: &m {{<<: [*m, *m, *m]}}\n" for i in range(3)),
            "the alias .m stands for itself",
        ),
        ("a: " + "[" * 500 + "]" * 500, "nested deeper than 64"),
        ("- " * 50_000 + "x", "nested deeper than 64"),
        ("[" * 100_000, "is not YAML"),
        ("a: &a [*a]", "stands for itself"),
        ("a: " + "9" * 5000, "is not YAML: Exceeds the limit"),
        ("a: 2001-99-99", "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_yaml(tmp_path, text, message):
    path = tmp_path / "extended_config.yaml"
    path.write_text(text)
    with pytest.raises(PhysteerError, match=message) as error:
        read_yaml(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_yaml_within_bounds_is_what_yaml_says(tmp_path):
    text = "a: &a [1, {b: 2}]\nc: [*a, *a]\nd: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    check_bounds(text)
    assert load_yaml(text) == yaml.safe_load(text)


def test_configurations_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = "data: {path: x}\n"
    Path("aliases.yaml").write_text(ALIASES)
    Path("part.yaml").write_text(f"model: aliases.yaml\n{data}")
    Path("blocks.yaml").write_text(yaml.safe_dump({"model": {"network": {**NETWORK, "n_blocks": 10**9}}}) + data)
    for words, message in (
        (["aliases.yaml"], "aliases.yaml was not read: it stands for more than"),
        (["part.yaml"], "model: invalid content in sub-config file aliases.yaml: it stands for more than"),
        (["part.yaml", "--model", ALIASES], "a value on the command line was not read: it stands for more than"),
        (["blocks.yaml"], "a network of 1000000000 blocks of width 32 has 1.5e"),
    ):
        assert main(["predict", "--config", *words]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1, said


# --- sizes of networks


def test_the_size_of_a_network_is_known_before_it_is_built():
    for config in (WalrusConfig(), WalrusConfig("preview", n_blocks=3, rotary="per_axis", position=(8, 8, 1))):
        state = sum(torch.Size(shape).numel() for shape in shapes(config))
        assert parameter_count(config) == state
    assert 1.28e9 < parameter_count(WalrusConfig()) < 1.3e9
    for sizes in (
        {"n_blocks": 10**9},
        {"hidden_dim": 8 * 16 * 10**9},
        {"mlp_dim": 2 * 10**12},
        {"position": (10**9,) * 3},
    ):
        with pytest.raises(PhysteerError, match=r"parameters, .* GiB, and this machine has"):
            check_fits(WalrusConfig(**sizes))
    for sizes in ({"n_blocks": 0}, {"n_heads": -1}, {"hidden_dim": 64.0}, {"position": (1, 1)}, {"mlp_dim": True}):
        with pytest.raises(PhysteerError, match=r"whole number of at least 1|three sizes"):
            WalrusConfig(**sizes)


def shapes(config: WalrusConfig) -> list[tuple[int, ...]]:
    from physteer.walrus.published import published_shapes

    return [*published_shapes(config).values()]


def test_a_checkpoint_with_a_name_of_the_billionth_block(tmp_path):
    model = {"blocks.999999999.a": torch.ones(1), "embed.2.proj1.weight": torch.ones(1)}
    torch.save({"app": {"model": model}}, tmp_path / "walrus.pt")
    with pytest.raises(PhysteerError, match=r"lacks tensors this model needs: blocks\.0 of 1000000000"):
        load(tmp_path / "walrus.pt")


# --- pickles


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_declare_more_than_there_is(tmp_path, zipped):
    path = tmp_path / "a.pt"
    for tensor in (lie(1, 10**9), lie(1, 10**9, strides=(0,)), lie(4, 0, 10**12), lie(4, 2, 2, strides=(10**12, 1))):
        torch.save({"app": {"model": {"a": tensor}}}, path, _use_new_zipfile_serialization=zipped)
        assert path.stat().st_size < 2000
        assert "that reaches beyond its" in refusal(path)
        path.with_suffix(".pkl").write_bytes(pickle.dumps(tensor))
        with pytest.raises(PhysteerError, match="reaches beyond its"):
            read_published_concept(path.with_suffix(".pkl"))


def test_storages_that_are_not_there(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(7, dtype=torch.float64)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}

    def zipped(records, method=zipfile.ZIP_STORED):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", method) as archive:
            for name, record in records.items():
                archive.writestr(name, record)
        return content.getvalue()

    assert torch.equal(load_tensors(path, "checkpoint")["a"], torch.ones(7, dtype=torch.float64))
    more = {name: record.replace(b"K\x07", b"J" + struct.pack("<i", 10**9)) for name, record in records.items()}
    assert "1000000000 numbers that are not there" in refusal(path, zipped(more))
    less = {name: record for name, record in records.items() if not name.endswith("data/0")}
    assert "7 numbers that are not there" in refusal(path, zipped(less))
    zeros = {name: bytes(10**7) if name.endswith("data/0") else record for name, record in records.items()}
    assert "a compressed record" in refusal(path, zipped(zeros, zipfile.ZIP_DEFLATED))
    assert "not of torch.save" in refusal(path, zipped({"hello": b""}))

    old = io.BytesIO()
    torch.save({"a": torch.ones(7)}, old, _use_new_zipfile_serialization=False)
    large = old.getvalue().replace(b"K\x07", b"J" + struct.pack("<i", 10**9))
    assert "its storages have 4000000000 bytes" in refusal(path, large) or "beyond its" in refusal(path)


def test_instructions_that_take_memory(tmp_path):
    path = tmp_path / "a.pt"
    for content, message in (
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "LONG_BINPUT 2147483647 does not fit its size"),
        (b"\x80\x05\x96" + struct.pack("<Q", 10**10) + b"x.", "is not a whole checkpoint|BYTEARRAY8"),
        (
            b"\x80\x05\x95" + struct.pack("<Q", 10**12) + b"N.",
            "FRAME 1000000000000 does not fit its size|is not a whole",
        ),
        (b"\x80\x02cbuiltins\nbytearray\nJ\x00\xca\x9a;\x85R.", "it would call builtins.bytearray"),
        (b"\x80\x02ctorch\nTensor\nJ\x00\xca\x9a;\x85R.", "it would call torch.Tensor"),
        (b"\x80\x02]q\x00" + b"]a" * 50_000 + b".", "is not a whole checkpoint"),
    ):
        path.write_bytes(content)
        with pytest.raises(PhysteerError, match=message):
            load_tensors(path, "checkpoint")


def test_a_refusal_says_what_was_met(tmp_path):
    path = tmp_path / "a.pt"
    for zipped in (True, False):
        torch.save(
            {"a": torch.ones(1), "b": Call(eval, "1"), "c": Call(Path, ".")},
            path,
            _use_new_zipfile_serialization=zipped,
        )
        assert refusal(path).endswith("was not opened: it would call builtins.eval, pathlib.Path")
    assert refusal(path, pickle.dumps(torch.nn.Linear)).endswith("it would call torch.nn.modules.linear.Linear")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    assert refusal(path).endswith("it is a TorchScript program")
    assert refusal(path, b"") == "is not a whole checkpoint: it is empty"
    assert refusal(tmp_path / "none.pt").startswith("is not a whole checkpoint: ")


def test_what_training_writes_is_read(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "others": [torch.Size([1, 2]), torch.float16, torch.device("cpu"), {1, 2}, 3.5, None, "text", b"bytes"],
        "types": [torch.ones(3, dtype=dtype) for dtype in (torch.bool, torch.int8, torch.bfloat16, torch.complex64)],
        "views": torch.arange(12).view(3, 4).T[1:],
    }
    for zipped in (False, True):
        if zipped:  # the older format has no such numbers
            content["small"] = torch.ones(2).to(torch.float8_e4m3fn)
        torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
        read = load_tensors(tmp_path / "a.ckpt", "checkpoint")
        assert read["others"] == content["others"] and torch.equal(read["views"], content["views"])
        assert torch.equal(read["optimizer"]["state"][0]["exp_avg"], content["optimizer"]["state"][0]["exp_avg"])
