"""Videos of a run: truth, unsteered and steered rollouts of some windows side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from physteer.errors import PhysteerError
from physteer.reports.field_slices import ShownField, shown_field, shown_fields
from physteer.reports.rollouts import WindowRollouts, WrittenRollout, read_rollouts
from physteer.reports.selection import MOST_SERIES, series_name, spread
from physteer.reports.terminology import ERASING, STEERING, terminology_of
from physteer.reports.video import draw_video

OWN_VIDEOS = tuple(f"{terms.done}_*.mp4" for terms in (STEERING, ERASING))
WINDOWS = 2
"""Windows with videos, unless asked for more."""


def write_videos(
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
        concepts = [r.setting for window in windows for r in window.rollouts if r.setting.role == "concept"]
        known = sorted({setting.strength for setting in concepts})
        raise PhysteerError(f"no video: steered with were {known}, none of {list(strengths)}")
    for path in [path for pattern in OWN_VIDEOS for path in folder.glob(pattern)]:
        path.unlink()
    return [
        draw_video(rollouts, field, folder / name)
        for rollouts, field, name in tqdm(jobs, "videos", unit="video", disable=None)
    ]


def _jobs(
    windows: Sequence[WindowRollouts], fields: Sequence[str] | None, strengths: Sequence[float] | None
) -> Iterator[tuple[list[WrittenRollout], ShownField, str]]:
    """Yield the rollouts of each video from left to right, what is shown, and the file's name."""
    for number, window in enumerate(windows, 1):
        for series in window.series[:MOST_SERIES]:
            terms = terminology_of([series.mode])
            concepts = [rollout for rollout in window.steered(series) if rollout.setting.role == "concept"]
            for rollout in _selected(concepts, strengths):
                strength = f"_{rollout.setting.strength:+g}" if terms.has_strengths else ""
                start = f"{terms.done}_{series_name(series)}{strength}_{number:02d}"
                shown = shown_fields(rollout) if fields is None else [shown_field(rollout, name) for name in fields]
                for field in shown:
                    yield [*window.references, rollout], field, f"{start}_{field.name}_{window.window}.mp4"


def _selected(steered: Sequence[WrittenRollout], strengths: Sequence[float] | None) -> list[WrittenRollout]:
    """Return the rollouts of some strengths, or of the strongest of either sign."""
    if strengths is not None:
        return [r for r in steered if any(math.isclose(r.setting.strength, strength) for strength in strengths)]
    return list({r.setting.strength > 0: r for r in sorted(steered, key=lambda r: abs(r.setting.strength))}.values())
