"""Controls and Diagnostics through the real command line, on simulated data with a random Walrus."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.experiments import callback, experiment, forget, weights

from physteer.analyses.steering.spectrum_rows import read_spectra
from physteer.analyses.steering.summary_rows import read_summary
from physteer.analyses.steering.table import read_metrics
from physteer.cli import main
from physteer.concepts import Concept
from physteer.reports.rollouts import read_rollouts

SITE = "blocks.0"


@pytest.fixture
def steered(tiny_well: Path, tmp_path: Path):
    """Run a steered prediction and return its table of metrics."""

    def run(*callbacks: dict, strengths=(-0.3, 0.3), **data):
        checkpoint = weights(tmp_path / "walrus.safetensors")
        rng = np.random.default_rng(0)
        Concept(torch.from_numpy(rng.standard_normal((8, 8, 1, 32))).float(), SITE).save(tmp_path / "c.safetensors")
        steer = callback("Steer", concept=str(tmp_path / "c.safetensors"), strengths=list(strengths))
        config = experiment(
            tmp_path / "steer.yaml",
            model={"checkpoint": str(checkpoint)},
            data={"path": str(tiny_well), "rollout_steps": 3, **data},
            callbacks=[steer, *callbacks],
            default_root_dir=str(tmp_path / "run"),
        )
        assert main(["predict", "--config", str(config)]) == 0
        return read_metrics(tmp_path / "run")

    return run


def test_every_strength_has_its_controls(steered):
    table = steered(callback("Controls", random=3), callback("Diagnostics"), include=["Reynolds_2e3_Schmidt_5e-1"])
    conditions = table.drop_duplicates("condition").set_index("condition")["role"].value_counts()
    assert conditions["concept"] == 2 and conditions["random"] == 6
    assert conditions["unsteered"] == 1
    random = table[(table.role == "random") & (table.strength == 0.3)]
    assert (random.site == SITE).all()
    same_energy = random[(random.metric == "vrmse") & (random.step == 1)].groupby("condition").value.mean()
    assert same_energy.nunique() == 3, "three different directions"


def test_alignment_is_against_the_simulated_neighbour(steered):
    table = steered(callback("Diagnostics", parameter="Reynolds", values=[200, 2000]), include=["Schmidt_5e-1"])
    aligned = table[table.metric == "alignment_cosine"]
    up = aligned[aligned.window.str.contains("Reynolds_2e2") & (aligned.strength > 0)]
    assert up.value.notna().all() and up.value.abs().max() <= 1
    beyond = aligned[aligned.window.str.contains("Reynolds_2e3") & (aligned.strength > 0)]
    assert beyond.empty, "there is no value above 2000 to go to"
    truth = table[table.condition == "truth at the Reynolds above"]
    assert truth.window.str.contains("Reynolds_2e2").all()


def test_movement_is_the_change_from_unsteered_in_units_of_the_spread(steered, tmp_path):
    table = steered(callback("Diagnostics"), "RolloutWriter", include=["Reynolds_2e3_Schmidt_5e-1"])
    for window in read_rollouts(tmp_path / "run"):
        unsteered, truth = window.find("unsteered"), window.find("truth")
        for one in window.steered(window.series[0]):
            mine = table[
                (table.window == one.window) & (table.condition == one.condition) & (table.metric == "movement")
            ]
            for field in ("tracer", "velocity_x"):
                moved = (one.read(field) - unsteered.read(field))[3:].square().mean((1, 2, 3)).sqrt()
                found = mine[mine.field == field].sort_values("step").value
                expected = moved / truth.read(field)[3:].std((1, 2, 3))
                np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert set(table[table.metric == "movement"].role) == {"concept"}


def test_rows_of_finished_windows_outlive_a_killed_run_and_add_up_to_the_same_table(steered, tmp_path):
    """A part per window, written when its last condition is done; the table is made of them when a run ends."""
    diagnostics = callback("Diagnostics", parameter="Reynolds", values=[200, 2000])
    whole = steered(diagnostics, include=["Schmidt_5e-1"], batch_size=3)
    spectra, summary = read_spectra(tmp_path / "run"), read_summary(tmp_path / "run")
    assert spectra and summary
    parts = sorted((tmp_path / "run/tables/parts").iterdir())
    assert len(parts) == whole.window.nunique() == 4
    again = {part.name: part.read_bytes() for part in parts}
    for name in ("metrics.parquet", "metrics.csv", "spectra.parquet", "summary.parquet", f"parts/{parts[2].name}"):
        (tmp_path / "run/tables" / name).unlink()
    forget(tmp_path / "run", parts[2].stem)
    kept = {part: part.stat().st_ino for part in parts if part != parts[2]}
    table = steered(diagnostics, include=["Schmidt_5e-1"], batch_size=1)
    pd.testing.assert_frame_equal(table, whole, rtol=1e-4, atol=1e-7)
    again_spectra = {replace(row, energy=0.0): row.energy for row in read_spectra(tmp_path / "run")}
    assert again_spectra == {replace(row, energy=0.0): pytest.approx(row.energy, rel=1e-4) for row in spectra}
    assert len(read_summary(tmp_path / "run")) == len(summary)
    assert {part: part.stat().st_ino for part in kept} == kept
    assert sorted(again) == sorted(path.name for path in (tmp_path / "run/tables/parts").iterdir())


def test_naturalness_of_every_condition_is_in_the_table(steered, tiny_well, tmp_path):
    natural = "physteer.callbacks.natural_spaces.NaturalSpaces"
    steered(callback(natural, sites=[SITE, "blocks.1"]), predict_split="train")
    (tmp_path / "run").rename(tmp_path / "natural")
    files = [str(tmp_path / f"natural/natural/{site}.safetensors") for site in (SITE, "blocks.1")]
    table = steered(callback("Diagnostics", natural=files), strengths=(0.3, 3.0), include=["Reynolds_2e3"])
    found = table[table.metric == "natural_percentile"]
    assert set(found.field) == {SITE, "blocks.1"} and found.value.between(0, 100).all()
    assert set(found.role) == {"unsteered", "concept"}
    assert len(found) == 2 * 3 * 4 * 3  # sites, conditions, windows, steps
    mean = found[found.field == SITE].groupby("condition").value.mean()
    assert mean["c drop +3"] > mean["unsteered"], "far away is unnatural"


def test_predicted_frames_as_arrays(steered, tmp_path):
    table = steered(callback("RolloutWriter", numpy=True), callback("Diagnostics"), include=["2e3_Schmidt_5e-1"])
    for window in read_rollouts(tmp_path / "run"):
        for one in window.rollouts:
            path = tmp_path / "run/rollouts" / one.path.parents[2].name / "numpy" / f"{one.window}.npy"
            frames, told = np.load(path), json.loads(path.with_suffix(".json").read_text())
            assert frames.shape == (3, 5, 32, 64, 1) and frames.dtype == np.float32
            np.testing.assert_array_equal(frames[:, told["channels"].index("tracer")], one.read("tracer")[3:])
            assert (told["condition"], told["parameters"]["Reynolds"]) == (one.condition, 2000)
            (known,) = table[table.window == window.window].initial_condition.unique()
            with h5py.File(one.path) as file:
                assert told["initial_condition"] == file.attrs["initial_condition"] == known


def test_interpolated_data_are_judged_and_written_like_steered_rollouts(steered, tmp_path):
    """From their own context; windows that have no next parameter have no such rollout, and no rows."""
    up = {"parameter": "Reynolds", "values": [200, 2000]}
    table = steered(
        callback("DataInterpolation", **up, strengths=[1.0]),
        callback("Diagnostics", **up),
        "RolloutWriter",
        include=["Schmidt_5e-1"],
    )
    data = table[table.role == "data"]
    assert data.window.str.contains("Reynolds_2e2").all() and set(data.strength) == {1.0}
    assert {"movement", "alignment_cosine", "vrmse", "enstrophy"} <= set(data.metric)
    assert not (data.metric == "blow_up_step").any()
    for window in read_rollouts(tmp_path / "run"):
        mine, other = window.find("data interpolation +1"), window.find("unsteered")
        assert (mine is None) == ("Reynolds_2e3" in window.window)
        if mine is not None:
            assert mine.setting.role == "data" and (mine.read("velocity_x", 0) == other.read("velocity_x", 0)).all()
            assert (mine.read("velocity_x", 2) - other.read("velocity_x", 2)).abs().max() > 1e-4, "another context"


def test_schmidt_never_moves_velocity(steered):
    """The exact null: between Schmidt numbers the true change of velocity is nothing, so nothing aligns with it."""
    table = steered(
        callback("Diagnostics", parameter="Schmidt", values=[0.5, 2]), include=["Reynolds_2e3_Schmidt_5e-1"]
    )
    aligned = table[(table.metric == "alignment_cosine") & (table.strength > 0)].set_index("field").value
    assert aligned["velocity_x"].isna().all() and aligned["pressure"].isna().all()
    assert aligned["tracer"].notna().all()


def test_trajectories_of_one_initial_condition_share_a_name(steered):
    table = steered(callback("Diagnostics"))
    per_window = table.groupby("window").initial_condition.unique()
    assert all(len(names) == 1 for names in per_window)
    for trajectory in ("0000", "0001"):
        mine = table[table.window.str.contains(f"trajectory{trajectory}")]
        assert mine.initial_condition.nunique() == 1, "the same at every Reynolds and Schmidt"
    assert table.initial_condition.nunique() == 2


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([callback("Diagnostics", parameter="Rayleigh", values=[1, 2])], "no parameter 'Rayleigh'"),
        ([callback("Diagnostics", parameter="Reynolds")], "a parameter with distinct values"),
        ([callback("Controls", random=-1)], "at least 0; found -1"),
    ],
)
def test_mistakes_are_told_in_one_line(steered, callbacks, message, capsys):
    with pytest.raises(AssertionError):
        steered(*callbacks)
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error


def test_controls_without_steering(tiny_well, tmp_path, capsys):
    config = experiment(
        tmp_path / "no.yaml",
        model={"checkpoint": str(weights(tmp_path / "walrus.safetensors"))},
        data={"path": str(tiny_well), "rollout_steps": 1},
        callbacks=[callback("Controls", random=1)],
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["predict", "--config", str(config)]) == 2
    assert "list it after the Steer callbacks" in capsys.readouterr().err
