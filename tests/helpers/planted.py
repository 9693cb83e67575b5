"""Walruses whose counterfactuals are exact: a variable that is known to live in a subspace."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from helpers.experiments import random_walrus
from physteer import WalrusModule
from physteer.concepts import ConceptSubspace
from physteer.data import Truth
from physteer.data.pair import PairBatch
from physteer.interventions import Interchange, Span, replayed, take_snapshot
from physteer.interventions.edit import Edit
from physteer.walrus import Walrus

TRACER = 7
"""Its label in the vocabulary of the tiny Walrus."""


def two_walruses_in_one(seed: int = 0) -> Walrus:
    """One half of the channels sees and predicts the tracer alone, the other half everything else.

    No weight leads from one half to the other, and norms are per channel, so each half is a network of its own. What
    the whole would have said of another tracer is therefore exactly what it says when the first half of any activation
    is exchanged.
    """
    walrus = random_walrus(seed)
    with torch.no_grad():
        (embed,), (debed,) = walrus.stem.embed.values(), walrus.decoder.debed.values()
        others = [i for i in range(walrus.config.n_states) if i != TRACER]
        first, second = slice(0, len(embed.proj1) // 2), slice(len(embed.proj1) // 2, None)
        fields = [i for i in others if i > 2]  # the first three are flags that both halves see
        embed.proj1[first, fields] = 0
        embed.proj1[second, [TRACER]] = 0
        debed.proj2[first, others] = 0
        debed.proj2[second, [TRACER]] = 0
        _part(embed.proj2)
        _part(debed.proj1)
        for block in walrus.blocks:
            for linear in (*_attention(block.time), block.time.out, *_attention(block.space)):
                _part(linear.weight)
            for linear in (block.space.attention_out, block.space.ff_out):
                _part(linear.weight)
            for half in block.space.ff_in.weight.chunk(2):  # value, gate
                _part(half)
    return walrus


def _attention(mixing: torch.nn.Module) -> tuple[torch.nn.Module, ...]:
    return mixing.q, mixing.k, mixing.v


def _part(weight: Tensor) -> None:
    """Set what leads between the halves to zero, on the first two axes."""
    rows, columns = (size // 2 for size in weight.shape[:2])
    weight[:rows, columns:] = 0
    weight[rows:, :columns] = 0


class SplicedTruth(Truth):
    """What the network predicts when the tracer of the base's window is the source's, in the base's scales."""

    def __init__(self, checkpoint: str) -> None:
        self.module = WalrusModule(checkpoint).eval().requires_grad_(False)

    def known(self, dataset, pair) -> bool:
        return True

    def of(self, dataset, pairs: PairBatch) -> Tensor:
        base, sources = pairs.base, pairs.sources
        channel = base.channels.index("tracer")
        fields = base.context.clone()
        fields[:, :, channel] = sources[0].context[:, :, channel]
        forecaster = self.module.forecaster
        (inputs, _), (_, scale) = (forecaster.inputs(window, base) for window in (fields, base.context))
        with torch.no_grad():
            y = forecaster.run(inputs)
        return forecaster.next_frame(y[:, -1:], base.context[:, -1:], scale, base)


class PlantedTruth(Truth):
    """What the network predicts when a known subspace of an activation is taken from the source."""

    def __init__(self, checkpoint: str, subspace: str) -> None:
        self.module = WalrusModule(checkpoint).eval().requires_grad_(False)
        self.subspace = ConceptSubspace.load(subspace)

    def known(self, dataset, pair) -> bool:
        return True

    def of(self, dataset, pairs: PairBatch) -> Tensor:
        base, sources = pairs.base, pairs.sources
        module, site = self.module.forecaster, self.subspace.site
        (inputs, scale), (other, _) = (module.inputs(batch.context, base) for batch in (base, sources[0]))
        snapshot, source = (take_snapshot(module.network, site, *given) for given in (inputs, other))
        edit = Edit(site, Interchange(source.activation), Span(self.subspace.basis))
        with torch.no_grad():
            y = replayed(module.network, snapshot, [edit], last_frame_only=True)
        return module.next_frame(y, base.context[:, -1:], scale, base)


def a_channel_for_the_tracer(channel: int) -> Walrus:
    """The tracer reaches one channel of every activation, which sees nothing else; blocks add nothing."""
    walrus = random_walrus()
    with torch.no_grad():
        (embed,) = walrus.stem.embed.values()
        tracer, rest = embed.proj1[0, TRACER].clone(), embed.proj2[channel, 0].clone()
        embed.proj1[0], embed.proj1[:, TRACER] = 0, 0
        embed.proj2[channel], embed.proj2[:, 0] = 0, 0
        embed.proj1[0, TRACER], embed.proj2[channel, 0] = tracer, rest
        for block in walrus.blocks:
            for linear in (block.time.out, block.space.attention_out, block.space.ff_out):
                for parameter in linear.parameters():
                    parameter.zero_()
    return walrus


def tell_by_the_tracer_alone(well: Path) -> None:
    """Make flows of both Reynolds numbers equal but for the tracer, whose mean has the sign of log(Reynolds / 1000)."""
    for low in sorted(well.glob("data/*/*Reynolds_2e2*")):
        high = low.with_name(low.name.replace("Reynolds_2e2", "Reynolds_2e3"))
        with h5py.File(low, "r+") as first, h5py.File(high, "r+") as second:
            for name in ("t0_fields/pressure", "t1_fields/velocity"):
                second[name][...] = first[name][...]
            for file, sign in ((first, -1), (second, 1)):
                tracer = file["t0_fields/tracer"]
                seed = zlib.crc32(f"{low.parent.name}/{low.name}/{sign}".encode())
                share = np.random.default_rng(seed).uniform(0.3, 0.7, (*tracer.shape[:2], 1, 1))
                wave = np.cos(np.arange(tracer.shape[-1]) * np.pi / 8)
                tracer[...] = sign * share + np.sqrt(2 * (1 - share**2)) * wave  # of mean square 1
