"""Files we write are read by ``the_well`` like any simulation, and are whole or not there."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from the_well.data import WellDataset
from the_well.data.normalization import RMSNormalization, ZScoreNormalization

from physteer.data.well_format import Axis, Scalar, WellField, WellFile, WellWriter
from physteer.data.well_stats import write_stats
from physteer.errors import PhysteerError

RUNS, TIMES, SPACE = 3, 6, (8, 10)

FIELDS = (
    WellField("density"),
    WellField("depth", sample_varying=False, time_varying=False),
    WellField("inflow", time_varying=False, dim_varying=(False, True)),
    WellField("velocity", order=1),
    WellField("stress", order=2, symmetric=True),
)


def content(runs: int = RUNS, **changes: object) -> WellFile:
    axes = (
        Axis("x", np.linspace(0, 1, SPACE[0], endpoint=False)),
        Axis("y", np.linspace(-1, 1, SPACE[1]), ("wall", "open")),
    )
    given = {
        "dataset_name": "channel",
        "axes": axes,
        "times": 0.5 * np.arange(TIMES),
        "n_trajectories": runs,
        "fields": FIELDS,
        "parameters": {"Reynolds": 300.0, "Schmidt": 2.0},
        "scalars": (
            Scalar("width", np.arange(runs), sample_varying=True),
            Scalar("forcing", np.arange(TIMES), time_varying=True),
        ),
        "attributes": {"settings": "{}"},
    }
    return WellFile(**{**given, **changes})


def values(seed: int = 0, runs: int = RUNS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {item.name: rng.normal(3, 2, content(runs).shape_of(item)).astype(np.float32) for item in FIELDS}


def write(path: Path, given: dict[str, np.ndarray]) -> None:
    runs = len(given["density"])
    with WellWriter(path, content(runs)) as writer:
        for run in range(runs):
            for time in range(TIMES):
                frame = {name: given[name][run, time] for name in ("density", "velocity", "stress")}
                writer.write(frame, run, time)
        writer.write({name: given[name] for name in ("depth", "inflow")})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("well")
    write(root / "data/train/a.hdf5", values(0))
    write(root / "data/train/b.hdf5", values(1, 2))
    write_stats([root / "data/train/a.hdf5", root / "data/train/b.hdf5"], root / "stats.yaml")
    return root


def test_the_well_reads_every_kind_of_field(dataset: Path) -> None:
    given = values(0)
    well = WellDataset(path=str(dataset), well_split_name="train", n_steps_input=2, n_steps_output=1)
    meta = well.metadata
    assert (meta.dataset_name, meta.grid_type, meta.spatial_resolution) == ("channel", "cartesian", SPACE)
    assert (meta.n_files, meta.n_trajectories_per_file, meta.n_steps_per_trajectory) == (2, [3, 2], [TIMES] * 2)
    assert meta.constant_scalar_names == ["Reynolds", "Schmidt", "width"]
    assert meta.scalar_names == ["forcing"]
    sample = well[(TIMES - 2) + 1]  # second trajectory, second start
    window = np.concatenate([sample["input_fields"], sample["output_fields"]])
    expected = [given["density"][1, 1:4, ..., None], given["velocity"][1, 1:4]]
    expected.append(given["stress"][1, 1:4].reshape(3, *SPACE, 4))
    assert np.array_equal(window, np.concatenate(expected, -1))
    assert np.array_equal(sample["constant_fields"][..., 0], given["depth"])
    assert np.array_equal(sample["constant_fields"][..., 1], np.broadcast_to(given["inflow"][1], SPACE))
    assert sample["constant_scalars"].tolist() == [300, 2, 1]
    assert sample["input_scalars"].tolist() == [[1], [2]]
    assert sample["boundary_conditions"].tolist() == [[2, 2], [0, 1]]
    assert np.allclose(sample["input_time_grid"], [0, 0.5])
    assert np.allclose(sample["space_grid"][3, 0], [3 / 8, -1])


@pytest.mark.parametrize("normalization", [ZScoreNormalization, RMSNormalization])
def test_the_well_normalizes_with_our_stats(dataset: Path, normalization: type) -> None:
    well = WellDataset(
        path=str(dataset),
        well_split_name="train",
        full_trajectory_mode=True,
        use_normalization=True,
        normalization_type=normalization,
    )
    every = np.concatenate([np.concatenate([one["input_fields"], one["output_fields"]]) for one in well])
    if normalization is ZScoreNormalization:
        assert np.allclose(every.mean((0, 1, 2)), 0, atol=1e-4)
        assert np.allclose(every.std((0, 1, 2)), 1, atol=1e-3)
    else:
        assert np.allclose(np.sqrt((every**2).mean((0, 1, 2))), 1, atol=1e-4)


def test_stats_are_those_of_numpy(dataset: Path) -> None:
    table = yaml.safe_load((dataset / "stats.yaml").read_text())
    pair = values(0), values(1, 2)
    for name, axes in (("density", None), ("velocity", (0, 1, 2, 3)), ("stress", (0, 1, 2, 3))):
        full = np.concatenate([one[name] for one in pair]).astype(np.float64)
        for suffix, array in (("", full), ("_delta", np.diff(full, axis=1))):
            assert np.allclose(table["mean" + suffix][name], array.mean(axes), rtol=1e-9, atol=1e-12)
            assert np.allclose(table["std" + suffix][name], array.std(axes, ddof=1), rtol=1e-9)
            assert np.allclose(table["rms" + suffix][name], np.sqrt((array**2).mean(axes)), rtol=1e-9)
    assert "depth" in table["mean"] and "depth" not in table["mean_delta"]
    assert np.shape(table["std"]["stress"]) == (2, 2)


@pytest.mark.filterwarnings("ignore")
def test_xarray_export(dataset: Path) -> None:
    exported = WellDataset(path=str(dataset), well_split_name="train").to_xarray("numpy")
    assert exported.sizes["sample"] == 5
    assert exported.velocity.dims == ("sample", "time", "x", "y", "i")
    assert np.array_equal(exported.stress[0], values(0)["stress"][0])
    assert np.allclose(exported.x, np.arange(8) / 8)
    assert exported.Reynolds.values.tolist() == [300] * 5
    assert exported.width.values.tolist() == [0, 1, 2, 0, 1]


def test_every_documented_attribute_is_there(dataset: Path) -> None:
    with h5py.File(dataset / "data/train/a.hdf5") as file:
        assert set(file) == {"dimensions", "boundary_conditions", "scalars", "t0_fields", "t1_fields", "t2_fields"}
        root = ["dataset_name", "grid_type", "n_spatial_dims", "n_trajectories", "simulation_parameters"]
        assert set(file.attrs) == {*root, "Reynolds", "Schmidt", "settings"}
        assert list(file.attrs["simulation_parameters"]) == ["Reynolds", "Schmidt"]
        assert list(file["dimensions"].attrs["spatial_dims"]) == ["x", "y"]
        assert set(file["boundary_conditions"]) == {"x_periodic", "y_wall", "y_open"}
        for entry in file["boundary_conditions"].values():
            assert set(entry.attrs) >= {"associated_dims", "associated_fields", "bc_type"}
        for order in range(3):
            group = file[f"t{order}_fields"]
            assert list(group.attrs["field_names"]) == [item.name for item in FIELDS if item.order == order]
            for dataset_ in group.values():
                assert set(dataset_.attrs) >= {"dim_varying", "sample_varying", "time_varying"}
                assert dataset_.dtype == np.float32
        assert file["t2_fields/stress"].attrs["symmetric"]
        assert file["t1_fields/velocity"].chunks == (1, 1, *SPACE, 2)


def test_nothing_appears_before_the_end_or_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/a.hdf5"
    with pytest.raises(KeyboardInterrupt), WellWriter(path, content()) as writer:
        writer.write({"density": values()["density"]})
        assert not list(tmp_path.rglob("*.hdf5")) and not list(tmp_path.rglob("*.h5"))
        raise KeyboardInterrupt
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


def test_an_older_file_stays_after_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", values())
    before = (tmp_path / "a.hdf5").read_bytes()
    with pytest.raises(ZeroDivisionError), WellWriter(tmp_path / "a.hdf5", content()):
        raise ZeroDivisionError
    assert (tmp_path / "a.hdf5").read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.hdf5"]


@pytest.mark.parametrize(
    ("given", "place", "message"),
    [
        ({"densty": np.zeros(SPACE)}, (0, 0), "field 'densty' is not declared.*did you mean 'density'"),
        ({"velocity": np.zeros(SPACE)}, (0, 0), r"field 'velocity' has shape \(8, 10\); wanted \(8, 10, 2\)"),
        ({"density": np.zeros((2, *SPACE))}, (slice(0, 3), 0), r"shape \(2, 8, 10\); wanted \(3, 8, 10\)"),
    ],
)
def test_wrong_values_are_told(
    tmp_path: Path, given: dict[str, np.ndarray], place: tuple[slice | int, int], message: str
) -> None:
    with pytest.raises(PhysteerError, match=message), WellWriter(tmp_path / "a.hdf5", content()) as writer:
        writer.write(given, *place)
    assert not list(tmp_path.iterdir())


def test_wrong_descriptions_and_folders_are_told(tmp_path: Path) -> None:
    scalars = (Scalar("width", 1.0, sample_varying=True),)
    with pytest.raises(PhysteerError, match=r"scalar 'width' has shape \(\); wanted \(3,\)"):
        WellWriter(tmp_path / "a.hdf5", content(scalars=scalars)).__enter__()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(PhysteerError, match="cannot write"):
        WellWriter(tmp_path / "file/a.hdf5", content()).__enter__()
