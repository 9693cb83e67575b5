"""The published `extended_config.yaml` (OmegaConf), as far as it says what a checkpoint's network is."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physteer.errors import PhysteerError
from physteer.untrusted.yaml_text import read_yaml

FILE_NAME = "extended_config.yaml"


@dataclass(frozen=True)
class ExtendedConfig:
    """The parts of a training configuration that its tensors do not tell, and the sizes they must agree with."""

    sizes: Mapping[str, int]
    """Sizes by their name in `WalrusConfig`, where the file gives them."""
    causal_in_time: bool
    """Frames attend to earlier frames only."""
    jitter: bool
    """The model was trained and published with random shifts."""
    n_steps_input: int
    """Input frames."""
    vocabulary: Mapping[str, int]
    """Field name → index; empty where the file has none."""


SIZES = {
    "hidden_dim": ("model.hidden_dim",),
    "intermediate_dim": ("model.intermediate_dim",),
    "projection_dim": ("model.projection_dim",),
    "n_blocks": ("model.processor_blocks",),
    "n_heads": ("model.processor.space_mixing.num_heads", "model.processor.time_mixing.num_heads"),
    "mlp_dim": ("model.processor.space_mixing.mlp_dim",),
}
"""Our name of each size → where the file gives it."""


def read_extended_config(path: Path) -> ExtendedConfig:
    """Read the file.

    Raises:
        PhysteerError: It is not YAML, has no `model`, or describes a network other than Walrus's.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise PhysteerError(f"{path} has no 'model' section; is it the checkpoint's {FILE_NAME}?")

    def get(key: str, default: Any = None) -> Any:
        return _lookup(tree, key, default)

    expected: tuple[tuple[str, Any], ...] = (
        ("model.processor.time_mixing.bias_type", "rel"),
        ("model.encoder.base_kernel_size3d", [[8, 4]] * 3),
        ("trainer.prediction_type", "delta"),
    )
    for key, wanted in expected:
        if (found := get(key, wanted)) != wanted:
            raise PhysteerError(f"{path}: {key} is {_short(found)}; Walrus is built for {wanted}")
    for key, found in _activations(tree["model"], "model"):
        if found.rpartition(".")[2] != "SiLU":
            raise PhysteerError(f"{path}: {key} is {_short(found)}; Walrus is built for torch.nn.SiLU")

    sizes: dict[str, int] = {}
    for name, keys in SIZES.items():
        for key in keys:
            if (size := get(key)) is not None:
                if not _is_size(size) or sizes.get(name, size) != size:
                    wanted = sizes.get(name, "a whole number of at least 1")
                    raise PhysteerError(f"{path}: {key} is {_short(size)}; expected {wanted}")
                sizes[name] = size
    vocabulary = get("data.field_index_map_override") or {}
    if not isinstance(vocabulary, dict) or not all(
        isinstance(name, str) and type(index) is int for name, index in vocabulary.items()
    ):
        raise PhysteerError(f"{path}: data.field_index_map_override must map field names to whole numbers")
    n_steps_input = get("data.module_parameters.n_steps_input", 6)
    if not _is_size(n_steps_input):
        raise PhysteerError(
            f"{path}: data.module_parameters.n_steps_input is {_short(n_steps_input)}; expected a whole number of at "
            "least 1"
        )
    return ExtendedConfig(
        sizes=sizes,
        causal_in_time=bool(get("model.causal_in_time", True)),
        jitter=bool(get("model.jitter_patches", True)),
        n_steps_input=n_steps_input,
        vocabulary=vocabulary,
    )


def _lookup(tree: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return the value at a dotted key, following OmegaConf's `${other.key}`."""
    value: Any = tree
    for _ in range(10):  # references to references; a circle ends as its text
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if reference is None:
            break
        key, value = reference[1], tree
    return value


def _activations(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every class path given as an `activation` below a node."""
    if not isinstance(node, Mapping):
        return
    for name, child in node.items():
        here = f"{path}.{name}"
        if name == "activation":
            found = child.get("_target_") if isinstance(child, Mapping) else child
            if isinstance(found, str) and not found.startswith("${"):
                yield here, found
        else:
            yield from _activations(child, here)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1


def _short(value: Any) -> str:
    """Return a value of the file in at most 60 characters."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
