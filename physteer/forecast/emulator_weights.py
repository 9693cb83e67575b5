"""Weights of any network: our own safetensors files, and state dictionaries that others wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.forecast.checkpoint_keys import state_fault
from physteer.tensor_files import read_tensors, tensor_kind, write_tensors
from physteer.untrusted.safetensors_files import opened, tensors_of
from physteer.untrusted.torch_files import load_tensors

KIND, VERSION = "emulator weights", 1
_REAL = "real view of "
"""Begins the names of complex tensors, which are stored as pairs of real numbers."""


def save_weights(network: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Write a network's state dictionary as safetensors, whole or not at all.

    Args:
        network: any; its class is stored for the message when another one loads the file.
        path: ends in ``.safetensors``.
        metadata: where the weights come from.

    Raises:
        PhysteerError: The file has another ending, or cannot be written; or the state holds more than tensors.
    """
    if Path(path).suffix != ".safetensors":
        raise PhysteerError(f"weights are written as .safetensors; found {path}")
    stored = {}
    for name, tensor in tensors_alone(network).items():
        if tensor.is_complex():
            name, tensor = _REAL + name, torch.view_as_real(tensor.resolve_conj())
        stored[name] = tensor.clone()  # tied weights share memory, which safetensors refuses
    write_tensors(path, KIND, VERSION, stored, {"network": type(network).__qualname__, "metadata": dict(metadata)})


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load weights into a network.

    The file is one of `save_weights`, or a state dictionary as ``.safetensors`` or of `torch.save`.
    A state dictionary may be the whole file, or lie in it under ``state_dict``, ``model_state_dict`` or ``model``; all
    its names may have one more prefix than the network's, such as ``module.``, or one less. Nothing is unpickled but
    tensors.

    Raises:
        PhysteerError: There is no such file, it is damaged or holds code, or it does not fit the network.
    """
    path, wanted = Path(path), tensors_alone(network)
    made_by = ""
    if path.suffix == ".safetensors" and tensor_kind(path) == KIND.replace(" ", "_"):
        stored, described = read_tensors(path, KIND, VERSION)
        state: dict[str, Any] = {name.removeprefix(_REAL): _as_stored(name, tensor) for name, tensor in stored.items()}
        made_by = f" (weights of a {described.get('network')!s:.60})"
    elif path.suffix == ".safetensors":
        with opened(path) as file:
            state = tensors_of(file, path)
    else:
        state = _state_in(load_tensors(path, "checkpoint"), path)
    state = _without_prefix(state, wanted)
    fault = state_fault(state, wanted)
    if not fault:
        other = sorted(name for name in wanted if _numbers(wanted[name]) != _numbers(state[name]))
        fault = "".join(f"{name} is of {state[name].dtype}, not {wanted[name].dtype}" for name in other[:1])
    if fault:
        raise PhysteerError(f"{path}{made_by} does not fit {type(network).__name__} as it is set: {fault}")
    network.load_state_dict(state, assign=any(tensor.is_meta for tensor in wanted.values()))


def tensors_alone(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dictionary.

    Raises:
        PhysteerError: It holds more than tensors, so that checkpoints of it could not be read without running code.
    """
    state = network.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise PhysteerError(
                f"the state dictionary of {type(network).__name__} has {name!r}, a {type(value).__name__}: checkpoints "
                "hold tensors alone; drop it by register_state_dict_post_hook, or keep it as a buffer"
            )
    return dict(state)


def _state_in(content: Any, path: Path) -> dict[str, Any]:
    """Return the state dictionary of what a file of torch holds."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise PhysteerError(
            f"{path} holds no state dictionary: tensors by name, alone or under 'state_dict' or 'model'"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _without_prefix(state: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state whose names have the network's prefix, where that alone makes them all fit."""
    if not state or not wanted or state.keys() == wanted.keys():
        return state
    theirs, ours = min(state, key=len), min(wanted, key=len)
    for name in state:
        if name.endswith(f".{ours}"):
            prefix = name.removesuffix(ours)
            cut = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
            if cut.keys() == wanted.keys():  # beside the network, a training may have stored other modules
                return cut
    for name in wanted:
        if name.endswith(f".{theirs}"):
            longer = {name.removesuffix(theirs) + key: tensor for key, tensor in state.items()}
            if longer.keys() == wanted.keys():
                return longer
    return state


def _numbers(tensor: Tensor) -> str:
    """Return which numbers a tensor holds; of floating-point numbers any precision is loaded."""
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else str(tensor.dtype)


def _as_stored(name: str, tensor: Tensor) -> Tensor:
    if not name.startswith(_REAL):
        return tensor
    if tensor.shape[-1:] != (2,) or tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        raise PhysteerError(f"{name!r} is {list(tensor.shape)} of {tensor.dtype}, not pairs of real numbers")
    return torch.view_as_complex(tensor)
