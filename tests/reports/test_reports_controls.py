"""Figures of a concept beside its controls, and the report of a run that has a table of metrics."""

import re
import shutil
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
import torch
from helpers.synthetic_tables import erased, synthetic
from PIL import Image

from physteer.analyses.steering.summary import summarise
from physteer.analyses.steering.table import write_metrics
from physteer.data.module import WellDataModule
from physteer.data.rollout_files import write_rollout
from physteer.errors import PhysteerError
from physteer.metrics.flow import energy_spectrum
from physteer.reports import film, read_rollouts, report, summary_of
from physteer.reports import html as html_report
from physteer.reports.control_doses import draw_controlled_dose_response
from physteer.reports.control_steps import draw_alignment, draw_erasures
from physteer.reports.controls import over_initial_conditions
from physteer.reports.diagnostics import read_velocity
from physteer.reports.heat_map import draw_heat_map
from physteer.reports.rollouts import Series
from physteer.reports.spectra import draw_spectra, mean_spectrum

SERIES = Series("vortex", "drop", "blocks.0")
CONDITIONS = (("truth", 0.0, ""), ("unsteered", 0.0, ""))
STEERED = (("vortex drop +0.4 blocks.0", 0.4, "vortex"), ("random 1 drop +0.4 blocks.0", 0.4, "random 1"))


def described(path):
    with Image.open(path) as image:
        assert image.width == 1814
        return image.info["Title"], image.info["Description"]


class TestFigures:
    def test_dose_response_beside_controls(self, tmp_path):
        table = synthetic(n_initial=2, n_windows=1, n_random=3)
        title, said = described(draw_controlled_dose_response(table, SERIES, tmp_path / "dose.png"))
        assert title == "Dose–response beside controls: vortex · drop · blocks.0"
        assert "3 random directions" in said and "2 initial conditions" in said

    def test_alignment_over_steps(self, tmp_path):
        table = synthetic(n_initial=2, n_windows=1, n_random=3, moving=("tracer",))
        title, said = described(draw_alignment(table, SERIES, tmp_path / "alignment.png"))
        assert title.startswith("Alignment with the true change over steps")
        assert "the range of 3 random directions" in said

    def test_erasers_beside_random_ones(self, tmp_path):
        series = Series("vortex", "erased", "blocks.0")
        title, said = described(draw_erasures(erased(), [series], tmp_path / "erasures.png"))
        assert title == "What erasing changes over steps"
        assert "the range of 19 random erasers" in said and "5 initial conditions" in said

    def test_heat_map_says_how_many_cells_were_tried(self, tmp_path):
        table = synthetic(sites=("blocks.0", "blocks.2", "blocks.10"), modes=("drop", "pad"), n_initial=2, n_steps=1)
        findings = summarise(table)
        _, said = described(draw_heat_map(findings, "vortex", tmp_path / "heat.png"))
        assert "96 cells were tried (site × mode × α × field)" in said  # 3 · 2 · 4 · 4
        stars = len([f for f in findings if f.quantity == "alignment_cosine" and f.p <= 0.05 and f.role == "concept"])
        mean = len([f for f in findings if f.field.startswith("mean") and f.quantity == "alignment_cosine"])
        assert int(re.search(r": (\d+) of them, 4\.8 expected", said)[1]) >= stars - mean

    def test_nothing_to_draw(self, tmp_path):
        table = synthetic(n_initial=1, n_random=0, strengths=(0.4,), n_steps=1)
        other = Series("another", "drop", "blocks.0")
        assert draw_controlled_dose_response(table, other, tmp_path / "a.png") is None
        assert draw_alignment(table, other, tmp_path / "a.png") is None
        assert draw_alignment(table[table["metric"] == "enstrophy"], SERIES, tmp_path / "a.png") is None
        assert draw_heat_map(summarise(table), "vortex", tmp_path / "a.png") is None  # one site, one mode
        assert draw_erasures(table, [], tmp_path / "a.png") is None
        assert list(tmp_path.iterdir()) == []

    def test_windows_of_one_initial_condition_are_averaged_first(self):
        values = np.array([1.0, 3.0, 8.0, np.nan])
        assert over_initial_conditions(values, ["a", "a", "b", "b"]) == 5.0
        assert np.isnan(over_initial_conditions(values[3:], ["b"]))


@pytest.fixture(scope="module")
def run(tiny_well, tmp_path_factory):
    """A run folder with rollouts under a concept and a random direction, and a table of metrics."""
    folder = tmp_path_factory.mktemp("runs") / "steer"
    data = WellDataModule(str(tiny_well), n_steps_input=4, rollout_steps=5, include=["2e2_Schmidt_5e-1"])
    batch = next(iter(data.predict_dataloader()))
    noise = torch.randn(batch.targets.shape, generator=torch.Generator().manual_seed(0))
    for name, strength, direction in CONDITIONS + STEERED:
        frames = batch.targets + (0.02 * noise if name != "truth" else 0)
        role = direction.split()[0].replace("vortex", "concept") if direction else "unsteered"
        attributes = {"condition": name, "role": role, "strength": strength, "direction": direction}
        attributes |= {"mode": "drop", "site": "blocks.0"} if direction else {"mode": "", "site": ""}
        place = folder / "rollouts" / name.replace(" ", "_") / "data" / "test"
        for row, window in enumerate(batch.windows):
            write_rollout(place / f"{window}.hdf5", batch, row, frames[row], attributes)
    data.teardown("predict")
    write_metrics(folder, synthetic(sites=("blocks.0", "blocks.1"), n_initial=2, n_windows=1, n_random=2))
    return folder


class Elements(HTMLParser):
    """Collects titles of sections and sources of videos."""

    def __init__(self, text):
        super().__init__()
        self.found = {"section": [], "video": []}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag in self.found:
            self.found[tag].append(dict(attrs))


class TestReport:
    def test_summary_first_then_figures_then_videos(self, run):
        film(run, n_windows=1)
        page = report(run, n_windows=1)
        elements = Elements(page.read_text()).found
        names = [section["id"] for section in elements["section"]]
        assert names[:5] == ["summary", "effects", "controls", "rollouts", "videos"]
        figures = {path.name for path in (run / "figures").iterdir()}
        for name in ("controls_vortex_drop_blocks.0", "alignment_vortex_drop_blocks.1", "heat_map_vortex"):
            assert f"{name}.png" in figures
        assert not [name for name in figures if "random" in name]
        assert "random 1" not in (run / "tables" / "diagnostics.csv").read_text()
        videos = sorted(path.name for path in (run / "videos").iterdir())
        assert [re.sub(r"_shear.*", "", name) for name in videos] == [
            "steered_vortex_drop_blocks.0_+0.4_01_tracer",
            "steered_vortex_drop_blocks.0_+0.4_01_vorticity",
        ]
        assert all(video["src"].startswith("data:video/mp4;base64,") for video in elements["video"])
        assert all("controls" in video for video in elements["video"]) and len(elements["video"]) == 2
        assert summary_of(run).startswith("Steering: 8 settings, 2 windows of 2 initial conditions")
        text = page.read_text()
        assert "+0.60" in text and "8 settings were tried" in text and "tables/metrics.parquet" in text

    def test_large_videos_are_linked(self, run):
        (run / "videos").mkdir(exist_ok=True)
        large = run / "videos" / "mine.mp4"
        large.write_bytes(bytes(html_report.LARGEST_VIDEO + 1))
        text = html_report.write_report(run).read_text()
        assert "videos/mine.mp4" in [video["src"] for video in Elements(text).found["video"]]
        film(run, n_windows=1, fields=["velocity_y"])
        assert large.exists()  # only what was filmed before is replaced
        assert [path.name.split("_01_")[1][:10] for path in (run / "videos").glob("steered_*")] == ["velocity_y"]
        large.unlink()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"fields": ["vortcity"]}, "no field 'vortcity' to draw, only vorticity, tracer, .* mean 'vorticity'"),
            ({"strengths": [0.3]}, r"no video: steered with were \[0.4\], none of \[0.3\]"),
        ],
    )
    def test_what_cannot_be_filmed_is_said(self, run, words, message):
        with pytest.raises(PhysteerError, match=message):
            film(run, n_windows=1, **words)

    def test_a_run_without_a_table_has_no_summary(self, run, tmp_path):
        (tmp_path / "config.yaml").write_text("a: 1\n")
        report(tmp_path)
        assert summary_of(tmp_path) == "" and not (tmp_path / "tables").exists()

    def test_erased_rollouts_have_their_own_words(self, run, tmp_path):
        folder = tmp_path / "erased"
        for path in run.glob("rollouts/*/data/test/*.hdf5"):
            copy = folder / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            with h5py.File(copy, "r+") as file:
                if file.attrs["direction"]:
                    file.attrs["mode"] = "erased"
        write_metrics(folder, erased())
        films = film(folder, n_windows=1, fields=["tracer"])
        assert [path.name[:27] for path in films] == ["erased_vortex_erased_blocks"]
        page = report(folder, n_windows=1).read_text()
        figures = {path.name for path in (folder / "figures").iterdir()}
        assert "erasures.png" in figures and not [n for n in figures if n.startswith(("dose_", "controls_", "align"))]
        assert "<td>intact</td>" in page and "<th>α</th>" not in page
        (panels,) = (folder / "figures").glob("panels_*_tracer_*")
        assert "rows: truth, intact, erased;" in described(panels)[1]

    def test_spectra(self, run, tmp_path):
        windows = read_rollouts(run)
        path = draw_spectra(windows, SERIES, tmp_path / "spectra.png")
        assert described(path)[0] == "Energy spectra: vortex · drop · blocks.0"
        truth = windows[0].find("truth")
        velocity = read_velocity(truth, slice(5, 6)).double()
        expected = energy_spectrum(velocity)[0, :17].numpy()
        np.testing.assert_allclose(mean_spectrum([truth], 2), expected)
        np.testing.assert_allclose(mean_spectrum([truth, truth], 2), expected)
