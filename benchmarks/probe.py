"""Ridge probes beside scikit-learn's Ridge: python benchmarks/probe.py [--samples N] [--width D].

The same float32 activations and targets, made from a seed block by block, are given to `RidgeFitter` as a stream and to
scikit-learn (solver "cholesky") as one array, in float32 and in float64. Each fit runs in a process of its own, which
tells its time (making data and imports apart), that of all its cores together, which a busy machine disturbs less, and
its peak memory above what it had after the imports; the contestants take turns and medians are compared. We fit nine
penalties from the same sums; scikit-learn fits one, and would start again for each of the others. The error of the
weights is that against scikit-learn's in float64.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

TARGETS, BLOCK = 8, 8192
ALPHAS = [10.0**k for k in (2, -2, -1, 0, 1, 3, 4, 5, 6)]
"""The first one is compared."""
CONTESTANTS = ("physteer", "scikit-learn float32", "scikit-learn float64")


def blocks(samples: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield activations [n, d] with unequal variances and a mean, and targets [n, m]; the same numbers every time."""
    constants = np.random.default_rng(0)
    mixed = constants.normal(size=(width, 32)).astype("f4")
    scales = np.logspace(-1, 1, width, dtype="f4")
    readout = constants.normal(size=(width, TARGETS)).astype("f4") / scales[:, None]
    with threadpool_limits(1, "blas"):  # more threads round otherwise, and go on waiting, busily, after each block
        for index, first in enumerate(range(0, samples, BLOCK)):
            rng = np.random.default_rng([1, index])
            n = min(BLOCK, samples - first)
            x = rng.standard_normal((n, width), dtype="f4") + rng.standard_normal((n, 32), dtype="f4") @ mixed.T
            x = x * scales + scales
            yield x, x @ readout + rng.standard_normal((n, TARGETS), dtype="f4") * np.float32(width**0.5)


def peak() -> int:
    """Return the most memory this process has held, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def clocks() -> np.ndarray:
    """Return the seconds of the wall's clock and of this process's cores."""
    return np.array([time.perf_counter(), time.process_time()])


def ours(samples: int, width: int, threads: int) -> tuple[np.ndarray, int, np.ndarray]:
    """Fit a stream; return seconds (wall, cores), bytes and weights [m, d] of the first penalty."""
    import torch

    from physteer.concepts import RidgeFitter

    torch.set_num_threads(threads)
    before, seconds = peak(), np.zeros(2)
    fitter = RidgeFitter([f"target {i}" for i in range(TARGETS)])
    for x, y in blocks(samples, width):
        began = clocks()
        fitter.update(torch.from_numpy(x), torch.from_numpy(y))
        seconds += clocks() - began
    began = clocks()
    probes = fitter.fit(ALPHAS)
    seconds += clocks() - began
    return seconds, peak() - before, probes.weights[0].T.numpy()


def peer(samples: int, width: int, threads: int, dtype: str) -> tuple[np.ndarray, int, np.ndarray]:
    """The same with scikit-learn."""
    from sklearn.linear_model import Ridge

    before = peak()
    x, y = np.empty((samples, width), dtype), np.empty((samples, TARGETS), dtype)
    for index, (some, targets) in enumerate(blocks(samples, width)):
        rows = slice(index * BLOCK, index * BLOCK + len(some))
        x[rows], y[rows] = some, targets
    with threadpool_limits(threads):
        began = clocks()
        fit = Ridge(ALPHAS[0], solver="cholesky").fit(x, y)
        seconds = clocks() - began
    return seconds, peak() - before, fit.coef_


def contest(name: str, given: argparse.Namespace, folder: Path) -> tuple[list[float], int, np.ndarray]:
    """Run one fit in a process of its own."""
    out = folder / "weights.npy"
    size = ["--samples", str(given.samples), "--width", str(given.width), "--threads", str(given.threads)]
    words = [sys.executable, __file__, *size, "--child", name, str(out)]
    told = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return told["seconds"], told["bytes"], np.load(out)


def child(given: argparse.Namespace) -> None:
    """Fit and tell."""
    name, out = given.child
    size = given.samples, given.width, given.threads
    seconds, held, weights = ours(*size) if name == CONTESTANTS[0] else peer(*size, name.split()[-1])
    np.save(out, weights)
    print(json.dumps({"seconds": seconds.tolist(), "bytes": held}))


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="fits of each contestant; medians are compared")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given)
    found: dict[str, list[tuple[list[float], int, np.ndarray]]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(given.rounds):
            for name in CONTESTANTS:
                found[name].append(contest(name, given, Path(scratch)))
    exact = found[CONTESTANTS[2]][0][2]
    print(f"{given.samples} x {given.width} float32, {TARGETS} targets, {given.threads} threads, {given.rounds} rounds")
    print(f"  {'':<22}{'penalties':>10}{'time':>10}{'all cores':>11}{'memory':>12}{'error of weights':>18}")
    rows = {}
    for name in CONTESTANTS:
        wall, cores = (statistics.median(run[0][i] for run in found[name]) for i in (0, 1))
        held = statistics.median(run[1] for run in found[name])
        error = np.abs(found[name][0][2] - exact).max() / np.abs(exact).max()
        rows[name] = wall, cores, held
        penalties = len(ALPHAS) if name == CONTESTANTS[0] else 1
        print(f"  {name:<22}{penalties:>10}{wall:>8.2f} s{cores:>9.2f} s{held / 2**20:>8.0f} MiB{error:>18.1e}")
    for name in CONTESTANTS[1:]:
        wall, cores, held = (theirs / mine for theirs, mine in zip(rows[name], rows[CONTESTANTS[0]], strict=True))
        print(f"  {name} / physteer: time {wall:.2f}, of all cores {cores:.2f}, memory {held:.0f}")


if __name__ == "__main__":
    main()
