"""Values that are not finite: refused, or filled where there is no flow."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.wells import CUBE, open_windows, write

from physteer.data import WellDataModule, WindowSpec
from physteer.data.finite import Filled
from physteer.errors import PhysteerError

SPEC = WindowSpec(2, 1)


def with_holes(path: Path, first_frame: int = 0) -> tuple[Path, str]:
    """Write a file in which a field is NaN in the corner cells of the second trajectory from a frame on."""
    write(path, CUBE)
    name = CUBE.fields[0].name
    with h5py.File(path, "r+") as file:
        values = file[f"t0_fields/{name}"]
        assert values.shape[:2] == (CUBE.trajectories, CUBE.frames)
        values[1, first_frame:, :2, :2] = np.nan
    return path.parent, name


def test_cells_without_flow_are_filled_and_told(tmp_path: Path) -> None:
    folder, name = with_holes(tmp_path / "a.hdf5")
    with pytest.raises(PhysteerError, match=rf"{name} of trajectory 1 .* first in frame 0; .* data\.fill gives them"):
        _ = [sample for sample in open_windows(folder, SPEC)]
    filled, plain = open_windows(folder, SPEC, non_finite=Filled(-7.0)), open_windows(folder, SPEC)
    window = next(window for window in filled.windows if window.trajectory == 1)
    channel = filled.metadata.channels.index(name)
    with pytest.warns(UserWarning, match=rf"data\.fill: .* read as -7: .*% of {name} in .*a\.hdf5"):
        sample = filled.read(window)
    assert bool((sample.fields[:, channel, :2, :2] == -7).all())
    outside = torch.ones_like(sample.fields[:, channel], dtype=torch.bool)
    outside[:, :2, :2] = False
    assert not bool((sample.fields[:, channel][outside] == -7).any())
    whole = next(window for window in filled.windows if window.trajectory == 0)
    assert filled.read(whole).fields.equal(plain.read(whole).fields)
    assert filled.version("a") != plain.version("a")  # caches tell them apart


def test_a_simulation_that_blows_up_is_not_hidden(tmp_path: Path) -> None:
    folder, name = with_holes(tmp_path / "a.hdf5", first_frame=4)
    windows = open_windows(folder, SPEC, non_finite=Filled(0.0))
    late = next(window for window in windows.windows if (window.trajectory, window.start) == (1, 5))
    with pytest.raises(PhysteerError, match=rf"{name} of trajectory 1 .* frame 5, but not in the cells of frame 0"):
        windows.read(late)


def test_the_setting(tmp_path: Path) -> None:
    folder, _ = with_holes(tmp_path / "data/test/a.hdf5")
    data = WellDataModule(str(tmp_path), n_steps_input=2, rollout_steps=1, fill=0.5)
    with pytest.warns(UserWarning, match="data.fill"):
        batches = list(data.predict_dataloader())
    assert all(bool(batch.fields.isfinite().all()) for batch in batches)
    data.teardown("")
    with pytest.raises(PhysteerError, match=r"data\.fill must be a finite number, found nan"):
        WellDataModule(str(folder), fill=float("nan"))
