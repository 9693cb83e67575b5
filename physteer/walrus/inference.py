"""What a published state dictionary says about the size of its network."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.walrus import vocabulary
from physteer.walrus.config import WalrusConfig
from physteer.walrus.extended_config import FILE_NAME, ExtendedConfig
from physteer.walrus.positions import rotary_frequencies


def infer_config(state: Mapping[str, Tensor], extended: ExtendedConfig | None) -> WalrusConfig:
    """Read the architecture off the tensors, the rest from the checkpoint's own configuration where there is one.

    Raises:
        PhysteerError: The tensors are not a Walrus's, disagree with the configuration, or their vocabulary is unknown.
    """

    def shape(key: str, ndim: int) -> tuple[int, ...]:
        if key not in state:
            raise PhysteerError(f"the checkpoint lacks tensors this model needs: {key}")
        if state[key].ndim != ndim:
            raise PhysteerError(f"the checkpoint's {key} is {list(state[key].shape)}; expected {ndim} dimensions")
        return tuple(state[key].shape)

    variant = "preview" if "space_bag.linear.weight" in state else "released"
    dimensions = tuple(n for n in (2, 3) if f"embed.{n}.proj1.weight" in state)
    blocks = {int(found[1]) for key in state if (found := re.match(r"blocks\.(\d{1,9})\.", key))}
    if not dimensions or not blocks:
        raise PhysteerError(
            f"the checkpoint is not a Walrus: no embed.2.proj1.weight or no blocks.0 among {', '.join([*state][:4])} …"
        )
    if len(blocks) <= max(blocks):
        absent = next(i for i in range(len(blocks) + 1) if i not in blocks)
        raise PhysteerError(f"the checkpoint lacks tensors this model needs: blocks.{absent} of {max(blocks) + 1}")
    d, inner = shape(f"embed.{dimensions[0]}.proj2.weight", 5)[:2]
    channels = shape(f"embed.{dimensions[0]}.proj1.weight", 5)[1]
    n_states = shape("space_bag.linear.weight", 2)[1] if variant == "preview" else channels
    ff_dim = shape("blocks.0.space_mixing.fused_ff_qkv.weight", 2)[0] - 3 * d
    sizes = {
        "hidden_dim": d,
        "intermediate_dim": inner,
        "n_blocks": len(blocks),
        "n_heads": shape("blocks.0.time_mixing.rel_pos_bias.relative_attention_bias.weight", 2)[1],
        "mlp_dim": ff_dim,
    }
    if variant == "preview":
        sizes["projection_dim"] = channels
    for name, size in (extended.sizes if extended else {}).items():
        if size != sizes.get(name, size):
            raise PhysteerError(f"{FILE_NAME} says {name} is {size}; the checkpoint's tensors say {sizes[name]}")
    names = _vocabulary(variant, n_states, extended.vocabulary if extended else {})
    return WalrusConfig(
        variant=variant,  # type: ignore[arg-type]
        fields=names,
        hidden_dim=d,
        intermediate_dim=inner,
        projection_dim=sizes.get("projection_dim", WalrusConfig.projection_dim),
        n_blocks=sizes["n_blocks"],
        n_heads=sizes["n_heads"],
        mlp_dim=None if ff_dim == 4 * d else ff_dim,
        causal_in_time=extended.causal_in_time if extended else True,
        dimensions=dimensions,
        n_steps_input=extended.n_steps_input if extended else WalrusConfig.n_steps_input,
        jitter=extended.jitter if extended else True,
        rotary=_rotary(state, d // sizes["n_heads"]),  # type: ignore[arg-type]
        position=shape("ape", 6)[3:] if "ape" in state else None,  # type: ignore[arg-type]
    )


def _rotary(state: Mapping[str, Tensor], head_dim: int) -> str:
    """Whether the rotary frequencies are the formula's or learned ones: a buffer and a parameter look the same."""
    formula = rotary_frequencies(head_dim)
    for key, tensor in state.items():
        if key.endswith("rotary_emb.freqs.0"):
            return "per_axis"
        if key.endswith("rotary_emb.freqs") and tensor.shape == formula.shape:
            stored = formula.to(tensor.dtype).float()
            if not torch.allclose(tensor.float(), stored, rtol=1e-6, atol=0):
                return "shared"
    return "fixed"


def _vocabulary(variant: str, n_states: int, override: Mapping[str, int]) -> tuple[str, ...]:
    """Names in index order: the checkpoint's own where it gives them, else the published ones."""
    published = vocabulary.RELEASED_FIELDS if variant == "released" else vocabulary.PREVIEW_FIELDS
    if n_states != len(published) and not override:
        raise PhysteerError(
            f"the checkpoint has {n_states} states and no vocabulary (published: {len(published)}); "
            f"put its {FILE_NAME} beside it or give it explicitly"
        )
    names = list(published) if n_states == len(published) else [f"unnamed_{i}" for i in range(n_states)]
    if variant == "released":
        names[: len(vocabulary.FLAGS)] = vocabulary.FLAGS
    taken: set[int] = set()
    for name, index in override.items():
        if not 0 <= index < n_states:
            raise PhysteerError(f"{FILE_NAME} gives field {name!r} the index {index}; the model has {n_states} states")
        if index in taken:  # several names of one state: the first is its name
            continue
        taken.add(index)
        if name in names and names.index(name) not in taken:
            names[names.index(name)] = f"unnamed_{names.index(name)}"
        names[index] = name
    return tuple(names)
