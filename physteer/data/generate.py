"""The shear-flow data set: Reynolds × Schmidt × initial condition, fully crossed within every split.

    OUT/stats.yaml
    OUT/data/{train,valid,test}/shear_flow_Reynolds_{Re}_Schmidt_{Sc}.hdf5

One file per pair of parameters, one trajectory per initial condition, in the same order in every file of a split. All
Schmidt numbers of a run are tracers in one flow: half the work, and velocity and pressure are equal bit for bit.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

import h5py
import numpy as np
import torch

from physteer.data.initial_conditions import ShearLayers, draw_shear_layers, initial_state
from physteer.data.shear_flow import LENGTHS, Frame, ShearFlowState, simulate, substeps_per_frame
from physteer.data.well_format import Axis, Scalar, WellField, WellFile, WellWriter
from physteer.data.well_stats import write_stats
from physteer.errors import PhysteerError

GENERATOR_VERSION = 1
"""Raised whenever the same settings would give other numbers."""

SPLITS = ("train", "valid", "test")
FIELDS = (WellField("tracer"), WellField("pressure"), WellField("velocity", order=1))
"""Of The Well's shear_flow."""

_Frames = Iterator[tuple[slice, int, Frame]]  # which trajectories, index of the frame, the frame
_Job = tuple[dict[Path, WellFile], _Frames]


@dataclass(frozen=True)
class ShearFlowSettings:
    """What every file of a data set has in common.

    Attributes:
        counts: initial conditions in train, valid and test.
        frames: stored frames per trajectory, the initial one included.
        dt: time between frames.
        resolution: grid points (x, y), even.
        seed: of the initial conditions.
        widths: half-widths of the layers.
        shears: numbers of layers.
        blobs: numbers of waves per layer.
        substeps: solver steps per frame; None for the stability rule.
    """

    counts: tuple[int, int, int] = (12, 2, 2)
    frames: int = 40
    dt: float = 0.25
    resolution: tuple[int, int] = (64, 128)
    seed: int = 0
    widths: tuple[float, ...] = (0.05, 0.065, 0.08)
    shears: tuple[int, ...] = (2, 4)
    blobs: tuple[int, ...] = (1, 2, 3)
    substeps: int | None = None

    def draw(self, split: str) -> tuple[ShearLayers, ...]:
        """Return the initial conditions of a split."""
        index = SPLITS.index(split)
        seed = (self.seed, index)
        return draw_shear_layers(self.counts[index], seed, widths=self.widths, shears=self.shears, blobs=self.blobs)

    def record(self, split: str) -> dict[str, object]:
        """Return what is stored in each file of a split and must agree before the file is kept."""
        record = asdict(self)
        record["substeps"] = self.substeps or substeps_per_frame(self.resolution, self.dt)
        record["initial_conditions"] = record.pop("counts")[SPLITS.index(split)]
        return {"generator": f"physteer shear-flow {GENERATOR_VERSION}", "split": split, **record}


def scientific(value: float) -> str:
    """Return a number as The Well's file names write it: 1e4, 5e-1, 2.5e2."""
    sign, digits, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    mantissa = f"{digits[0]}" + (f".{''.join(map(str, digits[1:]))}" if len(digits) > 1 else "")
    return f"{'-' * sign}{mantissa}e{int(exponent) + len(digits) - 1}"


def file_name(reynolds: float, schmidt: float, dataset: str = "shear_flow") -> str:
    """Return the name of the file that holds a pair of parameters."""
    return f"{dataset}_Reynolds_{scientific(reynolds)}_Schmidt_{scientific(schmidt)}.hdf5"


def generate_shear_flow(
    out: Path,
    reynolds: Sequence[float],
    schmidt: Sequence[float],
    settings: ShearFlowSettings,
    *,
    device: str = "cpu",
    batch: int = 4,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Path]:
    """Write the data set, keeping files that are already there; return the files written.

    Args:
        out: folder of the data set.
        reynolds: Reynolds numbers, positive, distinct.
        schmidt: Schmidt numbers, positive, distinct.
        settings: everything else.
        device: of the simulation.
        batch: flows advanced together; more on a GPU.
        progress: called with the number of trajectory-frames just stored.

    Raises:
        PhysteerError: a file of the data set was made by other settings, or cannot be read or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhysteerError(f"cannot make the folder {out}: {error.strerror}") from error
    folders = {split: out / "data" / split for split in SPLITS}
    for split, folder in folders.items():
        for path in sorted(folder.glob("*.hdf5")):
            check_same_settings(path, settings.record(split))
    if settings.counts[0] and _missing(folders["train"], reynolds, schmidt):
        (out / "stats.yaml").unlink(missing_ok=True)  # it would not be that of the training files
    jobs = []
    for split, count in zip(SPLITS, settings.counts, strict=True):
        layers = settings.draw(split)
        for value in reynolds if count else ():
            absent = _missing(folders[split], (value,), schmidt)
            progress(settings.frames * count * (len(schmidt) - len(absent)))
            contents = {
                folders[split] / file_name(value, number): _describe(value, number, layers, settings, split)
                for number in absent
            }
            if absent:
                jobs.append((contents, _simulate(layers, batch, value, absent, settings, device)))
    # One Reynolds number of one split is a job of one thread: the arrays of a few flows fit a core's cache, and are too
    # small to be worth sharing between cores.
    with _one_thread_per_operation() as cores:
        _write_all(jobs, cores if device == "cpu" else 1, progress)
    train = sorted(folders["train"].glob("*.hdf5"))
    if train and not (out / "stats.yaml").exists():
        write_stats(train, out / "stats.yaml")
    return [path for contents, _ in jobs for path in contents]


@contextlib.contextmanager
def _one_thread_per_operation() -> Iterator[int]:
    """Let torch use one thread per operation within the block; yield how many it used before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def _missing(folder: Path, reynolds: Sequence[float], schmidt: Sequence[float]) -> list[float]:
    """Return the Schmidt numbers some file of these Reynolds numbers lacks."""
    return [one for one in schmidt if any(not (folder / file_name(value, one)).exists() for value in reynolds)]


def check_same_settings(path: Path, record: Mapping[str, object]) -> None:
    """Check that a file was made by the settings of `record`.

    Raises:
        PhysteerError: It was not, or cannot be read.
    """
    try:
        with h5py.File(path) as file:
            stored = json.loads(file.attrs.get("settings", "{}"))
    except OSError as error:
        raise PhysteerError(f"cannot read {path}: {error}; remove it to have it made again") from error
    for key, value in json.loads(json.dumps(record)).items():
        if stored.get(key) != value:
            raise PhysteerError(
                f"{path} was made with {key} {stored.get(key)}, not {value}; choose another folder or remove it"
            )


def _simulate(
    layers: Sequence[ShearLayers],
    batch: int,
    reynolds: float,
    schmidt: Sequence[float],
    settings: ShearFlowSettings,
    device: str,
) -> _Frames:
    """Yield trajectories, frame index and frame; each flow carries one tracer per Schmidt number."""
    for first in range(0, len(layers), batch):
        start = initial_state(layers[first : first + batch], settings.resolution, device)
        runs = len(start.velocity)
        frames = simulate(
            ShearFlowState(start.velocity, start.tracer[:, None].repeat(1, len(schmidt), 1, 1)),
            torch.full((runs,), reynolds, dtype=torch.float64, device=device),
            torch.tensor(schmidt, dtype=torch.float64, device=device).repeat(runs, 1),
            settings.frames,
            settings.dt,
            substeps=settings.substeps,
        )
        for index, frame in enumerate(frames):
            yield slice(first, first + runs), index, frame


def _write_all(jobs: Sequence[_Job], threads: int, progress: Callable[[int], object]) -> None:
    """Write the files of every job, several jobs at a time; one error, or an interruption, ends them all."""
    lock, stop = threading.Lock(), threading.Event()

    def report(done: int) -> None:
        if stop.is_set():
            raise CancelledError
        with lock:
            progress(done)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for done in as_completed([pool.submit(_write, *job, report) for job in jobs]):
                done.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _write(contents: Mapping[Path, WellFile], frames: _Frames, report: Callable[[int], object]) -> None:
    """Write the files of one Reynolds number, which share its flows and differ in the tracer."""
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(WellWriter(path, content)) for path, content in contents.items()]
        for trajectories, index, frame in frames:
            shared = {"pressure": frame.pressure.cpu().numpy(), "velocity": frame.velocity.cpu().numpy()}
            for tracer, writer in zip(frame.tracer.unbind(1), writers, strict=True):
                writer.write({"tracer": tracer.cpu().numpy(), **shared}, trajectories, index)
            report(frame.tracer.shape[0] * frame.tracer.shape[1])


def box_axes(resolution: tuple[int, int]) -> tuple[Axis, Axis]:
    """Return the axes of The Well's shear_flow box, 0 ≤ x < 1 and −1 ≤ y < 1, periodic."""
    x, y = (
        Axis(name, low + length * np.arange(size) / size)
        for name, low, length, size in zip("xy", (0.0, -1.0), LENGTHS, resolution, strict=True)
    )
    return x, y


def _describe(
    reynolds: float, schmidt: float, layers: Sequence[ShearLayers], settings: ShearFlowSettings, split: str
) -> WellFile:
    return WellFile(
        dataset_name="shear_flow",
        axes=box_axes(settings.resolution),
        times=settings.dt * np.arange(settings.frames),
        n_trajectories=len(layers),
        fields=FIELDS,
        parameters={"Reynolds": reynolds, "Schmidt": schmidt},
        scalars=(
            Scalar("width", [one.width for one in layers], sample_varying=True),
            Scalar("n_shear", [one.n_shear for one in layers], sample_varying=True),
            Scalar("n_blobs", [one.n_blobs for one in layers], sample_varying=True),
        ),
        attributes={"settings": json.dumps(settings.record(split))},
    )
