"""Rollouts on disk are data sets of The Well: what is written is what is read, by every reader."""

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.wells import ACOUSTIC, CUBE, EVERY, FILM, PLANET, open_windows, write
from the_well.data import WellDataset

from physteer.data import Batch, WellDataModule, Window, WindowSpec, collate, write_rollout
from physteer.errors import PhysteerError

SPEC = WindowSpec(n_input=2, n_output=3, every=None, first=1)
ATTRIBUTES = {"condition": "vortex drop +0.4", "strength": 0.4, "site": "blocks.2"}


def batch_of(folder: Path, spec: WindowSpec = SPEC, **more: object) -> Batch:
    with open_windows(folder, spec, **more) as dataset:
        return collate([dataset[0], dataset[1], dataset[-1]], n_input=spec.n_input, metadata=dataset.metadata)


def written(root: Path, batch: Batch, row: int, frames: torch.Tensor) -> Path:
    path = root / "data" / "test" / f"{batch.windows[row]}.hdf5"
    write_rollout(path, batch, row, frames, ATTRIBUTES)
    return path


@pytest.mark.parametrize("name", EVERY)
class TestEveryKindOfData:
    def test_reads_back_bit_equal(self, well_folders: dict[str, Path], tmp_path: Path, name: str) -> None:
        batch = batch_of(well_folders[name])
        predicted = noisy(batch)
        for row in range(3):
            written(tmp_path, batch, row, predicted[row])
        whole = WindowSpec(n_input=5, n_output=0, every=None)
        with open_windows(tmp_path / "data/test", whole) as again:
            assert again.metadata.channels.names == batch.channels.names
            assert again.metadata.channels.evolving == batch.channels.evolving
            assert again.metadata.dataset == batch.metadata.dataset
            assert again.metadata.grid.boundaries == batch.grid.boundaries
            assert again.metadata.grid.axes == batch.grid.axes
            assert again.metadata.grid.kind == batch.grid.kind
            for one, other in zip(again.metadata.grid.coordinates, batch.grid.coordinates, strict=True):
                assert torch.equal(one, other)
            for row in range(3):
                sample = again.read(Window(str(batch.windows[row]), 0, 0))
                assert torch.equal(sample.fields, torch.cat([batch.context[row], predicted[row]]))
                assert torch.equal(sample.times, batch.times[row])
                assert sample.parameters == batch.parameters_of(row)

    def test_the_well_reads_it(self, well_folders: dict[str, Path], tmp_path: Path, name: str) -> None:
        batch = batch_of(well_folders[name])
        path = written(tmp_path, batch, 1, batch.targets[1])
        well = WellDataset(path=str(tmp_path), well_split_name="test", n_steps_input=2, n_steps_output=3)
        assert len(well) == 1
        fields = torch.cat([well[0]["input_fields"], well[0]["output_fields"]])  # [T, *space, C]
        real = [i for i in batch.channels.predicted if batch.channels.sources[i].field is not None]
        truth = batch.fields[1][:, real].movedim(1, -1)
        assert torch.equal(fields, truth.reshape(fields.shape))
        if "constant_fields" in well[0]:
            constant = [
                i for i, source in enumerate(batch.channels.sources) if not source.evolving and source.field is not None
            ]
            truth = batch.fields[1, 0, constant].movedim(0, -1)
            assert torch.equal(well[0]["constant_fields"], truth.reshape(well[0]["constant_fields"].shape))
        assert path.is_file()

    @pytest.mark.filterwarnings("ignore")
    def test_xarray_exports_it(self, well_folders: dict[str, Path], tmp_path: Path, name: str) -> None:
        batch = batch_of(well_folders[name])
        path = written(tmp_path, batch, 0, batch.targets[0])
        exported = WellDataset(path=str(tmp_path), well_split_name="test").to_xarray("numpy")
        assert exported.sizes["sample"] == 1
        assert exported.sizes["time"] == 5
        assert exported.condition.values.tolist() == ["vortex drop +0.4"]
        with h5py.File(path) as file:
            for order in range(3):
                for field, stored in file[f"t{order}_fields"].items():
                    assert np.array_equal(exported[field], stored[()])


def noisy(batch: Batch) -> torch.Tensor:
    """Other values than the stored ones where the model predicts, [B, T, C, H, W, D]."""
    noise = torch.randn(batch.targets.shape, generator=torch.Generator().manual_seed(1))
    evolving = torch.tensor(batch.channels.evolving)[:, None, None, None]
    return torch.where(evolving, batch.targets + noise, batch.targets)


def test_the_file_says_where_it_came_from(well_folders: dict[str, Path], tmp_path: Path) -> None:
    spec = replace(SPEC, strides=(2,), n_output=2)
    batch = batch_of(well_folders["cube"], spec)
    path = written(tmp_path, batch, 1, batch.targets[1])
    assert path.name == "cube_0_trajectory0001_start0001_stride2.hdf5"
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
        assert {name: attributes[name] for name in ATTRIBUTES} == ATTRIBUTES
        assert attributes["n_context"] == 2
        source = Window(
            attributes["source_file"],
            int(attributes["source_trajectory"]),
            int(attributes["source_start"]),
            int(attributes["source_stride"]),
        )
        assert source == batch.windows[1] == Window("cube_0", 1, 1, 2)
        assert file["dimensions/time"][()].tolist() == [0.5, 1.5, 2.5, 3.5]
        assert attributes["Mach"] == np.float32(0.7)
    with open_windows(well_folders["cube"], spec) as dataset:  # the address leads back to the frames
        assert torch.equal(dataset.read(source).fields, batch.fields[1])


def test_constant_fields_are_those_of_the_context(well_folders: dict[str, Path], tmp_path: Path) -> None:
    """Whatever a model returns for them."""
    batch = batch_of(well_folders["cube"])
    path = written(tmp_path, batch, 0, torch.full_like(batch.targets[0], 7))
    mask = batch.context[0, 0, batch.channels.index("mask")]
    with h5py.File(path) as file:
        assert file["t0_fields/mask"].shape == (1, 4, 6, 8)
        assert np.array_equal(file["t0_fields/mask"][0], mask)
        assert (file["t0_fields/density"][0, 2:] == 7).all()


def test_shorter_and_wider_frames(well_folders: dict[str, Path], tmp_path: Path) -> None:
    batch = batch_of(well_folders["planet"])
    path = written(tmp_path, batch, 0, batch.targets[0, :1].double())
    with h5py.File(path) as file:
        assert file["t0_fields/height"].shape == (1, 3, 4, 8)
        assert file["t0_fields/height"].dtype == np.float32
        assert file["dimensions/time"].shape == (3,)


class TestTransformedFields:
    """They keep the network's name: the values are no longer those of the stored field."""

    def test_read_back_with_and_without_the_run_s_own_settings(self, tmp_path: Path) -> None:
        positive = replace(CUBE, fields=[replace(field, positive=True) for field in CUBE.fields])
        write(tmp_path / "source/a.hdf5", positive)
        names = {"density": "log10_density", "velocity": "log10_velocity", "height": "depth"}
        batch = batch_of(tmp_path / "source", fields=names)
        written(tmp_path, batch, 0, batch.targets[0])
        every = WindowSpec(n_input=5, n_output=0, every=None)
        for fields in (names, {"height": "depth"}):
            with open_windows(tmp_path / "data/test", every, fields=fields) as again:
                channels = again.metadata.channels
                assert set(channels.names) == set(batch.channels.names)
                order = [channels.index(name) for name in batch.channels.names]
                assert torch.equal(again[0].fields[:, order], batch.fields[0])

    def test_zeros(self, well_folders: dict[str, Path], tmp_path: Path) -> None:
        batch = batch_of(well_folders[ACOUSTIC.name])
        written(tmp_path, batch, 0, batch.targets[0])
        with open_windows(tmp_path / "data/test", WindowSpec(5, 0, every=None)) as again:
            assert set(again.metadata.channels.names) == set(batch.channels.names)
            assert (again[0].fields[:, again.metadata.channels.index("zeros_like_density")] == 0).all()


def test_a_condition_s_folder_is_a_data_set(well_folders: dict[str, Path], tmp_path: Path) -> None:
    batch = batch_of(well_folders["film"])
    for row in range(3):
        written(tmp_path, batch, row, batch.targets[row])
    data = WellDataModule(str(tmp_path), n_steps_input=2, rollout_steps=3)
    again = next(iter(data.predict_dataloader()))
    order = [str(window) for window in batch.windows]
    for row, window in enumerate(again.windows):
        assert torch.equal(again.fields[row], batch.fields[order.index(window.file)])
    data.teardown("predict")


def test_an_error_leaves_nothing(well_folders: dict[str, Path], tmp_path: Path) -> None:
    batch = batch_of(well_folders["planet"])
    (tmp_path / "file").touch()
    with pytest.raises(PhysteerError, match=r"cannot write .*file/a\.hdf5"):
        write_rollout(tmp_path / "file/a.hdf5", batch, 0, batch.targets[0], ATTRIBUTES)
    with pytest.raises(PhysteerError, match=r"frames have shape \(3, 2, 4, 8, 1\); wanted \[T, 3, 4, 8, 1\]"):
        write_rollout(tmp_path / "a.hdf5", batch, 0, batch.targets[0][:, :2], ATTRIBUTES)
    with pytest.raises(PhysteerError, match="4 frames after the context; the window has times for 3"):
        write_rollout(tmp_path / "a.hdf5", batch, 0, batch.targets[0][[0, 1, 2, 2]], ATTRIBUTES)
    assert os.listdir(tmp_path) == ["file"]


def test_the_layouts_are_what_they_claim() -> None:
    assert any(field.order == 2 and not field.time for field in FILM.fields)
    assert PLANET.parameters == {}
