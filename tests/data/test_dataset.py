"""Windows of data sets of every kind: the values of ``the_well``, under the network's names, by address."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.wells import ACOUSTIC, CUBE, EVERY, FILM, PLANET, STAR, open_windows, write
from the_well.data import WellDataset

from physteer.data import Batch, Window, WindowSpec, collate
from physteer.data.readouts import readouts
from physteer.errors import PhysteerError


def raw(folder: Path, file: str, name: str) -> np.ndarray:
    with h5py.File(next(folder.glob(f"{file}.*"))) as stored:
        return stored[name][()]


class TestValues:
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("name", EVERY)
    def test_equal_those_of_the_well(
        self, well_folders: dict[str, Path], name: str, stride: int, tmp_path: Path
    ) -> None:
        folder, renamed = well_folders[name], {}
        if name == "cube":  # the_well fails on an evolving field that lacks its last axis
            rest = [stored for stored in CUBE.fields if stored.name != "height"]
            folder = write(tmp_path / "cube.hdf5", replace(CUBE, fields=rest)).parent
        elif name.startswith("acoustic"):
            renamed = {"density": "density"}
        theirs = WellDataset(path=str(folder), n_steps_input=3, min_dt_stride=stride, max_dt_stride=stride)
        with open_windows(folder, WindowSpec(3, 1, strides=(stride,)), fields=renamed) as ours:
            assert len(ours) == len(theirs) > 6
            real = [i for i, source in enumerate(ours.metadata.channels.sources) if source.field is not None]
            grid, ndim = ours.metadata.grid, len(ours.metadata.grid.axes)
            for mine, other in zip(ours, theirs, strict=True):
                fields = torch.cat([other["input_fields"], other["output_fields"]])
                if "constant_fields" in other:
                    fields = torch.cat(
                        [fields, other["constant_fields"].expand(4, *other["constant_fields"].shape)], -1
                    )
                expected = fields.movedim(-1, 1)  # [T, C, *space]
                assert torch.equal(mine.fields[:, real].reshape(expected.shape), expected)
                times = torch.cat([other["input_time_grid"], other["output_time_grid"]])
                assert torch.equal(mine.times - mine.times[0], times)
                assert torch.equal(torch.tensor(grid.boundaries[:ndim]), other["boundary_conditions"].int())
                coordinates = torch.meshgrid(*grid.coordinates[:ndim], indexing="ij")
                assert torch.equal(torch.stack(coordinates, -1), other["space_grid"])
                if "constant_scalars" in other:
                    names = theirs.metadata.constant_scalar_names
                    assert torch.equal(torch.tensor([mine.parameters[n] for n in names]), other["constant_scalars"])

    def test_an_axis_of_one_cell_may_be_stored(self, well_folders: dict[str, Path], tmp_path: Path) -> None:
        shutil.copytree(well_folders["cube"], tmp_path / "cube")
        for path in (tmp_path / "cube").iterdir():
            with h5py.File(path, "r+") as file:
                for name, axis in (("height", 4), ("heating", 1)):
                    values, flags = file["t0_fields"][name][()], dict(file["t0_fields"][name].attrs)
                    del file["t0_fields"][name]
                    file["t0_fields"][name] = values[..., None] if axis == 4 else values[:, None, None]
                    file["t0_fields"][name].attrs.update(flags)
        with open_windows(tmp_path / "cube") as one, open_windows(well_folders["cube"]) as other:
            assert torch.equal(one[-1].fields, other[-1].fields)

    def test_three_dimensions(self, well_folders: dict[str, Path]) -> None:
        folder = well_folders["cube"]
        with open_windows(folder) as dataset:
            sample = dataset.read(Window("cube_1", 2, 3, 2))
            assert dataset.metadata.channels.names == (
                *("density", "height", "velocity_x", "velocity_y", "velocity_z"),
                *("mask", "heating"),
            )
            assert dataset.metadata.channels.evolving == (True,) * 5 + (False,) * 2
            assert dataset.metadata.grid.boundaries == ((0, 1), (0, 0), (2, 2))
            assert dataset.metadata.grid.shape == (4, 6, 8)
            assert dataset.metadata.grid.geometry.spacing == pytest.approx((1 / 3, 1 / 5, 1 / 7))
        assert sample.fields.shape == (3, 7, 4, 6, 8)
        assert sample.fields.is_contiguous()
        frames = slice(3, 8, 2)
        assert np.array_equal(sample.fields[:, 0], raw(folder, "cube_1", "t0_fields/density")[2, frames])
        height = raw(folder, "cube_1", "t0_fields/height")[2, frames]
        assert np.array_equal(sample.fields[:, 1], np.repeat(height[..., None], 8, -1))
        assert np.array_equal(sample.fields[:, 3], raw(folder, "cube_1", "t1_fields/velocity")[2, frames, ..., 1])
        for frame in sample.fields:
            assert np.array_equal(frame[5], raw(folder, "cube_1", "t0_fields/mask"))
            heating = raw(folder, "cube_1", "t0_fields/heating")[2]
            assert np.array_equal(frame[6], np.broadcast_to(heating, (4, 6, 8)))
        assert sample.times.tolist() == [1.5, 2.5, 3.5]

    def test_two_dimensions_are_inflated(self, well_folders: dict[str, Path]) -> None:
        with open_windows(well_folders["film"]) as dataset:
            channels, sample = dataset.metadata.channels, dataset[0]
        pairs = ("xx", "xy", "xz", "yx", "yy", "yz", "zx", "zy", "zz")
        velocity = ("velocity_x", "velocity_y", "velocity_z")
        force = ("force_x", "force_y", "force_z")
        assert channels.names == (
            *("concentration", *velocity, *(f"D_{p}" for p in pairs)),
            *(*force, *(f"E_{p}" for p in pairs)),
        )
        for name, evolving, channel in zip(channels.names, channels.evolving, sample.fields.unbind(1), strict=True):
            inflated = "z" in name.rpartition("_")[2]
            assert (channel == 0).all() == inflated
            assert evolving == (not inflated and name[0] not in "fE")
        tensor = raw(well_folders["film"], "film_0", "t2_fields/D")[0, :3]
        assert np.array_equal(sample.fields[:, channels.index("D_yx"), ..., 0], tensor[..., 1, 0])
        constant = raw(well_folders["film"], "film_0", "t2_fields/E")[0]  # [y, 2, 2]: does not vary along x
        assert np.array_equal(sample.fields[2, channels.index("E_xy"), ..., 0], np.tile(constant[..., 0, 1], (6, 1)))
        assert dataset.metadata.grid.boundaries == ((2, 2), (1, 1), (2, 2))
        assert dataset.metadata.grid.shape == (6, 4, 1)
        assert dataset.metadata.grid.geometry.spacing[2] == 1
        assert dataset.metadata.grid.periodic == (True, False, True)

    @pytest.mark.parametrize(
        ("name", "channels"),
        [
            ("planet", ["height", "velocity_theta", "velocity_phi"]),
            ("star", ["entropy", "velocity_log_r", "velocity_theta", "velocity_phi", "stress_log_rlog_r"]),
        ],
    )
    def test_spheres_are_not_inflated(self, well_folders: dict[str, Path], name: str, channels: list[str]) -> None:
        with open_windows(well_folders[name]) as dataset:
            names = dataset.metadata.channels.names
        assert list(names[: len(channels)]) == channels
        assert len(names) == {"planet": 3, "star": 13}[name]
        assert dataset.metadata.grid.kind == "spherical"

    def test_each_trajectory_has_its_own_times(self, well_folders: dict[str, Path]) -> None:
        with open_windows(well_folders["film"]) as dataset:
            times = [dataset.read(Window("film_0", trajectory, 2, 2)).times for trajectory in range(3)]
        assert [one.tolist() for one in times] == [[1, 2, 3], [2, 4, 6], [3, 6, 9]]

    def test_a_sample_is_the_caller_s_own(self, well_folders: dict[str, Path]) -> None:
        """Whoever changes it changes nothing of what is kept from the file."""
        with open_windows(well_folders["cube"]) as dataset:
            first = dataset[0]
            before = first.fields.clone(), first.times.clone()
            first.fields.zero_()
            first.times.zero_()
            again = dataset[0]
        assert torch.equal(again.fields, before[0]) and torch.equal(again.times, before[1])

    def test_other_number_types_become_float32(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.hdf5", PLANET)
        with h5py.File(path, "r+") as file:
            values = file["t0_fields/height"][()]
            flags = dict(file["t0_fields/height"].attrs)
            del file["t0_fields/height"]
            file["t0_fields/height"] = values.astype(">f8")  # big-endian doubles
            file["t0_fields/height"].attrs.update(flags)
        with open_windows(tmp_path) as dataset:
            assert np.array_equal(dataset[0].fields[:, 0, ..., 0], values[0, :3])


class TestWindows:
    def test_are_addressed(self, well_folders: dict[str, Path]) -> None:
        with open_windows(well_folders["planet"], WindowSpec(2, 2, strides=(1, 2))) as dataset:
            expected = [
                Window(file, trajectory, start, stride)
                for file in ("planet_0", "planet_1")
                for trajectory in range(3)
                for stride, starts in ((1, 6), (2, 3))
                for start in range(starts)
            ]
            assert dataset.windows == expected
            assert len({str(window) for window in dataset.windows}) == len(dataset)
            for index in random.Random(0).sample(range(len(dataset)), 12):
                window = dataset.windows[index]
                sample = dataset.read(window)
                assert sample.window == window
                assert torch.equal(sample.fields, dataset[index].fields)
                stored = raw(well_folders["planet"], window.file, "t0_fields/height")[window.trajectory]
                frames = [window.start + k * window.stride for k in range(4)]
                assert np.array_equal(sample.fields[:, 0, ..., 0], stored[frames])

    @pytest.mark.parametrize(
        ("change", "starts"),
        [
            ({}, [0, 1, 2, 3, 4, 5, 6]),
            ({"first": 4}, [4, 5, 6]),
            ({"every": 3}, [0, 3, 6]),
            ({"every": None}, [0]),
            ({"every": None, "first": 5}, [5]),
            ({"strides": (4,)}, [0]),
            ({"strides": (3,), "first": 1, "every": 2}, [1]),
        ],
    )
    def test_first_every_stride(
        self, well_folders: dict[str, Path], change: dict[str, object], starts: list[int]
    ) -> None:
        spec = WindowSpec(**{"n_input": 2, "n_output": 1, "trajectories": (1,), **change})
        with open_windows(well_folders["planet"], spec, include=["planet_0"]) as dataset:
            assert [window.start for window in dataset.windows] == starts

    def test_trajectories(self, well_folders: dict[str, Path], tmp_path: Path) -> None:
        with open_windows(well_folders["planet"], WindowSpec(2, 1, every=None, trajectories=(2, 0, 2))) as dataset:
            assert [(w.file, w.trajectory) for w in dataset.windows] == [
                (file, trajectory) for file in ("planet_0", "planet_1") for trajectory in (0, 2)
            ]
        shutil.copytree(well_folders["planet"], tmp_path / "mixed")
        write(tmp_path / "mixed/planet_2.hdf5", replace(PLANET, trajectories=5, frames=4))
        with open_windows(tmp_path / "mixed", WindowSpec(2, 1, trajectories=(4,))) as dataset:  # only one file has it
            assert dataset.windows == [Window("planet_2", 4, 0), Window("planet_2", 4, 1)]
        with open_windows(tmp_path / "mixed", WindowSpec(4, 1, every=None)) as dataset:  # too long for one file
            assert {w.file for w in dataset.windows} == {"planet_0", "planet_1"}

    def test_any_length_from_any_start(self, well_folders: dict[str, Path]) -> None:
        with open_windows(well_folders["planet"]) as dataset:
            whole = dataset.read(Window("planet_1", 1, 0), n_frames=9)
            assert whole.fields.shape[0] == 9
            single = dataset.read(Window("planet_1", 1, 8), n_frames=1)
            assert torch.equal(single.fields[0], whole.fields[8])
            assert single.times.tolist() == [4]

    @pytest.mark.parametrize(
        ("window", "message"),
        [
            (Window("planet_2", 0, 0), "no file 'planet_2' in .*; did you mean 'planet_1' or 'planet_0'"),
            (Window("planet_0", 3, 0), "no frames 0 to 2: the file has 3 trajectories of 9 frames"),
            (Window("planet_0", -1, 0), "no frames 0 to 2"),
            (Window("planet_0", 0, 7), "no frames 7 to 9"),
            (Window("planet_0", 0, -1), "no frames -1 to 1"),
            (Window("planet_0", 0, 0, 5), "no frames 0 to 10"),
            (Window("planet_0", 0, 0, 0), "no frames 0 to 0"),
        ],
    )
    def test_what_is_not_there_is_told(self, well_folders: dict[str, Path], window: Window, message: str) -> None:
        with open_windows(well_folders["planet"]) as dataset, pytest.raises(PhysteerError, match=message):
            dataset.read(window)

    def test_a_share_is_the_same_in_every_file(self) -> None:
        parts = [(0.0, 0.5), (0.5, 0.8), (0.8, 1.0)]
        for n in range(1, 40):
            chosen = []
            for part in parts:
                try:
                    chosen += WindowSpec(1, 1, share=part).chosen(n)
                except PhysteerError:
                    assert n < 5  # too few for three parts
            assert chosen == list(range(n))


class TestFilters:
    @pytest.mark.parametrize(
        ("include", "exclude", "left"),
        [
            ([], [], ["cube_0", "cube_1"]),
            (["cube_1"], [], ["cube_1"]),
            (["cube", "_0"], [], ["cube_0", "cube_1"]),  # cube_0 has both, and counts once
            ([], ["_1"], ["cube_0"]),
            (["cube"], ["_0"], ["cube_1"]),
            ([], [".h5"], ["cube_0"]),
        ],
    )
    def test_are_by_name(
        self, well_folders: dict[str, Path], include: list[str], exclude: list[str], left: list[str]
    ) -> None:
        with open_windows(well_folders["cube"], include=include, exclude=exclude) as dataset:
            assert dataset.files == left
            assert len(dataset) == len(left) * 3 * 7

    def test_do_not_look_at_the_folder(self, well_folders: dict[str, Path], tmp_path: Path) -> None:
        shutil.copytree(well_folders["planet"], tmp_path / "planet_1/data")
        with open_windows(tmp_path / "planet_1/data", exclude=["planet_1"]) as dataset:
            assert dataset.files == ["planet_0"]

    def test_that_leave_nothing_are_told(self, well_folders: dict[str, Path]) -> None:
        with pytest.raises(PhysteerError, match=r"none of the 2 files .* such as cube_0.hdf5: include \['tube'\]"):
            open_windows(well_folders["cube"], include=["tube"])

    def test_hidden_files_are_no_data(self, well_folders: dict[str, Path], tmp_path: Path) -> None:
        """Such as another system's shadow files, and what a killed process left."""
        shutil.copytree(well_folders["planet"], tmp_path / "planet")
        (tmp_path / "planet/._planet_0.hdf5").write_bytes(b"Mac OS X")
        (tmp_path / "planet/.planet_0.hdf5.a1b2.tmp").write_bytes(b"half")
        with open_windows(tmp_path / "planet") as dataset:
            assert dataset.files == ["planet_0", "planet_1"]


class TestNames:
    def test_of_components_and_of_whole_fields(self, well_folders: dict[str, Path]) -> None:
        new = {"velocity": "momentum", "D_xy": "c_zz", "concentration": "tracer"}
        with open_windows(well_folders["film"]) as plain, open_windows(well_folders["film"], fields=new) as renamed:
            names = renamed.metadata.channels.names
            assert names[:4] == ("tracer", "momentum_x", "momentum_y", "momentum_z")
            assert names[4:7] == ("D_xx", "c_zz", "D_xz")
            assert torch.equal(renamed[0].fields, plain[0].fields)
            assert renamed.metadata.channels.evolving == plain.metadata.channels.evolving

    def test_log10(self, well_folders: dict[str, Path]) -> None:
        with open_windows(well_folders["cube"], fields={"density": "log10_density"}) as dataset:
            assert dataset.metadata.channels.names[0] == "log10_density"
            stored = raw(well_folders["cube"], "cube_0", "t0_fields/density")[0, :3]
            assert np.allclose(dataset[0].fields[:, 0], np.log10(stored), rtol=1e-6, atol=1e-6)

    def test_acoustic_densities_are_zeros_by_default(self, well_folders: dict[str, Path]) -> None:
        folder = well_folders["acoustic_scattering_maze"]
        velocity = ("velocity_x", "velocity_y", "velocity_z")
        with open_windows(folder) as dataset:
            assert dataset.metadata.channels.names == ("pressure", *velocity, "zeros_like_density", "speed_of_sound")
            assert (dataset[0].fields[:, 4] == 0).all()
            assert (dataset[0].fields[:, 5] != 0).any()
        with open_windows(folder, fields={"density": "density"}) as dataset:  # for the vocabulary without it
            assert np.array_equal(
                dataset[0].fields[0, 4, ..., 0], raw(folder, dataset.files[0], "t0_fields/density")[0]
            )

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"densty": "density2"}, "cannot rename 'densty': the data set stores .*; did you mean 'density'"),
            ({"velocity_w": "momentum_x"}, "cannot rename 'velocity_w'"),
            ({"density": "height"}, "2 fields are called 'height'"),
            ({"height": "velocity_x"}, "2 fields are called 'velocity_x'"),
        ],
    )
    def test_that_cannot_be_are_told(self, well_folders: dict[str, Path], fields: dict[str, str], message: str) -> None:
        with pytest.raises(PhysteerError, match=message):
            open_windows(well_folders["cube"], fields=fields)

    def test_of_channels_are_looked_up(self, well_folders: dict[str, Path]) -> None:
        with open_windows(well_folders["cube"]) as dataset:
            assert dataset.metadata.channels.index("velocity_y") == 3
            assert dataset.metadata.channels.predicted == [0, 1, 2, 3, 4]
            with pytest.raises(PhysteerError, match=r"field 'densitu' is not in this data set.*did you mean 'density'"):
                dataset.metadata.channels.index("densitu")


class TestParameters:
    def test_by_name(self, well_folders: dict[str, Path]) -> None:
        with open_windows(well_folders["cube"]) as dataset:
            tilt = raw(well_folders["cube"], "cube_1", "scalars/tilt")
            for trajectory in range(3):
                window = Window("cube_1", trajectory, 0)
                found = dataset.read(window).parameters
                assert found == dataset.parameters_of(window)
                assert found["Mach"] == np.float32(0.7) and found["tilt"] == tilt[trajectory]
                assert set(found) == {"Mach", "tilt", "spin"}  # not the clock, which varies in time
            batch = collate([dataset[0], dataset[-1]], n_input=2, metadata=dataset.metadata)
        assert batch.parameters["tilt"].dtype == torch.float64
        assert batch.parameters_of(1)["tilt"] == tilt[2]

    def test_one_trajectory(self, tmp_path: Path) -> None:
        write(tmp_path / "a.hdf5", replace(CUBE, trajectories=1))
        with open_windows(tmp_path) as dataset:
            assert dataset[0].parameters["tilt"] == raw(tmp_path, "a", "scalars/tilt")[0]

    def test_of_other_kinds_are_left_out(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.hdf5", CUBE)
        with h5py.File(path, "r+") as file:
            file.attrs["simulation_parameters"] = ["Mach", "missing", "equation", "gravity"]
            file.attrs["equation"] = "ideal"  # words
            file.attrs["gravity"] = [0, 0, -9.8]
            for name, shape, per_trajectory in (("box", 3, False), ("wind", (3, 2), True)):
                scalar = file["scalars"].create_dataset(name, shape, "f4")
                scalar.attrs["sample_varying"], scalar.attrs["time_varying"] = per_trajectory, False
        with open_windows(tmp_path) as dataset:
            assert set(dataset[0].parameters) == {"Mach", "tilt", "spin"}

    def test_that_only_some_files_have_are_left_out(self, tmp_path: Path) -> None:
        write(tmp_path / "a.hdf5", CUBE)
        write(tmp_path / "b.hdf5", replace(CUBE, parameters={"Re": 2.0, "Mach": 1.0}))
        with open_windows(tmp_path) as dataset:
            batch = collate([dataset[0], dataset[-1]], n_input=2, metadata=dataset.metadata)
        assert set(batch.parameters) == {"Mach", "tilt", "spin"}

    def test_none(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.hdf5", PLANET)
        with h5py.File(path, "r+") as file:
            del file.attrs["simulation_parameters"]
        with open_windows(tmp_path) as dataset:
            assert dataset[0].parameters == {}
            assert collate([dataset[0]], n_input=2, metadata=dataset.metadata).parameters == {}


class TestReadouts:
    def batch(self, folder: Path) -> Batch:
        with open_windows(folder) as dataset:
            return collate([dataset[0], dataset[-1]], n_input=2, metadata=dataset.metadata)

    def test_are_of_the_last_context_frame(self, well_folders: dict[str, Path]) -> None:
        batch = self.batch(well_folders["cube"])
        energy = readouts(batch, ["kinetic_energy"])["kinetic_energy"]
        velocity = batch.fields[:, 1, 2:5]
        assert torch.allclose(energy, velocity.square().sum(1).mean((1, 2, 3)) / 2)

    def test_that_cannot_be_measured_are_told(self, well_folders: dict[str, Path]) -> None:
        with pytest.raises(PhysteerError, match=r"no readout 'enstrofy'.*did you mean 'enstrophy'"):
            readouts(self.batch(well_folders["cube"]), ["enstrofy"])
        with pytest.raises(PhysteerError, match="field 'velocity_x' is not in this data set"):
            readouts(self.batch(well_folders["planet"]), ["kinetic_energy"])
        with pytest.raises(PhysteerError, match="field 'tracer' is not in this data set"):
            readouts(self.batch(well_folders["cube"]), ["tracer_variance"])


def test_the_layouts_are_what_they_claim() -> None:
    """Guards the tests above: the data do have constant fields, tensors and axes that fields lack."""
    assert {one.order for one in FILM.fields + STAR.fields} == {0, 1, 2}
    assert any(one.dims and not all(one.dims) for one in CUBE.fields)
    assert [one.name for one in ACOUSTIC.fields if not one.time] == ["density", "speed_of_sound"]
