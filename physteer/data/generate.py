"""The shear-flow data set: files of the built-in simulator, which are those of `physteer.data.crossed_files`.

All Schmidt numbers of a run are tracers in one flow: half the work, and velocity and pressure are equal bit for bit.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from physteer.data.crossed_files import SPLITS, CrossedFiles, CrossedSettings, Gap
from physteer.data.initial_conditions import ShearLayers, check_layers, draw_shear_layers, initial_state
from physteer.data.jobs import run_jobs
from physteer.data.shear_flow import Frame, ShearFlowState, check_grid, simulate, substeps_per_frame
from physteer.data.well_format import Scalar, WellFile, WellWriter

GENERATOR = "physteer shear-flow 1"
"""Name and version; the version is raised whenever the same settings give other values."""

_Frames = Iterator[tuple[slice, int, Frame]]  # trajectories, index of the frame, frame
_Job = tuple[dict[Path, WellFile], _Frames]


@dataclass(frozen=True)
class ShearFlowSettings(CrossedSettings):
    """The common settings of all files of a data set.

    Raises:
        PhysteerError: The simulator does not support the grid, the number of layers is odd, or layers overlap.
    """

    widths: tuple[float, ...] = (0.05, 0.065, 0.08)
    """Half-widths of the layers."""
    shears: tuple[int, ...] = (2, 4)
    """Numbers of layers."""
    blobs: tuple[int, ...] = (1, 2, 3)
    """Numbers of waves per layer."""
    substeps: int | None = None
    """Solver steps per frame; None for the stability rule."""

    def __post_init__(self) -> None:
        check_grid(self.resolution)
        check_layers(self.widths, self.shears, self.blobs)

    def draw(self, split: str) -> tuple[ShearLayers, ...]:
        """Return the initial conditions of a split."""
        seed = (self.seed, SPLITS.index(split))
        return draw_shear_layers(self.count(split), seed, widths=self.widths, shears=self.shears, blobs=self.blobs)

    def record(self, generator: str, split: str) -> dict[str, object]:
        """Return the settings stored in each file of a split; an existing file is kept only if they agree."""
        substeps = self.substeps or substeps_per_frame(self.resolution, self.dt)
        return {**super().record(generator, split), "substeps": substeps}


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
    """Write the missing files of the data set; return the files written.

    Args:
        out: folder of the data set.
        reynolds: Reynolds numbers, positive, distinct.
        schmidt: Schmidt numbers, positive, distinct.
        settings: all other settings.
        device: of the simulation.
        batch: number of flows advanced together; use more on a GPU.
        progress: called with the number of frames just stored, over all trajectories.

    Raises:
        PhysteerError: A file of the data set was made with other settings, or cannot be read or written.
    """
    files = CrossedFiles(out, "shear_flow", "shear_flow", GENERATOR, reynolds, schmidt, settings)
    layers = {split: settings.draw(split) for split in SPLITS}
    with files.completed(progress) as gaps:
        jobs = [
            (
                files.contents(gap, _scalars(layers[gap.split])),
                _simulate(layers[gap.split], batch, gap, settings, device),
            )
            for gap in gaps
        ]
        # One Reynolds number of one split is a job of one thread: the arrays of a few flows fit a core's cache, and are
        # too small to be worth sharing between cores.
        with _one_thread_per_operation() as cores:
            writing = [partial(_write, *job) for job in jobs]
            run_jobs(writing, cores if device == "cpu" else 1, progress)
    return [path for contents, _ in jobs for path in contents]


@contextlib.contextmanager
def _one_thread_per_operation() -> Iterator[int]:
    """Let torch use one thread per operation within the block; yield the number of threads before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def _scalars(layers: Sequence[ShearLayers]) -> tuple[Scalar, ...]:
    return (
        Scalar("width", [layer.width for layer in layers], sample_varying=True),
        Scalar("n_shear", [layer.n_shear for layer in layers], sample_varying=True),
        Scalar("n_blobs", [layer.n_blobs for layer in layers], sample_varying=True),
    )


def _simulate(layers: Sequence[ShearLayers], batch: int, gap: Gap, settings: ShearFlowSettings, device: str) -> _Frames:
    """Yield trajectories, frame index and frame; each flow carries one tracer per Schmidt number."""
    for first in range(0, len(layers), batch):
        start = initial_state(layers[first : first + batch], settings.resolution, device)
        runs = len(start.velocity)
        frames = simulate(
            ShearFlowState(start.velocity, start.tracer[:, None].repeat(1, len(gap.schmidt), 1, 1)),
            torch.full((runs,), gap.reynolds, dtype=torch.float64, device=device),
            torch.tensor(gap.schmidt, dtype=torch.float64, device=device).repeat(runs, 1),
            settings.frames,
            settings.dt,
            substeps=settings.substeps,
        )
        for index, frame in enumerate(frames):
            yield slice(first, first + runs), index, frame


def _write(contents: Mapping[Path, WellFile], frames: _Frames, report: Callable[[int], object]) -> None:
    """Write the files of one Reynolds number; they have the same flows and different tracers."""
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(WellWriter(path, content)) for path, content in contents.items()]
        for trajectories, index, frame in frames:
            shared = {"pressure": frame.pressure.cpu().numpy(), "velocity": frame.velocity.cpu().numpy()}
            for tracer, writer in zip(frame.tracer.unbind(1), writers, strict=True):
                writer.write({"tracer": tracer.cpu().numpy(), **shared}, trajectories, index)
            report(frame.tracer.shape[0] * frame.tracer.shape[1])
