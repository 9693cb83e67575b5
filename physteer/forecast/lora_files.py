"""Folders of LoRA adapters in peft's format: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.files import atomic_write, reason
from physteer.untrusted.json_text import json_object
from physteer.untrusted.safetensors_files import content_digest, opened, tensors_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_MOST_BYTES = 2**20
"""Of a configuration; one that names every layer of a large model has some ten thousand."""
_HEADER = "physteer.lora"
"""The key of our metadata in the safetensors header; adapters of others have none."""
_PREFIX = "base_model.model."
"""Of a tensor's name in files of peft's ``PeftModel``."""
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "init_lora_weights": (True, "gaussian", "orthogonal", "eva"),  # others change the weights that they start from
    **dict.fromkeys(("use_dora", "use_qalora", "lora_bias"), (False,)),
    **dict.fromkeys(("modules_to_save", "trainable_token_indices", "layer_replication"), ()),
    **dict.fromkeys(("target_parameters", "use_bdlora", "arrow_config", "kasa_config", "velora_config"), ()),
    **dict.fromkeys(("alora_invocation_tokens", "monteclora_config", "megatron_config"), ()),
}
"""Settings under which an adapter is more than W + (α / r) B A, and the values under which it is not; null is one."""


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """The adapter of one Linear layer; the layer's weight is [m, n]."""

    a: Tensor
    """A, [r, n]."""
    b: Tensor
    """B, [m, r]."""
    alpha: float
    """α."""
    root: bool = False
    """Whether α is divided by √r (rank-stabilised LoRA) instead of r."""

    @property
    def scale(self) -> float:
        """What B A is multiplied with, α / r or α / √r."""
        rank = self.a.shape[0]
        return self.alpha / (math.sqrt(rank) if self.root else rank)

    def change(self) -> Tensor:
        """Return what is added to the weight, [m, n], float32 on the CPU."""
        return self.scale * (self.b.to("cpu", torch.float32) @ self.a.to("cpu", torch.float32))


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """The adapters of some layers of a network."""

    layers: Mapping[str, LoraLayer] = field(repr=False)
    """By the layer's path."""
    base: str | None = None
    """`Forecaster.identity` of the network it was trained on; None where that is unknown."""

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits: the same for the same matrices and scales, whoever wrote the files."""
        tensors = {f"{name} {part}": getattr(layer, part) for name, layer in self.layers.items() for part in "ab"}
        scales = {name: layer.scale for name, layer in self.layers.items()}
        return content_digest(scales, {name: tensor.detach().cpu() for name, tensor in tensors.items()})[:16]


def write_adapter(folder: Path, adapter: LoraAdapter, rank: int, dropout: float) -> None:
    """Write an adapter whose layers have one rank and one α.

    The configuration is written last and an older one is removed first: a folder that has one is whole.

    Raises:
        PhysteerError: It cannot be written.
    """
    from peft import LoraConfig

    alpha = next(iter(adapter.layers.values())).alpha
    config = LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=sorted(adapter.layers),
        inference_mode=True,  # as peft writes it: whoever loads the adapter does not go on with training
    ).to_dict()  # type: ignore[no-untyped-call]
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    tensors = {}
    for name, layer in adapter.layers.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = layer.a.detach().cpu().contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = layer.b.detach().cpu().contiguous()
    content = save(tensors, {_HEADER: json.dumps({"base": adapter.base})})  # one key: several have a random order
    try:
        (folder / CONFIG).unlink(missing_ok=True)
    except OSError as error:
        raise PhysteerError(f"cannot write {folder / CONFIG}: {reason(error)}") from error
    with atomic_write(folder / WEIGHTS) as temporary:
        temporary.write_bytes(content)
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(plain, indent=2, sort_keys=True), encoding="utf-8")


def read_adapter(folder: str | Path) -> LoraAdapter:
    """Read an adapter that physteer or peft wrote. Nothing in it is run, and its patterns are not searched with.

    Raises:
        PhysteerError: The folder or a file is missing or damaged, weights are a pickle, or it is no plain LoRA.
    """
    folder = Path(folder).expanduser()
    if not (folder / CONFIG).is_file():
        held = "there is no such folder" if not folder.is_dir() else f"it holds no {CONFIG}"
        raise PhysteerError(f"{folder} is not the folder of a LoRA adapter: {held}")
    settings = _read_settings(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = f"; {_PICKLE} is a pickle, which may run code and is not read" if (folder / _PICKLE).exists() else ""
        raise PhysteerError(f"{folder} holds no {WEIGHTS}{pickled}: save the adapter as safetensors")
    with opened(path) as file:
        header = (file.metadata() or {}).get(_HEADER)
        tensors = tensors_of(file, path)
    base = json_object(header, f"the description in {path}").get("base") if header is not None else None
    if not (base is None or isinstance(base, str)):
        raise PhysteerError(f"the description in {path} names a base that is no text")
    return LoraAdapter(_layers(tensors, settings, path), base)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PhysteerError(f"{path} is larger than {_MOST_BYTES // 2**20} MiB, so no configuration of an adapter")
        settings = json_object(path.read_bytes(), str(path))
    except OSError as error:
        raise PhysteerError(f"cannot read {path}: {reason(error)}") from None
    if settings.get("peft_type") != "LORA":
        raise PhysteerError(f"{path} is of peft_type {settings.get('peft_type')!r:.40}; physteer reads LORA")
    for name, plain in _PLAIN.items():
        value = settings.get(name)
        if value and value not in plain:
            raise PhysteerError(f"{path} sets {name}: physteer reads plain LoRA, W + (α / r) B A, without it")
    if not isinstance(settings.get("use_rslora", False), bool):
        raise PhysteerError(f"{path}: use_rslora is {settings['use_rslora']!r:.40}, not true or false")
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = settings.get(name) or {}
        if not isinstance(patterns, dict) or not all(re.fullmatch(r"\^?[\w.]+\$?", key) for key in patterns):
            raise PhysteerError(f"{path}: {name} must give numbers by paths of modules, without other patterns")
    return settings


def _layers(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path) -> dict[str, LoraLayer]:
    """Return the layers of an adapter; the tensors say which they are, and the settings must agree."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(rf"(?:{re.escape(_PREFIX)})?(.{{1,500}})\.lora_([AB])(?:\.default)?\.weight", name)
        if match is None or tensor.ndim != 2 or not tensor.is_floating_point() or not tensor.numel():
            raise PhysteerError(
                f"{path} holds {name}, {list(tensor.shape)} of {tensor.dtype}: a plain adapter of Linear layers has "
                "matrices lora_A and lora_B alone"
            )
        parts.setdefault(match[1], {})[match[2]] = tensor
    if not parts:
        raise PhysteerError(f"{path} holds no tensors")
    ranks, alphas = (
        _Numbers(settings, *names, path) for names in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern"))
    )
    layers = {}
    for name, pair in parts.items():
        if len(pair) < 2:
            raise PhysteerError(f"{path}: {name} lacks its lora_{'B' if 'A' in pair else 'A'}")
        a, b, rank = pair["A"], pair["B"], ranks.of(name)
        if not a.shape[0] == b.shape[1] == rank:
            raise PhysteerError(
                f"{path}: at {name} A is {list(a.shape)} and B is {list(b.shape)}, and {CONFIG} says rank {rank:g}"
            )
        layers[name] = LoraLayer(a, b, alphas.of(name), settings.get("use_rslora", False))
    ends = {end for name in layers for end in _ends(name)}
    targets = settings.get("target_modules")
    for target in targets if isinstance(targets, list) else ():  # a text is a regular expression: the tensors decide
        if target not in ends:
            raise PhysteerError(f"{path} holds nothing for the target module {target!s:.100} of {CONFIG}")
    return layers


class _Numbers:
    """The rank or the α of every layer: of the first pattern that names it, else that of all."""

    def __init__(self, settings: Mapping[str, Any], name: str, patterns: str, path: Path) -> None:
        self._name, self._path, self._of_all = name, path.with_name(CONFIG), settings.get(name)
        stored = settings.get(patterns) or {}
        self._by_end = {pattern.removesuffix("$"): (i, value) for i, (pattern, value) in enumerate(stored.items())}

    def of(self, layer: str) -> float:
        """Return the number of a layer.

        Raises:
            PhysteerError: It is none.
        """
        ends = [*_ends(layer), f"^{layer}"]
        matching = [self._by_end[end] for end in ends if end in self._by_end]
        value = min(matching, key=lambda item: item[0])[1] if matching else self._of_all
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise PhysteerError(f"{self._path}: {self._name} of {layer} is {value!r:.40}, not a number")
        return float(value)


def _ends(path: str) -> list[str]:
    """Return a path and its ends, whole parts at a time: ``a.b.c``, ``b.c``, ``c``; peft names modules by them."""
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]
