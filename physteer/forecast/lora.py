"""Low-rank adapters (LoRA) on a network: injected to be trained, or merged into its weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from physteer.errors import PhysteerError, did_you_mean
from physteer.forecast.lora_files import LoraAdapter, LoraLayer, read_adapter, write_adapter
from physteer.interventions import path_pattern

_RAW_WEIGHTS = (nn.MultiheadAttention,)
"""Modules that take the weights of their Linear layers without calling them: an adapter there would do nothing."""


@dataclass(frozen=True)
class LoraSettings:
    """What an adapter is made of; the names are those of LoRA's paper (Hu et al., 2021) and of peft."""

    rank: int
    """r, the rows of A and the columns of B."""
    alpha: float
    """α: the layer's output changes by (α / r) B A x."""
    dropout: float
    """Share of the inputs of A that is set to 0 in training."""
    layers: tuple[str, ...]
    """Paths of the Linear layers that get an A and a B."""

    @property
    def of_the_checkpoint(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that reads it, beside the shapes of its tensors."""
        return {"rank": self.rank, "alpha": self.alpha}


@dataclass(frozen=True)
class InjectedLora:
    """An adapter that is part of a network, beside frozen weights."""

    settings: LoraSettings
    base: str
    """`Forecaster.identity` of the network without it."""
    parameters: frozenset[str]
    """Names of the adapter's parameters in the network; all others are frozen."""


def linear_layers(network: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the paths of the Linear layers that patterns name, in the network's order.

    Args:
        network: any; layers inside `nn.MultiheadAttention`, which never calls them, are left out.
        patterns: paths of layers or of what holds them, such as ``blocks`` or ``blocks.*.time.q``; ``*`` stands for
            one part of a path.

    Raises:
        PhysteerError: A pattern names no Linear layer.
    """
    raw = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, _RAW_WEIGHTS))
    linear = [
        name for name, module in network.named_modules() if isinstance(module, nn.Linear) and not name.startswith(raw)
    ]
    chosen: set[str] = set()
    for pattern in patterns:
        path = path_pattern(pattern)
        named = {name for name in linear if (match := path.match(name)) and name[match.end() :][:1] in ("", ".")}
        if not named:
            close = did_you_mean(pattern.replace("*", "0"), linear)
            example = f"; it has {', '.join(linear[:3])}{' …' if len(linear) > 3 else ''}" if linear else ""
            raise PhysteerError(
                f"LoRA.target_modules: {pattern!r} names no Linear layer of {type(network).__name__}{close or example}"
            )
        chosen |= named
    return tuple(name for name in linear if name in chosen)


def inject(network: nn.Module, settings: LoraSettings, base: str, seed: int) -> InjectedLora:
    """Add an adapter to a network through peft: B = 0, so that nothing changes until it is trained.

    Every module keeps its path, so that sites, edits and layouts stay as they are. The rest of the network is frozen.

    Args:
        network: changed in place.
        settings: of the adapter.
        base: `Forecaster.identity` of the network as it is.
        seed: of the values of A.

    Raises:
        PhysteerError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise PhysteerError("LoRA needs the package peft; install it with: pip install 'physteer[lora]'")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number, though declared whole
        lora_dropout=settings.dropout,
        target_modules=list(settings.layers),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)
    for module in network.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # else evaluation takes a fast path, on the raw weights of its layers
    trained = frozenset(name for name, parameter in network.named_parameters() if parameter.requires_grad)
    return InjectedLora(settings, base, trained)


def write_injected(network: nn.Module, injected: InjectedLora, folder: Path) -> None:
    """Write an injected adapter as a folder in peft's format (`write_adapter`)."""
    layers = {}
    for name in injected.settings.layers:
        a, b = (network.get_parameter(f"{name}.{part}.default.weight").detach() for part in ("lora_A", "lora_B"))
        layers[name] = LoraLayer(a, b, injected.settings.alpha)
    write_adapter(folder, LoraAdapter(layers, injected.base), injected.settings.rank, injected.settings.dropout)


def merge_lora(network: nn.Module, folder: str | Path, identity: str) -> str:
    """Put a trained adapter into the weights of a network: W becomes W + (α / r) B A.

    The network keeps its modules, so that sites, edits, replay and searches see an ordinary one. The sum is computed in
    float32 and rounded to the weight's dtype. Where α or B is 0, the weight stays as it is, bit for bit.

    Args:
        network: changed in place.
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``, as peft and `physteer fit` write them.
        identity: `Forecaster.identity` of the network as it is.

    Returns:
        16 hexadecimal digits that name the adapter. An identity that is not a hash of all weights must contain them.

    Raises:
        PhysteerError: The folder holds no such adapter, or one of another network.
    """
    adapter = read_adapter(folder)
    if adapter.base and adapter.base != identity:
        raise PhysteerError(f"the adapter {folder} was trained on model {adapter.base}; this model is {identity}")
    weights = {name: module.weight for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    for name, layer in adapter.layers.items():
        if name not in weights:
            close = did_you_mean(name, weights)
            raise PhysteerError(
                f"the adapter {folder} does not fit: {type(network).__name__} has no Linear layer {name}{close}"
            )
        wanted, found = list(weights[name].shape), [layer.b.shape[0], layer.a.shape[1]]
        if wanted != found:
            raise PhysteerError(
                f"the adapter {folder} does not fit: it changes {name} by {found}; its weight is {wanted}"
            )
    with torch.no_grad():
        for name, layer in adapter.layers.items():
            change, weight = layer.change(), weights[name]
            if not bool(change.isfinite().all()):
                raise PhysteerError(f"the adapter {folder} has values at {name} that are not finite")
            if bool(change.any()):
                weight.copy_(weight.float() + change.to(weight.device))
    return adapter.digest
