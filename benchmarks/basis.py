"""One evaluation of a causal direction, and a whole extraction: python benchmarks/basis.py [--quick] [--peers].

A Walrus of the demo's width with 12 blocks and random weights (64 × 128 cells, 5 frames), frozen; directions at
`blocks.9`, so that two blocks and the decoder are left. One thread, processor time; all take turns and medians are
compared.

    evaluation    energy of one direction and its gradient to it alone: from snapshots at the site, and through the
                  whole model with a hook at the site (whose backward pass ends at the site too). Beside the measured
                  ratio what the operations say (products, attentions, convolutions; decoder included), and the time of
                  forward and backward of blocks and decoder alone on a ready activation (bare).
    extraction    the same L-BFGS from the same starts and with as many iterations, both ways: energies and times

With `--peers`, a GPT-2 of 12 × 256 × 8 with random weights beside tuned-lens (`pip install tuned-lens transformers`),
whose extraction ablates what a logit lens reads, not what the model does: the energies of its directions and of ours
for that lens, the energies of both under the true blocks, and the times.
"""

import argparse
import contextlib
import dataclasses
import io
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from walrus import medians

from physteer.analyses.basis import (
    AblationData,
    AblationEnergy,
    BasisPlan,
    ExtractionSettings,
    FieldDivergence,
    KLDivergence,
    Part,
    Targets,
    fit_basis,
    parts_of,
)
from physteer.commands.memory import keep_freed_memory
from physteer.interventions import (
    Edit,
    Interchange,
    LastFrameSnapshot,
    Locus,
    Snapshot,
    attached,
    replayed,
    take_last_frame_snapshot,
    take_snapshot,
)
from physteer.walrus import Walrus, load

PERIODIC = ((2, 2), (2, 2), (2, 2))
FIELDS = ("pressure", "velocity_x", "velocity_y", "tracer")
SITE = "blocks.9"
CPU = torch.device("cpu")
NO_ORDER = torch.empty(0, dtype=torch.long)
Output = Callable[[Tensor], Tensor]


def network() -> Walrus:
    """A Walrus of the demo's width with twelve blocks; its last convolution is not as small as a fresh one's."""
    torch.manual_seed(0)
    walrus = Walrus(dataclasses.replace(load("physteer://walrus-demo").config, n_blocks=12)).eval()
    with torch.no_grad():
        for debed in walrus.decoder.debed.values():
            debed.proj2.mul_(10)
    return walrus.requires_grad_(False)


def fields(walrus: Walrus, rows: int) -> tuple[Any, ...]:
    """Smooth random windows that drift, and the network's other arguments."""
    generator = torch.Generator().manual_seed(1)
    spectrum = torch.fft.rfft2(torch.randn(rows, 1, len(FIELDS), 64, 128, generator=generator))
    kx, ky = torch.fft.fftfreq(64)[:, None] * 64, torch.fft.rfftfreq(128)[None] * 128
    spectrum = spectrum / (1 + kx.square() + ky.square())
    moving = torch.arange(walrus.config.n_steps_input).view(1, -1, 1, 1, 1) * 0.1
    x = torch.fft.irfft2(spectrum * torch.exp(1j * moving * (kx + ky)), s=(64, 128))[..., None]
    return x / x.square().mean((1, 3, 4, 5), keepdim=True).sqrt(), walrus.config.labels(FIELDS), PERIODIC


def suffix(walrus: Walrus, snapshot: Snapshot, locus: Locus) -> Output:
    """Return the model from the site on, as an analysis of forecasts runs it."""

    def output(h: Tensor) -> Tensor:
        return replayed(walrus, snapshot, [Edit(SITE, Interchange(h), None, locus)], last_frame_only=True)[:, 0]

    return output


def hooked(walrus: Walrus, inputs: tuple[Any, ...], locus: Locus) -> Output:
    """Return the whole model with a hook at the site."""

    def output(h: Tensor) -> Tensor:
        with attached(walrus, [Edit(SITE, Interchange(h), None, locus)]):
            return walrus(*inputs, last_frame_only=True)[:, 0]

    return output


def parts(walrus: Walrus, inputs: tuple[Any, ...], *, last: bool) -> dict[str, Part]:
    """Return the rows with the model from the site on, and with the whole model."""
    snapshot = (take_last_frame_snapshot if last else take_snapshot)(walrus, SITE, *inputs)
    assert isinstance(snapshot, LastFrameSnapshot) == last
    locus, h = Locus(frames=[-1] if last else None), snapshot.activation
    rows = tuple(range(len(h)))
    return {
        "suffix": Part(h, suffix(walrus, snapshot, locus), rows),
        "hooks": Part(h, hooked(walrus, inputs, locus), rows),
    }


def bare(walrus: Walrus, inputs: tuple[Any, ...], *, last: bool) -> Callable[[], object]:
    """Return the forward and backward of what lies behind the site, on a ready activation."""
    snapshot = (take_last_frame_snapshot if last else take_snapshot)(walrus, SITE, *inputs)
    context = walrus.unpack_context(snapshot.rows, snapshot.shared)

    def run() -> None:
        state = snapshot.state.requires_grad_()
        if isinstance(snapshot, LastFrameSnapshot):
            h = walrus.run_next_frame(state, context, snapshot.start, snapshot.kv_cache)
        else:
            h = walrus.run_blocks(state, context, snapshot.start, last_frame_only=True)
        torch.autograd.grad(walrus.decode(h, context, last_frame_only=True).square().mean(), [state])

    return run


def energy(part: Part) -> AblationEnergy:
    """Return the energy of mean ablation."""
    mean = part.activation.double().flatten(0, -2).mean(0)
    return AblationEnergy([AblationData.of(part, Targets("mean", mean, NO_ORDER, NO_ORDER))], FieldDivergence(), CPU)


def count(work: Callable[[], object]) -> int:
    """Floating-point operations of products, attentions and convolutions, forward and backward."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def forward_count(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward_count(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    # torch counts the attention of GPUs alone
    with FlopCounterMode(display=False, custom_mapping={attention: forward_count, backward: backward_count}) as counter:
        work()
    return counter.get_total_flops()


def evaluation(walrus: Walrus, rounds: int, rows: int) -> None:
    """Print the ratios of one evaluation of energy and gradient."""
    inputs = fields(walrus, rows)
    print(f"one evaluation with its gradient, {SITE} of 12 blocks, {rows} windows")
    print(
        f"{'':12} {'suffix ms':>10} {'hooks ms':>10} {'ratio':>7} {'operations':>11} {'of that':>8} {'difference':>11}"
    )
    for label, last in (("all frames", False), ("last frame", True)):
        energies = {name: energy(part) for name, part in parts(walrus, inputs, last=last).items()}
        v = torch.nn.functional.normalize(torch.randn(walrus.config.hidden_dim), dim=0).double()
        works = {name: partial(each.with_gradient, v, v) for name, each in energies.items()}
        values = {name: work() for name, work in works.items()}
        gradient = [value[1] + value[2] for value in values.values()]
        difference = float((gradient[0] - gradient[1]).norm() / gradient[1].norm())
        operations = {name: count(work) for name, work in works.items()}
        everything = {**works, "bare": bare(walrus, inputs, last=last)}
        seconds = medians(everything, rounds, clock=time.process_time)
        ratio, said = (each["hooks"] / each["suffix"] for each in (seconds, operations))
        print(
            f"{label:12} {seconds['suffix'] * 1e3:10.1f} {seconds['bare'] * 1e3:8.1f} {seconds['hooks'] * 1e3:10.1f} "
            f"{ratio:7.2f} {said:11.2f} {ratio / said:8.0%} {difference:11.0e}",
            flush=True,
        )


def extraction(walrus: Walrus, iterations: int, rows: int) -> None:
    """Print energies and times of the same extraction both ways."""
    inputs = fields(walrus, rows)
    print(f"\nextraction of two directions, {iterations} iterations each, same starts, {rows} windows")
    for label, last in (("all frames", False), ("last frame", True)):
        plan = BasisPlan("mean", ExtractionSettings(k=2, max_iter=iterations, candidates=3))
        found = {}
        for name, part in parts(walrus, inputs, last=last).items():
            start = time.process_time()
            basis = fit_basis(SITE, [part], NO_ORDER, FieldDivergence(), plan).basis
            found[name] = time.process_time() - start, basis
        (ours, basis), (theirs, other) = found["suffix"], found["hooks"]
        print(
            f"{label:12} suffix {ours:7.1f} s, energies {said_of(basis.energies)}, evaluations {basis.evaluations};  "
            f"hooks {theirs:7.1f} s, energies {said_of(other.energies)}, evaluations {other.evaluations};  "
            f"ratio {theirs / ours:.2f}",
            flush=True,
        )


def said_of(energies: Tensor) -> str:
    """Write energies."""
    return " ".join(f"{value:.4g}" for value in energies.tolist())


def peers(iterations: int) -> None:
    """Print energies and times beside tuned-lens, on a GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from tuned_lens.causal import extract_causal_bases
    from tuned_lens.nn.lenses import LogitLens

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=12, n_embd=256, n_head=8, n_positions=64, vocab_size=1000, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    ids = torch.randint(config.vocab_size, (16, 64))
    with torch.no_grad():
        h = model(ids, output_hidden_states=True).hidden_states[10]  # behind blocks 0 … 9
    lens = LogitLens.from_model(model)

    def tail(h: Tensor) -> Tensor:
        for block in model.transformer.h[10:]:
            h = block(h)
            h = h[0] if isinstance(h, tuple) else h
        return model.lm_head(model.transformer.ln_f(h))

    def read_by_lens(h: Tensor) -> Tensor:
        return lens(h, 0)

    k = 4
    plan = BasisPlan("mean", ExtractionSettings(k=k, max_iter=iterations))
    print(f"\nGPT-2, 12 x 256 x 8, 16 x 64 tokens, behind block 9: {k} directions, {iterations} iterations, KL in nats")
    start = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        (theirs,) = extract_causal_bases(lens, [h, h], k, max_iter=iterations, mode="mean")
    took = {"tuned-lens, lens": time.process_time() - start}
    vectors = {"tuned-lens, lens": theirs.vectors.detach().double()}
    fit: Any = None
    for name, output in (("physteer, lens", read_by_lens), ("physteer, blocks", tail)):
        start = time.process_time()
        fit = fit_basis("blocks.9", parts_of(h, output), NO_ORDER, KLDivergence(), plan)
        took[name], vectors[name] = time.process_time() - start, fit.basis.read
    judged = {
        name: AblationEnergy([AblationData.of(part, fit.targets) for part in parts_of(h, output)], KLDivergence(), CPU)
        for name, output in (("lens", read_by_lens), ("blocks", tail))
    }
    for name, v in vectors.items():
        each = {where: torch.tensor([one.of(v[:, [j]], v[:, [j]]) for j in range(k)]) for where, one in judged.items()}
        print(
            f"{name:18} {took[name]:7.1f} s   for the lens: {said_of(each['lens'])}   "
            f"under the blocks: {said_of(each['blocks'])}   largest |VᵀV − 1| "
            f"{float((v.mT @ v - torch.eye(k).double()).abs().max()):.0e}",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, iterations and windows")
    parser.add_argument("--peers", action="store_true", help="GPT-2 beside tuned-lens, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"torch {torch.__version__}, CPU, 1 thread, process_time")
    walrus = network()
    evaluation(walrus, 3 if options.quick else 11, 2 if options.quick else 8)
    extraction(walrus, 3 if options.quick else 10, 2 if options.quick else 4)
    if options.peers:
        peers(20 if options.quick else 50)


if __name__ == "__main__":
    main()
