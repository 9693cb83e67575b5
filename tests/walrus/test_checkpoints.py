"""Checkpoints: published files, conversion, the hub's cache, and everything that can be wrong with a file."""

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from helpers import golden
from helpers.walruses import MIXED, fields, make, randomize
from safetensors.torch import load_file, save_file

from physteer.cli import main
from physteer.errors import PhysteerError
from physteer.untrusted.safetensors_files import content_digest
from physteer.walrus import RELEASED_FIELDS, Walrus, load, load_config, model_id, read_metadata, save
from physteer.walrus.positions import rotary_frequencies
from physteer.walrus.published import from_published

EXTENDED = {
    "model": {
        "hidden_dim": 64,
        "intermediate_dim": 16,
        "projection_dim": 8,
        "processor_blocks": 2,
        "groups": 4,
        "causal_in_time": True,
        "jitter_patches": True,
        "use_periodic_fixed_jitter": True,
        "max_d": 3,
        "include_d": [2, 3],
        "encoder": {"base_kernel_size3d": [[8, 4]] * 3, "activation": {"_target_": "torch.nn.SiLU"}},
        "processor": {
            "space_mixing": {"num_heads": 4, "mlp_dim": None, "hidden_dim": "${model.hidden_dim}"},
            "time_mixing": {"num_heads": "${model.processor.space_mixing.num_heads}", "bias_type": "rel"},
        },
    },
    "trainer": {"prediction_type": "delta"},
    "data": {
        "field_index_map_override": {name: i for i, name in enumerate(RELEASED_FIELDS[:12])},
        "module_parameters": {"n_steps_input": 3},
    },
}
NAMES = {"released": ["pressure", "velocity_x"], "preview": ["pressure", "density"]}


def published(folder, variant="released", extended=EXTENDED, **changes):
    """Write a small published checkpoint by recipe; `changes` replace tensors, none removes one."""
    config = golden.recipe_config(variant)
    state = golden.recipe_state(config) | changes
    extended = {**extended, "data": {**extended["data"]}}
    if variant == "preview":
        extended["data"]["field_index_map_override"] = {name: i for i, name in enumerate(config.fields)}
    folder.mkdir(exist_ok=True, parents=True)
    model = {key: tensor for key, tensor in state.items() if tensor is not None}
    torch.save({"app": {"model": model}}, folder / "walrus.pt")
    (folder / "extended_config.yaml").write_text(yaml.safe_dump(extended, sort_keys=False))
    return folder / "walrus.pt"


def with_extended(folder, section, **changes):
    """Write a checkpoint whose configuration differs in one section."""
    extended = yaml.safe_load(yaml.safe_dump(EXTENDED, sort_keys=False))
    node = extended
    for part in section.split("."):
        node = node[part]
    node.update(changes)
    return published(folder, extended=extended)


def output(walrus):
    x = fields(1, 2, 2, 32, 32, 1)
    with torch.no_grad():
        return walrus(x, walrus.config.labels(NAMES[walrus.config.variant]), MIXED)


def same_bits(first: Walrus, second: Walrus):
    ours, theirs = (dict(walrus.named_parameters()) for walrus in (first, second))
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in ours
    )


@pytest.mark.parametrize("variant", ["released", "preview"])
def test_a_published_checkpoint_is_read_with_its_configuration(tmp_path, variant):
    walrus = load(path := published(tmp_path, variant))
    with torch.device("meta"):
        assert load_config(path) == walrus.config
    config = golden.recipe_config(variant)
    assert walrus.config.n_steps_input == 3
    for name in ("variant", "fields", "hidden_dim", "intermediate_dim", "n_blocks", "n_heads", "ff_dim", "dimensions"):
        assert getattr(walrus.config, name) == getattr(config, name), name
    assert not walrus.training
    expected = from_published(golden.recipe_state(config), config)
    assert same_bits(walrus, expected)
    assert torch.equal(output(walrus), output(expected))
    assert same_bits(load(tmp_path), walrus)  # a folder


def test_the_weights_stay_in_the_file_until_they_are_read(tmp_path):
    path = published(tmp_path)
    walrus = load(path)
    weight = walrus.blocks[0].space.ff_in.weight
    before = weight[0, 0].item()
    raw = path.read_bytes()
    stored = weight[0].detach().numpy().tobytes()
    place = raw.index(stored)
    with path.open("r+b") as file:  # a mapped page shows what is written to the file
        file.seek(place)
        file.write(torch.tensor([before + 1]).numpy().tobytes())
    assert weight[0, 0].item() == pytest.approx(before + 1)


@pytest.mark.parametrize("variant", ["released", "preview"])
def test_conversion_reloads_bit_equal(tmp_path, variant, capsys):
    source, target = published(tmp_path / "in", variant), tmp_path / "out" / "walrus.safetensors"
    assert main(["convert", str(source), str(target)]) == 0
    assert "parameters, 2 blocks of width 64" in capsys.readouterr().out
    walrus, again = load(source), load(target)
    assert again.config == walrus.config
    assert same_bits(again, walrus)
    assert torch.equal(output(again), output(walrus))
    metadata = read_metadata(target)
    assert metadata["source"] == str(source) and metadata["format_version"] == "2"
    assert metadata["model_id"] == model_id(walrus) == model_id(again)
    assert [path.name for path in target.parent.iterdir()] == ["walrus.safetensors"]
    assert main(["convert", str(target), str(tmp_path / "twice.safetensors")]) == 0
    assert same_bits(load(tmp_path / "twice.safetensors"), walrus)


def test_any_walrus_is_saved_and_loaded(tmp_path):
    for walrus in (
        make(dimensions=(2,), rotary="per_axis", position=(8, 8, 1)),
        make("preview", mlp_dim=40).bfloat16(),
    ):
        save(randomize(walrus), tmp_path / "a.safetensors", {"data": "none"})
        again = load(tmp_path / "a.safetensors")
        assert again.config == walrus.config and same_bits(again, walrus)
    assert read_metadata(tmp_path / "a.safetensors")["data"] == "none"
    save(again, tmp_path / "b.safetensors", {"data": "none"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_model_id_names_the_weights():
    walrus = make()
    name = model_id(walrus)
    assert len(name) == 16 and name == model_id(make())
    assert model_id(make().bfloat16()) == name
    assert model_id(make(n_steps_input=4)) != name
    x = fields(1, 2, 1, 16, 16, 1)
    walrus.train()(x, [3], MIXED).abs().mean().backward()
    torch.optim.SGD(walrus.parameters(), lr=1e-2).step()
    assert model_id(walrus) != name


@torch.no_grad()
def test_gains_are_folded(tmp_path):
    d = torch.linspace(-1, 2, 64)
    ones, zeros = torch.ones(64), torch.zeros(64)
    time, space = "blocks.0.time_mixing.gamma", "blocks.0.space_mixing.gamma_att"

    def first_block(time_gain, space_gain):
        walrus = load(published(tmp_path, "preview", **{time: time_gain, space: space_gain}))
        h, context = walrus.encode(fields(1, 2, 2, 32, 32, 1), [0, 4], MIXED)
        return h, walrus.run_blocks(h, context, stop=1)

    h, still = first_block(zeros, zeros)
    assert torch.equal(h, still)
    _, timed = first_block(ones, zeros)
    torch.testing.assert_close(first_block(d, zeros)[1] - h, (timed - h) * d, rtol=1e-4, atol=1e-5)
    _, spaced = first_block(zeros, ones)
    torch.testing.assert_close(first_block(zeros, d)[1] - h, (spaced - h) * d, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_gain_on_the_input_is_folded(tmp_path):
    x = fields(1, 2, 2, 32, 32, 1)
    plain = load(published(tmp_path / "a"))
    for shape in ((), (1,)):
        doubled = load(published(tmp_path / "b", encoder_dummy=torch.full(shape, 2.0)))
        torch.testing.assert_close(doubled(x, [3, 4], MIXED), plain(2 * x, [3, 4], MIXED), rtol=1e-4, atol=1e-4)
    assert same_bits(load(published(tmp_path / "c", encoder_dummy=None)), plain)


def test_what_fine_tuned_models_may_hold(tmp_path):
    freqs = "blocks.{}.space_mixing.rotary_emb.freqs"
    formula = rotary_frequencies(16)
    plain = load(published(tmp_path / "plain"))
    absent = load(published(tmp_path / "absent", **{freqs.format(i): None for i in range(2)}))
    assert same_bits(plain, absent) and absent.config.rotary == "fixed"

    shared = load(published(tmp_path / "shared", **{freqs.format(i): formula * 1.1 for i in range(2)}))
    assert shared.config.rotary == "shared"
    assert torch.equal(shared.blocks[1].space.frequencies, (formula * 1.1)[None])
    assert not torch.allclose(output(shared), output(plain))

    per_axis = {freqs.format(i): None for i in range(2)}
    per_axis |= {freqs.format(i) + f".{axis}": formula for i in range(2) for axis in range(3)}
    own = load(published(tmp_path / "own", **per_axis))
    assert own.config.rotary == "per_axis"
    torch.testing.assert_close(output(own), output(plain))

    ape = golden.recipe("ape", (1, 1, 64, 32, 32, 1))
    placed = load(published(tmp_path / "ape", ape=ape))
    assert placed.config.position == (32, 32, 1)
    x = fields(1, 2, 1, 32, 32, 1)
    periodic = ((2, 2),) * 3
    with torch.no_grad():
        difference = placed.encode(x, [3], periodic)[0] - plain.encode(x, [3], periodic)[0]
        torch.testing.assert_close(difference[0, 0], ape[0, 0].permute(1, 2, 3, 0), rtol=1e-5, atol=1e-5)
        with pytest.raises(PhysteerError, match=r"absolute position is for \(32, 32, 1\) tokens"):
            placed.encode(fields(1, 2, 1, 64, 16, 16), [3], periodic)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.1.space_mixing.attn_out.weight": None}, "lacks tensors this model needs: blocks.1.space_mixing.attn"),
        ({"embed.2.proj2.weight": None}, "lacks tensors this model needs: embed.2.proj2.weight"),
        ({"blocks.1.mystery": torch.ones(3)}, "holds unknown tensors: blocks.1.mystery"),
        ({"blocks.2.mystery": torch.ones(3)}, "says n_blocks is 2; the checkpoint's tensors say 3"),
        ({"debed.3.proj2.bias": torch.ones(11)}, r"another shape: debed.3.proj2.bias is \[11\], not \[12\]"),
        ({"embed.2.proj1.weight": torch.ones(11)}, r"embed.2.proj1.weight is \[11\]; expected 5 dimensions"),
        ({"debed.3.proj2.bias": torch.ones(12, dtype=torch.long)}, "debed.3.proj2.bias is not a tensor of floating"),
        ({"encoder_dummy": torch.ones(2)}, r"encoder_dummy is \[2\], not \[1\]"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, changes, message):
    with pytest.raises(PhysteerError, match=message):
        load(published(tmp_path, **changes))


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("model", {"hidden_dim": 128}, "says hidden_dim is 128; the checkpoint's tensors say 64"),
        ("model.processor.space_mixing", {"num_heads": 8}, "says n_heads is 8; the checkpoint's tensors say 4"),
        ("model.processor.time_mixing", {"num_heads": 2}, "time_mixing.num_heads is 2; expected 4"),
        ("model.processor.time_mixing", {"bias_type": "alibi"}, "bias_type is alibi; Walrus is built for rel"),
        ("model.encoder", {"activation": "torch.nn.GELU"}, "activation is torch.nn.GELU"),
        ("model.encoder", {"base_kernel_size3d": [[4, 4]] * 3}, "base_kernel_size3d"),
        ("trainer", {"prediction_type": "full"}, "prediction_type is full; Walrus is built for delta"),
        ("data.field_index_map_override", {"smoke": 12}, "gives field 'smoke' the index 12; the model has 12 states"),
        ("data", {"field_index_map_override": None}, "has 12 states and no vocabulary"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, section, changes, message):
    with pytest.raises(PhysteerError, match=message):
        load(with_extended(tmp_path, section, **changes))


def test_the_vocabulary_of_the_configuration_wins(tmp_path):
    walrus = load(with_extended(tmp_path, "data", field_index_map_override={"smoke": 5, "pressure": 3, "p": 3}))
    assert walrus.config.labels(["smoke", "pressure"]) == (5, 3)
    with pytest.raises(PhysteerError, match="'velocity_x' is not in the model's vocabulary"):
        walrus.config.labels(["velocity_x"])


def test_a_configuration_may_lie_elsewhere(tmp_path):
    path = published(tmp_path / "a")
    elsewhere = (tmp_path / "a" / "extended_config.yaml").rename(tmp_path / "b.yaml")
    with pytest.raises(PhysteerError, match="has 12 states and no vocabulary"):
        load(path)
    assert load(path, elsewhere).config.fields == RELEASED_FIELDS[:12]
    elsewhere.write_text("model: [1\n")
    with pytest.raises(PhysteerError, match=r"b.yaml, line 2, column 1 is not YAML"):
        load(path, elsewhere)
    elsewhere.write_text("trainer: {}\n")
    with pytest.raises(PhysteerError, match="no 'model' section"):
        load(path, elsewhere)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    touched = tmp_path / "touched"
    torch.save({"app": {"model": {"a": torch.ones(1)}, "extra": Bomb(touched)}}, tmp_path / "zip.pt")
    torch.save({"app": Bomb(touched)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(touched)))
    for name in ("zip.pt", "old.pth", "plain.pt"):
        target = tmp_path / "out.safetensors"
        assert main(["convert", str(tmp_path / name), str(target)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and "holds more than tensors and was not opened" in lines[0], lines
        assert not target.exists() and not touched.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = published(tmp_path)
    ours = tmp_path / "ours.safetensors"
    save(load(path), ours)
    for file in (path, ours):
        whole = file.read_bytes()
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(PhysteerError, match="is not a whole") as error:
            load(file)
        assert "\n" not in str(error.value)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(PhysteerError, match=r"checkpoint .*none.pt does not exist"):
        load(tmp_path / "none.pt")
    with pytest.raises(PhysteerError, match=r"holds no weights"):
        load(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(PhysteerError, match=r"is not one of .safetensors, .pt, .pth"):
        load(tmp_path / "a.bin")
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(PhysteerError, match=r"no \['app'\]\['model'\] state dictionary; it holds state_dict, epoch"):
        load(tmp_path / "a.pt")
    torch.save({"app": {"model": {"layer.weight": torch.ones(1)}}}, tmp_path / "a.pt")
    with pytest.raises(PhysteerError, match=r"is not a Walrus: .* among layer.weight"):
        load(tmp_path / "a.pt")
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(PhysteerError, match="is not a physteer Walrus: its header holds nothing"):
        load(tmp_path / "b.safetensors")
    (tmp_path / "c.pt").write_bytes(b"")
    with pytest.raises(PhysteerError, match=r"several weight files, name one of a.pt, b.safetensors, c.pt"):
        load(tmp_path)
    with pytest.raises(PhysteerError, match="no model 'walrs' ships with physteer"):
        load("physteer://walrs")
    with pytest.raises(PhysteerError, match="not of the form hf://owner/repo"):
        load("hf://walrus")
    with pytest.raises(PhysteerError, match=r"weights are written as .safetensors"):
        save(make(), tmp_path / "a.pt")


def test_our_files_are_checked_too(tmp_path):
    path = tmp_path / "a.safetensors"
    save(make(), path)
    tensors, metadata = load_file(path), read_metadata(path)

    def write(tensors, metadata):
        metadata = metadata | {"checksum": content_digest(metadata, tensors)}
        save_file(tensors, path, {"physteer.walrus": json.dumps(metadata)})

    write(tensors | {"extra": torch.ones(1)}, metadata)
    with pytest.raises(PhysteerError, match="holds unknown tensors: extra"):
        load(path)
    write(tensors, metadata | {"format_version": "3"})
    with pytest.raises(PhysteerError, match="format version '3'; this physteer reads 1 and 2"):
        load(path)
    write(tensors, metadata | {"config": '{"colour": 1}'})
    with pytest.raises(PhysteerError, match=r"no configuration this physteer can read: .*colour"):
        load(path)


@pytest.mark.parametrize("absent", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=str)
def test_a_checkpoint_on_the_hub(tmp_path, absent):
    """A folder in the hub's cache format: what a second run sees in offline mode, and where the hub does not answer."""
    repo = tmp_path / "hub" / "models--polymathic-ai--walrus"
    snapshot = repo / "snapshots" / ("0" * 40)
    published(snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path), **absent}
    script = (
        "import sys; from physteer.cli import main; from physteer.walrus import load, model_id\n"
        "ends = '', '@main', '/walrus.pt', '@main/walrus.pt'\n"
        "ids = {model_id(load('hf://polymathic-ai/walrus' + end)) for end in ends}\n"
        "print(*ids)\n"
        "sys.exit(sum(main(['convert', name, 'never.safetensors']) == 2 for name in\n"
        "         ('hf://polymathic-ai/other', 'hf://polymathic-ai/walrus@v2', 'hf://polymathic-ai/walrus/none.pt')))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == [model_id(load(snapshot))], done.stderr
    assert done.returncode == 3
    assert done.stderr.count("is not in the local cache") == 3 and "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3 and all("HF_HUB_OFFLINE=1" in line for line in lines)
    commands = [
        line.partition("run `")[2].partition("`")[0].removeprefix("hf download polymathic-ai/") for line in lines
    ]
    assert commands == ["other", "walrus --revision v2", "walrus none.pt extended_config.yaml"]


def test_a_folder_of_a_distributed_checkpoint(tmp_path):
    folder = tmp_path / "run" / "step_100"
    dcp.save({"app": {"model": {"weight": torch.ones(3)}}}, checkpoint_id=folder, no_dist=True)
    sentence = r"distributed checkpoint: make it one file with `(.*)` and give that"
    for path in (folder, folder / ".metadata", folder / "__0_0.distcp"):
        with pytest.raises(PhysteerError, match=sentence) as error:
            load(path)
    with pytest.raises(PhysteerError, match=r"run holds distributed checkpoints \(step_100\): give one of them"):
        load(tmp_path / "run")
    words = shlex.split(re.search(sentence, str(error.value))[1])
    assert subprocess.run([sys.executable, *words[1:]], capture_output=True).returncode == 0
    with pytest.raises(PhysteerError, match=r"not a Walrus: .* among weight"):  # it is one file now
        load(f"{folder}.pt")
