"""The published state dictionaries and our parameters: one table, read in one direction.

Published 1×1×1 convolutions are linear layers here, what is fused there (q, k, v and feed-forward) is a layer each
here, and the gains that only multiply a linear layer (`gamma`, `gamma_att`, `encoder_dummy`) are folded into it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.walrus import vocabulary
from physteer.walrus.config import WalrusConfig
from physteer.walrus.network import Walrus
from physteer.walrus.positions import RelativeTimeBias


@dataclass(frozen=True)
class Entry:
    """One published tensor and a parameter it becomes, whole or in part."""

    key: str
    """Name in the published state dictionary."""
    shape: tuple[int, ...]
    """Its shape there."""
    ours: str
    """Name of our parameter."""
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor
    """Rearranges the published tensor into ours."""


@dataclass(frozen=True)
class Gain:
    """A published gain and the parameters whose leading (output) dimension it multiplies."""

    key: str
    """Name in the published state dictionary."""
    shape: tuple[int, ...]
    """Its shape there."""
    ours: tuple[str, ...]
    """The parameters it is folded into."""


def entries(config: WalrusConfig, n_blocks: int | None = None) -> Iterator[Entry]:
    """Yield every published tensor that becomes one of our parameters, of all blocks or of the first few."""
    c, d, inner, hd = config, config.hidden_dim, config.intermediate_dim, config.head_dim
    preview = c.variant == "preview"
    channels = c.projection_dim if preview else c.n_states
    if preview:
        yield Entry("space_bag.linear.weight", (channels, c.n_states), "stem.fields.weight")
        yield Entry("space_bag.linear.bias", (channels,), "stem.fields.bias")
        yield Entry("patch_jitterer.padding_tokens", (2, channels, 1, 1, 1), "stem.padding", lambda x: x.flatten(1))
    if c.position is not None:
        yield Entry("ape", (1, 1, d, *c.position), "position", lambda x: x[0, 0].permute(1, 2, 3, 0))
    for axes in config.dimensions:
        there, ours = f"embed.{axes}", f"stem.embed.{axes}"
        yield Entry(f"{there}.proj1.weight", (inner, channels, 8, 8, 8), f"{ours}.proj1")
        yield Entry(f"{there}.norm1.weight", (inner,), f"{ours}.norm1.weight")
        yield Entry(f"{there}.proj2.weight", (d, inner, 4, 4, 4), f"{ours}.proj2")
        yield Entry(f"{there}.norm2.weight", (d,), f"{ours}.norm2.weight")
        there, ours = f"debed.{axes}", f"decoder.debed.{axes}"
        yield Entry(f"{there}.proj1.weight", (d, inner, 4, 4, 4), f"{ours}.proj1")
        yield Entry(f"{there}.norm1.weight", (inner,), f"{ours}.norm1.weight")
        yield Entry(f"{there}.proj2.weight", (inner, c.n_states, 8, 8, 8), f"{ours}.proj2")
        yield Entry(f"{there}.proj2.bias", (c.n_states,), f"{ours}.bias")

    def of_heads(part: int) -> Callable[[Tensor], Tensor]:  # rows hold each head's q, k, v in turn
        return lambda x: x.reshape(c.n_heads, 3, hd, -1)[:, part].reshape(d, *x.shape[1:2])

    def rows(start: int, size: int) -> Callable[[Tensor], Tensor]:
        return lambda x: x[start : start + size]

    def norms(there: str, names: tuple[str, str], ours: str) -> Iterator[Entry]:
        for name, mine in zip(names, ("q_norm", "k_norm"), strict=True):
            for part in ("weight", "bias"):
                yield Entry(f"{there}.{name}.{part}", (hd,), f"{ours}.{mine}.{part}")

    for i in range(c.n_blocks if n_blocks is None else n_blocks):
        there, ours = f"blocks.{i}.time_mixing", f"blocks.{i}.time"
        yield Entry(f"{there}.norm1.weight", (d,), f"{ours}.norm.weight")
        for part, name in enumerate("qkv"):
            yield Entry(f"{there}.input_head.weight", (3 * d, d, 1, 1, 1), f"{ours}.{name}.weight", of_heads(part))
            yield Entry(f"{there}.input_head.bias", (3 * d,), f"{ours}.{name}.bias", of_heads(part))
        yield from norms(there, ("qnorm", "knorm"), ours)
        table = (RelativeTimeBias.buckets, c.n_heads)
        yield Entry(f"{there}.rel_pos_bias.relative_attention_bias.weight", table, f"{ours}.bias.weight")
        yield Entry(f"{there}.output_head.weight", (d, d, 1, 1, 1), f"{ours}.out.weight", lambda x: x.flatten(1))
        yield Entry(f"{there}.output_head.bias", (d,), f"{ours}.out.bias")
        there, ours = f"blocks.{i}.space_mixing", f"blocks.{i}.space"
        ff_out = f"{there}.ff_out.1" if preview else f"{there}.ff_out"
        yield Entry(f"{there}.norm1.weight", (d,), f"{ours}.norm.weight")
        fused, first = c.ff_dim + 3 * d, 0
        for name, size in (("ff_in", c.ff_dim), ("q", d), ("k", d), ("v", d)):
            yield Entry(f"{there}.fused_ff_qkv.weight", (fused, d), f"{ours}.{name}.weight", rows(first, size))
            yield Entry(f"{there}.fused_ff_qkv.bias", (fused,), f"{ours}.{name}.bias", rows(first, size))
            first += size
        yield from norms(there, ("q_norm", "k_norm"), ours)
        yield Entry(f"{there}.attn_out.weight", (d, d), f"{ours}.attention_out.weight")
        yield Entry(f"{ff_out}.weight", (d, c.ff_dim // 2), f"{ours}.ff_out.weight")
        yield Entry(f"{ff_out}.bias", (d,), f"{ours}.ff_out.bias")


def gains(config: WalrusConfig, n_blocks: int | None = None) -> Iterator[Gain]:
    """Yield every published gain: per block in `preview`, one scalar on the stem's input in `released`."""
    d = config.hidden_dim
    if config.variant == "preview":
        for i in range(config.n_blocks if n_blocks is None else n_blocks):
            time, space = f"blocks.{i}.time.", f"blocks.{i}.space."
            yield Gain(f"blocks.{i}.time_mixing.gamma", (d,), (f"{time}out.weight", f"{time}out.bias"))
            parts = ("attention_out.weight", "ff_out.weight", "ff_out.bias")
            yield Gain(f"blocks.{i}.space_mixing.gamma_att", (d,), tuple(space + part for part in parts))


def published_shapes(config: WalrusConfig, n_blocks: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return every key that a published state dictionary of this size must hold, with its shape.

    Args:
        config: of the network.
        n_blocks: only of so many of its blocks; None for all.
    """
    n_blocks = config.n_blocks if n_blocks is None else n_blocks
    shapes = {entry.key: entry.shape for entry in entries(config, n_blocks)}
    shapes |= {gain.key: gain.shape for gain in gains(config, n_blocks)}
    for i in range(n_blocks if config.rotary != "fixed" else 0):
        shapes |= dict.fromkeys(_frequency_keys(config, i), (config.head_dim // 8,))
    return shapes


def optional_shapes(config: WalrusConfig) -> dict[str, tuple[int, ...]]:
    """Return the keys that may be there or not: a scalar on the input, rotary frequencies that keep their formula."""
    shapes: dict[str, tuple[int, ...]] = {"encoder_dummy": (1,)}
    for i in range(config.n_blocks if config.rotary == "fixed" else 0):
        shapes |= dict.fromkeys(_frequency_keys(config, i), (config.head_dim // 8,))
    return shapes


def _frequency_keys(config: WalrusConfig, block: int) -> list[str]:
    key = f"blocks.{block}.space_mixing.rotary_emb.freqs"
    return [f"{key}.{axis}" for axis in range(3)] if config.rotary == "per_axis" else [key]


def check_keys(
    found: Mapping[str, Tensor], required: Mapping[str, tuple[int, ...]], optional: Mapping[str, tuple[int, ...]]
) -> None:
    """Compare a state dictionary with what it must and may hold.

    Raises:
        PhysteerError: Tensors are missing, unknown or of another shape; the message names them.
    """
    wanted = {**optional, **required}
    wrong = [
        f"{key} is {list(tensor.shape)}, not {list(wanted[key])}"
        for key, tensor in found.items()
        if key in wanted and tuple(tensor.shape) != wanted[key] and not (tensor.numel() == 1 and wanted[key] == (1,))
    ]
    for what, keys in (
        ("lacks tensors this model needs", [key for key in required if key not in found]),
        ("holds unknown tensors", [key for key in found if key not in wanted]),
        ("holds tensors of another shape", wrong),
    ):
        if keys:
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            raise PhysteerError(f"the checkpoint {what}: {', '.join(keys[:4])}{more}")


def from_published(state: Mapping[str, Tensor], config: WalrusConfig) -> Walrus:
    """Build a Walrus from a published state dictionary; tensors that need no rearranging are used as they are.

    Raises:
        PhysteerError: Tensors are missing, unknown or of another shape.
    """
    check_keys(state, published_shapes(config), optional_shapes(config))
    ours = {entry.ours: entry.convert(state[entry.key]) for entry in entries(config)}
    if config.rotary != "fixed":
        for i in range(config.n_blocks):
            ours[f"blocks.{i}.space.frequencies"] = torch.stack([state[key] for key in _frequency_keys(config, i)])
    for gain in gains(config):
        for name in gain.ours:
            ours[name] = ours[name] * state[gain.key].view(-1, *(1,) * (ours[name].ndim - 1))
    if "encoder_dummy" in state and state["encoder_dummy"].item() != 1:
        _fold_input_gain(ours, config, state["encoder_dummy"].item())
    return assemble(ours, config)


def _fold_input_gain(ours: dict[str, Tensor], config: WalrusConfig, gain: float) -> None:
    """Multiply what reads the fields by the gain: all columns of the first convolution but the flags'."""
    if config.variant == "preview":
        ours["stem.fields.weight"] = ours["stem.fields.weight"] * gain
        return
    columns = torch.full((config.n_states, 1, 1, 1), gain)
    columns[: len(vocabulary.FLAGS)] = 1
    for axes in config.dimensions:
        ours[f"stem.embed.{axes}.proj1"] = ours[f"stem.embed.{axes}.proj1"] * columns


def assemble(parameters: Mapping[str, Tensor], config: WalrusConfig) -> Walrus:
    """Build a Walrus around given parameters without allocating others beside them."""
    with torch.device("meta"):
        walrus = Walrus(config)
    walrus.load_state_dict(parameters, strict=True, assign=True)
    return walrus.eval()
