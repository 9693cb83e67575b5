"""Fixtures every test shares: nothing may be left behind, and one tiny data set from the real simulator."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from helpers.wells import EVERY, write

from physteer.commands import data as data_command

matplotlib.use("agg")  # no display is asked for, whatever the machine has

# Libraries set these in their own process, once; no code of ours could take them back.
LIBRARY_ENVIRONMENT = (
    "PL_",  # Lightning's seed_everything
    "LIGHTNING_",
    "WANDB_",
    "TORCH",  # torch.compile's caches
    "_TORCH",
    "PYTORCH_",  # Lightning's look for GPUs
    "TRITON_",
    "KINETO_",
    "KMP_",  # OpenMP, at its first use
    "PYTEST_",
)
LIBRARY_PROCESSES = (
    "multiprocessing.resource_tracker",  # one per process, until its end
    "multiprocessing.forkserver",
    "torch/_inductor",
    "wandb-core",  # ended at exit
    "gpu_stats",
)
TOOL_FILES = {".pytest_cache", ".ruff_cache", ".mypy_cache", ".coverage", "__pycache__"}


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves environment variables, child processes, or files in the working directory."""
    folder = Path.cwd()
    environment, files, children = dict(os.environ), set(os.listdir(folder)), set(_children())
    yield
    moved = Path.cwd()
    os.chdir(folder)
    leaks = [] if moved == folder else [f"the working directory moved to {moved}"]
    leaks += [f"environment variable {name}" for name in _restore(environment)]
    leaks += [f"{folder / name}" for name in sorted(set(os.listdir(folder)) - files - TOOL_FILES)]
    leaks += [f"process {pid}: {command}" for pid, command in _lingering(children).items()]
    if leaks:
        pytest.fail("left behind: " + "; ".join(leaks), pytrace=False)


def _restore(before: dict[str, str]) -> list[str]:
    """Put the environment back and return the names that had changed, those of libraries apart."""
    changed = [name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)]
    for name in changed:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    return sorted(name for name in changed if not name.startswith(LIBRARY_ENVIRONMENT))


def _lingering(before: set[int], patience: float = 2.0) -> dict[int, str]:
    """Return the new children that are still there after `patience` seconds (workers take a moment to end)."""
    deadline = time.monotonic() + patience
    while True:
        multiprocessing.active_children()  # reaps those that ended
        new = {
            pid: command
            for pid, command in _children().items()
            if pid not in before and not any(known in command for known in LIBRARY_PROCESSES)
        }
        if not new or time.monotonic() > deadline:
            return new
        time.sleep(0.05)


def _children() -> dict[int, str]:
    """Return the running children of this process with their command lines; without /proc only Python's own."""
    found = {child.pid: child.name for child in multiprocessing.active_children() if child.pid is not None}
    for listing in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, listing.read_text().split()):
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it ended meanwhile
                continue
            if state not in "ZX":
                found[pid] = command.strip() or "just started"
    return found


@pytest.fixture(scope="session")
def tiny_well(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set from the real simulator; read only, copy it before changing anything.

    Reynolds {200, 2000} × Schmidt {0.5, 2}, 32 × 64 cells, 12 frames 0.25 apart; initial conditions: 3 in train, 1 in
    valid, 2 in test.
    """
    out = tmp_path_factory.mktemp("well") / "shear_flow"
    words = ["shear-flow", str(out), "--reynolds", "200", "2000", "--schmidt", "0.5", "2", "--resolution", "32", "64"]
    words += ["--frames", "12", "--initial-conditions", "3", "--valid", "1", "--test", "2", "--seed", "7"]
    assert data_command.main(words) == 0
    return out


@pytest.fixture(scope="session")
def well_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name, folders of two files, `name_0.hdf5` and `name_1.h5`, of every kind of data in `wells.py`; read only."""
    root = tmp_path_factory.mktemp("wells")
    for name, well in EVERY.items():
        write(root / name / f"{name}_0.hdf5", well, 0)
        write(root / name / f"{name}_1.h5", well, 1)
    return {name: root / name for name in EVERY}
