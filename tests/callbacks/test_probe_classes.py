"""Class probes through the command line: what they score, what is left out, the same in any number of processes."""

import math
import re

import pytest
import torch
from helpers.experiments import two_processes, weights
from helpers.probes import probe_yaml, table
from helpers.wells import open_windows
from torch.nn.functional import cross_entropy

from physteer import WalrusModule
from physteer.analyses.probing import ProbeReader, ProbeWindows
from physteer.analyses.probing.class_evaluation import ClassEvaluation
from physteer.analyses.probing.class_fitting import ClassFit
from physteer.cli import main
from physteer.commands import data as data_command
from physteer.concepts import ClassFitter, ClassProbe
from physteer.data import WindowSpec, collate
from physteer.interventions import Site, captured

SITES = ["encoder", "blocks.1"]
VALUES = (200.0, 1000.0, 2000.0)
ALPHAS = [1.0, 1e2, 1e4]
SPEC = WindowSpec(3, 1, every=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Simple flows at three Reynolds numbers, two of which the full simulations have, and weights."""
    root = tmp_path_factory.mktemp("classes")
    words = ["--resolution", "32", "64", "--frames", "8", "--reynolds", *map(str, map(int, VALUES)), "--schmidt", "1"]
    for flow in ("taylor-green", "advection"):
        counts = ["--initial-conditions", "3", "--valid", "2", "--test", "2"]
        assert data_command.main([flow, str(root / "simple"), *words, *counts]) == 0
    weights(root / "walrus.safetensors")
    return root


def classes_yaml(path, folder, full, **more):
    probe = {"sites": SITES, "targets": None, "classes": ["Reynolds"], "alphas": ALPHAS, **more.pop("probe", {})}
    return probe_yaml(path, folder, full, **more, **probe)


@pytest.fixture(scope="module")
def run(folder, tiny_well):
    """The run folder of one process, with its log."""
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder / "run")}}
    config = classes_yaml(folder / "classes.yaml", folder, tiny_well, trainer={"logger": logger})
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(folder / "run")]) == 0
    return folder / "run"


def by_cell(run):
    rows = table(run / "tables/class_probes.csv")
    found = {(row["data"], row["control"], row["site"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def read(folder, data, site):
    """Means over the tokens of every frame of every window, [n, d], and their Reynolds numbers."""
    module = WalrusModule(str(folder / "walrus.safetensors"))
    pooled, values = [], []
    with open_windows(data, SPEC) as windows, torch.no_grad():
        for i in range(0, len(windows), 6):
            samples = [windows[j] for j in range(i, min(i + 6, len(windows)))]
            batch = collate(samples, n_input=3, metadata=windows.metadata)
            inputs, _ = module.forecaster.inputs(batch.context, batch)
            with captured(module.network, [site]) as seen:
                module.network(*inputs)
            pooled.append(seen[site].double().mean((2, 3, 4)).flatten(0, 1))
            values += [value for value in batch.parameters["Reynolds"].tolist() for _ in range(3)]
    return torch.cat(pooled), values


@pytest.mark.parametrize("site", SITES)
def test_probes_and_accuracies_are_what_a_direct_computation_finds(site, run, folder, tiny_well):
    simple = folder / "simple/data"
    fitter = ClassFitter("Reynolds", VALUES)
    x, values = read(folder, simple / "train", site)
    fitter.update_classes(x, torch.tensor([VALUES.index(value) for value in values]))
    every = fitter.fit(ALPHAS)
    x, values = read(folder, simple / "valid", site)
    labels = every.labels(values)
    losses = [float(cross_entropy(scores, labels)) for scores in every.scores(x)]
    best = losses.index(min(losses))

    saved = ClassProbe.load(run / f"probes/{site}_Reynolds_classes.safetensors")
    assert (saved.site, saved.parameter, saved.classes, saved.count) == (site, "Reynolds", VALUES, fitter.count)
    assert saved.alphas.tolist() == [ALPHAS[best]]
    torch.testing.assert_close(saved.weights[0], every.weights[best], rtol=1e-3, atol=1e-4 * float(saved.weights.std()))
    right = (every.scores(x)[best].argmax(-1) == labels).double().mean()
    assert saved.accuracy == {"valid": pytest.approx(float(right), abs=1.5 / len(x))}

    for data, where, initial in (("simple", simple / "test", "4"), ("full", tiny_well / "data/test", "2")):
        x, values = read(folder, where, site)
        labels = saved.labels(values)
        right = (saved.scores(x)[0].argmax(-1) == labels).double().mean()
        row = by_cell(run)[data, "probe", site]
        assert float(row["accuracy"]) == pytest.approx(float(right), abs=1.5 / len(x))  # one may lie on a border
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
        assert float(row["chance"]) == pytest.approx(float(labels.bincount().max() / len(labels)), rel=1e-3)
        assert row["initial_conditions"] == initial and float(row["alpha"]) == ALPHAS[best]


def test_every_place_stands_beside_its_controls(run):
    cells = by_cell(run)
    beside = {("random_features", ""), ("raw_patch", "")} | {("shuffled", site) for site in SITES}
    wanted = beside | {("probe", site) for site in SITES}
    assert cells.keys() == {(data, *rest) for data in ("simple", "full") for rest in wanted}
    assert {path.name for path in (run / "probes").iterdir()} == {f"{s}_Reynolds_classes.safetensors" for s in SITES}
    assert not (run / "erasers").exists() and not (run / "maps").exists()  # no targets
    assert {path.stem for path in (run / "tables").iterdir()} == {"class_probes", "decoder_lens"}
    assert "tables/class_probes.csv" in (run / "report.html").read_text()


def test_accuracies_are_logged(run):
    logged = {}
    for row in table(next(run.glob("lightning_logs/*/metrics.csv"))):
        logged |= {name: float(value) for name, value in row.items() if value}
    for site in SITES:
        saved = ClassProbe.load(run / f"probes/{site}_Reynolds_classes.safetensors")
        assert logged[f"val/accuracy/{site}/Reynolds"] == pytest.approx(saved.accuracy["valid"])
        for data in ("simple", "full"):
            told = float(by_cell(run)[data, "probe", site]["accuracy"])
            assert logged[f"test/{data}/accuracy/{site}/Reynolds"] == pytest.approx(told, abs=1e-3)
    assert "val/accuracy/raw_patch/Reynolds" in logged


def test_two_processes_find_what_one_finds(run, folder, tiny_well):
    config = classes_yaml(folder / "two.yaml", folder, tiny_well)
    done = two_processes(folder, "fit", "--config", config, "--trainer.default_root_dir", folder / "two")
    assert done.stdout.count("accuracy of class probes") == 1
    assert by_cell(run) == by_cell(folder / "two")
    for site in SITES:
        name = f"probes/{site}_Reynolds_classes.safetensors"
        one, other = ClassProbe.load(run / name), ClassProbe.load(folder / "two" / name)
        torch.testing.assert_close(one.weights, other.weights, rtol=1e-5, atol=1e-6 * float(one.weights.abs().max()))
        assert one.accuracy == other.accuracy and one.count == other.count


def test_a_shuffled_control_is_at_chance_where_the_classes_can_be_read(folder):
    """Features that carry the class and noise, on the windows of real files."""
    g = torch.Generator().manual_seed(0)
    reader = ProbeReader([Site.parse("blocks.1")], [], seed=0)
    spec = WindowSpec(2, 1)

    def planted(batch):
        classes = torch.tensor([VALUES.index(value) for value in batch.parameters["Reynolds"].tolist()])
        x = 0.1 * torch.randn(len(batch), 2, 2, 2, 1, 8, generator=g)
        x[..., :3] += torch.eye(3)[classes][:, None, None, None, None]
        return x

    def batches(windows):
        for i in range(0, len(windows), 9):
            samples = [windows[j] for j in range(i, min(i + 9, len(windows)))]
            yield collate(samples, n_input=2, metadata=windows.metadata)

    simple = folder / "simple/data"
    with open_windows(simple / "train", spec) as train, open_windows(simple / "test", spec) as test:
        fit = ClassFit(["Reynolds"], reader, ProbeWindows(train, 0))
        for batch in batches(train):
            for place in reader.places:
                fit.add(place, planted(batch), batch)
        evaluation = ClassEvaluation(fit)
        evaluation.learn([1.0], "")
        evaluation.begin({"held_out": ProbeWindows(test, 0)})
        for batch in batches(test):
            for place in reader.places:
                evaluation.add("held_out", place, planted(batch), batch)
        evaluation.results("test")
        rows = {row.control: row for row in evaluation.table()}
    assert rows["probe"].accuracy == 1 and rows["probe"].chance == pytest.approx(1 / 3)
    assert rows["shuffled"].chance == pytest.approx(1 / 3)
    assert abs(rows["shuffled"].accuracy - 1 / 3) < 0.15


def test_without_full_simulations_there_are_held_out_windows_alone(folder):
    targets = {"targets": ["speed_squared"], "sites": ["encoder"], "random_erasers": 0, "maps": 1}
    config = classes_yaml(folder / "alone.yaml", folder, None, probe=targets)
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(folder / "alone")]) == 0
    for name in ("class_probes", "probes"):
        assert {row["data"] for row in table(folder / f"alone/tables/{name}.csv")} == {"held_out"}
    assert not (folder / "alone/tables/decoder_lens.csv").exists()
    figures = {path.name for path in (folder / "alone/figures").iterdir()}
    assert figures == {"probe_classes.png", "probe_r2_token.png", "probe_r2_pooled.png"}
    names = {path.name for path in (folder / "alone/probes").iterdir()}
    assert names == {"encoder_token.safetensors", "encoder_pooled.safetensors", "encoder_Reynolds_classes.safetensors"}


def test_windows_of_unknown_values_are_left_out_and_said(folder, tiny_well, capsys):
    config = classes_yaml(folder / "partly.yaml", folder, tiny_well, probe={"sites": ["encoder"]})
    words = ["--data.exclude", "[Reynolds_2e2]", "--trainer.default_root_dir", str(folder / "partly")]
    assert main(["fit", "--config", str(config), *words]) == 0
    said = capsys.readouterr()
    assert re.search(r"Reynolds 200 is not in .*, which has 1000, 2000: 12 of 24 windows are left out", said.err)
    cells = by_cell(folder / "partly")
    assert float(cells["simple", "probe", "encoder"]["chance"]) == 0.5
    assert float(cells["full", "probe", "encoder"]["chance"]) == 1  # all that is scored has one value
    assert cells["full", "probe", "encoder"]["initial_conditions"] == "2"
    x, values = read(folder, tiny_well / "data/test", "encoder")
    probe = ClassProbe.load(folder / "partly/probes/encoder_Reynolds_classes.safetensors")
    known = torch.tensor(values) == 2000
    right = (probe.scores(x[known])[0].argmax(-1) == 1).double().mean()
    told = float(cells["full", "probe", "encoder"]["accuracy"])
    assert told == pytest.approx(float(right), abs=1.5 / int(known.sum())) and math.isfinite(told)


@pytest.mark.parametrize(
    ("probe", "words", "message"),
    [
        ({"classes": ["Reynold"]}, [], "there is no parameter 'Reynold', only .*did you mean 'Reynolds'"),
        ({"classes": ["Schmidt"]}, [], r"train: Schmidt has one value only \(1\): classes need two"),
        ({"classes": ["Reynolds", "Reynolds"]}, [], "Probe.classes must name one or more different classes"),
        ({"classes": []}, [], "Probe has nothing to look for: Probe.targets is null and Probe.classes is empty"),
        ({}, ["--model.jitter_seed", "0"], "needs model.jitter_seed null"),
        (
            {},
            ["--data.exclude", "[Reynolds_2e2]", "--data.full_include", "[Reynolds_2e2]"],
            "Reynolds 200 is not in .*, which has 1000, 2000 only: no window can be scored",
        ),
        ({}, ["--data.full", "null", "--data.full_include", "[Reynolds]"], "no full simulations to choose from"),
    ],
)
def test_mistakes_are_told_in_one_line(probe, words, message, folder, tiny_well, capsys):
    config = classes_yaml(folder / "mistake.yaml", folder, tiny_well, probe=probe)
    capsys.readouterr()
    assert main(["fit", "--config", str(config), *words, "--trainer.default_root_dir", str(folder / "none")]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said.splitlines()[-1]), said
    assert not (folder / "none/probes").exists()
