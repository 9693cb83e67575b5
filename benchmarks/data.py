"""Windows per second beside the_well's own reader: python benchmarks/data.py [FOLDER ...].

FOLDER is one split of a data set in The Well's format; without one, a small shear flow is simulated. The same windows
in random order are read by `WindowDataset`, by `the_well.data.WellDataset`, and by h5py alone (the same frames of the
same fields from open files, left as they are stored: the floor). The readers take turns window by window, so that a
busy machine slows all of them, each at another place of the order, so that none finds what another has just read;
medians are compared. The operating system has the files in memory: what is measured is the work, not the disk.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import torch
from the_well.data import WellDataset

from physteer.commands import data as data_command
from physteer.data import Window, WindowDataset, WindowSpec


def floor(folder: Path) -> Callable[[Window, int], None]:
    """Read a window's fields with h5py from files that are open already."""
    files = {path.stem: h5py.File(path) for path in sorted(folder.glob("*.h*5"))}
    fields = {
        name: [dataset for order in range(3) for dataset in file[f"t{order}_fields"].values()]
        for name, file in files.items()
    }
    flags = [
        (bool(one.attrs["sample_varying"]), bool(one.attrs["time_varying"])) for one in next(iter(fields.values()))
    ]

    def read(window: Window, n_frames: int) -> None:
        frames = slice(window.start, window.start + n_frames)
        for dataset, (sample, evolves) in zip(fields[window.file], flags, strict=True):
            dataset[(window.trajectory,) * sample + (frames,) * evolves]

    return read


def compare(folder: Path, n_input: int, n_output: int, rounds: int) -> None:
    """Print one table for one folder."""
    n_frames = n_input + n_output
    well = WellDataset(path=str(folder), n_steps_input=n_input, n_steps_output=n_output)
    alone = floor(folder)
    with WindowDataset(str(folder), WindowSpec(n_input, n_output)) as ours:
        assert len(ours) == len(well)
        readers: dict[str, Callable[[int], object]] = {
            "physteer WindowDataset": lambda index: ours[index],
            "the_well WellDataset": lambda index: well[index],
            "h5py alone, open files": lambda index: alone(ours.windows[index], n_frames),
        }
        for path in folder.glob("*.h*5"):
            path.read_bytes()
        order = torch.randperm(len(ours), generator=torch.Generator().manual_seed(0)).tolist()
        apart = len(order) // len(readers)
        seconds: dict[str, list[float]] = {name: [] for name in readers}
        for turn in range(rounds):
            for place, (name, read) in enumerate(readers.items()):
                index = order[(turn + place * apart) % len(order)]
                began = time.perf_counter()
                read(index)
                seconds[name].append(time.perf_counter() - began)
        shape = tuple(ours[0].fields.shape)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{folder}: {len(ours)} windows {shape} in {len(ours.files)} files, {rounds} read, torch threads {threads()}")
    for name, median in medians.items():
        print(f"  {name:<24}{1 / median:>8.0f} windows/s {median * 1e3:>8.2f} ms")
    first, second, third = medians.values()
    print(f"  {second / first:.1f} times the_well's speed; {first / third:.2f} of h5py's time alone")


def threads() -> int:
    """Return how many threads torch uses."""
    return torch.get_num_threads()


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--n-input", type=int, default=6)
    parser.add_argument("--n-output", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200, help="windows read by each reader")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if not given.folders:
            words = "--reynolds 200 2000 --schmidt 0.5 2 --frames 12 --initial-conditions 3 --valid 0 --test 0"
            data_command.main(["shear-flow", scratch, "--resolution", "32", "64", *words.split()])
            given.folders = [Path(scratch) / "data" / "train"]
        for folder in given.folders:
            compare(folder, given.n_input, given.n_output, given.rounds)


if __name__ == "__main__":
    main()
