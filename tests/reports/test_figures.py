"""Figures: what they show is in what they carry as description; colours; which windows and settings get some."""

import re
from dataclasses import replace

import numpy as np
import torch
from helpers.synthetic_tables import erased, synthetic
from matplotlib import rcParams
from PIL import Image

from physteer.analyses.steering.spectrum_rows import read_spectra
from physteer.analyses.steering.summary import summarise
from physteer.analyses.steering.table import Series
from physteer.concepts import Concept
from physteer.reports.concept_maps import token_alignment, token_norms
from physteer.reports.dose_response import draw_dose_response
from physteer.reports.field_slices import shown_fields
from physteer.reports.heat_map import draw_heat_map
from physteer.reports.over_steps import draw_alignment, draw_erasures, draw_over_time
from physteer.reports.panels import draw_panels
from physteer.reports.selection import spread
from physteer.reports.spectra import draw_spectra
from physteer.reports.style import diverging, strength_colour
from physteer.reports.summary_index import SummaryIndex

VORTEX = Series("vortex", "drop", "blocks.0")


def described(path):
    with Image.open(path) as image:
        assert image.width == 1814  # 12.6 inches
        return image.info["Title"], image.info["Description"]


def index_of(table):
    return SummaryIndex(summarise(table))


def test_dose_response_beside_controls(tmp_path):
    index = index_of(synthetic(n_initial=2, n_windows=1, n_random=3))
    title, description = described(draw_dose_response(index, VORTEX, tmp_path / "dose.png"))
    assert title == "Dose–response: vortex · drop · blocks.0"
    assert "3 random directions" in description and "2 initial conditions (too few for an interval)" in description
    data = Series("data interpolation")
    title, description = described(draw_dose_response(index, data, tmp_path / "data.png", "data"))
    assert title == "Dose–response: data interpolation" and "random" not in description


def test_alignment_over_steps(tmp_path):
    index = index_of(synthetic(n_initial=2, n_windows=1, n_random=3, moving=("tracer",)))
    title, description = described(draw_alignment(index, VORTEX, tmp_path / "alignment.png"))
    assert title.startswith("Alignment with the true change over steps")
    assert "the range of 3 random directions" in description


def test_flow_metrics_over_time(tmp_path):
    title, description = described(draw_over_time(index_of(synthetic(n_random=0)), VORTEX, tmp_path / "time.png"))
    assert title == "Flow metrics over time: vortex · drop · blocks.0" and "5 initial conditions" in description


def test_erasers_beside_random_ones(tmp_path):
    series = Series("vortex", "erased", "blocks.0")
    title, description = described(draw_erasures(index_of(erased()), [series], tmp_path / "erasures.png"))
    assert title == "What erasing changes over steps"
    assert "the range of 19 random erasers" in description and "5 initial conditions" in description


def test_heat_map_says_how_many_cells_were_tried(tmp_path):
    settings = {"sites": ("blocks.0", "blocks.2", "blocks.10"), "modes": ("drop", "pad"), "n_windows": 1, "n_steps": 1}
    few = draw_heat_map(summarise(synthetic(**settings, n_initial=2, n_random=1)), "vortex", tmp_path / "few.png")
    assert "fewer than 8 initial conditions: no ★" in described(few)[1]
    rows = summarise(synthetic(**settings, n_initial=8))
    _, description = described(draw_heat_map(rows, "vortex", tmp_path / "heat.png"))
    assert "96 cells were tried (site × mode × α × field)" in description  # 3 · 2 · 4 · 4
    cosines = [row for row in rows if row.quantity == "alignment_cosine" and row.role == "concept"]
    stars = sum(row.p <= 0.05 for row in cosines if not row.field.startswith("mean"))
    assert int(re.search(r": (\d+) of them, 4\.8 expected", description)[1]) == stars


def test_nothing_to_draw(tmp_path):
    table = synthetic(n_initial=1, n_random=0, strengths=(0.4,), n_steps=1)
    index, other = index_of(table), Series("another", "drop", "blocks.0")
    assert draw_dose_response(index, other, tmp_path / "a.png") is None
    assert draw_alignment(index, other, tmp_path / "a.png") is None
    assert draw_alignment(index_of(table[table["metric"] == "enstrophy"]), VORTEX, tmp_path / "a.png") is None
    assert draw_heat_map(summarise(table), "vortex", tmp_path / "a.png") is None  # one site, one mode
    assert draw_erasures(index, [], tmp_path / "a.png") is None
    assert draw_spectra([], VORTEX, tmp_path / "a.png") is None
    assert draw_over_time(SummaryIndex([]), VORTEX, tmp_path / "a.png") is None
    assert list(tmp_path.iterdir()) == []


def test_spectra(measured_run, windows, tmp_path):
    rows = read_spectra(measured_run)
    title, description = described(draw_spectra(rows, windows[0].series[0], tmp_path / "spectra.png"))
    assert title == "Energy spectra: vortex · drop · blocks.3" and "4 windows" in description


def test_norm_and_alignment_of_a_concept_s_tokens():
    direction = torch.randn(4, 8, 1, 16, generator=torch.Generator().manual_seed(0))
    concept = Concept(direction, "blocks.3")
    torch.testing.assert_close(token_norms(concept)[2, 5], direction[2, 5, 0].norm())
    uniform = replace(concept, direction=direction[:1, :1].expand(4, 8, 1, 16))
    torch.testing.assert_close(token_alignment(uniform), torch.ones(4, 8))


def test_vorticity_is_centred_and_the_picture_has_the_domain_s_shape(windows, tmp_path):
    field = shown_fields(windows[0].rollouts[0])[0]
    assert field.name == "vorticity" and field.symmetric
    path = draw_panels(windows[0], windows[0].series[0], field, tmp_path / "panels.png")
    with Image.open(path) as image:
        assert image.width == 1814  # 12.6 inches
        assert "Reynolds 200" in image.info["Title"] and "vortex drop" not in image.info["Title"]
        assert "rows: truth, unsteered, α = −0.4, α = +0.2, α = +0.4" in image.info["Description"]


def test_equal_lightness_at_equal_distance_from_zero():
    colours = diverging()(np.linspace(0, 1, 256))[:, :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    long_medium_short = (
        linear
        @ np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        ).T
    )
    lightness = np.cbrt(long_medium_short) @ np.array([0.2104542553, 0.7936177850, -0.0040720468])  # OKLab L
    np.testing.assert_allclose(lightness, lightness[::-1], atol=0.02)
    assert (np.diff(lightness[:128]) > 0).all()
    assert lightness[127] > 0.95


def test_strengths_of_both_signs_differ_and_grow_darker():
    shades = [sum(strength_colour(s, 0.8)) for s in (0.2, 0.4, 0.8)]
    assert shades == sorted(shades, reverse=True)
    assert strength_colour(-0.4, 0.8)[2] > strength_colour(0.4, 0.8)[2]


def test_settings_of_others_are_left_alone(windows, tmp_path):
    before = dict(rcParams)
    draw_panels(windows[0], windows[0].series[0], shown_fields(windows[0].rollouts[0])[1], tmp_path / "panels.png")
    assert dict(rcParams) == before


def test_windows_are_spread_over_files_and_trajectories(windows):
    chosen = spread(windows, 2)
    sources = [window.rollouts[0].source for window in chosen]
    assert len({source.file for source in sources}) == 2
    assert len({source.trajectory for source in sources}) == 2
    assert len(spread(windows, 3)) == 3 and spread(windows, 9) and len(spread(windows, 9)) == 4
    assert len(spread(windows, 1)) == 1
