"""Every kind of our files, changed at random: it loads, or one line says what is wrong; nothing large is ever made."""

from __future__ import annotations

import dataclasses
import json
import random
import resource
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.emulators import emulator
from helpers.experiments import random_walrus
from safetensors import safe_open
from safetensors.torch import save_file

from physteer.analyses.probing.trajectory_maps import TrajectoryMaps
from physteer.callbacks.journal import _read as read_journal
from physteer.concepts import (
    CausalBasis,
    ClassProbe,
    Concept,
    ConceptSubspace,
    LeaceEraser,
    Naturalness,
    NaturalSpace,
    RidgeProbes,
)
from physteer.errors import PhysteerError
from physteer.forecast.emulator_weights import load_weights, save_weights
from physteer.tables import read_rows, write_rows
from physteer.tensor_files import write_tensors
from physteer.testing.planted_weights import load_planted, read_planted, write_planted
from physteer.untrusted.safetensors_files import CHECKSUM, content_digest
from physteer.walrus import load, save

EYE = torch.eye(6, 2, dtype=torch.float64)
MEAN = torch.zeros(6, dtype=torch.float64)
ENERGIES = torch.tensor([2.0, 1.0], dtype=torch.float64)
FITTED = (torch.ones(1, 6, 2), torch.ones(1, 2))
MAPS = (torch.ones(2, 3, 4, 1, 1, 1), torch.ones(3, 4, 1, 1, 1), torch.ones(2, 2, 4), torch.ones(2, 4))
CONTENTS = [
    Concept(torch.ones(2, 2, 1, 6), "blocks.1", counts={"feature": 3}),
    ConceptSubspace(EYE, "blocks.1"),
    RidgeProbes(*FITTED, torch.ones(1, 2), ("a", "b"), 9),
    ClassProbe(*FITTED, torch.ones(1), "Reynolds", (1.0, 2.0), 9),
    LeaceEraser(MEAN, EYE, EYE.clone(), ("a",), 9),
    CausalBasis(EYE, EYE.clone(), MEAN, ENERGIES, "blocks.1", rises=(0.0, 0.1), frames=(2,)),
    TrajectoryMaps("t", "full", ("blocks.1", "blocks.2"), ("a", "b", "c"), ("a", "b"), torch.arange(4), *MAPS),
    Naturalness(NaturalSpace(MEAN, EYE, ENERGIES, 0.5, 10), ENERGIES.flip(0), ENERGIES.flip(0), "blocks.1"),
]
HOSTILE = [None, True, -1, 0, 10**9, 10**30, 0.5, float("nan"), float("inf"), "", "x" * 1000, [], [None], {}, {"a": []}]
TEXTS = ["", "[]", "3", "null", "{", "[" * 100_000, '{"version": 1e999}', '{"version": NaN}', '{"a": ' * 5000]


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    step: int
    value: float


@pytest.fixture(params=[*(type(content).__name__ for content in CONTENTS), "walrus", "planted", "journal", "emulator"])
def kind(request, tmp_path):
    """A file of every kind and what reads it."""
    path = tmp_path / "file.safetensors"
    if request.param == "walrus":
        save(random_walrus(), path)
        return path, load
    if request.param == "emulator":
        save_weights(emulator("FNO"), path, {"steps": "1"})
        return path, lambda path: load_weights(emulator("FNO"), path)
    if request.param == "planted":
        write_planted(path, load_planted("recall"))
        return path, read_planted
    if request.param == "journal":
        write_tensors(path, "journal", 1, {"Capture 0/sum": torch.ones(3)}, {"windows": ["a", "b"]})
        return path, read_journal
    content = next(content for content in CONTENTS if type(content).__name__ == request.param)
    content.save(path)
    return path, type(content).load


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """Read a file; return the one line it is refused with, or nothing."""
    try:
        read(path)
    except PhysteerError as error:
        assert path.name in str(error) or "checkpoint" in str(error), error
        assert "\n" not in str(error) and len(str(error)) < 700
        return str(error)
    return ""


def is_optional(name: str, tensor: torch.Tensor) -> bool:
    """Whether a file may lack a tensor: an empty one of a basis, or a callback's sum in a journal."""
    return not tensor.numel() or name.startswith("Capture")


@pytest.fixture(autouse=True)
def little_memory():
    """A test that makes something large fails."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10  # KiB


def test_changed_bytes(kind):
    path, read = kind
    whole = path.read_bytes()
    draw = random.Random(0)
    header = int.from_bytes(whole[:8], "little") + 8
    assert outcome(read, path) == ""
    for trial in range(60):
        damaged = bytearray(whole)
        place = draw.randrange(header) if trial % 2 else draw.randrange(header, len(whole))
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        refused = outcome(read, path)
        assert refused or place < header, place  # not one bit of a tensor changes unnoticed
    for cut in (0, 7, 8, header // 2, header, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "is not a whole safetensors file" in outcome(read, path)
    for declared in (2**63, 2**40, len(whole)):
        path.write_bytes(declared.to_bytes(8, "little") + whole[8:])
        assert outcome(read, path)


def test_changed_descriptions_with_a_right_checksum(kind):
    path, read = kind
    with safe_open(path, framework="pt") as file:
        ((key, text),) = file.metadata().items()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    header = json.loads(text)
    is_walrus = "config" in header
    config = json.loads(header["config"]) if is_walrus else header

    def written(config, tensors):
        changed = {**header, "config": json.dumps(config)} if is_walrus else dict(config)
        changed[CHECKSUM] = content_digest(changed, tensors)
        save_file(tensors, path, {key: json.dumps(changed)})
        return outcome(read, path)

    assert written(config, tensors) == ""
    for name in config:
        written({other: value for other, value in config.items() if other != name}, tensors)
        for value in HOSTILE:
            written({**config, name: value}, tensors)
    for name, tensor in [*tensors.items()][:6]:
        assert written(config, {other: one for other, one in tensors.items() if other != name}) or is_optional(
            name, tensor
        )
        for changed in (tensor[None], tensor.bool(), tensor.to(torch.complex64), tensor * torch.nan, tensor[:0]):
            written(config, {**tensors, name: changed.contiguous()})
        written(config, {**tensors, name: torch.empty(0, 2**40, dtype=tensor.dtype)})
    for text in TEXTS:
        save_file(tensors, path, {key: text})
        assert outcome(read, path)


def test_changed_tables(tmp_path):
    def read(path):
        return read_rows(path.with_suffix(""), Row)

    path = write_rows(tmp_path / "table", Row, [Row(f"row {i}", i, i / 7) for i in range(50)])
    whole, rows = path.read_bytes(), read(path)
    draw = random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        outcome(read, path)
    for content in (b"", b"PAR1", whole[:100], whole[:-1], b"PAR1" * 1000):
        path.write_bytes(content)
        assert outcome(read, path)
    pq.write_table(pa.table({"name": ["a", None], "step": [1, 2], "value": [1.0, 2.0]}), path)
    assert "values of name that are not str" in outcome(read, path)
    same = pa.table({"name": pa.repeat("a", 10**6), "step": pa.repeat(1, 10**6), "value": pa.repeat(0.5, 10**6)})
    with pq.ParquetWriter(path, same.schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(same)
    assert "it declares 10000000 rows of 3 columns" in outcome(read, path)
    assert rows[49] == Row("row 49", 49, 7.0)
