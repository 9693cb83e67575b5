"""Loading and saving a Walrus: published checkpoints in, safetensors in and out."""

import dataclasses
import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import physteer
from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.walrus.config import WalrusConfig
from physteer.walrus.extended_config import read_extended_config
from physteer.walrus.inference import infer_config
from physteer.walrus.network import Walrus
from physteer.walrus.published import assemble, check_keys, from_published
from physteer.walrus.sources import locate

FORMAT_VERSION = 1
HEADER = "physteer.walrus"
"""The key of our metadata in a safetensors header."""


def load(source: str | Path, extended_config: str | Path | None = None) -> Walrus:
    """Load a Walrus, memory-mapped: weights that need no rearranging stay in the file until they are read.

    Args:
        source: A published `.pt`/`.pth`, one of our `.safetensors`, a folder with either,
            `hf://owner/repo[@revision][/file]`, or `physteer://name` for a model that ships with physteer.
        extended_config: The published `extended_config.yaml`, where it does not lie beside the weights.

    Returns:
        The network on the CPU, in the stored dtype, in evaluation mode.

    Raises:
        PhysteerError: The file is missing, broken, holds code, or is not a Walrus; one line says what is wrong.
    """
    found = locate(source)
    if found.weights.suffix == ".safetensors":
        return _load_ours(found.weights)
    state = read_published_state(found.weights)
    yaml = Path(extended_config) if extended_config is not None else found.extended_config
    config = infer_config(state, read_extended_config(yaml) if yaml else None)
    return from_published(state, config)


def save(walrus: Walrus, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a Walrus as safetensors; the file is whole or not there.

    Args:
        walrus: What to write; parameters keep their dtype.
        path: Ends in `.safetensors`.
        metadata: Provenance (source, data, training); stored beside the format version, the configuration and the id.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise PhysteerError(f"weights are written as .safetensors; found {path}")
    header = {
        **(metadata or {}),
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(dataclasses.asdict(walrus.config)),
        "model_id": model_id(walrus),
        "written_by": f"physteer {physteer.__version__}",
    }
    parameters = {name: parameter.detach().contiguous() for name, parameter in walrus.named_parameters()}
    with atomic_write(path) as temporary:
        # One key: safetensors writes several in random order, and equal models should be equal files.
        try:
            save_file(parameters, temporary, {HEADER: json.dumps(header)})
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of one of our safetensors files: format version, configuration, id and provenance.

    Raises:
        PhysteerError: The file is broken, or not ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            stored: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise PhysteerError(f"{path} is not a whole safetensors file: {error}") from None
    if HEADER not in stored:
        held = ", ".join(stored) or "nothing"
        raise PhysteerError(f"{path} is not a physteer Walrus: its header holds {held}, not {HEADER!r}")
    metadata: dict[str, str] = json.loads(stored[HEADER])
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise PhysteerError(f"{path} has format version {version}; this physteer reads {FORMAT_VERSION}")
    return metadata


def model_id(walrus: Walrus) -> str:
    """Return 16 hexadecimal digits that name these weights.

    The SHA-256 of the configuration and, per parameter, its name, shape and up to 64 evenly spaced values rounded to
    bfloat16: milliseconds for any size, the same for a published file and its conversion, on any device and for a copy
    cast to bfloat16; any training changes it.
    """
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(walrus.config)).encode())
    for name, parameter in sorted(walrus.named_parameters()):
        digest.update(f"{name}{list(parameter.shape)}".encode())
        flat = parameter.detach().reshape(-1)
        places = torch.linspace(0, flat.numel() - 1, min(64, flat.numel()), dtype=torch.float64).long()
        values = flat[places.to(flat.device)].to("cpu", torch.bfloat16)
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def read_published_state(path: Path) -> dict[str, Tensor]:
    """Read the state dictionary of a published checkpoint, memory-mapped; nothing in the file is executed.

    Raises:
        PhysteerError: The file is broken, holds anything but tensors and plain data, or has no `["app"]["model"]`.
    """
    try:
        tree = _unpickle_tensors(path)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise PhysteerError(f"{path} holds more than tensors and was not opened: {reason}") from None
    except (RuntimeError, zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PhysteerError(f"{path} is not a whole PyTorch checkpoint: {reason}") from None
    state = tree
    for key in ("app", "model"):
        if not isinstance(state, Mapping) or key not in state:
            held = ", ".join(map(str, [*state][:4])) if isinstance(state, Mapping) else type(state).__name__
            raise PhysteerError(f"{path} has no ['app']['model'] state dictionary; it holds {held}")
        state = state[key]
    if not isinstance(state, Mapping):
        raise PhysteerError(f"{path}: ['app']['model'] is {type(state).__name__}, not a state dictionary")
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise PhysteerError(f"{path}: {key} is not a tensor of floating-point numbers")
    return dict(state)


def _unpickle_tensors(path: Path) -> Any:
    """`torch.load` of tensors only; files older than torch 1.6 are no zip archives and cannot be mapped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the unpickler's doubts about protocols: it opens a file or refuses it
        return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)


def _load_ours(path: Path) -> Walrus:
    metadata = read_metadata(path)
    try:
        config = WalrusConfig(**json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise PhysteerError(f"{path} has no configuration this physteer can read: {error}") from None
    with safe_open(path, framework="pt") as file:
        parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    with torch.device("meta"):
        wanted = {name: tuple(parameter.shape) for name, parameter in Walrus(config).named_parameters()}
    check_keys(parameters, wanted, {})
    return assemble(parameters, config)
