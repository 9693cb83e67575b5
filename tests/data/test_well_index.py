"""What is known of files before fields are read: as in the_well, checked against what is stored, and kept."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.wells import CUBE, PLANET, Well, open_windows, write
from the_well.data import WellDataset

from physteer.data.index_cache import IndexCache
from physteer.data.well_index import open_well
from physteer.errors import PhysteerError


@pytest.mark.parametrize("name", ["cube", "film", "planet"])
def test_the_description_is_that_of_the_well(name: str, well_folders: dict[str, Path]) -> None:
    theirs = WellDataset(path=str(well_folders[name]), n_steps_input=1, n_steps_output=0)
    ours = open_well(str(well_folders[name]))
    own, other = dataclasses.asdict(ours.metadata), dataclasses.asdict(theirs.metadata)
    assert set(own.pop("boundary_condition_types")) == set(other.pop("boundary_condition_types"))
    assert own == other
    with h5py.File(ours.paths[0]) as file:
        assert theirs._padding_bcs(file, {}, 0, 0, 1, 1).tolist() == [list(ends) for ends in ours.records[0].boundaries]


def test_strings_of_any_kind(tmp_path: Path) -> None:
    def as_bytes(group: h5py.Group | h5py.File, name: str) -> None:
        value = np.asarray(group.attrs[name], dtype="S")
        group.attrs[name] = value if value.size else np.array([], dtype="S1")

    plain = open_windows(write(tmp_path / "text/a.hdf5", PLANET).parent)
    path = write(tmp_path / "bytes/a.hdf5", PLANET)
    with h5py.File(path, "r+") as file:
        for name in ("dataset_name", "grid_type", "simulation_parameters"):
            as_bytes(file, name)
        as_bytes(file["dimensions"], "spatial_dims")
        for group in ("scalars", "t0_fields", "t1_fields", "t2_fields"):
            as_bytes(file[group], "field_names")
        for boundary in file["boundary_conditions"].values():
            as_bytes(boundary, "bc_type")
            as_bytes(boundary, "associated_dims")
    same = open_windows(path.parent)
    assert (same.metadata.dataset, same.metadata.channels) == (plain.metadata.dataset, plain.metadata.channels)
    assert same.metadata.grid.boundaries == plain.metadata.grid.boundaries
    assert same[0].fields.equal(plain[0].fields) and same[0].parameters == plain[0].parameters
    assert same.attribute("a", "dataset_name") == PLANET.name


def shortened(path: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        group, _, name = path.rpartition("/")
        values, attributes = file[path][:-1], dict(file[path].attrs)
        del file[path]
        file[group][name] = values
        file[path].attrs.update(attributes)

    return change


@pytest.mark.parametrize(
    ("well", "change", "message"),
    [
        (CUBE, lambda f: f.attrs.modify("n_trajectories", 5), r"n_trajectories says 5, but the field \w+ holds 3 traj"),
        (CUBE, lambda f: f.attrs.modify("n_spatial_dims", 2), r"n_spatial_dims says 2, but it has the axes x, y, z"),
        (CUBE, shortened("dimensions/time"), r"dimension time has 8, but the field \w+ holds 9 frames"),
        (CUBE, shortened("dimensions/x"), r"has the shape \[.*\]; its axes x have \[|the field \w+ has the shape"),
    ],
)
def test_attributes_are_compared_with_what_is_stored(
    well: Well, change: Callable[[h5py.File], None], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.hdf5", well)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(PhysteerError, match=rf"cannot read .*a\.hdf5: .*({message})"):
        open_well(str(tmp_path))


def test_a_folder_is_never_a_pattern(tmp_path: Path) -> None:
    for name in ("run[1]", "run1", "a*b", "acb"):
        write(tmp_path / name / "f.hdf5", CUBE, seed=len(name))
    for name in ("run[1]", "a*b"):
        assert open_well(str(tmp_path / name)).paths == (str(tmp_path / name / "f.hdf5"),)


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        first = write(tmp_path / "data/f00.hdf5", PLANET)
        for number in range(1, 70):
            os.link(first, first.with_name(f"f{number:02d}.hdf5"))
        return first.parent

    def test_the_second_time_no_file_is_opened(self, folder: Path) -> None:
        cold = open_well(str(folder))
        path = Path(cold.paths[7])
        time = path.stat().st_mtime_ns
        path.write_bytes(b"\0" * path.stat().st_size)  # all names are one file
        os.utime(path, ns=(time, time))
        warm = open_well(str(folder))
        assert warm.metadata == cold.metadata and warm.paths == cold.paths
        for one, other in zip(cold.records, warm.records, strict=True):
            assert one.boundaries == other.boundaries and one.fields == other.fields
            assert all(np.array_equal(one.parameters[name], other.parameters[name]) for name in one.parameters)
            assert all(np.array_equal(one.coordinates[axis], other.coordinates[axis]) for axis in one.axes)

    def test_a_changed_file_is_read_again(self, folder: Path) -> None:
        open_well(str(folder))
        changed = folder / "f33.hdf5"
        changed.unlink()
        write(changed, dataclasses.replace(PLANET, trajectories=2))
        assert open_well(str(folder)).records[33].n_trajectories == 2
        assert open_well(str(folder)).records[34].n_trajectories == PLANET.trajectories

    def test_a_damaged_or_forbidden_cache_is_no_harm(self, folder: Path) -> None:
        cold = open_well(str(folder))
        cache = IndexCache(str(folder)).path
        cache.write_bytes(cache.read_bytes()[:-9])
        assert open_well(str(folder)).metadata == cold.metadata
        cache.unlink()
        cache.parent.rmdir()
        cache.parent.write_text("in the way")
        assert open_well(str(folder)).metadata == cold.metadata

    def test_a_few_files_leave_nothing_behind(self, tmp_path: Path, folder: Path) -> None:
        write(tmp_path / "few/a.hdf5", CUBE)
        open_well(str(tmp_path / "few"))
        assert not (tmp_path / "cache").exists()


def test_a_link_is_as_new_as_what_it_points_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    target = write(tmp_path / "elsewhere/f.hdf5", PLANET)
    (tmp_path / "data").mkdir()
    for number in range(64):
        (tmp_path / f"data/f{number:02d}.hdf5").symlink_to(target)
    open_well(str(tmp_path / "data"))
    write(target, dataclasses.replace(PLANET, trajectories=2))
    assert {record.n_trajectories for record in open_well(str(tmp_path / "data")).records} == {2}


@pytest.mark.parametrize("value", ["False", b"False"])
def test_a_flag_is_no_text(value: str | bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", PLANET)
    with h5py.File(path, "r+") as file:
        file["t0_fields"][PLANET.fields[0].name].attrs["time_varying"] = value
    with pytest.raises(PhysteerError, match=r"a\.hdf5: an attribute that is true or false holds"):
        open_well(str(tmp_path))
