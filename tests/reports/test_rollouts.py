"""Written rollouts as reports read them."""

import h5py
import numpy as np
import pytest
import torch

from physteer.analyses.steering.table import Series
from physteer.cli import main
from physteer.errors import PhysteerError
from physteer.reports import read_rollouts
from physteer.reports.rollouts import open_rollout


def test_groups_by_window_in_reading_order(windows):
    assert len(windows) == 4
    for window in windows:
        assert [r.condition for r in window.rollouts] == [
            "truth",
            "unsteered",
            "vortex drop -0.4",
            "vortex drop +0.2",
            "vortex drop +0.4",
        ]
        assert window.series == (Series("vortex", "drop", "blocks.3"),)
        assert [r.strength for r in window.steered(window.series[0])] == [-0.4, 0.2, 0.4]
        assert len({(r.window, r.source, r.parameters) for r in window.rollouts}) == 1
    reynolds = [dict(window.rollouts[0].parameters)["Reynolds"] for window in windows]
    assert reynolds == sorted(reynolds)


def test_fields_are_those_of_the_data_set(windows, tiny_well):
    rollout = windows[0].find("truth")
    file, trajectory, start, stride = rollout.source
    assert (start, stride) == (0, 1)
    with h5py.File(tiny_well / "data" / "test" / f"{file}.hdf5") as source:
        length = 11
        np.testing.assert_array_equal(rollout.read("tracer")[..., 0], source["t0_fields/tracer"][trajectory, :length])
        velocity = source["t1_fields/velocity"][trajectory]
        np.testing.assert_array_equal(rollout.read("velocity_y", 3)[..., 0], velocity[3, ..., 1])
        np.testing.assert_array_equal(rollout.times, source["dimensions/time"][:length])
    assert rollout.read("pressure", slice(2, 5)).shape == (3, 32, 64, 1)
    assert rollout.names == ("tracer", "pressure", "velocity_x", "velocity_y")
    assert rollout.periodic_axes == (True, True, True)
    assert rollout.spacing == (1 / 32, 2 / 64, 1.0)
    assert rollout.steps.tolist() == list(range(-3, 8))


def test_unknown_field_names_what_there_is(windows):
    with pytest.raises(PhysteerError, match=r"no field 'tracers', only tracer, .*did you mean 'tracer'"):
        windows[0].rollouts[0].read("tracers")


def test_constant_and_thin_fields_are_spread_out(run):
    path = next(run.glob("rollouts/truth/data/test/*.hdf5"))
    with h5py.File(path, "a") as file:
        file["t0_fields"].attrs["field_names"] = ["tracer", "pressure", "depth"]
        depth = file["t0_fields"].create_dataset("depth", data=np.arange(64, dtype=np.float32))
        depth.attrs.update({"dim_varying": [False, True], "sample_varying": False, "time_varying": False})
    rollout = open_rollout(path)
    assert rollout.read("depth").shape == (11, 32, 64, 1)
    assert rollout.read("depth", 0).shape == (32, 64, 1)
    assert torch.equal(rollout.read("depth", slice(0, 2))[1, 7, :, 0], torch.arange(64.0))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "is not a readable rollout"),
        (lambda path: path.write_text("no HDF5"), "is not a readable rollout"),
    ],
)
def test_broken_file_is_named(run, damage, message, capsys):
    path = next(run.glob("rollouts/unsteered/data/test/*.hdf5"))
    damage(path)
    with pytest.raises(PhysteerError, match=f"{path.name} {message}"):
        read_rollouts(run)
    assert main(["report", str(run)]) == 2 and path.name in capsys.readouterr().err


def test_well_file_that_is_no_rollout(tiny_well):
    path = next(tiny_well.glob("data/test/*.hdf5"))
    with pytest.raises(PhysteerError, match=r"is not a readable rollout: .*'condition'"):
        open_rollout(path)


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "no run folder"), (".", "has no rollouts")])
def test_folder_without_rollouts(tmp_path, folder, message):
    with pytest.raises(PhysteerError, match=message):
        read_rollouts(tmp_path / folder)
