"""What steering and capturing add to a Walrus step: python benchmarks/steering.py [--quick] [--busy].

The model that ships with physteer rolls out random windows of its size, as `physteer predict` does: steps that are
steered beside steps that are not, with as many rows, and first steps whose activations are captured at all four blocks
beside first steps that nobody looks at. In a turn, one and the other are timed in the order a, b, b, a, so that a busy
machine slows both. A ratio is the median over turns of a/b, with an interval for that median; the spread is the
quartiles of single turns. With a CUDA device also the published size, with random weights.

    steered      one condition at one block; or seven strengths, each on its own rows, beside the unsteered model
    every frame  the last block otherwise computes the last frame alone, and captures want all
    concept      what `Capture` adds up: activations, standardised, of two classes
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from physteer import WalrusModule
from physteer.commands.memory import keep_freed_memory
from physteer.concepts import DifferenceOfMeans
from physteer.data.batch import Batch, Channels, Grid, SplitMetadata, Window
from physteer.data.fields import ChannelSource
from physteer.forecast import steered_rollout
from physteer.interventions import UNSTEERED, Condition, Edit, Site, Steer, SteerMode
from physteer.walrus import WalrusConfig

Work = Callable[[], object]
Clock = Callable[[], float]
COMPARED = (  # what, beside what, and the goal for the ratio
    ("steered, drop, block 1", "unsteered", 1.02),
    ("steered, drop, last block", "unsteered", 1.02),
    ("steered, pad, block 1", "unsteered", 1.02),
    ("8 conditions, 7 steered", "8 conditions, unsteered", 1.02),
    ("every frame", "unseen", None),
    ("concept, 4 blocks", "every frame", 1.10),
    ("concept, 4 blocks", "unseen", None),
)


def windows(shape: tuple[int, int], n_frames: int, size: int, device: torch.device) -> Batch:
    """Return random windows with shear flow's fields."""
    names = ("tracer", "pressure", "velocity_x", "velocity_y")
    sources = (*(ChannelSource(name, name) for name in names), ChannelSource("velocity_z", None, evolving=False))
    x, y = (torch.arange(cells) / cells for cells in shape)
    grid = Grid((x, y, torch.zeros(1)), ((2, 2), (2, 2), (2, 2)), ("x", "y"))
    fields = torch.randn(size, n_frames, len(sources), *shape, 1, generator=torch.Generator().manual_seed(0)).cumsum(1)
    fields[:, :, -1] = 0
    return Batch(
        fields=fields.to(device),
        n_input=n_frames,
        windows=tuple(Window("random", row, 0) for row in range(size)),
        parameters={},
        times=torch.arange(n_frames).expand(size, -1),
        metadata=SplitMetadata("random", "", Channels(sources), grid),
    )


@dataclass(frozen=True)
class Watcher:
    """Looks at some sites in every forward (`physteer.forecast.RolloutObserver`)."""

    sites: Sequence[Site]
    observe: Callable[[Site, Tensor], None]
    all_frames: bool

    def sites_at(self, step: int) -> Sequence[Site]:
        """Return the sites, at every step."""
        return self.sites


def works(module: WalrusModule, batch: Batch, steps: int) -> dict[str, Work]:
    """Return what is timed, each of as many steps."""
    last = len(module.network.blocks) - 1
    sites = [Site.parse(f"blocks.{round(part * last / 3)}") for part in range(4)]
    forecaster = module.forecaster
    shape = forecaster.site_shapes(sites[:1], batch.metadata, batch.n_input)[sites[0]][2:]
    direction = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    means = {site: DifferenceOfMeans() for site in sites}

    def steered(block: int, mode: SteerMode, strength: float = 0.3) -> Condition:
        edit = Edit(f"blocks.{block}", Steer(direction, strength, mode))
        return Condition(f"{block} {mode} {strength}", (edit,), strength=strength)

    def rolled_out(*conditions: Condition) -> Work:
        return lambda: list(steered_rollout(forecaster, batch, steps, conditions))

    def first_steps(observe: Callable[[Site, Tensor], None] | None = None, *, every_frame: bool) -> None:
        watcher = Watcher(sites, observe or (lambda site, h: None), every_frame)
        for _ in range(steps):
            next(steered_rollout(forecaster, batch, 1, observers=[watcher] if observe or every_frame else []))

    def add_to_concept(site: Site, h: Tensor) -> None:
        means[site].update("feature", h[::2])
        means[site].update("control", h[1::2])

    return {
        "unsteered": rolled_out(UNSTEERED),
        "steered, drop, block 1": rolled_out(steered(1, "drop")),
        "steered, drop, last block": rolled_out(steered(last, "drop")),
        "steered, pad, block 1": rolled_out(steered(1, "pad")),
        "8 conditions, unsteered": rolled_out(*(Condition(str(number)) for number in range(8))),
        "8 conditions, 7 steered": rolled_out(UNSTEERED, *(steered(1, "drop", 0.1 * i) for i in range(1, 8))),
        "unseen": partial(first_steps, every_frame=False),
        "every frame": partial(first_steps, every_frame=True),
        "concept, 4 blocks": partial(first_steps, add_to_concept, every_frame=True),
    }


def compare(title: str, timed: dict[str, Work], steps: int, turns: int, clock: Clock, synchronize: Work) -> None:
    """Time every pair and print milliseconds per step and ratios."""
    print(f"\n{title}")
    print(f"{'':26}{'step ms':>9}  {'beside':24}{'step ms':>9}{'ratio':>8}  {'95 %':16}{'spread':16}goal")

    def seconds(name: str) -> float:
        synchronize()
        start = clock()
        timed[name]()
        synchronize()
        return clock() - start

    for name, beside, goal in COMPARED:
        order, found = (name, beside, beside, name), []
        for _ in range(turns + 1):
            times = [seconds(one) for one in order]
            found.append((times[0] + times[3], times[1] + times[2]))
        ours, others = zip(*found[1:], strict=True)  # the first turn warms up
        ratios = sorted(a / b for a, b in zip(ours, others, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        reach = max(1, round(turns / 2 - 0.98 * turns**0.5))  # binomial: order statistics around the median
        interval = f"[{ratios[reach - 1]:.3f}, {ratios[turns - reach]:.3f}]"
        per_step = [statistics.median(times) / 2 / steps * 1e3 for times in (ours, others)]
        met = "" if goal is None else f"≤ {goal:.2f} {'met' if middle <= goal else 'missed'}"
        print(
            f"{name:26}{per_step[0]:9.2f}  {beside:24}{per_step[1]:9.2f}{middle:8.3f}  {interval:16}"
            f"{f'[{low:.3f}, {high:.3f}]':16}{met}",
            flush=True,
        )


@torch.no_grad()
def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--batch", type=int, default=2, help="windows (default: 2)")
    parser.add_argument(
        "--busy", action="store_true", help="for a machine with other work: one thread, processor time instead of wall"
    )
    options = parser.parse_args()
    turns, steps = 11 if options.quick else 41, 1
    threads = 1 if options.busy else options.threads
    clock = time.process_time if options.busy else time.perf_counter
    torch.set_num_threads(threads)
    keep_freed_memory()  # as the command line does
    print(f"torch {torch.__version__}, {threads} threads, {clock.__name__}, {options.batch} windows, {turns} turns")

    module = WalrusModule(checkpoint="physteer://walrus-demo").eval()
    batch = windows((64, 128), module.network.config.n_steps_input, options.batch, torch.device("cpu"))
    timed = works(module, batch, steps)
    compare("the model that ships with physteer, 64 × 128, CPU, float32", timed, steps, turns, clock, lambda: None)
    if torch.cuda.is_available():
        device = torch.device("cuda")
        with device:
            module = WalrusModule(network=WalrusConfig(dimensions=(2,))).to(torch.bfloat16).eval()
        batch = windows((256, 512), 6, 2, device)
        title = f"the published size, 256 × 512, {torch.cuda.get_device_name(device)}, bfloat16"
        compare(title, works(module, batch, steps), steps, turns, time.perf_counter, torch.cuda.synchronize)


if __name__ == "__main__":
    main()
