"""Rollout videos, decoded again with ffmpeg."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from physteer.data.module import WellDataModule
from physteer.data.rollout_files import write_rollout
from physteer.errors import PhysteerError
from physteer.reports.field_slices import shown_fields
from physteer.reports.rollouts import read_rollouts
from physteer.reports.video import draw_video, layout, write_frames
from physteer.reports.videos import write_videos

N_CONTEXT, N_STEPS = 4, 7


@pytest.fixture(scope="module")
def rollouts(tiny_well, tmp_path_factory):
    """Truth, an unsteered rollout that keeps the last frame, and a steered one that blows up at step 5."""
    run = tmp_path_factory.mktemp("run")
    data = WellDataModule(str(tiny_well), n_steps_input=N_CONTEXT, rollout_steps=N_STEPS, include=["2e2_Schmidt_5e-1"])
    batch = next(iter(data.predict_dataloader()))
    kept = batch.context[:, -1:].expand_as(batch.targets)
    lost = batch.targets.clone()
    lost[:, 4:] = torch.nan
    for name, strength, frames in (("truth", 0.0, batch.targets), ("unsteered", 0.0, kept), ("concept", 0.4, lost)):
        attributes = {"condition": name, "strength": strength, "direction": "vortex" * bool(strength)}
        attributes |= {"mode": "drop" * bool(strength), "site": "blocks.3" * bool(strength)}
        write_rollout(run / f"rollouts/{name}/data/test/w.hdf5", batch, 0, frames[0], attributes)
    data.teardown("predict")
    return read_rollouts(run)[0].rollouts


def decoded(path):
    frames = imageio_ffmpeg.read_frames(str(path))
    about = next(frames)
    width, height = about["size"]
    return about, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames]).astype(int)


def panel(frames, place, number):
    left = place.left(number)
    return frames[:, place.top : place.bottom, left : left + place.panel_width]


class TestVideo:
    def test_frames_size_and_what_is_seen(self, rollouts, tmp_path):
        field = shown_fields(rollouts[0])[1]
        path = draw_video(rollouts, field, tmp_path / "deep" / "tracer.mp4")
        about, frames = decoded(path)
        place = layout(rollouts[0], 3)
        assert len(frames) == N_STEPS + 1
        assert about["size"] == (place.width, place.height) and place.width % 2 == place.height % 2 == 0
        assert about["codec"] == "h264" and about["pix_fmt"].startswith("yuv420p") and about["fps"] == 6
        truth, unsteered, steered = (panel(frames, place, number) for number in range(3))
        assert abs(truth[0] - unsteered[0]).mean() < 3 and abs(truth[0] - steered[0]).mean() < 3  # given to all
        assert abs(truth[4] - steered[4]).mean() < 3  # the colour scale is one
        assert abs(unsteered - unsteered[:1]).mean() < 3
        assert abs(truth[-1] - truth[0]).mean() > 8
        grey = np.array([0x9A, 0xA0, 0xA8])
        assert abs(steered[5:] - grey).max() < 25  # not finite
        caption = frames[:, place.caption : place.caption + 20, : place.width // 2]
        assert (caption.min((1, 2, 3)) < 90).all()
        assert (abs(np.diff(caption, axis=0)).max((1, 2, 3)) > 60).all()  # every step says its own number and time

    def test_colours_are_those_of_the_values(self, rollouts, tmp_path):
        field = shown_fields(rollouts[0])[1]
        _, frames = decoded(draw_video(rollouts[:1], field, tmp_path / "truth.mp4"))
        seen = panel(frames, layout(rollouts[0], 1), 0)[3]
        values = rollouts[0].read("tracer", N_CONTEXT + 2)[..., 0].numpy()
        across = values.T if seen.shape[1] > seen.shape[0] and values.shape[0] > values.shape[1] else values
        high, low = (np.unravel_index(f(across), across.shape) for f in (np.argmax, np.argmin))
        cell = np.array(seen.shape[:2]) / across.shape

        def at(place):
            row, column = ((np.array(place) + 0.5) * cell).astype(int)
            return seen[::-1][row, column]  # the lowest row of cells is at the bottom

        assert at(high)[0] > 180 and at(high)[2] < 110  # viridis ends in yellow
        assert at(low)[2] > at(low)[0] + 10 and at(low)[1] < 80  # and begins in violet

    def test_speed_can_be_said(self, rollouts, tmp_path):
        field = shown_fields(rollouts[0])[0]
        assert decoded(draw_video(rollouts[:2], field, tmp_path / "a.mp4", fps=12))[0]["fps"] == 12

    def test_the_index_comes_first(self, rollouts, tmp_path):
        content = draw_video(rollouts, shown_fields(rollouts[0])[0], tmp_path / "a.mp4").read_bytes()
        assert content.index(b"moov") < content.index(b"mdat")

    def test_one_and_no_rollout(self, rollouts, tmp_path):
        field = shown_fields(rollouts[0])[0]
        assert len(decoded(draw_video(rollouts[1:2], field, tmp_path / "one.mp4"))[1]) == N_STEPS + 1
        with pytest.raises(PhysteerError, match="at least one rollout"):
            draw_video([], field, tmp_path / "none.mp4")

    def test_what_ffmpeg_refuses_is_one_line_and_leaves_no_file(self, tmp_path):
        odd = np.zeros((3, 5, 3), np.uint8)
        with pytest.raises(PhysteerError, match=r"ffmpeg could not write odd\.mp4: \S.*") as told:
            write_frames(tmp_path / "odd.mp4", [odd] * 100, (5, 3), 6)
        assert "\n" not in str(told.value)

    def test_an_error_while_drawing_ends_ffmpeg(self, rollouts, tmp_path):
        def frames():
            yield np.zeros((64, 64, 3), np.uint8)
            raise KeyError("here")

        with pytest.raises(KeyError, match="here"):
            write_frames(tmp_path / "broken.mp4", frames(), (64, 64), 6)  # the fixture finds a process left behind


def test_a_browser_would_play_it(rollouts, tmp_path):
    """Constrained to what every browser decodes: H.264 High at most, 8 bit 4:2:0."""
    path = draw_video(rollouts, shown_fields(rollouts[0])[0], tmp_path / "a.mp4")
    words = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    said = subprocess.run(words, capture_output=True, text=True).stderr
    assert "h264 (High)" in said and "yuv420p" in said, said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"fields": ["vortcity"]}, "no field 'vortcity' to draw, only vorticity, tracer, .* mean 'vorticity'"),
        ({"strengths": [0.3]}, r"no video: steered with were \[-0.4, 0.2, 0.4\], none of \[0.3\]"),
    ],
)
def test_what_cannot_be_shown_is_said(run, words, message):
    with pytest.raises(PhysteerError, match=message):
        write_videos(run, n_windows=1, **words)
