"""The page of run folders of every kind, through the command line where there is one."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote

import h5py
import pytest
import torch
from helpers.synthetic_tables import erased, synthetic
from PIL import Image

from physteer.analyses.steering.run_tables import summarise_run
from physteer.analyses.steering.table import write_metrics
from physteer.cli import main
from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.reports import report, summary_of, write_page, write_videos
from physteer.reports.blocks import LARGEST_VIDEO


class Page(HTMLParser):
    """Collects what a page links to and shows, and checks that its elements nest."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.open, self.sections, self.videos, self.cells = [], 0, [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("href", "src") if name in attrs]
        self.images += tag == "img"
        self.sections += [attrs["id"]] if tag == "section" else []
        self.videos += [attrs] if tag == "video" else []
        self.cells += [""] if tag == "td" else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def figure_names(folder):
    return sorted(path.name for path in (folder / "figures").iterdir())


def test_bare_rollouts_have_the_whole_report(run, capsys):
    assert main(["report", str(run), "--windows", "2", "--videos", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Steering: 3 settings, 4 windows of 2 initial conditions, 0 random directions.")
    assert printed.strip().endswith(str(run / "report.html"))
    assert [name.split("_shear")[0] for name in figure_names(run)] == [
        "dose_response_vortex_drop_blocks.3.png",
        "over_time_vortex_drop_blocks.3.png",
        "panels_vortex_drop_blocks.3_01_tracer_test",
        "panels_vortex_drop_blocks.3_01_vorticity_test",
        "panels_vortex_drop_blocks.3_02_tracer_test",
        "panels_vortex_drop_blocks.3_02_vorticity_test",
        "spectra_vortex_drop_blocks.3.png",
    ]
    assert len(list((run / "videos").iterdir())) == 4  # 2 signs, 2 fields
    tables = {path.stem for path in (run / "tables").glob("*.parquet")}
    assert tables == {"initial_conditions", "metrics", "spectra", "summary"}
    text = (run / "report.html").read_text()
    page = Page(text)
    assert page.images == 7 and page.sections[:4] == ["summary", "controls", "rollouts", "videos"]
    starts = ("data:image/png;base64,", "data:video/mp4;base64,", "#", "tables/", "videos/")
    assert all(link.startswith(starts) for link in page.links)
    assert "4 windows · 5 conditions · stage predict · seed 3 · physteer 0.1.0" in text
    assert "checkpoint: &lt;somewhere&gt;" in text and "steer &lt;demo&gt;" in text
    assert not [path for path in run.rglob(".*")]


def test_links_are_percent_encoded_and_lead_to_the_files(run):
    (run / "videos").mkdir()
    (run / "videos" / 'a "b" #1 100%?.mp4').write_bytes(b"0")
    (run / "tables").mkdir()
    (run / "tables" / "a&b <c>.csv").write_text("x\n" + "1\n" * 100)
    links = [link for link in Page(write_page(run).read_text()).links if link.startswith(("videos/", "tables/"))]
    assert len(links) == 2 and not [link for link in links if set(link) & set(' "#?<>&')]
    assert all((run / unquote(link)).is_file() for link in links)


def test_again_gives_the_same_and_leaves_nothing_stale(run):
    assert main(["report", str(run), "--windows", "1"]) == 0
    figures = run / "figures"
    tables = [(path.name, path.read_bytes()) for path in sorted((run / "tables").iterdir())]
    names = figure_names(run)
    some = next(figures.glob("over_time*"))
    shutil.copy(some, figures / "panels_of_an_earlier_report.png")
    shutil.copy(some, figures / "mine.png")
    assert main(["report", str(run), "--windows", "1"]) == 0
    assert tables == [(path.name, path.read_bytes()) for path in sorted((run / "tables").iterdir())]
    assert figure_names(run) == sorted([*names, "mine.png"])
    assert "other-figures" in Page((run / "report.html").read_text()).sections


def test_one_window_without_truth_and_steering(run, capsys):
    for folder in (run / "rollouts").iterdir():
        if folder.name != "unsteered":
            shutil.rmtree(folder)
    for path in sorted((run / "rollouts/unsteered/data/test").iterdir())[1:]:
        path.unlink()
    assert main(["report", str(run)]) == 0
    text = (run / "report.html").read_text()
    assert Page(text).images == 4  # over time, spectra and two fields
    assert "Flow metrics and error" in text and "VRMSE" not in text  # of what there is no truth


def test_a_rollout_that_blew_up_is_counted(run, capsys):
    for path in run.glob("rollouts/vortex_drop_+0.4/data/test/*.hdf5"):
        with h5py.File(path, "a") as file:
            file["t1_fields/velocity"][0, -1] = float("inf")
    assert main(["report", str(run), "--windows", "1"]) == 0
    assert re.search(r"\+0\.4 +1 .* 4 ", capsys.readouterr().out), "four blow-ups"


@pytest.fixture
def judged(run):
    """A run with rollouts and a table of metrics of its own."""
    write_metrics(run, synthetic(sites=("blocks.0", "blocks.1"), n_initial=2, n_windows=1, n_random=2))
    return run


def test_summary_first_then_figures_then_videos(judged):
    write_videos(judged, n_windows=1)
    assert main(["report", str(judged), "--windows", "1"]) == 0
    text = (judged / "report.html").read_text()
    page = Page(text)
    assert page.sections[:4] == ["summary", "controls", "rollouts", "videos"]
    for name in ("dose_response_vortex_drop_blocks.0", "alignment_vortex_drop_blocks.1", "heat_map_vortex"):
        assert f"{name}.png" in figure_names(judged)
    assert not [name for name in figure_names(judged) if "random" in name]
    assert all(video["src"].startswith("data:video/mp4;base64,") and "controls" in video for video in page.videos)
    assert summary_of(judged).startswith("Steering: 8 settings, 2 windows of 2 initial conditions")
    assert "+0.60" in text and "8 settings were tried" in text and "tables/metrics.parquet" in text


def test_large_videos_are_linked(run):
    (run / "videos").mkdir()
    large = run / "videos" / "mine.mp4"
    large.write_bytes(bytes(LARGEST_VIDEO + 1))
    assert [video["src"] for video in Page(write_page(run).read_text()).videos] == ["videos/mine.mp4"]
    write_videos(run, n_windows=1, fields=["velocity_y"], strengths=[0.2])
    assert large.exists()  # only earlier videos of rollouts are replaced
    assert [path.name.split("_01_")[1][:10] for path in (run / "videos").glob("steered_*")] == ["velocity_y"]


def test_erased_rollouts_have_their_own_words(run):
    for path in run.glob("rollouts/*/data/test/*.hdf5"):
        with h5py.File(path, "r+") as file:
            if file.attrs["direction"]:
                file.attrs["mode"] = "erased"
    write_metrics(run, erased())
    summarise_run(run)
    videos = write_videos(run, n_windows=1, fields=["tracer"], strengths=[0.4])
    assert [path.name[:27] for path in videos] == ["erased_vortex_erased_blocks"]
    text = report(run, n_windows=1).read_text()
    names = figure_names(run)
    assert "erasures.png" in names and not [n for n in names if n.startswith(("dose_", "align"))]
    assert "<td>intact</td>" in text and "<th>α</th>" not in text
    (panels,) = (run / "figures").glob("panels_vortex_erased_blocks.3*_tracer_*")
    with Image.open(panels) as image:
        assert "rows: truth, intact, erased, erased, erased;" in image.info["Description"]


def test_capture_run_shows_its_concepts(tmp_path):
    direction = torch.randn(4, 8, 1, 16, generator=torch.Generator().manual_seed(0))
    concept = Concept(
        direction, "blocks.3", data="here", classes={"feature": "Reynolds >= 1000"}, counts={"feature": 3}
    )
    concept.save(tmp_path / "concepts" / "vortex_blocks.3.safetensors")
    text = report(tmp_path).read_text()
    assert Page(text).images == 1
    for words in ("vortex_blocks.3", "4 × 8 × 1 × 16", "feature: Reynolds &gt;= 1000", "feature: 3"):
        assert words in text


def test_only_a_configuration(tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert Page(report(tmp_path).read_text()).images == 0
    assert summary_of(tmp_path) == "" and not (tmp_path / "tables").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no run folder nowhere"),
        (["."], "is not a run folder"),
        ([], "the following arguments are required: RUN"),
        ([".", "--windows", "0"], "0 is not a whole number"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_broken_environment_is_named(tmp_path):
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(PhysteerError, match=r"environment\.json is not JSON"):
        report(tmp_path)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_every_picture(tmp_path):
    Concept(torch.ones(4, 8, 1, 2), "blocks.3").save(tmp_path / "concept.safetensors")
    page = report(tmp_path)
    script = "<script>onload=()=>{document.title=[...document.images].every(i=>i.naturalWidth>500)}</script>"
    page.write_text(page.read_text() + script)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", f"file://{page}"], capture_output=True, text=True, timeout=120)
    assert "<title>true</title>" in done.stdout
