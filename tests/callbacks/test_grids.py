"""A run on data whose grid is stretched, or not Cartesian, through the real command line."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.experiments import callback, concept, experiment, weights
from helpers.wells import channel_flow, edit_files

from physteer.analyses.steering.run_tables import complete_tables
from physteer.analyses.steering.spectrum_rows import read_spectra
from physteer.analyses.steering.summary_rows import read_summary
from physteer.analyses.steering.table import read_metrics
from physteer.cli import main
from physteer.errors import PhysteerError
from physteer.reports.field_slices import field_slice, shown_field, shown_fields, slice_axes
from physteer.reports.rollouts import read_rollouts
from physteer.reports.terminology import terminology_of


def predicted(tmp_path: Path, feature: str, control: str) -> Path:
    """Capture, steer, write and measure rollouts of ``tmp_path/well``; return the run folder."""
    listed = [
        callback("Capture", name="c", sites=["blocks.0"], feature=feature, control=control),
        callback("Steer", concept=str(concept(tmp_path / "c.safetensors")), strengths=[0.1]),
        "RolloutWriter",
        "Diagnostics",
    ]
    config = experiment(
        tmp_path / "run.yaml",
        model={"checkpoint": str(weights(tmp_path / "walrus.safetensors"))},
        data={"path": str(tmp_path / "well"), "rollout_steps": 2, "batch_size": 4, "include": ["Schmidt_5e-1"]},
        callbacks=listed,
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["predict", "--config", str(config)]) == 0
    return tmp_path / "run"


def test_a_channel_between_walls_from_classes_to_pictures(tiny_well, tmp_path, capsys):
    edit_files(tiny_well, tmp_path / "well", channel_flow)
    # with the mean spacing, the first would be 2.41, and not in its class
    run = predicted(tmp_path, f"enstrophy > {0.99 * math.pi**2 / 4}", f"enstrophy < {1.01 * math.pi**2 / 16}")
    assert (run / "concepts/c_blocks.0.safetensors").exists()
    sentence = "energy spectra need evenly spaced cells, and the grid is stretched along y; they are left out"
    assert capsys.readouterr().err.count(sentence) == 1
    table = read_metrics(run)
    truth = table[(table.role == "truth") & table.window.str.contains("Reynolds_2e3")]
    for metric, exact in (("enstrophy", math.pi**2 / 4), ("kinetic_energy", 0.25)):
        np.testing.assert_allclose(truth[truth.metric == metric].value, exact, rtol=1e-3)
    assert "vrmse" in set(truth.metric) and "spectrum_distance" not in set(table.metric) and not read_spectra(run)
    assert {"enstrophy", "vortex_area"} <= {row.quantity for row in read_summary(run)}
    with pytest.warns(UserWarning, match=sentence):
        complete_tables(run, anew=True)  # the same from the rollouts alone
    again = read_metrics(run)
    again = again[(again.role == "truth") & again.window.str.contains("Reynolds_2e3") & (again.metric == "enstrophy")]
    np.testing.assert_allclose(again.value, math.pi**2 / 4, rtol=1e-3)

    window = next(one for one in read_rollouts(run) if "Reynolds_2e3" in one.window)
    rollout = window.find("truth")
    axes = slice_axes(rollout.grid)
    assert (axes.horizontal, axes.vertical) == ("y", "x")
    assert axes.extent == pytest.approx((0, 1, -1 / 64, 1 - 1 / 64), abs=1e-3)
    image = field_slice(rollout, shown_field(rollout, "velocity_x"), 1, 0.0, terminology_of([])).image
    assert image.shape == (32, 256)
    np.testing.assert_allclose(image[0], np.sin(np.pi * (np.arange(256) + 0.5) / 256), atol=0.08)  # half a cell


def test_a_curved_grid_is_forecast_steered_and_captured_but_not_measured(tiny_well, tmp_path, capsys):
    def curved(file: h5py.File) -> None:
        file.attrs["grid_type"] = "spherical"

    edit_files(tiny_well, tmp_path / "well", curved)
    run = predicted(tmp_path, "Reynolds > 1000", "Reynolds < 1000")
    err = capsys.readouterr().err
    assert (
        err.count("metrics of the whole flow are left out: the grid is spherical: derivatives, means over space") == 1
    )
    metrics = set(read_metrics(run).metric)
    assert {"vrmse", "movement"} <= metrics and metrics.isdisjoint({"enstrophy", "tracer_variance", "tracer_mass"})
    assert (run / "concepts/c_blocks.0.safetensors").exists() and not read_spectra(run)
    rollout = read_rollouts(run)[0].find("truth")
    assert [field.name for field in shown_fields(rollout)] == ["tracer"]
    with pytest.raises(PhysteerError, match="the vorticity cannot be drawn: the grid is spherical"):
        shown_field(rollout, "vorticity")
