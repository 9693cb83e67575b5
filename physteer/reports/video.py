"""Rollout videos: truth, unsteered and steered side by side on one colour scale, as mp4 that browsers play."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from matplotlib import cm, font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, Normalize
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from physteer.analyses.steering.table import Series
from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.reports.field_slices import (
    FieldSlice,
    ShownField,
    beyond,
    colour_scale,
    field_slice,
    headline,
    slice_axes,
)
from physteer.reports.rollouts import WrittenRollout
from physteer.reports.style import FAINT, INK, MUTED, heading, new_figure, style
from physteer.reports.terminology import terminology_of

_DPI = 100
_LEFT, _RIGHT, _TOP, _CAPTION, _BOTTOM, _GAP = 20, 92, 136, 66, 50, 14  # pixels; even
_WIDEST, _TALLEST = 1440, 480  # of the video; of a picture in it
_SECONDS, _SLOWEST, _FASTEST = 8.0, 6.0, 24.0  # length aimed at; frames per second

Frame = NDArray[np.uint8]
"""[height, width, 3], sRGB."""


@dataclass(frozen=True)
class Layout:
    """Where things are in a frame, in pixels; all of them even, as 4:2:0 chroma needs."""

    width: int
    height: int
    panel_width: int
    panel_height: int
    n_panels: int

    def left(self, panel: int) -> int:
        """Return the left edge of a panel."""
        return _LEFT + panel * (self.panel_width + _GAP)

    @property
    def caption(self) -> int:
        """The upper edge of the line that tells step and time."""
        return _CAPTION

    @property
    def top(self) -> int:
        """The upper edge of the panels."""
        return _TOP

    @property
    def bottom(self) -> int:
        """The lower edge of the panels."""
        return _TOP + self.panel_height


def layout(rollout: WrittenRollout, n_panels: int) -> Layout:
    """Fit slices of a domain's shape side by side."""
    ratio = slice_axes(rollout.grid).ratio
    width = (_WIDEST - _LEFT - _RIGHT - _GAP * (n_panels - 1)) / n_panels
    width = min(width, _TALLEST / ratio)
    panel_width, panel_height = 2 * round(width / 2), max(2 * round(width * ratio / 2), 2)
    total = _LEFT + _RIGHT + n_panels * panel_width + _GAP * (n_panels - 1)
    return Layout(max(total, 640), _TOP + panel_height + _BOTTOM, panel_width, panel_height, n_panels)


def draw_video(rollouts: Sequence[WrittenRollout], field: ShownField, path: Path, fps: float | None = None) -> Path:
    """Draw one field of several rollouts of one window side by side, from the last frame given to the end.

    Args:
        rollouts: of one window, such as truth, unsteered and a steered one, in the order they are shown.
        field: one of `shown_fields`.
        path: of the mp4.
        fps: frames per second; so many that it lasts about eight seconds when None, but 6 to 24.

    Returns:
        The path.

    Raises:
        PhysteerError: there are no rollouts, or the video cannot be written.
    """
    if not rollouts:
        raise PhysteerError("a video needs at least one rollout")
    n_steps = min(rollout.n_steps for rollout in rollouts)
    largest = max(abs(rollout.setting.strength) for rollout in rollouts)
    terms = terminology_of(rollout.setting.series.mode for rollout in rollouts if not rollout.is_reference)
    slices = [
        [field_slice(rollout, field, step, largest, terms) for step in range(n_steps + 1)] for rollout in rollouts
    ]
    fps = fps or min(max((n_steps + 1) / _SECONDS, _SLOWEST), _FASTEST)
    place = layout(rollouts[0], len(rollouts))
    with atomic_write(path) as temporary:
        write_frames(temporary, compose(rollouts, slices, field, place), (place.width, place.height), fps)
    return path


def compose(
    rollouts: Sequence[WrittenRollout], slices: Sequence[Sequence[FieldSlice]], field: ShownField, place: Layout
) -> Iterator[Frame]:
    """Yield the frames: pictures and the caption's step and time change, all else is drawn once.

    Args:
        rollouts: as shown from left to right.
        slices: per rollout, one per step from 0.
        field: what they show.
        place: from `layout`.
    """
    scale = colour_scale(slices, field.symmetric)
    background = _background(rollouts, slices, field, scale, place)
    first, n_steps = rollouts[0], len(slices[0]) - 1
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 17)
    right = place.left(place.n_panels - 1) + place.panel_width
    for step in range(n_steps + 1):
        frame = Image.fromarray(background)
        for number, column in enumerate(slices):
            panel = _painted(column[step].image, field.colours, scale, (place.panel_width, place.panel_height))
            frame.paste(Image.fromarray(panel), (place.left(number), place.top))
        pen = ImageDraw.Draw(frame)
        # Above the slices: the controls of a browser's player hide what is below them.
        pen.text((_LEFT, place.caption), _step_text(first, step, n_steps), fill=INK, font=font)
        done = _LEFT + (right - _LEFT) * step / max(n_steps, 1)
        pen.rectangle((_LEFT, place.bottom + 10, right, place.bottom + 13), fill=FAINT)
        pen.rectangle((_LEFT, place.bottom + 10, done, place.bottom + 13), fill=MUTED)
        yield np.asarray(frame)


def _step_text(rollout: WrittenRollout, step: int, n_steps: int) -> str:
    time = float(rollout.times[step + rollout.n_context - 1])
    name = "last frame given to the model" if step == 0 else f"step {step} of {n_steps}"
    return f"t = {time:.4g}   {name}"


def _painted(image: NDArray[np.float32], colours: Colormap, scale: Normalize, size: tuple[int, int]) -> Frame:
    """Colour a field after enlarging it: interpolated values, not interpolated colours."""
    finite = np.isfinite(image)
    filled = Image.fromarray(np.where(finite, image, 0).astype(np.float32)[::-1])  # lowest row first → top row first
    values = np.asarray(filled.resize(size, Image.Resampling.BILINEAR))
    rgb: Frame = colours(scale(values), bytes=True)[..., :3]
    if not finite.all():
        bad = Image.fromarray((~finite[::-1]).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        rgb[np.asarray(bad).astype(bool)] = colours(np.nan, bytes=True)[:3]
    return np.ascontiguousarray(rgb)


def _background(
    rollouts: Sequence[WrittenRollout],
    slices: Sequence[Sequence[FieldSlice]],
    field: ShownField,
    scale: Normalize,
    place: Layout,
) -> Frame:
    """Draw what no frame changes: title, labels, colour bar."""
    first = rollouts[0]
    series = next((r.setting.series for r in rollouts if not r.is_reference), Series())
    title, subtitle = headline(field, first, series)
    with style():
        figure = new_figure(place.height / _DPI, place.width / _DPI)
        figure.set_dpi(_DPI)
        canvas = FigureCanvasAgg(figure)
        heading(figure, title, subtitle)
        for number, column in enumerate(slices):
            x = (place.left(number) + place.panel_width / 2) / place.width
            y = 1 - (place.top - 8) / place.height
            figure.text(x, y, column[0].label, color=column[0].colour, ha="center", va="bottom", fontweight="bold")
        right = place.left(place.n_panels - 1) + place.panel_width + 12
        box = (
            right / place.width,
            1 - place.bottom / place.height,
            14 / place.width,
            place.panel_height / place.height,
        )
        bar = figure.colorbar(
            cm.ScalarMappable(scale, field.colours), cax=figure.add_axes(box), extend=beyond(slices, scale)
        )
        bar.ax.tick_params(labelsize=9)
        canvas.draw()  # type: ignore[no-untyped-call]
        return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]


def write_frames(path: Path, frames: Iterable[Frame], size: tuple[int, int], fps: float) -> None:
    """Encode frames as H.264 in mp4, 4:2:0, the index first so that it plays while loading.

    Args:
        path: written straight away, whatever its ending.
        frames: each [height, width, 3].
        size: width and height, both even.
        fps: frames per second.

    Raises:
        PhysteerError: there is no ffmpeg, or it fails (a full disk).
    """
    try:
        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise PhysteerError(f"no ffmpeg for videos: {error}") from error
    # CRF 20: fields of smooth colours show no blocks. Few threads: other processes of the job are still at work.
    command = [ffmpeg, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}"]
    command += ["-r", f"{fps:g}", "-i", "-", "-an", "-threads", "2", "-c:v", "libx264", "-preset", "veryfast"]
    command += ["-crf", "20", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(path)]
    with tempfile.TemporaryFile() as error_output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=error_output)
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # ffmpeg says itself why it ended
                for frame in frames:
                    pipe.write(np.ascontiguousarray(frame).data)
        except BaseException:
            process.kill()
            raise
        finally:
            status = process.wait()
        if status:
            error_output.seek(0)
            messages = error_output.read().decode(errors="replace").strip().splitlines()
            raise PhysteerError(
                f"ffmpeg could not write {path.name}: {messages[-1] if messages else f'status {status}'}"
            )
