"""What reading one activation costs beside a whole pass: python benchmarks/capture.py [--quick] [--busy].

A Walrus of twelve blocks with random weights. The reader stops a pass at the deepest site that is asked for, so reading
block i should cost about the share of depth up to it (encoder and i + 1 blocks of encoder, twelve blocks and decoder);
the share that the operations predict is printed beside, from floating-point operations counted by torch.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from physteer import WalrusModule
from physteer.analyses.engine import ActivationReader
from physteer.commands.memory import keep_freed_memory
from physteer.data.batch import Batch, Channels, Grid, SplitMetadata, Window
from physteer.data.fields import ChannelSource
from physteer.interventions import Site
from physteer.walrus import WalrusConfig

NAMES = ("tracer", "pressure", "velocity_x", "velocity_y")
SITES = ("encoder", "blocks.0", "blocks.5", "blocks.11")


def windows(shape: tuple[int, int], n_frames: int, size: int) -> Batch:
    """Return random windows of periodic fields."""
    x, y = (torch.arange(cells) / cells for cells in shape)
    metadata = SplitMetadata(
        "random",
        "random",
        Channels(tuple(ChannelSource(name, name) for name in NAMES)),
        Grid((x, y, torch.zeros(1)), ((2, 2), (2, 2), (2, 2)), ("x", "y")),
    )
    fields = torch.randn(size, n_frames, len(NAMES), *shape, 1, generator=torch.Generator().manual_seed(0)).cumsum(1)
    addresses = tuple(Window("random", row, 0) for row in range(size))
    return Batch(fields, n_frames, addresses, {}, torch.arange(n_frames).expand(size, -1), metadata)


def operations(work: Callable[[], object]) -> int:
    """Count floating-point operations."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--busy", action="store_true", help="one thread, processor time, for a machine with other work")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.busy else 2)
    clock = time.process_time if options.busy else time.perf_counter
    keep_freed_memory()
    config = WalrusConfig(hidden_dim=128, intermediate_dim=32, n_blocks=12, n_heads=4, tokens_2d=16, dimensions=(2,))
    torch.manual_seed(0)
    forecaster = WalrusModule(network=config).eval().forecaster
    batch = windows((64, 128), 6, 2)
    total = torch.zeros(())

    def add(site: Site, h: Tensor) -> None:
        total.add_(h[0, 0, 0, 0, 0, 0])

    works: dict[str, Callable[[], object]] = {
        "whole pass": lambda: forecaster.run(forecaster.inputs(batch.context, batch)[0])
    }
    for name in SITES:
        reader = ActivationReader(forecaster, [Site.parse(name)])
        works[name] = lambda reader=reader: reader.read(batch, add)
    counts = {name: operations(work) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(4 if options.quick else 16):
        for name, work in works.items():
            start = clock()
            work()
            if turn:  # the first one warms up
                times[name].append(clock() - start)
    whole = statistics.median(times["whole pass"])
    print(f"{'read':<14}{'ms':>9}{'of a pass':>11}{'operations':>12}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        share = counts[name] / counts["whole pass"]
        print(f"{name:<14}{1e3 * median:>9.1f}{median / whole:>11.3f}{share:>12.3f}")


if __name__ == "__main__":
    main()
