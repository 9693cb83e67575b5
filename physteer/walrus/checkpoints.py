"""Loading and saving a Walrus: published checkpoints in, safetensors in and out."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import physteer
from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.untrusted.json_text import json_object
from physteer.untrusted.safetensors_files import CHECKSUM, check_digest, content_digest, opened, tensors_of
from physteer.untrusted.torch_files import load_tensors
from physteer.walrus.config import WalrusConfig
from physteer.walrus.extended_config import read_extended_config
from physteer.walrus.inference import infer_config
from physteer.walrus.network import Walrus
from physteer.walrus.published import assemble, check_keys, from_published
from physteer.walrus.sources import Source, locate

FORMAT_VERSION = 2
"""Files of format 1, from before the first release, are read too; they have no checksum."""
HEADER = "physteer.walrus"
"""The key of our metadata in a safetensors header."""


def load(source: str | Path, extended_config: str | Path | None = None) -> Walrus:
    """Load a Walrus, memory-mapped: weights that need no rearranging stay in the file and take no memory of their own.

    Our own files are read once to verify their checksum, at 1.3 GiB a second and core.

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
    state, config = _read_published(found, extended_config)
    return from_published(state, config)


def load_config(source: str | Path) -> WalrusConfig:
    """Read the architecture of a Walrus; its weights stay in the file.

    Args:
        source: As for `load`.

    Raises:
        PhysteerError: The file is missing, broken, holds code, or is not a Walrus.
    """
    found = locate(source)
    if found.weights.suffix == ".safetensors":
        with opened(found.weights) as file:
            return _config_of(read_metadata(found.weights), list(file.keys()), found.weights)
    with torch.device("cpu"):  # the few numbers that are read, on whatever device modules are being made
        return _read_published(found)[1]


def save(walrus: Walrus, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a Walrus as safetensors; the file is whole or not there.

    Args:
        walrus: What to write; parameters keep their dtype.
        path: Ends in `.safetensors`.
        metadata: Provenance (source, data, training); stored beside the format version, the configuration and the id.

    Raises:
        PhysteerError: The path is no `.safetensors`, or the network has parameters that a Walrus has not.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise PhysteerError(f"weights are written as .safetensors; found {path}")
    with torch.device("meta"):
        known = {name for name, _ in Walrus(walrus.config).named_parameters()}
    foreign = sorted({name for name, _ in walrus.named_parameters()} - known)
    if foreign:
        raise PhysteerError(
            f"{path} was not written: {foreign[0]} and {len(foreign) - 1} more are no weights of a Walrus; merge "
            "adapters that were injected first"
        )
    header = {
        **(metadata or {}),
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(dataclasses.asdict(walrus.config)),
        "model_id": model_id(walrus),
        **({"adapters": " ".join(walrus.adapters)} if walrus.adapters else {}),
        "written_by": f"physteer {physteer.__version__}",
    }
    parameters = {name: parameter.detach().cpu().contiguous() for name, parameter in walrus.named_parameters()}
    header[CHECKSUM] = content_digest(header, parameters)
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
    with opened(path) as file:
        stored: dict[str, str] = file.metadata() or {}
    if HEADER not in stored:
        held = ", ".join(stored) or "nothing"
        raise PhysteerError(f"{path} is not a physteer Walrus: its header holds {held}, not {HEADER!r}")
    metadata = json_object(stored[HEADER], f"the description in {path}")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise PhysteerError(f"the description in {path} holds values that are no text")
    version = metadata.get("format_version")
    if version not in ("1", str(FORMAT_VERSION)):
        raise PhysteerError(f"{path} has format version {version!r:.20}; this physteer reads 1 and {FORMAT_VERSION}")
    return metadata


def model_id(walrus: Walrus) -> str:
    """Return 16 hexadecimal digits that name these weights.

    The SHA-256 of the configuration and, per parameter, its name, shape and up to 64 evenly spaced values rounded to
    bfloat16: milliseconds for any size, the same for a published file and its conversion, on any device and for a copy
    cast to bfloat16; any training changes it. Adapters that were added to the weights count by their names, since small
    ones may change none of these values.
    """
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(walrus.config)).encode())
    for name, parameter in sorted(walrus.named_parameters()):
        digest.update(f"{name}{list(parameter.shape)}".encode())
        flat = parameter.detach().reshape(-1)
        places = torch.linspace(0, flat.numel() - 1, min(64, flat.numel()), dtype=torch.float64).long()
        values = flat[places.to(flat.device)].to("cpu", torch.bfloat16)
        digest.update(values.view(torch.int16).numpy().tobytes())
    for adapter in walrus.adapters:
        digest.update(f"adapter {adapter}".encode())
    return digest.hexdigest()[:16]


def read_published_state(path: Path) -> dict[str, Tensor]:
    """Read the state dictionary of a published checkpoint, memory-mapped; nothing in the file is executed.

    Raises:
        PhysteerError: The file is broken, holds anything but tensors and plain data, or has no `["app"]["model"]`.
    """
    state = load_tensors(path, "PyTorch checkpoint")
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


def _read_published(found: Source, extended_config: str | Path | None = None) -> tuple[dict[str, Tensor], WalrusConfig]:
    state = read_published_state(found.weights)
    yaml = Path(extended_config) if extended_config is not None else found.extended_config
    return state, infer_config(state, read_extended_config(yaml) if yaml else None)


def _config_of(metadata: Mapping[str, str], tensors: Iterable[str], path: Path) -> WalrusConfig:
    """Return the architecture that a file of ours declares, after a look at the names of its tensors."""
    try:
        config = WalrusConfig(**json_object(metadata.get("config", ""), "it"))
    except (PhysteerError, TypeError) as error:
        raise PhysteerError(f"{path} has no configuration this physteer can read: {str(error)[:300]}") from None
    # What the file declares must be in it before as many modules are made.
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    if len(blocks) != config.n_blocks:
        raise PhysteerError(f"{path}: its configuration says {config.n_blocks} blocks; it holds {len(blocks)}")
    return config


def _load_ours(path: Path) -> Walrus:
    metadata = read_metadata(path)
    with opened(path) as file:
        tensors = tensors_of(file, path)
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                raise PhysteerError(f"{path}: {name} is not a tensor of floating-point numbers, but of {tensor.dtype}")
        if metadata["format_version"] != "1":
            check_digest(metadata, tensors, path)
        config = _config_of(metadata, tensors, path)
        with torch.device("meta"):
            wanted = {name: tuple(parameter.shape) for name, parameter in Walrus(config).named_parameters()}
    check_keys(tensors, wanted, {})
    walrus = assemble(tensors, config)
    walrus.adapters = tuple(metadata.get("adapters", "").split())
    return walrus
