"""A sweep of node effects, beside three forwards per node and scale: python benchmarks/effects.py [--peers].

All heads × 12 scales of "take it from the source": of the Walrus that ships with physteer (4 blocks × 8 heads, 64 × 128
cells, 5 frames), and of one of 12 blocks (random weights). One thread, processor time.

    physteer      one pass of bases and sources, and for every node and scale what lies behind the node
    last frame    the same with the last frame alone patched, from kept keys and values
    three         for every node and scale a pass of the bases, one of the sources, and one of the bases under a hook

The outputs are compared. Every cell of the naive way costs the same, so only `--cells` of them are timed and the rest
is multiplied. With `--peers`, a GPT-2 of 12 × 256 × 8 (64 tokens) is swept beside nnsight, whose trace runs the source
and the patched base in one session (`pip install nnsight transformers`); there `heads` are replaced before the
projection.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from physteer.analyses.effects import SCALES, Node, Patch, expand_nodes, staged_runs
from physteer.analyses.effects.runs import NodeRuns, Outputs, StagedReplay, finished, with_streams
from physteer.interventions import (
    Edit,
    Interchange,
    Locus,
    Site,
    attached,
    captured,
    take_last_frame_snapshots,
)
from physteer.walrus import Walrus, load

PERIODIC = ((2, 2), (2, 2), (2, 2))
FIELDS = ("pressure", "velocity_x", "velocity_y", "tracer")
BATCH = 2
PATCHES = [Patch("source", scale) for scale in SCALES]


def walruses(quick: bool) -> dict[str, Walrus]:
    """The shipped network, and one with more blocks."""
    demo = load("physteer://walrus-demo").eval()
    torch.manual_seed(0)
    deep = Walrus(dataclasses.replace(demo.config, n_blocks=12)).eval()
    every = {"Walrus demo, 4 blocks": demo, "Walrus, 12 blocks": deep}
    for network in every.values():
        network.requires_grad_(False)
    return {name: every[name] for name in ([*every][:1] if quick else every)}


def sweep(runs: NodeRuns, nodes: Sequence[Node]) -> list[Tensor]:
    """Return the output under every patch of every node."""
    return [runs.output({node.site: runs.patched(node, patch, None)}) for node in nodes for patch in PATCHES]


def last_frame_runs(network: Walrus, sites: Sequence[Site], base: Any, source: Any) -> NodeRuns:
    """Run bases and sources up to the nodes, for patches of the last frame."""
    every = with_streams(network, sites)
    first, second = (take_last_frame_snapshots(network, every, *inputs) for inputs in (base, source))

    def finish(y: Tensor) -> Tensor:
        return y[:, -1]

    return NodeRuns(
        {site: first[site].activation for site in sites},
        {"source": {site: second[site].activation for site in sites}},
        Outputs(finished(network, first, finish), {"source": finished(network, second, finish)}),
        StagedReplay(network, first, finish),
    )


def naive(network: Walrus, node: Node, patch: Patch, base: Any, source: Any, locus: Locus) -> Tensor:
    """Return the output under one patch, by three forwards."""
    with captured(network, [node.site]) as seen:
        network(*base, last_frame_only=False)
    b = seen[str(node.site)]
    with captured(network, [node.site]) as seen:
        network(*source, last_frame_only=False)
    new = locus.take(patch(b, seen[str(node.site)], None))
    with attached(network, [Edit(node.site, Interchange(new), locus=locus)]):
        y: Tensor = network(*base)
    return y[:, -1]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of some work, and what it returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


@torch.no_grad()
def compare(name: str, network: Walrus, n_cells: int) -> None:
    """Print the ratios for one network."""
    config = network.config
    generator = torch.Generator().manual_seed(1)
    fields = [torch.randn(BATCH, config.n_steps_input, 4, 64, 128, 1, generator=generator) for _ in range(2)]
    base, source = ((x, config.labels(FIELDS), PERIODIC) for x in fields)
    heads = {f"blocks.{i}.{half}.heads": config.n_heads for i in range(config.n_blocks) for half in ("time", "space")}
    nodes = expand_nodes(["blocks.*.*.heads[*]"], heads)
    sites = [node.site for node in nodes]
    cells = [(node, patch) for node in nodes for patch in PATCHES]
    drawn = torch.randperm(len(cells), generator=generator)[:n_cells].tolist()

    def three(locus: Locus) -> tuple[float, list[Tensor]]:
        took, found = seconds(lambda: [naive(network, *cells[i], base, source, locus) for i in drawn])
        return took / len(drawn) * len(cells), found

    def physteer_all() -> list[Tensor]:
        return sweep(staged_runs(network, sites, base, {"source": source}), nodes)

    def physteer_last() -> list[Tensor]:
        return sweep(last_frame_runs(network, sites, base, source), nodes)

    for label, work, locus in (
        ("all frames", physteer_all, Locus()),
        ("last frame", physteer_last, Locus(frames=[-1])),
    ):
        took, outputs = seconds(work)
        naively, expected = three(locus)
        worst = max(float((outputs[i] - y).abs().max() / y.abs().max()) for i, y in zip(drawn, expected, strict=True))
        print(
            f"{name + ', ' + label:36} {len(cells):5} cells  {took:8.1f} s  three forwards {naively:8.1f} s  "
            f"ratio {naively / took:5.1f}  largest relative difference {worst:.0e}",
            flush=True,
        )


class SplitHeads(nn.Module):
    """Shows the heads to hooks before the output projection: [B, T, n·hd] → [B, T, n, hd] and back."""

    def __init__(self, projection: nn.Module, n_heads: int) -> None:
        super().__init__()
        self.heads, self.projection, self.n_heads = nn.Identity(), projection, n_heads

    def forward(self, x: Tensor) -> Tensor:
        """Project what passes."""
        return self.projection(self.heads(x.unflatten(-1, (self.n_heads, -1))).flatten(-2))


class ShownStream(nn.Module):
    """Shows the residual stream in the middle of a block, which is what the second norm reads."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stream, self.norm = nn.Identity(), norm

    def forward(self, h: Tensor) -> Tensor:
        """Normalise."""
        return self.norm(self.stream(h))


class StagedGPT2(nn.Module):
    """A GPT-2 in stages whose heads say how they write to the residual stream."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.encoder, self.blocks = model, nn.Identity(), model.transformer.h
        for block in self.blocks:
            block.attn.c_proj = SplitHeads(block.attn.c_proj, model.config.n_head)
            block.ln_2 = ShownStream(block.ln_2)

    def encode(self, ids: Tensor) -> tuple[Tensor, None]:
        """Embed tokens [B, T]."""
        positions = self.model.transformer.wpe.weight[: ids.shape[1]]
        return self.encoder(self.model.transformer.wte(ids) + positions), None

    def run_blocks(
        self, h: Tensor, context: None, start: int = 0, stop: int | None = None, *, last_frame_only: bool = False
    ) -> Tensor:
        """Run blocks start … stop − 1."""
        for block in self.blocks[start:stop]:
            h = block(h)
        return h[:, -1:] if last_frame_only else h

    def run_second_half(self, h: Tensor, context: None, block: int) -> Tensor:
        """Run a block's feed-forward."""
        return h + self.blocks[block].mlp(self.blocks[block].ln_2(h))

    def residual_writes(self, block: int) -> dict[str, tuple[str, Tensor | None]]:
        """Heads write to the stream in the middle of the block."""
        weight = self.blocks[block].attn.c_proj.projection.weight.mT  # a Conv1D's is [in, out]
        end = f"blocks.{block}"
        return {f"{end}.attn.c_proj.heads": (f"{end}.ln_2.stream", weight), end: (end, None)}

    def site_layout(self, module: str) -> str:
        """Tokens play the part of frames."""
        return "b t n hd" if module.endswith(".heads") else "b t d"

    def decode(self, h: Tensor, context: None, *, last_frame_only: bool = False) -> Tensor:
        """Return logits."""
        return self.model.lm_head(self.model.transformer.ln_f(h[:, -1:] if last_frame_only else h))

    def pack_context(self, context: None) -> tuple[tuple[Tensor, ...], str]:
        """Return nothing."""
        return (), ""

    def unpack_context(self, rows: Sequence[Tensor], shared: str) -> None:
        """Return nothing."""


def gpt2() -> StagedGPT2:
    """A GPT-2 with random weights and a small vocabulary, whose head costs little."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=12, n_embd=256, n_head=8, n_positions=64, vocab_size=1000, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    return StagedGPT2(GPT2LMHeadModel(config)).eval().requires_grad_(False)


@torch.no_grad()
def compare_gpt2(n_cells: int) -> None:
    """Print the ratio to nnsight on a GPT-2: its trace runs the source and the patched base for every cell."""
    import nnsight

    staged = gpt2()
    generator = torch.Generator().manual_seed(1)
    base, source = (torch.randint(1000, (16, 64), generator=generator) for _ in range(2))
    heads = {f"blocks.{i}.attn.c_proj.heads": 8 for i in range(12)}
    nodes = expand_nodes(["blocks.*.attn.c_proj.heads[*]"], heads)
    cells = [(node, patch) for node in nodes for patch in PATCHES]
    drawn = torch.randperm(len(cells), generator=generator)[:n_cells].tolist()
    took, outputs = seconds(
        lambda: sweep(staged_runs(staged, [node.site for node in nodes], (base,), {"source": (source,)}), nodes)
    )
    traced = nnsight.NNsight(staged.model)

    def cell(node: Node, patch: Patch) -> Tensor:
        where, head = traced.transformer.h[node.block].attn.c_proj.heads, node.head
        with traced.trace(source):
            taken = where.output[:, :, head].save()
        with traced.trace(base):
            b = where.output[:, :, head].clone()
            where.output[:, :, head] = b + patch.scale * (taken - b)
            logits = traced.lm_head.output[:, -1].save()
        return logits

    peer, expected = seconds(lambda: [cell(*cells[i]) for i in drawn])
    peer *= len(cells) / len(drawn)
    worst = max(float((outputs[i] - y).abs().max() / y.abs().max()) for i, y in zip(drawn, expected, strict=True))
    print(
        f"{'GPT-2, 12 x 256 x 8, all positions':36} {len(cells):5} cells  {took:8.1f} s  nnsight {nnsight.__version__} "
        f"{peer:8.1f} s  ratio {peer / took:5.1f}  largest relative difference {worst:.0e}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the shipped network alone")
    parser.add_argument("--cells", type=int, default=24, help="cells of the naive way that are timed (default: 24)")
    parser.add_argument("--peers", action="store_true", help="also a GPT-2 beside nnsight")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, CPU, one thread, processor time, batch {BATCH}, {len(PATCHES)} scales")
    for name, network in walruses(options.quick).items():
        compare(name, network, options.cells)
    if options.peers:
        compare_gpt2(options.cells)


if __name__ == "__main__":
    main()
