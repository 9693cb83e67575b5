"""Rollouts that were written but not measured get the tables that `Diagnostics` would have made."""

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.experiments import callback, concept, experiment, weights
from helpers.wells import EVERY, write_splits

from physteer.analyses.steering.run_tables import complete_tables
from physteer.analyses.steering.spectrum_rows import read_spectra
from physteer.analyses.steering.summary_rows import read_summary
from physteer.analyses.steering.table import KEY, read_metrics
from physteer.cli import main
from physteer.data.module import WellDataModule
from physteer.data.rollout_files import write_rollout
from physteer.metrics import energy_spectrum, enstrophy, vrmse


@pytest.fixture(scope="module")
def measured(tiny_well, tmp_path_factory):
    """A run with `Diagnostics`, whose rollouts are written too."""
    folder = tmp_path_factory.mktemp("measured")
    weights(folder / "walrus.safetensors")
    concept(folder / "c.safetensors")
    config = experiment(
        folder / "steer.yaml",
        model={"checkpoint": str(folder / "walrus.safetensors")},
        data={"path": str(tiny_well), "rollout_steps": 3, "include": ["Schmidt_5e-1"], "batch_size": 3},
        callbacks=[
            callback("Steer", concept=str(folder / "c.safetensors"), strengths=[-0.3, 0.3]),
            callback("Controls", random=1, strengths=[0.3]),
            callback("DataInterpolation", parameter="Reynolds", values=[200, 2000], strengths=[1.0]),
            "Diagnostics",
            callback("RolloutWriter", controls=True),
        ],
        default_root_dir=str(folder / "run"),
    )
    assert main(["predict", "--config", str(config)]) == 0
    return folder / "run"


@pytest.fixture
def bare(measured, tmp_path):
    """The rollouts alone."""
    shutil.copytree(measured / "rollouts", tmp_path / "bare/rollouts")
    return tmp_path / "bare"


def by_key(run):
    return read_metrics(run).set_index(list(KEY)).sort_index()


def test_they_have_the_rows_that_diagnostics_made(measured, bare):
    complete_tables(bare)
    expected, found = by_key(measured), by_key(bare)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6, atol=1e-12)
    assert {"vrmse", "movement", "enstrophy", "spectrum_distance", "tracer_mass"} <= set(found.reset_index().metric)
    assert set(found.role) == {"truth", "unsteered", "concept", "random", "data"}
    spectra = [
        sorted(read_spectra(run), key=lambda row: (row.condition, row.step, row.wavenumber)) for run in (measured, bare)
    ]
    assert [row.energy for row in spectra[0]] == pytest.approx([row.energy for row in spectra[1]], rel=1e-6)
    named = [[(row.condition, row.role, row.step, row.wavenumber, row.windows) for row in rows] for rows in spectra]
    assert named[0] == named[1] and not [row for row in spectra[0] if row.role == "random"]
    summaries = [read_summary(run) for run in (measured, bare)]
    named = [[(r.role, r.setting.series, r.quantity, r.field, r.step, r.windows) for r in rows] for rows in summaries]
    assert named[0] == named[1]
    np.testing.assert_allclose([r.value for r in summaries[0]], [r.value for r in summaries[1]], rtol=1e-5, atol=1e-12)


def test_a_table_that_there_is_stays(measured, bare):
    shutil.copytree(measured / "tables", bare / "tables")
    (bare / "tables/spectra.parquet").unlink()
    before = (bare / "tables/metrics.parquet").read_bytes()
    complete_tables(bare)
    assert (bare / "tables/metrics.parquet").read_bytes() == before
    assert read_spectra(bare), "measured again from the rollouts"


def test_without_rollouts_nothing_is_made(tmp_path):
    complete_tables(tmp_path)
    complete_tables(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_without_the_truth_there_are_no_errors(bare):
    shutil.rmtree(bare / "rollouts/truth")
    complete_tables(bare)
    metrics = set(read_metrics(bare).metric)
    assert metrics.isdisjoint({"vrmse", "movement", "spectrum_distance"}) and {"enstrophy", "tracer_mass"} <= metrics
    assert {row.role for row in read_spectra(bare)} == {"unsteered", "concept", "data"}
    assert not [row for row in read_summary(bare) if row.quantity == "vrmse_ratio"]


def test_windows_without_an_unsteered_rollout_are_left_out(bare):
    first, *others = sorted((bare / "rollouts/unsteered/data/test").iterdir())
    first.unlink()
    complete_tables(bare)
    assert set(read_metrics(bare).window) == {path.stem for path in others}
    for path in others:
        path.unlink()
    complete_tables(bare, anew=True)
    assert set(read_metrics(bare).window) == {path.stem for path in others}, "nothing to compare with, nothing made"


def test_frames_after_a_blow_up_are_read_and_left_out(bare):
    (path,) = (bare / "rollouts").glob("c_drop_+0.3*/data/test/*Reynolds_2e2*trajectory0000*.hdf5")
    with h5py.File(path, "a") as file:
        file["t1_fields/velocity"][0, 4:] = np.inf
    complete_tables(bare)
    table = read_metrics(bare)
    blown = table[table.metric == "blow_up_step"]
    assert list(zip(blown.window, blown.strength, blown.value, strict=True)) == [(path.stem, 0.3, 2.0)]
    rows = {(r.strength, r.quantity, r.step): r for r in read_summary(bare) if r.role == "concept"}
    assert rows[0.3, "blow_ups", 0].value == 1
    assert [rows[0.3, "enstrophy", step].windows for step in (1, 2, 3)] == [4, 3, 3]
    windows = {(r.strength, r.step): r.windows for r in read_spectra(bare) if r.role == "concept"}
    assert (windows[0.3, 1], windows[0.3, 2], windows[-0.3, 2]) == (4, 3, 4)


def written(folder, data, frames_of, conditions=(("truth", 0.0), ("unsteered", 0.0), ("v drop +1", 1.0))):
    """Write rollouts of a data set as a run would; frames by batch and strength."""
    batch = next(iter(data.predict_dataloader()))
    for name, strength in conditions:
        frames = batch.targets if name == "truth" else frames_of(batch, strength)
        steered = {"direction": "v", "mode": "drop", "site": "blocks.0"} if strength else {}
        attributes = {"condition": name, "strength": strength, "direction": "", "mode": "", "site": ""} | steered
        for row, window in enumerate(batch.windows):
            path = folder / "rollouts" / name.replace(" ", "_") / "data/test" / f"{window}.hdf5"
            write_rollout(path, batch, row, frames[row], attributes)
    data.teardown("predict")
    return batch


@pytest.mark.parametrize("well", EVERY.values(), ids=EVERY)
def test_data_of_every_kind_are_measured_as_far_as_they_can_be(well, tmp_path):
    """Tensor fields, curved grids, three dimensions: errors always, flow metrics on Cartesian grids."""
    write_splits(tmp_path / "data", well)
    data = WellDataModule(str(tmp_path / "data"), n_steps_input=2, rollout_steps=2, batch_size=4)
    batch = written(tmp_path / "run", data, lambda batch, a: batch.targets * (1.01 + 0.1 * a))
    complete_tables(tmp_path / "run")
    table, channels = read_metrics(tmp_path / "run"), batch.channels
    cartesian = batch.grid.kind == "cartesian"
    assert ("enstrophy" in set(table.metric)) == bool(read_spectra(tmp_path / "run")) == cartesian
    steered = table[(table.condition == "v drop +1") & (table.metric == "vrmse") & (table.step == 2)]
    assert set(steered.field) == {channels.names[i] for i in channels.predicted}
    for row in steered.to_dict("records"):
        place = [str(window) for window in batch.windows].index(row["window"]), 1, channels.index(row["field"])
        expected = vrmse(batch.targets[place] * 1.11, batch.targets[place])
        assert row["value"] == pytest.approx(float(expected), rel=1e-4)
    assert [row for row in read_summary(tmp_path / "run") if row.quantity == "vrmse_ratio"]


def test_values_are_those_of_the_metrics(tiny_well, tmp_path):
    data = WellDataModule(str(tiny_well), n_steps_input=3, rollout_steps=3, include=["2e3_Schmidt_5e-1"])
    noise = torch.randn(5, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * 0.02
    batch = written(tmp_path, data, lambda batch, a: batch.targets + a * noise)
    complete_tables(tmp_path)
    table = read_metrics(tmp_path)
    frame = batch.targets[0, 1] + noise
    velocity = frame[[batch.channels.index(f"velocity_{axis}") for axis in "xyz"]]
    row = table[(table.window == str(batch.windows[0])) & (table.condition == "v drop +1") & (table.step == 2)]
    expected = enstrophy(velocity, batch.grid.geometry)
    assert row[row.metric == "enstrophy"].value.item() == pytest.approx(float(expected), rel=1e-5)
    velocities = batch.targets[:, 1][:, [batch.channels.index(f"velocity_{axis}") for axis in "xyz"]]
    energy = energy_spectrum(velocities.double(), batch.grid.geometry)[:, :17].mean(0)
    truth = sorted((r.wavenumber, r.energy) for r in read_spectra(tmp_path) if (r.role, r.step) == ("truth", 2))
    assert [e for _, e in truth] == pytest.approx(energy.tolist())
