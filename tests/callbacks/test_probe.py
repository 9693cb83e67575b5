"""Probes through the command line: fitted to simple flows in one pass, tested on simulations, the same in any run."""

import math
import re
import shutil

import h5py
import pytest
import torch
from helpers.experiments import callback, experiment, two_processes, weights
from helpers.probes import SITES, TARGETS, probe_yaml, table
from helpers.wells import open_windows

from physteer import WalrusModule
from physteer.cli import main
from physteer.commands import data as data_command
from physteer.concepts import LeaceEraser, RidgeProbes
from physteer.data import Window, WindowSpec, collate
from physteer.interventions import captured
from physteer.metrics import vrmse
from physteer.tensor_files import read_tensors

POOLED = ["log_viscosity", "speed_squared"]  # the others' means over periodic space are 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Simple flows of 2 × 1 parameters, and weights."""
    root = tmp_path_factory.mktemp("probe")
    words = ["--resolution", "32", "64", "--frames", "8", "--reynolds", "100", "1000", "--schmidt", "1"]
    for flow in ("taylor-green", "advection", "diffusion"):
        counts = ["--initial-conditions", "3", "--valid", "1", "--test", "2"]
        assert data_command.main([flow, str(root / "simple"), *words, *counts]) == 0
    weights(root / "walrus.safetensors")
    return root


@pytest.fixture(scope="module")
def run(folder, tiny_well):
    """The run folder of one process."""
    config = probe_yaml(folder / "probe.yaml", folder, tiny_well)
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(folder / "run")]) == 0
    return folder / "run"


def by_cell(run):
    """R² by data, control, resolution, site and target."""
    rows = table(run / "tables/probes.csv")
    found = {tuple(row[k] for k in ("data", "control", "resolution", "site", "target")): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_place_and_target_is_scored_beside_its_controls(run):
    cells = by_cell(run)  # selectivity and the difference from the input are of these R²
    assert len(cells) == 2 * (len(TARGETS) + len(POOLED)) * (2 * len(SITES) + 2)  # sites twice: shuffled too
    for (data, control, resolution, site, target), row in cells.items():
        assert (site == "") == (control in ("random_features", "raw_patch"))
        assert float(row["alpha"]) in (1, 1e2, 1e4, 1e6, 1e8)
        assert row["initial_conditions"] == {"simple": "6", "full": "2"}[data]
        matched = float(row["best_match"] or "nan")
        assert math.isfinite(matched) == (resolution == "token" and control != "shuffled")
        if control == "shuffled" and target in TARGETS[:2]:
            assert float(row["r2"]) < 0.1, row
        r2 = {name: float(cells[data, name, resolution, "", target]["r2"]) for name in ("random_features", "raw_patch")}
        above = {
            "selectivity": float(row["r2"]) - float(cells[data, "shuffled", resolution, site, target]["r2"])
            if control == "probe"
            else math.nan,
            "over_input": float(row["r2"]) - max(r2.values()) if control == "probe" else math.nan,
        }
        for name, value in above.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True)
            low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
            assert control != "probe" or low <= high
        assert math.isfinite(float(row["valid_r2"]))
    for data in ("simple", "full"):  # both are linear in a token's cells, where derivatives reach no further
        assert float(cells[data, "raw_patch", "token", "", "pressure"]["r2"]) > 0.999


def test_maps_are_what_the_saved_probes_read_of_the_site(run, folder, tiny_well):
    path = next((run / "maps").glob("full_*Reynolds_2e3*"))
    tensors, described = read_tensors(path, "probe maps", 1)
    assert described["sites"] == SITES and described["targets"] == TARGETS
    assert described["pooled_targets"] == POOLED
    assert tensors["prediction"].shape == (3, 4, 9, 8, 8, 1) and tensors["frames"].tolist() == list(range(9))
    file, _, trajectory = described["name"].partition("_trajectory")
    module = WalrusModule(str(folder / "walrus.safetensors"))
    with open_windows(tiny_well / "data/test", WindowSpec(3, 1)) as windows:
        sample = windows.read(Window(file, int(trajectory), 3))
        batch = collate([sample], n_input=3, metadata=windows.metadata)
    inputs, scale = module.forecaster.inputs(batch.context, batch)
    with torch.no_grad(), captured(module.network, SITES) as seen:
        module.network(*inputs)
    for i, site in enumerate(SITES):
        probes = {how: RidgeProbes.load(run / f"probes/{site}_{how}.safetensors") for how in ("token", "pooled")}
        assert probes["token"].targets == tuple(TARGETS) and probes["token"].site == site
        read = probes["token"].predict(seen[site])[0, 0]  # [T, h, w, δ, m]
        torch.testing.assert_close(read.movedim(-1, 0), tensors["prediction"][i, :, 3:6], rtol=1e-4, atol=1e-4)
        pooled = probes["pooled"].predict(seen[site].mean((2, 3, 4)))[0, 0]
        torch.testing.assert_close(pooled.mT, tensors["pooled_prediction"][i, :, 3:6], rtol=1e-4, atol=1e-4)
    pressure = (sample.fields[:3, batch.channels.index("pressure")] / scale.fields[0, 0, 1, 0, 0, 0]).squeeze(-1)
    cells = pressure.unflatten(1, (8, 4)).unflatten(3, (8, 8)).mean((2, 4))
    torch.testing.assert_close(tensors["truth"][1, 3:6, ..., 0], cells, rtol=1e-4, atol=1e-5)


def test_the_last_depth_of_the_lens_is_the_network_s_own_forecast(run, folder, tiny_well):
    rows = {(row["depth"], row["field"]): float(row["vrmse"]) for row in table(run / "tables/decoder_lens.csv")}
    assert {depth for depth, _ in rows} == {"persistence", "encoder", "blocks.0", "blocks.1"}
    module = WalrusModule(str(folder / "walrus.safetensors"))
    with open_windows(tiny_well / "data/test", WindowSpec(3, 1, every=3)) as windows, torch.no_grad():
        batch = collate([windows[i] for i in range(len(windows))], n_input=3, metadata=windows.metadata)
        predicted = module.forecaster.predict_next(batch.context, batch)
    tracer = batch.channels.index("tracer")
    for depth, frame in (("blocks.1", predicted), ("persistence", batch.context[:, -1:])):
        own = vrmse(frame[:, 0, tracer], batch.targets[:, 0, tracer]).mean()
        assert rows[depth, "tracer"] == pytest.approx(float(own), rel=1e-4)


def test_two_processes_find_what_one_finds(run, folder, tiny_well):
    config = probe_yaml(folder / "two.yaml", folder, tiny_well, maps=1)
    done = two_processes(folder, "fit", "--config", config, "--trainer.default_root_dir", folder / "two")
    assert "fit: 6 of 6 steps" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 2  # what is skipped, and the progress
    one, other = by_cell(run), by_cell(folder / "two")
    assert one.keys() == other.keys()
    for key, row in one.items():
        for column in ("alpha", "r2", "mae", "best_match"):
            assert float(row[column] or "nan") == pytest.approx(float(other[key][column] or "nan"), 1e-5, 1e-6, True)
    for path in (run / "probes").iterdir():
        mine, theirs = (RidgeProbes.load(where / "probes" / path.name) for where in (run, folder / "two"))
        torch.testing.assert_close(mine.weights, theirs.weights, rtol=1e-6, atol=1e-6 * float(mine.weights.abs().max()))


def test_erasers_become_conditions_beside_random_ones(run, folder, tiny_well):
    erasers = [str(run / "erasers/blocks.0_vorticity.safetensors")]
    arguments = {"erasers": erasers, "random": [str(run / "erasers/blocks.0_random_*.safetensors")]}
    data = {"path": str(tiny_well), "rollout_steps": 2, "include": ["2e3_Schmidt_5e-1"]}
    config = experiment(
        folder / "erase.yaml",
        model={"checkpoint": str(folder / "walrus.safetensors")},
        data=data,
        callbacks=[callback("Erase", **arguments), "Diagnostics"],
        default_root_dir=str(folder / "erase"),
    )
    assert main(["predict", "--config", str(config)]) == 0
    moved = {}
    for row in table(folder / "erase/tables/metrics.csv"):
        if row["metric"] == "movement":
            moved.setdefault((row["role"], row["condition"]), []).append(float(row["value"]))
    assert [role for role, _ in moved] == ["concept", "random", "random"]
    assert moved.keys() >= {("concept", "erase vorticity at blocks.0"), ("random", "erase random 01 at blocks.0")}
    assert all(max(values) > 1e-4 for values in moved.values())
    weights(folder / "other.safetensors", seed=1)
    words = ["predict", "--config", str(config), "--model.checkpoint", str(folder / "other.safetensors")]
    assert main([*words, "--trainer.default_root_dir", str(folder / "refused")]) == 2


def test_random_erasers_take_one_direction_as_activations_vary(run):
    eraser = LeaceEraser.load(run / "erasers/blocks.0_random_01.safetensors")
    assert eraser.rank == 1 and eraser.read.mT @ eraser.write == pytest.approx(1)


@pytest.mark.parametrize(
    ("probe", "words", "message"),
    [
        ({"targets": ["vortisity"]}, [], "no probe target 'vortisity'.*did you mean 'vorticity'"),
        ({"sites": ["block.0"]}, [], "site 'block.0' not found.*did you mean 'blocks.0'"),
        ({"sites": ["decoder"]}, [], r"Probe reads activations of \[8, 8, 1\] tokens, .*; decoder has the shape"),
        ({"sites": ["blocks.0", "blocks.0"]}, [], "Probe.sites must name one or more different sites"),
        ({"alphas": [-1.0]}, [], "alphas are one or more numbers of at least 0"),
        ({}, ["--trainer.max_epochs", "2"], "reads the training windows once: trainer.max_epochs 1, not 2"),
        ({}, ["--model.jitter_seed", "0"], "needs model.jitter_seed null"),
        ({}, ["--data.window_every", "0"], "data.window_every must be at least 1"),
        ({}, ["--data.full", "nowhere"], "nowhere/data/test"),
    ],
)
def test_mistakes_are_told_in_one_line(probe, words, message, folder, tiny_well, capsys):
    config = probe_yaml(folder / "mistake.yaml", folder, tiny_well, **probe)
    capsys.readouterr()
    assert main(["fit", "--config", str(config), *words, "--trainer.default_root_dir", str(folder / "none")]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said.splitlines()[-1]), said
    assert not (folder / "none/probes").exists() or words


def test_constant_targets_are_skipped_and_undefined_ones_refused(folder, tiny_well, tmp_path, capsys):
    words = ["--trainer.default_root_dir", str(tmp_path / "run"), "--data.include", "[Reynolds_1e3]"]
    config = probe_yaml(tmp_path / "probe.yaml", folder, tiny_well, sites=["encoder"], maps=0, random_erasers=0)
    assert main(["fit", "--config", str(config), *words]) == 0
    assert "constant in" in (said := capsys.readouterr().err) and "are skipped: log_viscosity" in said
    assert {row["target"] for row in table(tmp_path / "run/tables/probes.csv")} == set(TARGETS) - {"log_viscosity"}

    shutil.copytree(folder / "simple", tmp_path / "simple")
    for path in (tmp_path / "simple/data/train").glob("diffusion_Reynolds_1e3*"):
        with h5py.File(path, "r+") as file:
            file["scalars/Reynolds"][...] = -1.0
    words = ["--trainer.default_root_dir", str(tmp_path / "refused"), "--data.path", str(tmp_path / "simple")]
    only = ["--trainer.callbacks.targets", "[vorticity]"]
    assert main(["fit", "--config", str(config), *only, "--trainer.default_root_dir", str(tmp_path / "one")]) == 2
    assert "none of the probe targets vorticity varies in" in capsys.readouterr().err
    assert main(["fit", "--config", str(config), *words]) == 2
    assert "target 'log_viscosity' has values that are not finite in diffusion" in capsys.readouterr().err
