"""Written rollouts as reports read them."""

import h5py
import numpy as np
import pytest

from physteer.analyses.steering.table import Series
from physteer.analyses.steering.written_rollouts import WrittenRollouts
from physteer.cli import main
from physteer.errors import PhysteerError
from physteer.reports import read_rollouts


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
        assert [r.setting.strength for r in window.steered(window.series[0])] == [-0.4, 0.2, 0.4]
        assert len({(r.window, r.source, *r.parameters.items()) for r in window.rollouts}) == 1
    reynolds = [window.rollouts[0].parameters["Reynolds"] for window in windows]
    assert reynolds == sorted(reynolds)


def test_fields_are_those_of_the_data_set(windows, tiny_well):
    rollout = windows[0].find("truth")
    file, trajectory = rollout.source.file, rollout.source.trajectory
    assert (rollout.source.start, rollout.source.stride) == (0, 1)
    with h5py.File(tiny_well / "data" / "test" / f"{file}.hdf5") as source:
        length = 11
        np.testing.assert_array_equal(rollout.read("tracer")[..., 0], source["t0_fields/tracer"][trajectory, :length])
        velocity = source["t1_fields/velocity"][trajectory]
        np.testing.assert_array_equal(rollout.read("velocity_y", 3)[..., 0], velocity[3, ..., 1])
        np.testing.assert_array_equal(rollout.times, source["dimensions/time"][:length])
    assert rollout.read("pressure", slice(2, 5)).shape == (3, 32, 64, 1)
    assert list(rollout.fields) == ["tracer", "pressure", "velocity_x", "velocity_y"]
    assert (rollout.n_context, rollout.n_steps, len(rollout.times)) == (4, 7, 11)


def test_unknown_field_names_what_there_is(windows):
    with pytest.raises(PhysteerError, match=r"no field 'tracers', only tracer, .*did you mean 'tracer'"):
        windows[0].rollouts[0].read("tracers")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "cannot read "),
        (lambda path: path.write_text("no HDF5"), "cannot read "),
    ],
)
def test_broken_file_is_named(run, damage, message, capsys):
    path = next(run.glob("rollouts/unsteered/data/test/*.hdf5"))
    damage(path)
    with pytest.raises(PhysteerError, match=f"{message}.*{path.name}"):
        read_rollouts(run)
    assert main(["report", str(run)]) == 2 and path.name in capsys.readouterr().err


def test_well_file_that_is_no_rollout(tiny_well):
    with pytest.raises(PhysteerError, match=r"hdf5 is not a readable rollout: it has no attribute 'n_context'"):
        WrittenRollouts(tiny_well / "data/test")


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "no run folder"), (".", "has no rollouts")])
def test_folder_without_rollouts(tmp_path, folder, message):
    with pytest.raises(PhysteerError, match=message):
        read_rollouts(tmp_path / folder)
