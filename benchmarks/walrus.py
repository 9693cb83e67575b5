"""How much of a Walrus step is arithmetic: python benchmarks/walrus.py [--quick] [--busy].

On the CPU (float32, 2 threads), at width 1408 and at the demo's size: the time of a forward pass over the time of its
matrix products, attentions and convolutions alone, run on the same shapes and weights (the floor). All take turns, and
medians are compared. Freed memory is kept, as the command line does.

    eager, compiled   all frames; compiled: every block, as `compile: true` does
    last              the last frame alone, which a forecast needs, and beside it what its operations say of all frames'
    capture           a copy of all frames of the last block, then the last frame decoded: over the floor of these
                      products, and over the same pass that nobody looks at

With a CUDA device also the published size with random weights in bfloat16, with and without torch.compile.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from physteer.commands.memory import keep_freed_memory
from physteer.interventions import captured
from physteer.walrus import Context, Walrus, WalrusConfig

PERIODIC = ((2, 2), (2, 2), (2, 2))
NAMES = ("pressure", "tracer", "velocity_x", "velocity_y", "velocity_z")
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second on the data sheets."""
Work = Callable[[], object]
Clock = Callable[[], float]


def medians(
    works: dict[str, Work], rounds: int, synchronize: Work = lambda: None, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each piece of work; the pieces take turns, so that a busy machine slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            synchronize()
            start = clock()
            work()
            synchronize()
            if turn:  # the first one warms up
                times[name].append(clock() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def floor(walrus: Walrus, context: Context, fields: int, in_last_block: int, decoded: int) -> Work:
    """The products, attentions and convolutions of one forward pass of one sample, on ready inputs.

    Args:
        walrus: whose weights are used.
        context: of the pass.
        fields: C.
        in_last_block: frames that the last block computes.
        decoded: frames that are decoded.
    """
    config, grid = walrus.config, context.grid
    frames, d, inner = config.n_steps_input, config.hidden_dim, config.intermediate_dim
    h, w, _ = grid.tokens
    s1, s2 = ([axis.strides[i] for axis in grid.moving] for i in range(2))
    embed, debed = walrus.stem.embed["2"], walrus.decoder.debed["2"]
    cells = [axis.size + 2 * (axis.before + axis.after) for axis in grid.moving]
    middle = [(cell - 8) // s + 1 for cell, s in zip(cells, s1, strict=True)]
    kernels: list[Tensor] = [weight[..., 0].contiguous() for weight in (embed.proj1, embed.proj2, debed.proj1)]
    stem_in, stem_mid = torch.randn(frames, fields + 3, *cells), torch.randn(frames, inner, *middle)
    halo = [(4 - s) // s for s in s2], [8 // s - 1 for s in s1]
    decoder_in = torch.randn(decoded, d, h + 2 * halo[0][0], w + 2 * halo[0][1])
    decoder_mid = torch.randn(decoded, inner, *(m + 2 * extra for m, extra in zip(middle, halo[1], strict=True)))
    phases = torch.randn(fields * s1[0] * s1[1], inner, *(8 // s for s in s1))
    *first_blocks, last_block = (block_floor(walrus, i, h * w) for i in range(config.n_blocks))

    def run() -> None:
        F.conv2d(stem_in, kernels[0][:, : fields + 3], stride=s1)
        F.conv2d(stem_mid, kernels[1], stride=s2)
        for block in first_blocks:
            block(frames)
        last_block(in_last_block)
        F.conv_transpose2d(decoder_in, kernels[2], stride=s2)
        F.conv2d(decoder_mid, phases)

    return run


def block_floor(walrus: Walrus, index: int, tokens: int) -> Callable[[int], None]:
    """A block's products and attentions, given how many of the frames are asked of it."""
    config, block = walrus.config, walrus.blocks[index]
    frames, d, n, hd = config.n_steps_input, config.hidden_dim, config.n_heads, config.head_dim
    x, hidden = torch.randn(frames, tokens, d), torch.randn(frames, tokens, config.ff_dim // 2)
    space = [torch.randn(frames, n, tokens, hd) for _ in range(3)]
    time_ = [torch.randn(1, tokens * n, frames, hd) for _ in range(3)]
    mask = torch.zeros(1, tokens * n, frames, frames)

    def run(asked: int) -> None:
        for layer, rows in ((block.time.q, asked), (block.time.k, frames), (block.time.v, frames)):
            F.linear(x[:rows], layer.weight, layer.bias)
        F.scaled_dot_product_attention(time_[0][:, :, :asked], *time_[1:], attn_mask=mask[:, :, :asked])
        part = block.space
        for layer in (block.time.out, part.q, part.k, part.v, part.ff_in, part.attention_out):
            F.linear(x[:asked], layer.weight, layer.bias)
        F.scaled_dot_product_attention(*(each[:asked] for each in space))
        F.linear(hidden[:asked], part.ff_out.weight, part.ff_out.bias)

    return run


def on_cpu(name: str, config: WalrusConfig, shape: tuple[int, int, int], rounds: int, clock: Clock) -> None:
    """Print one size's row."""
    torch.manual_seed(0)
    frames, last_site = config.n_steps_input, f"blocks.{config.n_blocks - 1}"
    walrus = Walrus(config).eval()
    low, compiled = copy.deepcopy(walrus).bfloat16(), copy.deepcopy(walrus)
    for block in compiled.blocks:
        block.forward = torch.compile(block.forward)  # type: ignore[method-assign]
    x, labels = torch.randn(1, frames, len(NAMES), *shape), config.labels(NAMES)
    _, context = walrus.encode(x, labels, PERIODIC)

    def unseen() -> None:
        h, context = walrus.encode(x, labels, PERIODIC)
        walrus.decode(walrus.run_blocks(h, context), context, last_frame_only=True)

    def capture() -> None:
        with captured(walrus, [last_site]):
            unseen()

    works: dict[str, Work] = {
        "eager": lambda: walrus(x, labels, PERIODIC),
        "compiled": lambda: compiled(x, labels, PERIODIC),
        "last": lambda: walrus(x, labels, PERIODIC, last_frame_only=True),
        "unseen": unseen,
        "capture": capture,
        "bf16": lambda: low(x, labels, PERIODIC),
        "floor": floor(walrus, context, len(NAMES), frames, frames),
        "capture floor": floor(walrus, context, len(NAMES), frames, 1),
    }
    t = medians(works, rounds, clock=clock)
    said = count(floor(walrus, context, len(NAMES), 1, 1)) / count(works["floor"])
    exact = walrus(x, labels, PERIODIC)
    error = float((low(x, labels, PERIODIC).float() - exact).norm() / exact.norm())
    print(
        f"{name:34} {t['eager'] * 1e3:9.1f} {t['floor'] * 1e3:9.1f} {t['eager'] / t['floor']:7.2f} "
        f"{t['compiled'] / t['floor']:9.2f} {t['last'] / t['eager']:9.2f} {said:9.2f} "
        f"{t['capture'] / t['capture floor']:9.2f} {t['capture'] / t['unseen']:9.2f} "
        f"{t['bf16'] / t['eager']:10.2f} {error:11.1e}",
        flush=True,
    )


def on_cuda(rounds: int) -> None:
    """Print the published size on the GPU, every frame and the last frame alone, with and without compilation."""
    device = torch.device("cuda")
    name = torch.cuda.get_device_name(device)
    config = WalrusConfig()
    with device:
        walrus = Walrus(config).to(torch.bfloat16).eval()
        x, labels = torch.randn(1, 6, len(NAMES), 256, 512, 1), config.labels(NAMES)
        a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16) for _ in range(2))
    reached = 2 * 8192**3 / medians({"mm": lambda: a @ b}, 20, torch.cuda.synchronize)["mm"]
    peak = next((value for key, value in PEAKS.items() if key in name), reached)
    print(f"\n{name}: bfloat16, {config.n_blocks} blocks, 256x512, 6 frames; an 8192^3 product reaches {reached:.2e}/s")
    print(f"{'':34} {'step ms':>9} {'TFLOP':>9} {'of peak':>9} {'of product':>11} {'memory GiB':>11}")
    works: dict[bool, Work] = {
        last: partial(walrus, x, labels, PERIODIC, last_frame_only=last) for last in (False, True)
    }
    operations = {last: count(work) for last, work in works.items()}
    for compiled in (False, True):
        if compiled:
            for block in walrus.blocks:
                block.compile()
        for last, work in works.items():
            torch.cuda.reset_peak_memory_stats()
            seconds = medians({"step": work}, rounds, torch.cuda.synchronize)["step"]
            memory = torch.cuda.max_memory_allocated() / 2**30
            rate = operations[last] / seconds
            label = f"{'last frame' if last else 'all frames'}{', compiled' if compiled else ''}"
            print(
                f"{label:34} {seconds * 1e3:9.1f} {operations[last] / 1e12:9.1f} {rate / peak:9.1%} "
                f"{rate / reached:11.1%} {memory:11.2f}",
                flush=True,
            )


def count(work: Work) -> int:
    """Floating-point operations of products, attentions and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and, at width 1408, one block and two frames"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument(
        "--busy", action="store_true", help="for a machine with other work: one thread, processor time instead of wall"
    )
    options = parser.parse_args()
    quick, threads = options.quick, 1 if options.busy else options.threads
    clock = time.process_time if options.busy else time.perf_counter
    torch.set_num_threads(threads)
    keep_freed_memory()
    print(f"torch {torch.__version__}, CPU, {threads} threads, {clock.__name__}, batch 1")
    print(f"{'':54} {'over the floor:':>17} {'last/all, said by:':>19} {'capture over its:':>19}")
    print(
        f"{'':34} {'step ms':>9} {'floor ms':>9} {'eager':>7} {'compiled':>9} {'time':>9} {'counting':>9} "
        f"{'floor':>9} {'pass':>9} {'bf16/fp32':>10} {'bf16 error':>11}"
    )
    small = WalrusConfig(
        hidden_dim=128, n_blocks=4, n_heads=4, intermediate_dim=32, tokens_2d=16, dimensions=(2,), n_steps_input=6
    )
    on_cpu("demo size: 128 x 4 blocks, 64x128", small, (64, 128, 1), 5 if quick else 25, clock)
    blocks, frames = (1, 2) if quick else (2, 6)
    wide = WalrusConfig(n_blocks=blocks, n_steps_input=frames, dimensions=(2,))
    on_cpu(f"1408 x {blocks} blocks, 256x512", wide, (256, 512, 1), 2 if quick else 7, clock)
    if torch.cuda.is_available():
        on_cuda(3 if quick else 10)
    else:
        print("no CUDA device: the published size was not run")


if __name__ == "__main__":
    main()
