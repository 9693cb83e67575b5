"""Videos of a run: truth, unsteered and steered rollouts of some windows side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from physteer.analyses.steering.table import TRUTH, UNSTEERED
from physteer.errors import PhysteerError
from physteer.reports.field_slices import Shown, shown_field, shown_fields
from physteer.reports.rollouts import WindowRollouts, WrittenRollout, read_rollouts
from physteer.reports.selection import MOST_SERIES, file_name, spread
from physteer.reports.terminology import ERASING, STEERING, words_of
from physteer.reports.video import draw_video

OWN_VIDEOS = tuple(f"{words.done}_*.mp4" for words in (STEERING, ERASING))
WINDOWS = 2
"""Windows that are filmed, unless asked for more."""


def film(
    run_folder: Path | str,
    n_windows: int = WINDOWS,
    fields: Sequence[str] | None = None,
    strengths: Sequence[float] | None = None,
) -> list[Path]:
    """Write ``videos/steered_*.mp4``, or ``erased_*.mp4``, from the rollouts of a run folder, replacing earlier ones.

    Args:
        run_folder: with rollouts.
        n_windows: how many windows, spread over the files they are from.
        fields: ``vorticity`` and stored fields such as ``tracer`` or ``velocity_x``; the vorticity and the tracer, or
            else the first scalar, when None.
        strengths: values of α; the strongest of either sign when None.

    Returns:
        The paths.

    Raises:
        PhysteerError: there are no rollouts, one is broken, has no such field, or none was steered with such a
            strength; or a video cannot be written.
    """
    folder, windows = Path(run_folder) / "videos", read_rollouts(run_folder)
    jobs = list(_jobs(spread(windows, n_windows), fields, strengths))
    if strengths and not jobs:
        known = sorted({one.strength for window in windows for one in window.rollouts if one.role == "concept"})
        raise PhysteerError(f"no video: steered with were {known}, none of {list(strengths)}")
    for path in [path for pattern in OWN_VIDEOS for path in folder.glob(pattern)]:
        path.unlink()
    return [
        draw_video(rollouts, field, folder / name)
        for rollouts, field, name in tqdm(jobs, "videos", unit="video", disable=None)
    ]


def _jobs(
    windows: Sequence[WindowRollouts], fields: Sequence[str] | None, strengths: Sequence[float] | None
) -> Iterator[tuple[list[WrittenRollout], Shown, str]]:
    """Yield the rollouts of each video from left to right, what is shown, and the file's name."""
    for number, window in enumerate(windows, 1):
        references = [one for name in (TRUTH, UNSTEERED) if (one := window.find(name)) is not None]
        for series in window.series[:MOST_SERIES]:
            for rollout in _chosen([one for one in window.steered(series) if one.role == "concept"], strengths):
                words = words_of([series.mode])
                strength = f"_{rollout.strength:+g}" if words.doses else ""
                who = f"{words.done}_{file_name(str(series))}{strength}"
                shown = shown_fields(rollout) if fields is None else [shown_field(rollout, name) for name in fields]
                for field in shown:
                    name = f"{who}_{number:02d}_{field.name}_{window.window}.mp4"
                    yield [*references, rollout], field, name


def _chosen(steered: Sequence[WrittenRollout], strengths: Sequence[float] | None) -> list[WrittenRollout]:
    if strengths is not None:
        return [one for one in steered if any(math.isclose(one.strength, strength) for strength in strengths)]
    return list({one.strength > 0: one for one in sorted(steered, key=lambda one: abs(one.strength))}.values())
