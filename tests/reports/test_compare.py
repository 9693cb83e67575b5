"""``physteer compare`` puts the tables of several runs side by side, as they are."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from helpers.synthetic_tables import synthetic

from physteer.analyses.das.table import InterchangeScore, write_interchange_table
from physteer.analyses.effects.circuit_table import CircuitRow, CurveRow, write_circuit_tables
from physteer.analyses.effects.table import EffectRow, write_effect_table
from physteer.analyses.probing.table import ProbeScore, write_probe_tables
from physteer.analyses.steering.summary import summarise
from physteer.analyses.steering.summary_rows import write_summary
from physteer.cli import main
from physteer.errors import PhysteerError
from physteer.reports.comparison import compare
from physteer.reports.comparison.alignment import align
from physteer.reports.comparison.estimates import entries_of
from physteer.reports.comparison.runs import read_runs
from physteer.reports.comparison.shown import first_rows

LINE = {"low": "double", "high": "double"}


def record(run: Path, checkpoint="walrus-demo", digest="", **data):
    """Write the records of a run: its configuration, and fingerprints where `digest` is given."""
    run.mkdir(exist_ok=True, parents=True)
    settings = {
        "seed_everything": 0,
        "model": {"class_path": "physteer.WalrusModule", "init_args": {"checkpoint": checkpoint}},
        "data": {
            "class_path": "physteer.WellDataModule",
            "init_args": {"path": "data", "predict_split": "test"} | data,
        },
        "trainer": {"default_root_dir": str(run), "callbacks": [{"class_path": "physteer.callbacks.Steer"}]},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    if digest:
        (run / "experiment.json").write_text(json.dumps({"weights": checkpoint, "file flow": digest}))
    return run


def search(run: Path, site="blocks.0", value=0.4):
    rows = [
        InterchangeScore(site, kind, 8, name, "recovery", field, value * share, value * share - 0.05, 1, 4)
        for kind, name, share in (("learned", "", 1), ("shuffled", "", 0.4), ("random", "1", 0.1))
        for field in ("", "tracer")
    ]
    write_interchange_table(run, "test", rows, ["Reynolds"])
    return run


def text_of(folders, out):
    return compare(folders, out).text


def test_rows_stand_side_by_side_with_their_intervals(tmp_path, capsys):
    runs = [search(record(tmp_path / name), value=value) for name, value in (("one", 0.4), ("two", 0.6))]
    before = {path: path.read_bytes() for run in runs for path in run.rglob("*") if path.is_file()}
    out = tmp_path / "both"
    assert main(["compare", *map(str, runs), "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(out / "compare.html")
    assert printed[0] == (
        "Recovery, tables/interchange_test (site blocks.0, kind learned, rank 8, variables Reynolds): one 0.400 "
        "[0.350, 1.000] (n = 4), two 0.600 [0.550, 1.000] (n = 4); the intervals overlap or are not known."
    )
    title = printed.index(
        "recovery (0: as unedited, 1: exact), tables/interchange_test: site blocks.0, rank 8, variables Reynolds"
    )
    assert [line.split() for line in printed[title + 1 : title + 4]] == [
        ["kind", "one", "two"],
        ["learned", "0.400", "[0.350,", "1.000]", "0.600", "[0.550,", "1.000]"],
        ["shuffled", "0.160", "[0.110,", "1.000]", "0.240", "[0.190,", "1.000]"],
    ]
    table = pq.read_table(out / "tables/compare_interchange_test.parquet").to_pylist()
    assert len(table) == 6, "random rotations and fields too"
    row = next(row for row in table if (row["kind"], row["field"]) == ("learned", "tracer"))
    assert [row["one"], row["two"], row["two low"], row["two initial conditions"]] == pytest.approx([0.4, 0.6, 0.55, 4])
    assert sorted(path.name for path in out.rglob("*.*")) == [
        "compare.html",
        "compare_interchange_test.csv",
        "compare_interchange_test.parquet",
        "compare_interchange_test.png",
    ]
    page = (out / "compare.html").read_text()
    assert 'src="data:image/png' in page and "http" not in page.replace("http://www.w3.org", "")
    assert {path: path.read_bytes() for run in runs for path in run.rglob("*") if path.is_file()} == before


def test_methods_models_and_sites_are_told_apart(tmp_path):
    """Runs that differ as a whole in a site are aligned; one that has several sites keeps its rows apart."""
    one, two = search(record(tmp_path / "one", "a"), "blocks.0"), search(record(tmp_path / "two", "b"), "layers.2")
    (table,) = align(read_runs([one, two]))
    assert all(row.n_runs == 2 for row in table.rows)
    assert {table.label(row, "site") for row in table.rows} == {"blocks.0 / layers.2"}
    text = text_of([one, two], tmp_path / "out")
    assert "Labels with / between" in text
    settings = text.splitlines()[text.splitlines().index("settings that differ") + 1 :][:3]
    assert [line.split() for line in settings] == [["one", "two"], ["model.checkpoint", "a", "b"], []]

    rows = [InterchangeScore(s, "learned", 8, "", "recovery", "", 0.1, 0, 1, 4) for s in ("blocks.0", "blocks.1")]
    write_interchange_table(one, "test", rows, ["Reynolds"])
    (table,) = align(read_runs([one, two]))
    learned = [row for row in table.rows if table.label(row, "kind") == "learned" and not table.label(row, "field")]
    assert [row.n_runs for row in learned] == [1, 1, 1]
    assert "no two runs have a row in common" in text_of([one, two], tmp_path / "out")


def test_other_data_are_told(tmp_path):
    one, two = (search(record(tmp_path / name, digest="1", path=name)) for name in ("one", "two"))
    assert "rest on the same data" not in text_of([one, two], tmp_path / "out"), "another path to the same files"
    record(two, digest="2", predict_split="valid")
    remark = next(line for line in text_of([one, two], tmp_path / "out").splitlines() if "same data" in line)
    assert "the fingerprints of 1 data files differ" in remark
    assert "data.predict_split differs (one: test, two: valid)" in remark


def test_every_kind_of_table_is_read(tmp_path):
    for name in ("one", "two", "three"):
        run = record(tmp_path / name)
        write_summary(run, summarise(synthetic(n_random=2, strengths=(-0.2, 0.2), n_windows=1, n_initial=3, n_steps=2)))
        search(run)
        places = [("blocks.0", "probe"), ("blocks.0", "shuffled"), ("", "raw_patch")]
        probes = [ProbeScore(s, "vorticity", "token", "simple", c, 1, 0.8, 0.7, 0.9, 0.1, 4) for s, c in places]
        write_probe_tables(run, probes, [])
        node = ("blocks.0", 0, "output", -1, -1, "source", 1.0, "aligned", "", "", 1)
        write_effect_table(run, "valid", [EffectRow(*node, 0.5, 0.4, 0.6, 2)])
        # which node comes next is a result, and no part of what a row is of
        curve = [CurveRow("attribution", n, f"{name} {n}" if n else "", n / 2, 0.0, 1.0, 2) for n in range(3)]
        write_circuit_tables(run, "test", curve, [CircuitRow("faithfulness", "", 0.9, 0.8, 1.0, 2)])
    runs = read_runs([tmp_path / name for name in ("one", "two", "three")])
    tables = align(runs)
    assert [table.name for table in tables] == [
        "summary",
        "interchange_test",
        "probes",
        "effects_valid",
        "circuit_test",
        "circuit_curve_test",
    ]
    assert all(row.n_runs == 3 for table in tables for row in table.rows)
    compare([run.folder for run in runs], tmp_path / "out")
    assert len(list(tmp_path.glob("out/figures/*.png"))) == len(tables)


def test_metrics_may_be_called_anything():
    types = {
        "site": "string",
        "step": "int64",
        "nearness": "double",
        "nearness_low": "double",
        "nearness_high": "double",
        "loss": "double",
        **LINE,
        "windows": "int64",
        "initial_conditions": "int64",
    }
    row = {
        "site": "a",
        "step": 1,
        "nearness": 0.5,
        "nearness_low": 0.4,
        "nearness_high": 0.6,
        "loss": 2.0,
        "low": 1.0,
        "high": 3.0,
        "windows": 9,
        "initial_conditions": 4,
    }
    first, second = entries_of(Path("new.parquet"), types, [row])
    assert (first.metric, first.estimate.low, second.metric, second.estimate.high) == ("nearness", 0.4, "loss", 3.0)
    assert first.labels == {"site": "a", "step": 1} and first.estimate.initial_conditions == 4
    with pytest.raises(PhysteerError, match="empty cells"):
        entries_of(Path("new.parquet"), types, [row | {"loss": None}])


def test_strengths_are_one_up_to_round_off_and_all_of_them_is_a_label():
    types = {"strength": "double", "quantity": "string", "value": "double"}
    labels = [
        entries_of(Path("t"), types, [{"strength": a, "quantity": "gain", "value": 1.0}])[0].labels["strength"]
        for a in (0.3, 0.1 + 0.2, math.nan)
    ]
    assert labels[0] == labels[1] and labels[2] == "all"


def test_an_earlier_comparison_in_the_folder_is_replaced(tmp_path):
    one, two = (search(record(tmp_path / name)) for name in ("one", "two"))
    out = tmp_path / "out"
    for name in ("figures/compare_old.png", "tables/compare_old.csv", "tables/mine.csv"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    compare([one, two], out)
    assert not list(out.rglob("compare_old*")) and (out / "tables/mine.csv").exists()


def test_refusals_are_one_sentence(tmp_path, capsys):
    one, two = (search(record(tmp_path / name)) for name in ("one", "two"))
    empty, probes = record(tmp_path / "empty"), record(tmp_path / "probes")
    write_probe_tables(probes, [ProbeScore("a", "p", "token", "simple", "probe", 1, 0.8, 0.7, 0.9, 0.1, 4)], [])
    for words, message in (
        ([one], "compare takes two run folders or more"),
        ([one, tmp_path / "none"], f"no run folder {tmp_path / 'none'}"),
        ([one, two, one], f"{one} is named twice"),
        ([one, empty], f"{empty} has no tables to compare; 'physteer report {empty}' makes"),
        ([one, probes], "no table is in two of these runs, so nothing can be compared (one: interchange_test; probes:"),
        ([one, two, "--out", two], f"{two} lies in the run folder {two}, which stays"),
        ([one, two, "--out", empty / "deep/er"], f"lies in the run folder {empty}, which stays"),
    ):
        out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
        assert main(["compare", *map(str, words), *out]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and message in told
    assert not (tmp_path / "out").exists() and not (empty / "deep").exists()


def test_a_broken_table_is_told(tmp_path, capsys):
    one, two = (search(record(tmp_path / name)) for name in ("one", "two"))
    path = two / "tables/interchange_test.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["compare", str(one), str(two), "--out", str(tmp_path / "out")]) == 2
    assert f"cannot read {path}" in capsys.readouterr().err


def test_runs_of_one_name_are_called_by_their_parents_too(tmp_path):
    folders = [search(record(tmp_path / parent / "steer")) for parent in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["a/steer", "b/steer"]


def test_simple_flows_stand_beside_full_simulations(tmp_path):
    for name in ("one", "two"):
        scores = [
            ProbeScore("a", target, "token", data, "probe", 1, 0.8, 0.7, 0.9, 0.1, 4)
            for data in ("simple", "full")
            for target in ("vorticity", "pressure")
        ]
        write_probe_tables(record(tmp_path / name), scores, [])
    (table,) = align(read_runs([tmp_path / "one", tmp_path / "two"]))
    told = [(table.label(row, "target"), table.label(row, "data")) for row in first_rows(table, "r2")]
    assert told == [(target, data) for target in ("vorticity", "pressure") for data in ("simple", "full")]
