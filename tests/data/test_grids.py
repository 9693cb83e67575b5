"""Coordinates from real files to numbers: stretched, mixed, moving and curved grids."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.wells import CUBE, PLANET, channel_flow, edit_files, open_windows, write

from physteer.analyses.effects.forecast_runs import regions_of
from physteer.data import collate
from physteer.data.counterfactual import solver_truth
from physteer.data.normalised import normalised_flow
from physteer.data.readouts import readouts
from physteer.data.rollout_files import write_rollout
from physteer.errors import PhysteerError
from physteer.metrics import TokenAxis, pooled_targets, token_targets

TOKENS = (TokenAxis(4, 8), TokenAxis(8, 8), TokenAxis(1))


def batch_of(folder, **more):
    with open_windows(folder, **more) as windows:
        return collate([windows[0], windows[-1]], n_input=2, metadata=windows.metadata)


def stretched(file: h5py.File) -> None:
    file["dimensions/y"][:] = file["dimensions/y"][:] ** 3


def test_readouts_and_targets_on_a_stretched_grid(tiny_well: Path, tmp_path: Path) -> None:
    batch = batch_of(edit_files(tiny_well / "data/test", tmp_path / "walls", channel_flow))  # Reynolds 200, then 2000
    squares = torch.tensor([0.25, 1.0])
    found = readouts(batch, ["enstrophy", "kinetic_energy", "tracer_variance"])
    torch.testing.assert_close(found["enstrophy"], squares * math.pi**2 / 4, rtol=1e-3, atol=0)
    torch.testing.assert_close(found["kinetic_energy"], squares / 4, rtol=1e-3, atol=0)
    plain = batch.context[:, -1, batch.channels.index("tracer")].var((1, 2, 3), correction=0)
    assert ((found["tracer_variance"] / plain - 1).abs() > 1e-3).all()
    flow = normalised_flow(batch, torch.ones(2, 1, len(batch.channels.names), 1, 1, 1))
    pooled = pooled_targets(["shear_rate", "kinetic_energy"], flow)[:, 1]
    torch.testing.assert_close(pooled[:, 0], squares.sqrt() * 2, rtol=2e-3, atol=0)  # ⟨|cos|⟩ π = 2
    torch.testing.assert_close(pooled[:, 1], squares / 4, rtol=1e-3, atol=0)
    y = batch.grid.coordinates[1]
    vorticity = token_targets(["vorticity"], flow, TOKENS)[1, 1, 0, :, 0, 0]
    assert vorticity[0].item() == pytest.approx(float(-math.pi * (math.pi * y[:8]).cos().mean()), rel=2e-2)
    assert regions_of(batch.metadata) == ("vortices", "strain", "background")
    with pytest.raises(PhysteerError, match="continues periodic 2D shear flow"):
        solver_truth(batch, 1, {})


def test_a_stretched_periodic_axis_has_no_period(tiny_well: Path, tmp_path: Path) -> None:
    batch = batch_of(edit_files(tiny_well / "data/test", tmp_path / "stretched", stretched))
    for name in ("enstrophy", "kinetic_energy"):
        with pytest.raises(PhysteerError, match="stretched along its periodic axis y, whose period is not stored"):
            readouts(batch, [name])
    with pytest.warns(UserWarning, match="not told apart by regions of the flow: the grid is stretched"):
        assert regions_of(batch.metadata) == ()
    with pytest.raises(PhysteerError, match="continues periodic 2D shear flow"):
        solver_truth(batch, 1, {})


def test_coordinates_of_a_shear_flow_are_uniform_as_stored(tiny_well: Path) -> None:
    grid = batch_of(tiny_well / "data/test").grid
    x, y, _ = grid.coordinates
    assert grid.geometry.spacing == (float(x[-1] - x[0]) / 31, float(y[-1] - y[0]) / 63, 1.0)
    assert not grid.obstacle and not grid.geometry.stretched


def test_files_with_other_coordinates_are_read_but_not_measured(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"wells/{name}.hdf5", CUBE)
    with h5py.File(tmp_path / "wells/b.hdf5", "r+") as file:
        file["dimensions/z"][:] *= 2
    batch = batch_of(tmp_path / "wells")
    sentence = "b has other coordinates than a: choose files of one grid with include or exclude"
    with pytest.raises(PhysteerError, match=sentence):
        readouts(batch, ["kinetic_energy"])
    with pytest.raises(PhysteerError, match=f"cannot be written: {sentence}"):
        write_rollout(tmp_path / "out.hdf5", batch, 0, batch.targets[0], {})
    for name, depth in (("a", 1), ("b", 2)):
        one = batch_of(tmp_path / "wells", include=[name])
        assert one.grid.geometry.spacing[2] == pytest.approx(depth / 7) and readouts(one, ["kinetic_energy"])


def test_files_whose_coordinates_differ_by_rounding_are_one_grid(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.hdf5", CUBE)
    with h5py.File(tmp_path / "b.hdf5", "r+") as file:
        file["dimensions/z"][:] *= np.float32(1 + 1e-6)
    assert not batch_of(tmp_path).grid.obstacle


@pytest.mark.parametrize("differ", [False, True])
def test_trajectories_with_coordinates_of_their_own(tmp_path: Path, differ: bool) -> None:
    with h5py.File(write(tmp_path / "a.hdf5", CUBE), "r+") as file:
        along = np.tile(file["dimensions/z"][:], (CUBE.trajectories, 1))
        along[-1] *= 1 + differ
        flags = dict(file["dimensions/z"].attrs) | {"sample_varying": True}
        del file["dimensions/z"]
        file.create_dataset("dimensions/z", data=along).attrs.update(flags)
    grid = batch_of(tmp_path).grid
    assert grid.shape == (4, 6, 8)
    assert grid.obstacle.startswith("a: its trajectories have different coordinates") == differ


def test_cells_that_move_are_refused(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.hdf5", CUBE), "r+") as file:
        file["dimensions/z"].attrs["time_varying"] = True
    with pytest.raises(PhysteerError, match=r"cannot read .*a\.hdf5: its cells move along z over time"):
        batch_of(tmp_path)


def test_curved_grids_have_no_cartesian_lengths(tmp_path: Path) -> None:
    grid = batch_of(write(tmp_path / "a.hdf5", PLANET).parent).grid
    assert grid.obstacle == (
        "the grid is spherical: derivatives, means over space and spectra are for Cartesian grids alone"
    )
    with pytest.raises(PhysteerError, match="the grid is spherical"):
        grid.geometry  # noqa: B018
