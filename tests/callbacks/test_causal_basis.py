"""Causal bases through the real command line, on tiny data and a tiny random Walrus."""

import csv
import math
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from helpers.bases import Troubled
from helpers.experiments import callback, experiment, two_processes, weights
from helpers.searches import fit as search_fit
from helpers.searches import search
from helpers.searches import table as search_table

from physteer.cli import main
from physteer.concepts import CausalBasis, ClassFitter, ConceptSubspace
from physteer.metrics import largest_principal_angle

BASIS = "physteer.callbacks.causal_basis.CausalBasis"
SMALL = {"sites": ["blocks.0"], "k": 2, "frames": [-1], "max_iter": 12, "candidates": 3, "random": 1, "halves": False}


@pytest.fixture(scope="module")
def walrus(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("walrus") / "walrus.safetensors")


def config(folder, well, walrus, *, basis=None, data=None, **trainer) -> Path:
    """Write the configuration of a small extraction."""
    path = experiment(
        folder / "basis.yaml",
        model={"checkpoint": str(walrus)},
        data={"path": str(well), "variables": ["Reynolds"], "pair_every": 4, "train_pairs": 6, "evaluation_pairs": 4}
        | {"batch_size": 4, **(data or {})},
        callbacks=[callback(BASIS, **{**SMALL, **(basis or {})})],
        **{"default_root_dir": str(folder / "run"), "max_epochs": 1, "enable_checkpointing": False, **trainer},
    )
    path.write_text(path.read_text().replace("physteer.WellDataModule", "physteer.CounterfactualDataModule"))
    return path


def fit(path, *words) -> int:
    return main(["fit", "--config", str(path), *map(str, words)])


def rows(run: Path, name: str) -> list[dict[str, str]]:
    with (run / f"tables/{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def extracted(tiny_well, walrus, tmp_path_factory):
    """Two sites from one pass, values of other windows' tokens, halves and a direction to compare with; the folder.

    Five windows: with two processes one has more than the other. Every direction is refined to the end.
    """
    folder = tmp_path_factory.mktemp("extracted")
    fixed = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(0)))[0]
    ConceptSubspace(fixed, "blocks.0", "Reynolds").save(folder / "fixed/das_Reynolds_blocks.0_rank2.safetensors")
    basis = {"sites": ["encoder", "blocks.0"], "mode": "resample", "halves": True, "max_iter": 60}
    basis["directions"] = [str(folder / "fixed/*")]
    settings = config(folder, tiny_well, walrus, basis=basis, data={"train_pairs": 5})
    assert fit(settings) == 0
    return folder


def test_an_extraction_makes_a_run_folder(extracted):
    run = extracted / "run"
    for name in ("basis_curves.png", "basis_comparison.png"):
        assert (run / "figures" / name).stat().st_size > 10_000
    assert (run / "report.html").is_file() and not list(run.rglob("partial_*"))
    curves, compared = rows(run, "basis_curves"), rows(run, "basis_comparison")
    assert [(row["site"], row["direction"]) for row in curves] == [
        (s, str(j)) for s in ("encoder", "blocks.0") for j in (1, 2)
    ]
    for row in curves:
        assert float(row["marginal_low"]) <= float(row["marginal"]) <= float(row["marginal_high"])
        assert 0 <= float(row["half_angle"]) <= 90 and int(row["evaluations"]) > 0
    for site in ("encoder", "blocks.0"):
        first = next(row for row in curves if row["site"] == site)
        assert float(first["marginal"]) == pytest.approx(float(first["cumulative"]))
        found = {(row["method"], row["name"], row["rank"]): row for row in compared if row["site"] == site}
        ranks = ["1", "2"]
        expected = {(method, "", rank) for method in ("causal", "pca") for rank in ranks}
        expected |= {("random", "1", rank) for rank in ranks} | {("full", "", "32"), ("model", "", "0")}
        if site == "blocks.0":
            expected.add(("direction", "das_Reynolds_blocks.0_rank2", "2"))
        assert set(found) == expected
        assert float(found["full", "", "32"]["share"]) == pytest.approx(1)
        assert float(found["causal", "", "2"]["angle"]) == 0 < float(found["pca", "", "2"]["angle"])
        for row in found.values():
            assert (row["method"] == "model") == math.isnan(float(row["recovery"]))
            if row["method"] != "model":
                assert float(row["recovery"]) < 1 and float(row["nearness"]) < 1 and row["variables"] == "Reynolds"
        assert float(found["causal", "", "2"]["share"]) > float(found["random", "1", "2"]["share"])


def test_the_file_is_what_the_tables_say(extracted):
    basis = CausalBasis.load(extracted / "run/basis/blocks.0.safetensors")
    curves = [row for row in rows(extracted / "run", "basis_curves") if row["site"] == "blocks.0"]
    for name, values in (
        ("energy", basis.energies),
        ("marginal", basis.marginal),
        ("cumulative", basis.cumulative),
        ("half_angle", basis.half_angles),
    ):
        assert values.tolist() == pytest.approx([float(row[name]) for row in curves])
    assert basis.everything == pytest.approx(float(curves[0]["everything"]))
    assert (basis.mode, basis.metric, basis.frames, basis.units) == ("resample", "raw", (-1,), "r_Δ²")
    assert basis.rows == len(basis.row_order) == 5 and len(basis.token_order) == 64
    torch.testing.assert_close(basis.read.mT @ basis.read, torch.eye(2).double(), atol=1e-5, rtol=0)


def same_bases(one: Path, two: Path, tolerance: float, degrees: float) -> None:
    """Energies and tables agree relatively, and each direction up to an angle: at a maximum, energies are flat."""
    names = {path.name for path in (one / "basis").iterdir()}
    assert names == {path.name for path in (two / "basis").iterdir()} and names
    for name in names:
        first, second = (CausalBasis.load(run / "basis" / name) for run in (one, two))
        torch.testing.assert_close(second.energies, first.energies, rtol=tolerance, atol=0)
        for j in range(first.k):
            assert largest_principal_angle(first.read[:, [j]], second.read[:, [j]]) < degrees
    for table in ("basis_curves", "basis_comparison"):
        for row, other in zip(rows(one, table), rows(two, table), strict=True):
            for column, value in row.items():
                if column in ("energy", "marginal", "cumulative", "share"):
                    assert float(other[column]) == pytest.approx(float(value), rel=10 * tolerance, nan_ok=True)
                if column in ("recovery", "nearness"):
                    assert float(other[column]) == pytest.approx(float(value), abs=10 * tolerance, nan_ok=True)


def test_two_processes_find_what_one_does(extracted):
    words = ["fit", "--config", extracted / "basis.yaml", "--trainer.default_root_dir", extracted / "two"]
    said = two_processes(extracted, *words)
    assert said.stdout.count("blocks.0: direction 2:") == 1  # the first process alone reports
    same_bases(extracted / "run", extracted / "two", 1e-4, 0.1)


def test_an_interrupted_run_goes_on_and_ends_the_same(tiny_well, walrus, tmp_path, capfd, monkeypatch):
    basis = {"divergence": {"class_path": "helpers.bases.Troubled"}, "halves": True}
    settings = config(tmp_path, tiny_well, walrus, basis=basis)
    whole = ["--trainer.default_root_dir", tmp_path / "whole"]
    assert fit(settings, *whole) == 0

    def ctrl_c(values):
        signal.raise_signal(signal.SIGINT)
        return values

    monkeypatch.setattr(Troubled, "happens", staticmethod(ctrl_c), raising=False)
    monkeypatch.setattr(Troubled, "after", 8)
    assert fit(settings) == 130
    kept = sorted(path.name for path in (tmp_path / "run/basis").iterdir())
    assert kept == ["partial_blocks.0.safetensors"]
    capfd.readouterr()
    assert fit(settings) == 0
    said = capfd.readouterr().out
    assert "blocks.0: direction 1:" not in said and "blocks.0: direction 2:" in said
    same_bases(tmp_path / "whole", tmp_path / "run", 1e-12, 1e-6)


def test_what_was_found_before_an_energy_is_not_finite_is_kept(tiny_well, walrus, tmp_path, capfd, monkeypatch):
    basis = {"divergence": {"class_path": "helpers.bases.Troubled"}, "max_iter": 3}
    settings = config(tmp_path, tiny_well, walrus, basis=basis)
    monkeypatch.setattr(Troubled, "happens", staticmethod(lambda values: values * torch.nan), raising=False)
    monkeypatch.setattr(Troubled, "after", 24)
    assert fit(settings) == 2
    said = capfd.readouterr().err
    assert "site blocks.0: direction 2, " in said and "is not finite" in said and "holds 1 direction(s)" in said
    assert CausalBasis.load(tmp_path / "run/basis/blocks.0.safetensors").k == 1


def test_steering_erasing_and_searches_accept_the_file(extracted, tiny_well, walrus, tmp_path):
    file = str(extracted / "run/basis/blocks.0.safetensors")
    steered = experiment(
        tmp_path / "predict.yaml",
        model={"checkpoint": str(walrus)},
        data={"path": str(tiny_well), "predict_split": "test", "rollout_steps": 1, "batch_size": 8},
        callbacks=[
            callback("Steer", concept=f"{file}#2", strengths=[0.3]),
            callback("Steer", concept=file, strengths=[0.3]),
            callback("Erase", erasers=[file]),
            "RolloutWriter",
        ],
        default_root_dir=str(tmp_path / "predict"),
    )
    assert main(["predict", "--config", str(steered)]) == 0
    written = {path.name for path in (tmp_path / "predict/rollouts").iterdir()}
    expected = {"blocks.0_2_drop_+0.3", "blocks.0_drop_+0.3", "erase_2_causal_directions_at_blocks.0"}
    assert written == {*expected, "truth", "unsteered"}
    search_fit(search(tmp_path / "das", tiny_well, walrus, das={"ranks": [2], "directions": [file]}))
    assert ("blocks.0", "direction", "2", "blocks.0 first 2", "recovery", "") in search_table(tmp_path / "das/run")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """A class probe at the last block."""
    path = tmp_path_factory.mktemp("probe") / "blocks.1_Reynolds_classes.safetensors"
    classes = ClassFitter("Reynolds", [200, 2000])
    labels = torch.arange(200) % 2
    classes.update_classes(torch.randn(200, 32, generator=torch.Generator().manual_seed(0)) + labels[:, None], labels)
    classes.fit([1.0], site="blocks.1").save(path)
    return str(path)


@pytest.mark.parametrize("name", ["KLDivergence", "CrossEntropyIncrease"])
def test_what_a_class_probe_depends_on(tiny_well, walrus, probe, tmp_path, name):
    divergence = {"class_path": f"physteer.analyses.basis.{name}", "init_args": {"probe": probe}}
    basis = {"divergence": divergence, "metric": "whitened", "k": 1, "frames": None, "max_iter": 3}
    assert fit(config(tmp_path, tiny_well, walrus, basis=basis)) == 0
    found = CausalBasis.load(tmp_path / "run/basis/blocks.0.safetensors")
    assert (found.divergence, found.units, found.metric) == (name, "nats", "whitened") and float(found.energies[0]) > 0


@pytest.mark.parametrize(
    ("basis", "data", "sentence"),
    [
        ({"k": 33}, {}, "CausalBasis at blocks.0: k is 33: 32 channels allow 1 to 32"),
        ({"sites": ["block.0"]}, {}, "site 'block.0' not found; did you mean 'blocks.0'"),
        ({"sites": []}, {}, "CausalBasis.sites must name one or more different sites"),
        ({"frames": [5]}, {}, "CausalBasis.frames [5]: the context has 3 frames"),
        (
            {"sites": ["blocks.1.time"], "frames": None},
            {},
            "blocks.1.time for the last frame alone: set CausalBasis.frames",
        ),
        (
            {"divergence": {"class_path": "physteer.analyses.basis.KLDivergence"}},
            {},
            "KLDivergence compares scores of classes",
        ),
        ({"max_iter": 0}, {}, "max_iter must be at least 1; found 0"),
        ({"mode": "meen"}, {}, "mode"),
        (
            {"mode": "resample"},
            {"evaluation_pairs": 1},
            "held-out windows: mode 'resample' takes values from other rows",
        ),
        ({"directions": ["nowhere*"]}, {}, "CausalBasis.directions: there is no file nowhere*"),
        ({}, {"variables": ["Reynolds", "Schmidt"]}, "interchanges of one variable"),
        (
            {},
            {"truth": {"class_path": "physteer.data.truths.ReadoutTruth", "init_args": {"readout": "enstrophy"}}},
            "simulated frames",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(tiny_well, walrus, tmp_path, capfd, basis, data, sentence):
    assert (
        fit(config(tmp_path, tiny_well, walrus, basis={"max_iter": 1, "k": 1, "candidates": 1, **basis}, data=data))
        == 2
    )
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and sentence in said[0], said


def test_it_is_part_of_fit(tiny_well, walrus, tmp_path, capfd):
    settings = config(tmp_path, tiny_well, walrus)
    assert main(["validate", "--config", str(settings)]) == 2
    assert "extracts and compares in one run: physteer fit" in capfd.readouterr().err
    text = yaml.safe_load(settings.read_text())
    text["data"]["class_path"] = "physteer.WellDataModule"
    text["data"]["init_args"] = {"path": str(tiny_well), "n_steps_input": 3, "rollout_steps": 1}
    settings.write_text(yaml.safe_dump(text))
    assert fit(settings) == 2
    assert "CausalBasis needs pairs" in capfd.readouterr().err


def test_the_report_is_made_again_from_the_tables(extracted, tmp_path):
    from physteer.reports.basis_report import basis_text, report_basis

    shutil.copytree(extracted / "run/tables", tmp_path / "tables")
    report_basis(tmp_path)
    assert (tmp_path / "figures/basis_comparison.png").is_file()
    said = basis_text(tmp_path)
    assert "causal basis" in said and "of the energy of ablating everything" in said
    assert basis_text(tmp_path / "nowhere") == ""


def test_a_direction_and_its_span(extracted):
    basis = CausalBasis.load(extracted / "run/basis/encoder.safetensors")
    assert largest_principal_angle(basis.span(2), basis.read[:, :2]) < 1e-6
