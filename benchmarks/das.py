"""One training step of a rotated interchange, beside pyvene and beside the suffix alone: python benchmarks/das.py.

Needs the `bench` extra (transformers, pyvene). Two models, frozen: a GPT-2 of 12 × 256 × 8 with random weights (64
tokens, batch 16), and the Walrus that ships with physteer (5 frames of 64 × 128, batch 4). A rotation of rank 8 at one
site is trained on (base, source) pairs, at every token; the loss is of the last token or frame.

    ideal      forward and backward of what lies behind the site, on a ready activation: no edit, no rotation
    physteer   the objective of `physteer fit` with a cache of snapshots, backward, optimiser
    pyvene     both passes of every pair under hooks, backward, optimiser

The three take turns, so that a busy machine slows all of them; medians are compared. physteer and pyvene start from
the same rotation, and their outputs are compared before. The Walrus is also edited in its last frame
alone, from kept keys and values. Memory is the peak of a step above what the process had before, on Linux.
"""

import argparse
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from walrus import medians

from physteer.analyses.das import InterchangeObjective, InterventionVariant
from physteer.analyses.engine import Outcome, PlainActivations, PlainSuffix, Prefix, SnapshotCache
from physteer.interventions import (
    LastFrameSnapshot,
    Locus,
    LowRankRotation,
    Site,
    Snapshot,
    StagedModel,
    join_snapshots,
    take_last_frame_snapshots,
    take_snapshot,
    take_snapshots,
)
from physteer.walrus import load

try:
    import pyvene
    from transformers import GPT2Config, GPT2LMHeadModel
except ModuleNotFoundError as missing:
    sys.exit(f"benchmarks/das.py needs the package {missing.name}; install it with: pip install -e '.[bench]'")

RANK = 8
PERIODIC = ((2, 2), (2, 2), (2, 2))
FIELDS = ("pressure", "velocity_x", "velocity_y", "tracer")
Step = Callable[[], None]


class StagedGPT2(nn.Module):
    """A GPT-2 in stages: tokens play the part of frames."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        super().__init__()
        self.model = model
        self.encoder = nn.Identity()
        self.blocks = model.transformer.h

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

    def decode(self, h: Tensor, context: None, *, last_frame_only: bool = False) -> Tensor:
        """Return logits."""
        return self.model.lm_head(self.model.transformer.ln_f(h[:, -1:] if last_frame_only else h))

    def pack_context(self, context: None) -> tuple[tuple[Tensor, ...], str]:
        """Return nothing."""
        return (), ""

    def unpack_context(self, rows: tuple[Tensor, ...], shared: str) -> None:
        """Return nothing."""


@dataclass
class Case:
    """A model, windows, and where to edit."""

    name: str
    staged: Any
    """For physteer."""
    whole: nn.Module
    """For pyvene."""
    module: str
    """pyvene's name of a block's output."""
    output: Callable[[Any], Tensor]
    """Of what `whole` returns."""
    windows: Tensor
    arguments: dict[str, Any]
    """Beside the windows, whose name is the first."""
    batch: int
    width: int
    sites: tuple[int, ...]
    keeps_past: bool
    """Whether the last frame can be edited and run alone."""

    def inputs(self, rows: list[int]) -> dict[str, Any]:
        """Return the arguments of a forward."""
        name, *_ = self.arguments
        return self.arguments | {name: self.windows[rows]}


def gpt2() -> Case:
    """A GPT-2 with random weights and a small vocabulary, whose head costs little."""
    config = GPT2Config(
        n_layer=12, n_embd=256, n_head=8, n_positions=64, vocab_size=1000, bos_token_id=0, eos_token_id=0
    )
    whole = GPT2LMHeadModel(config).eval().requires_grad_(False)
    ids = torch.randint(config.vocab_size, (128, 64))
    name = "GPT-2, 12 x 256 x 8, 64 tokens, batch 16"
    module = "transformer.h[{}].output"
    sites = (2, 6, 10)
    arguments = {"input_ids": None}
    staged = StagedGPT2(whole)
    return Case(name, staged, whole, module, lambda y: y.logits[:, -1:], ids, arguments, 16, 256, sites, False)


def demo_walrus() -> Case:
    """The shipped Walrus on random fields."""
    walrus = load("physteer://walrus-demo").eval().requires_grad_(False)
    x = torch.randn(16, walrus.config.n_steps_input, len(FIELDS), 64, 128, 1)
    arguments = {"x": None, "labels": walrus.config.labels(FIELDS), "boundaries": PERIODIC}
    d, blocks = walrus.config.hidden_dim, walrus.config.n_blocks
    name = f"Walrus demo, {d} x {blocks} blocks, 64 x 128, {x.shape[1]} frames, batch 4"
    return Case(name, walrus, walrus, "blocks[{}].output", lambda y: y, x, arguments, 4, d, (0, 1, 2), True)


@dataclass
class Pairs:
    """The windows of a batch by number."""

    bases: list[int]
    sources: list[int]


class CachedWindows(PlainSuffix):
    """Runs every window of a case up to a site once, and batches from there (`physteer.analyses.engine.Suffix`)."""

    def __init__(self, case: Case, site: Site, *, last_frame: bool) -> None:
        super().__init__([site])
        self.case = case
        kind: type[Snapshot] = LastFrameSnapshot if last_frame else Snapshot
        self.take = take_last_frame_snapshots if last_frame else take_snapshots
        self.cache = SnapshotCache([site], "", 2**30, kind=kind)

    def prepare(self, model: StagedModel, batch: Pairs, *, mismatched: bool = False) -> tuple[list[Prefix], ...]:
        """Take a batch from the cache."""
        return self.rows(model, batch.bases), self.rows(model, batch.sources)

    def at(self, model: StagedModel, site: Site, prepared: tuple[list[Prefix], ...]) -> PlainActivations:
        """Join the batch's rows."""
        bases, sources = ([prefix.snapshots[site] for prefix in prefixes] for prefixes in prepared)
        return PlainActivations(join_snapshots(bases), [torch.cat([source.activation for source in sources])])

    def rows(self, model: StagedModel, rows: Sequence[int]) -> list[Prefix]:
        """Run what the cache lacks."""

        def make(places: list[int]) -> Prefix:
            inputs = self.case.inputs([rows[place] for place in places]).values()
            return Prefix(self.take(model, self.sites, *inputs), {})

        return self.cache.get([str(row) for row in rows], make)


class MeanSquare(nn.Module):
    """A loss that costs next to nothing."""

    def forward(self, outcome: Outcome, batch: Pairs) -> Tensor:
        """Return the mean square of the output."""
        return outcome.prediction.square().mean()


def steps(case: Case, block: int) -> dict[str, Step]:
    """Return one training step of each contestant."""
    site = Site(f"blocks.{block}")
    pairs = cycle(torch.randperm(len(case.windows)).view(-1, 2, case.batch).tolist())
    staged = case.staged
    first = case.inputs(list(range(case.batch))).values()
    context = staged.encode(*first)[1]
    ready = take_snapshot(staged, site, *first).state.requires_grad_()

    def ideal() -> None:
        h = staged.run_blocks(ready, context, block + 1, last_frame_only=True)
        staged.decode(h, context, last_frame_only=True).square().mean().backward()
        ready.grad = None

    def ours(*, last_frame: bool) -> tuple[Step, Callable[[Pairs], Tensor], LowRankRotation]:
        rotation = LowRankRotation(case.width, RANK)
        variant = InterventionVariant(site, case.width, "learned", [rotation], RANK)
        suffix = CachedWindows(case, site, last_frame=last_frame)
        locus = Locus(frames=[-1]) if last_frame else Locus()
        objective = InterchangeObjective([variant], suffix, MeanSquare(), locus)
        optimizer = torch.optim.Adam(variant.parameters(), 1e-3)
        for start in range(0, len(case.windows), case.batch):
            suffix.rows(staged, range(start, start + case.batch))

        def output(batch: Pairs) -> Tensor:
            activations = suffix.at(staged, site, suffix.prepare(staged, batch))
            return objective.edited(staged, batch, variant, activations).prediction

        def step() -> None:
            objective(staged, Pairs(*next(pairs)), 1).backward()
            update(optimizer)

        return step, output, rotation

    intervention = pyvene.LowRankRotatedSpaceIntervention(
        embed_dim=case.width, low_rank_dimension=RANK, keep_last_dim=True
    )
    peer = pyvene.IntervenableModel(
        pyvene.IntervenableConfig([{"component": case.module.format(block), "intervention": intervention}]), case.whole
    )
    peer.disable_model_gradients()
    optimizer = torch.optim.Adam(peer.get_trainable_parameters(), 1e-3)
    extra = {"last_frame_only": True} if case.keeps_past else {}

    def pyvene_output(batch: Pairs) -> Tensor:
        return case.output(peer(case.inputs(batch.bases) | extra, [case.inputs(batch.sources)], None)[1])

    def pyvene_step() -> None:
        pyvene_output(Pairs(*next(pairs))).square().mean().backward()
        update(optimizer)

    everywhere, output, rotation = ours(last_frame=False)
    with torch.no_grad():  # one rotation for both
        rotation.rotation.raw.copy_(intervention.rotate_layer.weight)
    batch = Pairs(*next(pairs))
    torch.testing.assert_close(output(batch), pyvene_output(batch), rtol=1e-4, atol=1e-4)
    works = {"ideal": ideal, "physteer": everywhere, "pyvene": pyvene_step}
    if case.keeps_past:
        works["last frame"], *_ = ours(last_frame=True)
    return works


def update(optimizer: torch.optim.Optimizer) -> None:
    """Take the optimiser's step."""
    optimizer.step()
    optimizer.zero_grad()


def peak(work: Step) -> float:
    """MiB that a step takes above what the process had before."""

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    work()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = status("VmRSS")
    work()
    return (status("VmHWM") - before) / 1024


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 15")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument(
        "--busy", action="store_true", help="for a machine with other work: one thread, processor time instead of wall"
    )
    parser.add_argument("--memory", action="store_true", help="peaks instead of times; freed memory is given back")
    options = parser.parse_args()
    clock = time.process_time if options.busy else time.perf_counter
    torch.set_num_threads(1 if options.busy else options.threads)
    torch.manual_seed(0)
    unit = "MiB" if options.memory else "ms"
    if not options.memory:
        print(f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads, {clock.__name__}, rank {RANK}")
    print(f"{'':46} {'ideal':>8} {'physteer':>9} {'ratio':>7} {'pyvene':>9} {'ratio':>7} {'last frame':>11}   {unit}")
    for case in (gpt2(), demo_walrus()):
        for block in case.sites:
            works = steps(case, block)
            if options.memory:
                found = {name: peak(work) for name, work in works.items()}
            else:
                found = {
                    name: 1e3 * seconds
                    for name, seconds in medians(works, 3 if options.quick else 15, clock=clock).items()
                }
            ratio = {name: value / found["ideal"] for name, value in found.items()}
            alone = f"{found['last frame']:11.1f}" if "last frame" in found else ""
            print(
                f"{case.name + ', ' + str(block):46} {found['ideal']:8.1f} {found['physteer']:9.1f} "
                f"{ratio['physteer']:7.2f} {found['pyvene']:9.1f} {ratio['pyvene']:7.2f} {alone}",
                flush=True,
            )
    if not options.memory and sys.platform == "linux":
        print("\nPeak memory of a step")
        malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        words = [sys.executable, __file__, "--memory", "--threads", str(torch.get_num_threads())]
        subprocess.run(words, env=os.environ | malloc, check=True)


if __name__ == "__main__":
    main()
