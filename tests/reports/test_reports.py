"""Reports from real rollouts: simulated, restarted at another viscosity as if steered, written by the real writer."""

import csv
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
import torch
from matplotlib import rcParams
from PIL import Image

from physteer.cli import main
from physteer.concepts import Concept
from physteer.data.module import WellDataModule
from physteer.data.rollout_files import write_rollout
from physteer.data.shear_flow import ShearFlowState, simulate
from physteer.errors import PhysteerError
from physteer.metrics import vrmse
from physteer.metrics.flow import enstrophy
from physteer.reports import read_rollouts, report, write_report
from physteer.reports.concept_maps import token_alignment, token_norms
from physteer.reports.diagnostics import Metric, diagnose, read_table, read_velocity, write_table
from physteer.reports.effects import Span, SpanValue, changes, effects, estimate, spans
from physteer.reports.field_slices import shown_fields
from physteer.reports.panels import draw_panels
from physteer.reports.rollouts import Series, WindowRollouts, open_rollout
from physteer.reports.selection import spread
from physteer.reports.style import diverging, strength_colour

N_CONTEXT, N_STEPS = 4, 7
STRENGTHS = (-0.4, 0.2, 0.4)
SERIES = Series("vortex", "drop", "blocks.3")


def restarted(batch, factor):
    """Return frames [B, T, C, H, W, D] simulated from the last one given, at another Reynolds number."""
    names = batch.channels.names
    last = batch.context[:, -1, ..., 0]
    velocity = torch.stack([last[:, names.index(f"velocity_{axis}")] for axis in "xy"], -1)
    state = ShearFlowState(velocity, last[:, names.index("tracer")])
    reynolds, schmidt = batch.parameters["Reynolds"] * factor, batch.parameters["Schmidt"]
    frames = torch.zeros_like(batch.targets)
    dt = float(batch.times[0, 1] - batch.times[0, 0])
    for step, frame in enumerate(simulate(state, reynolds, schmidt, N_STEPS + 1, dt)):
        if step:
            values = {"tracer": frame.tracer, "pressure": frame.pressure}
            values |= {f"velocity_{axis}": frame.velocity[..., i] for i, axis in enumerate("xy")}
            for name, value in values.items():
                frames[:, step - 1, names.index(name), ..., 0] = value
    return frames


@pytest.fixture(scope="session")
def finished_run(tiny_well, tmp_path_factory):
    """A run folder with truth, unsteered (Reynolds a tenth too small) and three strengths of four windows."""
    run = tmp_path_factory.mktemp("runs") / "steer <demo>"
    data = WellDataModule(str(tiny_well), n_steps_input=N_CONTEXT, rollout_steps=N_STEPS, include=["Schmidt_5e-1"])
    for batch in data.predict_dataloader():
        conditions = {"truth": (0.0, batch.targets), "unsteered": (0.0, restarted(batch, 0.9))}
        for strength in STRENGTHS:
            conditions[f"vortex drop {strength:+g}"] = (strength, restarted(batch, 0.9 * 10**strength))
        for name, (strength, frames) in conditions.items():
            steered = dict(zip(("direction", "mode", "site"), vars(SERIES).values(), strict=True)) if strength else {}
            attributes = {"condition": name, "strength": strength, "direction": "", "mode": "", "site": ""} | steered
            for row, window in enumerate(batch.windows):
                path = run / "rollouts" / name.replace(" ", "_") / "data" / "test" / f"{window}.hdf5"
                write_rollout(path, batch, row, frames[row], attributes)
    data.teardown("predict")
    (run / "config.yaml").write_text("model:\n  checkpoint: <somewhere>\n")
    (run / "environment.json").write_text('{"seed": 3, "stage": "predict", "versions": {"physteer": "0.1.0"}}')
    return run


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / finished_run.name)


@pytest.fixture(scope="session")
def windows(finished_run):
    return read_rollouts(finished_run)


@pytest.fixture(scope="session")
def rows(windows):
    return [row for window in windows for row in diagnose(window)]


class TestReading:
    def test_groups_by_window_in_reading_order(self, windows):
        assert len(windows) == 4
        for window in windows:
            assert [r.condition for r in window.rollouts] == [
                "truth",
                "unsteered",
                "vortex drop -0.4",
                "vortex drop +0.2",
                "vortex drop +0.4",
            ]
            assert window.series == (SERIES,)
            assert [r.strength for r in window.steered(SERIES)] == list(STRENGTHS)
            assert len({(r.window, r.source, r.parameters) for r in window.rollouts}) == 1
        reynolds = [dict(window.rollouts[0].parameters)["Reynolds"] for window in windows]
        assert reynolds == sorted(reynolds)

    def test_fields_are_those_of_the_data_set(self, windows, tiny_well):
        rollout = windows[0].find("truth")
        file, trajectory, start, stride = rollout.source
        assert (start, stride) == (0, 1)
        with h5py.File(tiny_well / "data" / "test" / f"{file}.hdf5") as source:
            length = N_CONTEXT + N_STEPS
            np.testing.assert_array_equal(
                rollout.read("tracer")[..., 0], source["t0_fields/tracer"][trajectory, :length]
            )
            velocity = source["t1_fields/velocity"][trajectory]
            np.testing.assert_array_equal(rollout.read("velocity_y", 3)[..., 0], velocity[3, ..., 1])
            np.testing.assert_array_equal(rollout.times, source["dimensions/time"][:length])
        assert rollout.read("pressure", slice(2, 5)).shape == (3, 32, 64, 1)
        assert rollout.names == ("tracer", "pressure", "velocity_x", "velocity_y")
        assert rollout.periodic_axes == (True, True, True)
        assert rollout.spacing == (1 / 32, 2 / 64, 1.0)
        assert rollout.steps.tolist() == list(range(1 - N_CONTEXT, N_STEPS + 1))

    def test_unknown_field_names_what_there_is(self, windows):
        with pytest.raises(PhysteerError, match=r"no field 'tracers', only tracer, .*did you mean 'tracer'"):
            windows[0].rollouts[0].read("tracers")

    def test_stated_initial_condition_is_used(self, run):
        path = next(run.glob("rollouts/truth/data/test/*.hdf5"))
        assert re.fullmatch(r"test/\d", open_rollout(path).initial_condition)
        with h5py.File(path, "a") as file:
            file.attrs["initial_condition"] = "abc"
        assert open_rollout(path).initial_condition == "abc"

    def test_constant_and_thin_fields_are_spread_out(self, run):
        path = next(run.glob("rollouts/truth/data/test/*.hdf5"))
        with h5py.File(path, "a") as file:
            file["t0_fields"].attrs["field_names"] = ["tracer", "pressure", "depth"]
            depth = file["t0_fields"].create_dataset("depth", data=np.arange(64, dtype=np.float32))
            depth.attrs.update({"dim_varying": [False, True], "sample_varying": False, "time_varying": False})
        rollout = open_rollout(path)
        assert rollout.read("depth").shape == (N_CONTEXT + N_STEPS, 32, 64, 1)
        assert rollout.read("depth", 0).shape == (32, 64, 1)
        assert torch.equal(rollout.read("depth", slice(0, 2))[1, 7, :, 0], torch.arange(64.0))

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:2000]), "is not a readable rollout"),
            (lambda path: path.write_text("no HDF5"), "is not a readable rollout"),
        ],
    )
    def test_broken_file_is_named(self, run, damage, message):
        path = next(run.glob("rollouts/unsteered/data/test/*.hdf5"))
        damage(path)
        with pytest.raises(PhysteerError, match=f"{path.name} {message}"):
            report(run)

    def test_well_file_that_is_no_rollout(self, tiny_well):
        path = next(tiny_well.glob("data/test/*.hdf5"))
        with pytest.raises(PhysteerError, match=r"is not a readable rollout: .*source_trajectory"):
            open_rollout(path)

    @pytest.mark.parametrize(("folder", "message"), [("nowhere", "no run folder"), (".", "has no rollouts")])
    def test_folder_without_rollouts(self, tmp_path, folder, message):
        with pytest.raises(PhysteerError, match=message):
            read_rollouts(tmp_path / folder)


class TestDiagnostics:
    def test_values_are_those_of_the_metrics(self, windows, rows):
        window = windows[-1]
        truth, steered = window.find("truth"), window.find("vortex drop +0.4")
        mine = {
            (r.metric, r.step): r.value for r in rows if (r.window, r.condition) == (window.window, steered.condition)
        }
        frame = 2 + N_CONTEXT - 1
        velocity = read_velocity(steered, slice(frame, frame + 1))
        expected = enstrophy(velocity, steered.spacing, steered.periodic_axes)
        assert mine["enstrophy", 2] == pytest.approx(float(expected), rel=1e-6)
        error = vrmse(steered.read("tracer", frame), truth.read("tracer", frame))
        assert mine["vrmse_tracer", 2] == pytest.approx(float(error), rel=1e-6)
        fields = [mine[f"vrmse_{name}", 2] for name in steered.names]
        assert mine["vrmse_mean", 2] == pytest.approx(np.mean(fields), rel=1e-6)

    def test_errors_are_of_predicted_frames_and_the_truth_has_none(self, rows):
        assert {row.step for row in rows if row.metric == "vrmse_mean"} == set(range(1, N_STEPS + 1))
        assert not [row for row in rows if row.condition == "truth" and row.metric.startswith("vrmse")]
        assert {row.step for row in rows if row.metric == "enstrophy"} == set(range(1 - N_CONTEXT, N_STEPS + 1))

    def test_context_is_the_same_under_every_condition(self, rows):
        given = {}
        for row in rows:
            if row.step <= 0:
                given.setdefault((row.window, row.step, row.metric), set()).add(row.value)
        assert given and all(len(values) == 1 for values in given.values())

    def test_table_is_read_back(self, rows, tmp_path):
        read = read_table(write_table(tmp_path / "deep" / "diagnostics.csv", rows))
        assert [replace(row, value=0.0) for row in read] == [replace(row, value=0.0) for row in rows]
        np.testing.assert_allclose([row.value for row in read], [row.value for row in rows], rtol=1e-8)

    def test_frames_that_blew_up_are_nan(self, run):
        path = next(run.glob("rollouts/vortex_drop_+0.4/data/test/*.hdf5"))
        with h5py.File(path, "a") as file:
            file["t1_fields/velocity"][0, -1] = np.inf
        rollout = open_rollout(path)
        values = {(r.metric, r.step): r.value for r in diagnose(WindowRollouts("test", path.stem, (rollout,)))}
        for metric in ("enstrophy", "vortex_area", "kinetic_energy"):
            assert np.isnan(values[metric, N_STEPS]) and np.isfinite(values[metric, N_STEPS - 1])
        assert np.isfinite(values["tracer_variance", N_STEPS])
        assert report(run, n_windows=1).exists()
        with (run / "tables" / "effects.csv").open() as file:
            counts = {(r["condition"], r["metric"]): r["initial_conditions"] for r in csv.DictReader(file)}
        assert counts["vortex drop +0.4", "tracer_variance"] == "2"

    def test_without_velocity_only_the_tracer_is_judged(self, run):
        path = next(run.glob("rollouts/unsteered/data/test/*.hdf5"))
        with h5py.File(path, "a") as file:
            file["t1_fields"].attrs["field_names"] = np.array([], dtype=h5py.string_dtype())
            del file["t1_fields/velocity"]
        rollout = open_rollout(path)
        assert {r.metric for r in diagnose(WindowRollouts("test", "w", (rollout,)))} == {"tracer_variance"}
        assert [field.name for field in shown_fields(rollout)] == ["tracer"]


class TestEffects:
    def test_spans_cut_a_rollout_into_equal_parts(self):
        assert spans(20) == (Span(1, 7), Span(8, 13), Span(14, 20))
        assert spans(2) == (Span(1, 1), Span(2, 2))
        assert spans(1) == (Span(1, 1),)
        assert spans(0) == ()

    def test_more_viscous_rollouts_have_less_enstrophy(self, rows):
        found = [e for e in effects(rows) if e.metric == "enstrophy"]
        assert [e.condition for e in found][:2] == ["truth", "unsteered"]
        steered = [e for e in found if e.condition.startswith("vortex")]
        assert [e.strength for e in steered] == list(STRENGTHS)
        means = [e.mean for e in steered]
        assert means == sorted(means) and means[0] < 0 < means[1]
        assert all(e.low <= e.mean <= e.high and e.initial_conditions == 2 for e in steered)
        assert all(e.first_step == 6 and e.last_step == 7 for e in found)
        assert 0 < found[0].mean < means[-1]  # the truth is a little less viscous than unsteered
        assert found[1].mean == 0

    def test_errors_are_values_and_smallest_unsteered(self, rows):
        found = {e.condition: e for e in effects(rows) if e.metric == "vrmse_mean"}
        assert "truth" not in found and {e.quantity for e in found.values()} == {"value"}
        assert min(found.values(), key=lambda e: e.mean).condition == "unsteered"

    def test_change_is_against_the_same_window(self, rows):
        metric, span = Metric("enstrophy", ""), Span(3, 3)
        values = {(r.window, r.condition): r.value for r in rows if r.metric == "enstrophy" and r.step == 3}
        for change in changes(rows, metric, span):
            expected = values[change.window[1], change.condition] / values[change.window[1], "unsteered"] - 1
            assert change.value == pytest.approx(expected)
        shares = changes(rows, Metric("vortex_area", "", relative=False), span)
        assert all(change.value == 0 for change in shares if change.condition == "unsteered")

    def test_windows_of_one_initial_condition_are_one_draw(self):
        def value(initial_condition, number):
            return SpanValue(("test", "w"), initial_condition, "c", SERIES, 0.1, number)

        few = [value("a", 1.0), value("b", 3.0)]
        assert estimate(few) == estimate([*few, value("a", 1.0), value("a", 1.0), value("b", 3.0)])
        assert estimate(few).mean == 2.0 and (estimate(few).low, estimate(few).high) == (1.0, 3.0)

    def test_one_initial_condition_gives_no_interval(self):
        only = estimate([SpanValue(("test", "w"), "a", "c", SERIES, 0.1, 1.0)])
        assert only.mean == 1.0 and only.n == 1 and np.isnan(only.low)

    def test_values_that_are_not_finite_are_left_out(self):
        values = [SpanValue(("test", "w"), str(i), "c", SERIES, 0.1, v) for i, v in enumerate([1.0, np.nan, np.inf])]
        assert estimate(values).n == 1
        assert estimate(values[1:]).n == 0 and np.isnan(estimate(values[1:]).mean)

    def test_interval_covers_the_mean_as_often_as_it_says(self):
        rng = np.random.default_rng(0)
        hits = 0
        for trial in range(200):
            sample = [SpanValue(("t", "w"), str(i), "c", SERIES, 0.1, v) for i, v in enumerate(rng.normal(size=30))]
            interval = estimate(sample, seed=trial)
            hits += interval.low <= 0 <= interval.high
        assert 0.88 <= hits / 200 <= 0.99


class TestFigures:
    def test_vorticity_is_centred_and_the_picture_has_the_domain_s_shape(self, windows, tmp_path):
        field = shown_fields(windows[0].rollouts[0])[0]
        assert field.name == "vorticity" and field.symmetric
        path = draw_panels(windows[0], SERIES, field, tmp_path / "panels.png")
        with Image.open(path) as image:
            assert image.width == 1814  # 12.6 inches
            assert "Reynolds 200" in image.info["Title"] and "vortex drop" not in image.info["Title"]
            assert "rows: truth, unsteered, α = −0.4, α = +0.2, α = +0.4" in image.info["Description"]

    def test_equal_lightness_at_equal_distance_from_zero(self):
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

    def test_strengths_of_both_signs_differ_and_grow_darker(self):
        shades = [sum(strength_colour(s, 0.8)) for s in (0.2, 0.4, 0.8)]
        assert shades == sorted(shades, reverse=True)
        assert strength_colour(-0.4, 0.8)[2] > strength_colour(0.4, 0.8)[2]

    def test_settings_of_others_are_left_alone(self, windows, tmp_path):
        before = dict(rcParams)
        draw_panels(windows[0], SERIES, shown_fields(windows[0].rollouts[0])[1], tmp_path / "panels.png")
        assert dict(rcParams) == before

    def test_windows_are_spread_over_files_and_trajectories(self, windows):
        chosen = spread(windows, 2)
        sources = [window.rollouts[0].source for window in chosen]
        assert len({file for file, *_ in sources}) == 2
        assert len({trajectory for _, trajectory, *_ in sources}) == 2
        assert len(spread(windows, 3)) == 3 and spread(windows, 9) and len(spread(windows, 9)) == 4
        assert len(spread(windows, 1)) == 1


class Page(HTMLParser):
    """Collects what a page links to and checks that its elements nest."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.open = [], 0, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("href", "src") if name in attrs]
        self.images += tag == "img"
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class TestReport:
    def test_whole_report(self, run, capsys):
        assert main(["report", str(run), "--windows", "2", "--videos", "2"]) == 0
        assert capsys.readouterr().out.strip() == str(run / "report.html")
        figures = sorted(path.name for path in (run / "figures").iterdir())
        assert [name.split("_shear")[0] for name in figures] == [
            "dose_response_vortex_drop_blocks.3.png",
            "over_time_vortex_drop_blocks.3.png",
            "panels_vortex_drop_blocks.3_01_tracer_test",
            "panels_vortex_drop_blocks.3_01_vorticity_test",
            "panels_vortex_drop_blocks.3_02_tracer_test",
            "panels_vortex_drop_blocks.3_02_vorticity_test",
            "spectra_vortex_drop_blocks.3.png",
        ]
        assert len(list((run / "videos").iterdir())) == 8  # 2 windows, 2 signs, 2 fields
        with (run / "tables" / "effects.csv").open() as file:
            assert {row["condition"] for row in csv.DictReader(file)} >= {"truth", "unsteered", "vortex drop +0.4"}
        text = (run / "report.html").read_text()
        page = Page(text)
        assert page.images == 7
        starts = ("data:image/png;base64,", "data:video/mp4;base64,", "#", "tables/", "videos/")
        assert all(link.startswith(starts) for link in page.links)
        assert "4 windows · 5 conditions · stage predict · seed 3 · physteer 0.1.0" in text
        assert "checkpoint: &lt;somewhere&gt;" in text and "steer &lt;demo&gt;" in text
        assert not [path for path in run.rglob(".*")]

    def test_again_gives_the_same_and_leaves_nothing_stale(self, run):
        report(run, n_windows=1)
        figures = run / "figures"
        tables = [(path.name, path.read_bytes()) for path in sorted((run / "tables").iterdir())]
        names = {path.name for path in figures.iterdir()}
        some = next(figures.glob("over_time*"))
        shutil.copy(some, figures / "panels_of_an_earlier_report.png")
        shutil.copy(some, figures / "mine.png")
        report(run, n_windows=1)
        assert tables == [(path.name, path.read_bytes()) for path in sorted((run / "tables").iterdir())]
        assert {path.name for path in figures.iterdir()} == {*names, "mine.png"}
        assert "Other figures" in (run / "report.html").read_text()

    def test_one_window_without_truth_and_steering(self, run):
        for folder in (run / "rollouts").iterdir():
            if folder.name != "unsteered":
                shutil.rmtree(folder)
        for path in sorted((run / "rollouts/unsteered/data/test").iterdir())[1:]:
            path.unlink()
        text = report(run).read_text()
        assert Page(text).images == 4  # over time, spectra and two fields
        assert 'id="effects"' in text

    def test_capture_run_shows_its_concepts(self, tmp_path):
        direction = torch.randn(4, 8, 1, 16, generator=torch.Generator().manual_seed(0))
        concept = Concept(
            direction, "blocks.3", data="here", classes={"feature": "Reynolds >= 1000"}, counts={"feature": 3}
        )
        concept.save(tmp_path / "concepts" / "vortex_blocks.3.safetensors")
        text = report(tmp_path).read_text()
        assert Page(text).images == 1
        for words in ("vortex_blocks.3", "4 × 8 × 1 × 16", "feature: Reynolds &gt;= 1000", "feature: 3"):
            assert words in text
        torch.testing.assert_close(token_norms(concept)[2, 5], direction[2, 5, 0].norm())
        uniform = replace(concept, direction=direction[:1, :1].expand(4, 8, 1, 16))
        torch.testing.assert_close(token_alignment(uniform), torch.ones(4, 8))

    def test_only_a_configuration(self, tmp_path):
        (tmp_path / "config.yaml").write_text("a: 1\n")
        assert Page(write_report(tmp_path).read_text()).images == 0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["nowhere"], "no run folder nowhere"),
            (["."], "is not a run folder"),
            ([], "the following arguments are required: RUN"),
            ([".", "--windows", "0"], "0 is not a whole number"),
        ],
    )
    def test_mistakes_are_one_line(self, words, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["report", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_broken_environment_is_named(self, tmp_path):
        (tmp_path / "environment.json").write_text("{")
        with pytest.raises(PhysteerError, match=r"environment\.json is not JSON"):
            report(tmp_path)

    @pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
    def test_a_browser_shows_every_picture(self, tmp_path):
        Concept(torch.ones(4, 8, 1, 2), "blocks.3").save(tmp_path / "concept.safetensors")
        page = report(tmp_path)
        script = "<script>onload=()=>{document.title=[...document.images].every(i=>i.naturalWidth>500)}</script>"
        page.write_text(page.read_text() + script)
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        done = subprocess.run([*command, "--dump-dom", f"file://{page}"], capture_output=True, text=True, timeout=120)
        assert "<title>true</title>" in done.stdout
