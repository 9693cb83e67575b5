"""Does memory grow with the number of windows? python benchmarks/memory.py [--quick] [--only WORDS] [--causes].

A small Walrus runs over 1,000 windows of 200 files through the real command line, each case in a process of its own.
Its resident memory is read every 50 windows; what is printed is the slope of a line through the readings after the
first 650 windows, in MB per 100 windows, with a 95 % interval for that line. Until then more and more files are open.
Flat is a slope within ± 1 MB per 100 windows. Linux alone: memory is read from /proc.

    no callbacks, one file  the same windows from one file: what files cost is the difference to the case after it
    rows                    of the tables that the run leaves, and how many bytes of them a window makes on the disk

With `--causes`, beside: bytes that the allocator has given out and holds free, and how many tensors and Python objects
are alive (`gc`), at the first reading after the warm-up and at the last one.
"""

import argparse
import ctypes
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import torch
import yaml

from physteer.cli import main as physteer
from physteer.concepts import Concept
from physteer.data import Axis, WellField, WellFile, WellWriter
from physteer.data.initial_conditions import draw_shear_layers

N_FILES, PER_FILE, N_INPUT, N_OUTPUT, GRID = 200, 5, 3, 2, (32, 64)
SPLITS = ("train", "valid", "test")
BATCH, EVERY = 2, 50  # windows
WARM = 0.65
"""Share of the windows after which as many files have been opened as a process keeps open (128)."""
NETWORK = {
    "fields": ["closed_boundary", "open_boundary", "bias_correction", "pressure", "tracer", "velocity_x", "velocity_y"],
    **{"hidden_dim": 32, "intermediate_dim": 8, "n_blocks": 2, "n_heads": 2, "tokens_2d": 8, "dimensions": [2]},
    "n_steps_input": N_INPUT,
}
NETWORK["fields"] = [*NETWORK["fields"], "velocity_z"]


def called(name: str, /, **arguments: Any) -> dict[str, Any]:
    """A class of a configuration."""
    return {"class_path": name, "init_args": arguments}


@dataclass(frozen=True)
class Case:
    """What is run: a command over windows, and its callbacks."""

    command: str = "predict"
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    one_file: bool = False


VALUES = [100.0 * (1 + number) for number in range(N_FILES // 2 + 1)]
STEER = called("Steer", concept="concept.safetensors", strengths=[-0.1, 0.1], mode="drop")
PAIRS = {
    "variables": ["Reynolds"],
    "truth": called("physteer.data.SolverTruth", remembered=0),
    "train_pairs": N_FILES * PER_FILE,
    "evaluation_pairs": N_FILES * PER_FILE,
}
NODES = {
    "nodes": ["blocks.0", "blocks.1.space.ff_update"],
    "variants": ["source"],
    "scales": [1.0],
    "attribution": False,
}
CASES = {
    "no callbacks, one file": Case(one_file=True),
    "no callbacks": Case(),
    "Capture": Case(
        callbacks=[
            called(
                "Capture",
                name="c",
                sites=["blocks.0"],
                feature="Reynolds > 1000",
                control="Reynolds <= 1000",
                shuffles=2,
            )
        ]
    ),
    "Steer, Diagnostics": Case(callbacks=[STEER, called("Diagnostics", parameter="Reynolds", values=VALUES)]),
    "Steer, RolloutWriter": Case(callbacks=[STEER, called("RolloutWriter")]),
    "Effects": Case("validate", [called("Effects", frames=[-1], cache=0, **NODES)], PAIRS),
    "DAS": Case(
        "fit",
        [called("DAS", sites=["blocks.0"], ranks=[1], frames=[-1], random=1, cache=0)],
        {**PAIRS, "evaluation_pairs": 10},
        {"max_epochs": 1, "enable_checkpointing": False, "logger": False, "num_sanity_val_steps": 0},
    ),
}


class Readings(L.Callback):
    """Reads the resident memory every `EVERY` windows, into a file that is written when the run ends.

    Args:
        path: of the file.
        causes: count live tensors and objects too.
    """

    def __init__(self, path: str, causes: bool = False) -> None:
        self.path, self.causes = path, causes
        self.windows = 0
        self.readings: list[dict[str, float]] = []

    def _count(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, *args: Any) -> None:
        before, self.windows = self.windows, self.windows + len(batch)
        if self.windows // EVERY > before // EVERY:
            self.readings.append({"windows": self.windows, "resident": resident()})
            if self.causes:
                self.readings[-1] |= causes()
            Path(self.path).write_text(json.dumps(self.readings))

    on_predict_batch_end = on_validation_batch_end = on_train_batch_end = _count


def resident() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    ]


def causes() -> dict[str, float]:
    """Return what the allocator holds, in MB, and how many objects and tensors are alive."""
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(isinstance(one, torch.Tensor) for one in objects)
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return {
        "given": (info.uordblks + info.hblkhd) / 1e6,
        "free": info.fordblks / 1e6,
        "objects": len(objects),
        "tensors": tensors,
    }


def write_file(path: Path, number: int, trajectories: int, split: str) -> None:
    """Write a file of shear layers that move along x; initial conditions are the same in all files of a split."""
    axes = (Axis("x", np.arange(GRID[0]) / GRID[0]), Axis("y", -1 + 2 * np.arange(GRID[1]) / GRID[1]))
    fields = (WellField("tracer"), WellField("pressure"), WellField("velocity", order=1))
    parameters = {"Reynolds": 100.0 * (1 + number // 2), "Schmidt": float(1 + number % 2)}
    content = WellFile("shear_flow", axes, np.arange(N_INPUT + N_OUTPUT) / 10, trajectories, fields, parameters)
    with WellWriter(path, content) as writer:
        for trajectory, layers in enumerate(draw_shear_layers(trajectories, [SPLITS.index(split)])):
            velocity, tracer = layers.fields(GRID)
            for frame in range(len(content.times)):
                faster = 1 + 0.01 * number * (frame > 0)  # parameters matter
                moved = [faster * torch.roll(one, frame, 0).numpy() for one in (velocity, tracer)]
                values = {"velocity": moved[0], "tracer": moved[1], "pressure": 0.1 * moved[1] ** 2}
                writer.write(values, trajectory, frame)


def write_data(folder: Path, n_files: int) -> None:
    """Write the data sets and the concept that the cases use."""
    for split in SPLITS:
        for number in range(n_files):
            write_file(folder / f"many/data/{split}/file_{number:03d}.hdf5", number, PER_FILE, split)
    write_file(folder / "one/data/test/file.hdf5", 0, n_files * PER_FILE, "test")
    Concept(torch.randn(8, 8, 1, 32, generator=torch.Generator().manual_seed(0)), "blocks.0").save(
        folder / "concept.safetensors"
    )


def run_case(name: str, folder: Path, with_causes: bool) -> None:
    """Run a case in this process, which its parent has started for it."""
    case = CASES[name]
    os.chdir(folder)
    readings = called("memory.Readings", path="readings.json", causes=with_causes)
    settings = {
        "model": called("physteer.WalrusModule", network=NETWORK),
        "data": called(
            "physteer.WellDataModule" if case.command == "predict" else "physteer.CounterfactualDataModule",
            **{
                "path": "one" if case.one_file else "many",
                "n_steps_input": N_INPUT,
                "batch_size": BATCH,
                **({"rollout_steps": N_OUTPUT} if case.command == "predict" else {}),
                **case.data,
            },
        ),
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": "run",
            **case.trainer,
            "callbacks": [*case.callbacks, readings],
        },
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    raise SystemExit(physteer([case.command, "--config", "run.yaml"]))


def slope(readings: list[dict[str, float]]) -> tuple[float, float]:
    """Return the slope of least squares in MB per 100 windows, and half of its 95 % interval."""
    x, y = ([reading[name] for reading in readings] for name in ("windows", "resident"))
    line = statistics.linear_regression(x, y)
    rest = [b - line.slope * a - line.intercept for a, b in zip(x, y, strict=True)]
    spread = math.sqrt(sum(one**2 for one in rest) / (len(x) - 2) / sum((a - statistics.mean(x)) ** 2 for a in x))
    return 100 * line.slope, 100 * 2.4 * spread


def tables(folder: Path, windows: float) -> str:
    """Return how many rows the run's tables have, and bytes per window."""
    paths = [*(folder / "run").rglob("*.parquet")]
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    return f"{rows:,} of {sum(path.stat().st_size for path in paths) / windows:.0f} B" if rows else ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half of the files and windows")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--causes", action="store_true", help="count what is alive")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        run_case(options.case, options.folder, options.causes)
    n_files = N_FILES // 2 if options.quick else N_FILES
    print(f"torch {torch.__version__}, {n_files} files, {n_files * PER_FILE} windows")
    print(f"{'':24}{'MB, warm':>11}{'at the end':>12}{'MB per 100 windows':>22}{'':4}rows")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(folder, n_files)
        for name in CASES:
            if options.only and options.only not in name:
                continue
            words = [sys.executable, __file__, "--case", name, "--folder", place, *["--causes"] * options.causes]
            done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr}")
            readings = json.loads((folder / "readings.json").read_text())
            warm = [reading for reading in readings if reading["windows"] >= WARM * readings[-1]["windows"]]
            found, reach = slope(warm)
            print(
                f"{name:24}{warm[0]['resident']:>11.1f}{warm[-1]['resident']:>12.1f}{found:>+14.2f} ± {reach:<5.2f}"
                f"{'':4}{tables(folder, readings[-1]['windows'])}",
                flush=True,
            )
            for what in ("given", "free", "objects", "tensors") if options.causes else ():
                print(f"    {what:20}{warm[0][what]:>11,.0f}{warm[-1][what]:>12,.0f}")
            subprocess.run(["rm", "-rf", str(folder / "run")], check=True)


if __name__ == "__main__":
    main()
