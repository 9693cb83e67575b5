"""How much of a Walrus step is arithmetic: python benchmarks/walrus.py [--quick].

On the CPU (float32, 2 threads), at width 1408 and at the demo's size: the time of one forward pass over the time of its
matrix products, attentions and convolutions alone, run on the same shapes and weights (the floor). Both take turns, and
medians are compared. Then bfloat16 beside float32, and the last frame alone beside all frames. With a CUDA device also
the published size with random weights in bfloat16, with and without torch.compile.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

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


def floor(walrus: Walrus, context: Context, frames: int, fields: int) -> Work:
    """The products, attentions and convolutions of one forward pass of one sample, on ready inputs."""
    config, grid = walrus.config, context.grid
    d, n, hd, inner = config.hidden_dim, config.n_heads, config.head_dim, config.intermediate_dim
    h, w, _ = grid.tokens
    tokens = h * w
    x, hidden = torch.randn(frames * tokens, d), torch.randn(frames * tokens, config.ff_dim // 2)
    space = [torch.randn(frames, n, tokens, hd) for _ in range(3)]
    time_ = [torch.randn(1, tokens * n, frames, hd) for _ in range(3)]
    mask = torch.zeros(1, tokens * n, frames, frames)
    s1, s2 = ([axis.strides[i] for axis in grid.moving] for i in range(2))
    embed, debed = walrus.stem.embed["2"], walrus.decoder.debed["2"]
    cells = [axis.size + 2 * (axis.before + axis.after) for axis in grid.moving]
    middle = [(cell - 8) // s + 1 for cell, s in zip(cells, s1, strict=True)]
    kernels: list[Tensor] = [
        weight[..., 0].contiguous() for weight in (embed.proj1, embed.proj2, debed.proj1, debed.proj2)
    ]
    stem_in, stem_mid = torch.randn(frames, fields + 3, *cells), torch.randn(frames, inner, *middle)
    halo = [(4 - s) // s for s in s2], [(8 - s) // s for s in s1]
    decoder_in = torch.randn(frames, d, h + 2 * halo[0][0], w + 2 * halo[0][1])
    decoder_mid = torch.randn(frames, inner, *(m + 2 * extra for m, extra in zip(middle, halo[1], strict=True)))

    def run() -> None:
        F.conv2d(stem_in, kernels[0][:, : fields + 3], stride=s1)
        F.conv2d(stem_mid, kernels[1], stride=s2)
        for block in walrus.blocks:
            for layer in (block.time.q, block.time.k, block.time.v, block.time.out):
                F.linear(x, layer.weight, layer.bias)
            F.scaled_dot_product_attention(*time_, attn_mask=mask)
            for layer in (block.space.q, block.space.k, block.space.v, block.space.ff_in, block.space.attention_out):
                F.linear(x, layer.weight, layer.bias)
            F.scaled_dot_product_attention(*space)
            F.linear(hidden, block.space.ff_out.weight, block.space.ff_out.bias)
        F.conv_transpose2d(decoder_in, kernels[2], stride=s2)
        F.conv_transpose2d(decoder_mid, kernels[3][:, :fields], debed.bias[:fields], stride=s1)

    return run


def on_cpu(name: str, config: WalrusConfig, shape: tuple[int, int, int], rounds: int, clock: Clock) -> None:
    """Print one size's row."""
    torch.manual_seed(0)
    frames = config.n_steps_input
    walrus, low = Walrus(config).eval(), Walrus(config).eval()
    low.load_state_dict(walrus.state_dict())
    low.bfloat16()
    x, labels = torch.randn(1, frames, len(NAMES), *shape), config.labels(NAMES)
    _, context = walrus.encode(x, labels, PERIODIC)
    works: dict[str, Work] = {
        "step": lambda: walrus(x, labels, PERIODIC),
        "floor": floor(walrus, context, frames, len(NAMES)),
        "last": lambda: walrus(x, labels, PERIODIC, last_frame_only=True),
        "bf16": lambda: low(x, labels, PERIODIC),
    }
    t = medians(works, rounds, clock=clock)
    exact = walrus(x, labels, PERIODIC)
    error = float((low(x, labels, PERIODIC).float() - exact).norm() / exact.norm())
    print(
        f"{name:34} {t['step'] * 1e3:9.1f} {t['floor'] * 1e3:9.1f} {t['step'] / t['floor']:7.2f} "
        f"{t['last'] / t['step']:11.2f} {t['bf16'] / t['step']:11.2f} {error:11.1e}",
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
    print(f"torch {torch.__version__}, CPU, {threads} threads, {clock.__name__}, batch 1")
    print(f"{'':34} {'step ms':>9} {'floor ms':>9} {'ratio':>7} {'last/all':>11} {'bf16/fp32':>11} {'bf16 error':>11}")
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
