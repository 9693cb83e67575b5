"""``physteer data shear-flow`` through its own ``main``, on tiny grids."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest
import torch
from the_well.data import WellDataset

from physteer.commands.data import main
from physteer.data.crossed_files import file_name
from physteer.data.generate import ShearFlowSettings, generate_shear_flow
from physteer.data.shear_flow import ShearFlowState, simulate
from physteer.errors import PhysteerError
from physteer.files import temporary_name
from physteer.run_folder import locked

TINY = ["--resolution", "16", "32", "--frames", "4", "--initial-conditions", "3", "--valid", "1", "--test", "1"]
TINY += ["--batch", "2", "--widths", "0.1", "--reynolds", "100", "2000", "--schmidt", "0.5", "2"]


def run(out: Path, *more: str) -> int:
    return main(["shear-flow", str(out), *TINY, *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shear"
    assert run(out) == 0
    return out


def read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        names = ("t0_fields/tracer", "t0_fields/pressure", "t1_fields/velocity")
        return {name.split("/")[1]: file[name][()] for name in names}


def files(out: Path) -> list[Path]:
    return sorted(out.rglob("*.hdf5"))


def test_layout_is_that_of_the_well(folder: Path) -> None:
    names = [f"shear_flow_Reynolds_{re}_Schmidt_{sc}.hdf5" for re in ("1e2", "2e3") for sc in ("2e0", "5e-1")]
    for split, count in (("train", 3), ("valid", 1), ("test", 1)):
        assert [one.name for one in files(folder / "data" / split)] == names
        well = WellDataset(path=str(folder), well_split_name=split, full_trajectory_mode=True)
        assert well.metadata.n_trajectories_per_file == [count] * 4
        assert well.metadata.constant_scalar_names == ["Reynolds", "Schmidt", "width", "n_shear", "n_blobs"]
        assert well[0]["output_fields"].shape == (3, 16, 32, 4)
        assert well[0]["boundary_conditions"].tolist() == [[2, 2], [2, 2]]
    assert (folder / "stats.yaml").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["numpy", "dask"])
def test_xarray_export(folder: Path, backend: Literal["numpy", "dask"]) -> None:
    exported = WellDataset(path=str(folder), well_split_name="train").to_xarray(backend)
    assert dict(exported.sizes)["sample"] == 12
    assert exported.velocity.dims == ("sample", "time", "x", "y", "i")
    assert exported.Reynolds.values.tolist() == [100] * 6 + [2000] * 6


def test_parameters_and_initial_conditions_are_crossed(folder: Path) -> None:
    every = [read(path) for path in files(folder / "data/train")]
    for one in every[1:]:
        assert np.array_equal(one["velocity"][:, 0], every[0]["velocity"][:, 0])
        assert np.array_equal(one["tracer"][:, 0], every[0]["tracer"][:, 0])
        assert not np.array_equal(one["tracer"][:, -1], every[0]["tracer"][:, -1])
    for slow, fast in ((every[0], every[1]), (every[2], every[3])):  # Schmidt differs
        assert np.array_equal(slow["velocity"], fast["velocity"])
        assert np.array_equal(slow["pressure"], fast["pressure"])
    starts = [read(path)["velocity"][:, 0] for path in (files(folder / "data" / s)[0] for s in ("train", "test"))]
    assert all(not np.allclose(a, b) for a in starts[0] for b in starts[1])


def test_a_stored_trajectory_is_the_solver_s(folder: Path) -> None:
    path = folder / "data/valid" / file_name(2000, 0.5, "shear_flow")
    stored = read(path)
    with h5py.File(path) as file:
        assert (file.attrs["Reynolds"], file.attrs["Schmidt"]) == (2000, 0.5)
        assert np.allclose(file["dimensions/time"], [0, 0.25, 0.5, 0.75])
        assert np.allclose(file["dimensions/y"][[0, -1]], [-1, 1 - 2 / 32])
    state = ShearFlowState(torch.tensor(stored["velocity"][:, 1]), torch.tensor(stored["tracer"][:, 1]))
    *_, frame = simulate(state, torch.tensor([2000.0]), torch.tensor([0.5]), 3, 0.25)
    assert np.allclose(frame.velocity, stored["velocity"][:, 3], atol=1e-5)
    assert np.allclose(frame.tracer, stored["tracer"][:, 3], atol=1e-5)
    assert np.allclose(frame.pressure, stored["pressure"][:, 3], atol=1e-5)


def test_a_second_run_keeps_files_and_makes_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    before = {path: read(path) for path in files(tmp_path)}
    gone = tmp_path / "data/train" / file_name(100, 2, "shear_flow")
    gone.unlink()
    times = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    stats = (tmp_path / "stats.yaml").read_text()
    capsys.readouterr()
    assert run(tmp_path) == 0
    assert "1 files written, 11 kept" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert np.allclose(read(gone)["velocity"], before[gone]["velocity"], atol=1e-6)
    assert np.allclose(read(gone)["tracer"], before[gone]["tracer"], atol=1e-6)
    assert len((tmp_path / "stats.yaml").read_text()) == pytest.approx(len(stats), rel=0.1)


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    words = ["diffusion", str(tmp_path), "--reynolds", "100", "--schmidt", "1", "--resolution", "16", "32"]
    words += ["--frames", "3", "--initial-conditions", "1", "--valid", "0", "--test", "0"]
    assert main(words) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.hdf5")}
    half = temporary_name(tmp_path / "data/train/diffusion.hdf5")
    half.touch()
    theirs = tmp_path / "data/.notes.tmp"
    theirs.touch()
    with locked(tmp_path, "data"), pytest.raises(PhysteerError, match="is in use by `physteer data`"):
        main(words)
    assert half.exists()  # of a process that runs
    assert main(words) == 0
    assert not half.exists() and theirs.exists()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.hdf5")} == before


def test_an_interrupted_run_leaves_whole_files_and_resumes(tmp_path: Path, folder: Path) -> None:
    settings = ShearFlowSettings((3, 1, 1), frames=4, resolution=(16, 32), widths=(0.1,))
    done, threads = 0, torch.get_num_threads()

    def interrupt(frames: int) -> None:
        nonlocal done
        done += frames
        if done > 3 * 4 * 2 + 5:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        generate_shear_flow(tmp_path, (100, 2000), (0.5, 2), settings, batch=2, progress=interrupt)
    assert torch.get_num_threads() == threads
    left = [one.relative_to(tmp_path) for one in tmp_path.rglob("*") if one.is_file()]
    assert 0 <= len(left) < 12 and all(one.suffix == ".hdf5" for one in left)
    for one in left:
        assert all(np.array_equal(value, read(folder / one)[name]) for name, value in read(tmp_path / one).items())
    assert run(tmp_path) == 0
    for one, other in zip(files(tmp_path), files(folder), strict=True):
        assert all(np.array_equal(value, read(other)[name]) for name, value in read(one).items())
    assert (tmp_path / "stats.yaml").read_text() == (folder / "stats.yaml").read_text()


def test_other_settings_are_refused(folder: Path) -> None:
    for change, message in (
        (("--seed", "1"), "was made with seed 0, not 1"),
        (("--dt", "0.5"), "was made with dt 0.25, not 0.5"),
        (("--initial-conditions", "4"), "was made with initial_conditions 3, not 4"),
    ):
        with pytest.raises(PhysteerError, match=message):
            run(folder, *change)


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data/train" / file_name(100, 2, "shear_flow")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(PhysteerError, match=r"cannot read .*remove it"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reynolds", "-5"], "--reynolds: -5 is not a positive number"),
        (["--reynolds", "100", "100"], "names a value twice"),
        (["--schmidt", "nan"], "nan is not a positive number"),
        (["--schmidt", "much"], "--schmidt: much is not a positive number"),
        (["--seed", "-1"], "--seed: -1 is not a whole number of at least 0"),
        (["--frames", "2.5"], "--frames: 2.5 is not a whole number of at least 1"),
        (["--resolution", "15", "32"], "15 × 32: both sizes must be even and at least 8"),
        (["--resolution", "0", "32"], "--resolution: 0 is not"),
        (["--shears", "3"], "3 layers"),
        (["--widths", "0.4"], "width 0.4 for 2 layers: must be positive, at most 0.25"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--frame", "4", "--colour", "red"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(PhysteerError, match=message) as caught:
        run(tmp_path / "out", *words)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("generator", ["taylor-green", "advection", "diffusion"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reynolds", "0"], "--reynolds: 0 is not a positive number"),
        (["--schmidt", "1", "1"], "--schmidt names a value twice"),
        (["--resolution", "7"], "--resolution: expected 2 arguments"),
        (["--dt", "inf"], "--dt: inf is not a positive number"),
        (["--widths", "0.1"], "unrecognized arguments: --widths"),
    ],
)
def test_bad_input_of_simple_flows_leaves_nothing(
    tmp_path: Path, generator: str, words: list[str], message: str
) -> None:
    with pytest.raises(PhysteerError, match=message):
        main([generator, str(tmp_path / "out"), *words])
    assert not list(tmp_path.iterdir())


def test_another_data_set_in_the_folder_is_refused(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(PhysteerError, match="is of the data set shear_flow, not simple_flows; choose another folder"):
        main(["advection", str(folder), "--frames", "2"])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PhysteerError, match="cannot make the folder"):
        run(tmp_path / "file" / "out")


def test_no_generator_is_told() -> None:
    with pytest.raises(PhysteerError, match="GENERATOR"):
        main([])


def test_help_is_instant() -> None:
    code = "from physteer.commands.data import main; main(['shear-flow', '--help'])"
    shown = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "--reynolds" in shown.stdout
    assert not {"torch", "numpy", "h5py"} & {line.split("|")[-1].strip() for line in shown.stderr.splitlines()}


def test_importing_the_package_costs_nothing_and_every_name_is_there() -> None:
    code = """
import sys
import physteer.data as data
assert not {"torch", "numpy", "h5py", "the_well", "lightning"} & set(sys.modules), "heavy import"
from physteer.data import WellWriter
assert "torch" not in sys.modules
assert all(getattr(data, name).__module__.startswith("physteer.data.") for name in data.__all__)
assert set(data._HOME) == set(data.__all__)
try:
    data.WelWriter
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module 'physteer.data' has no attribute 'WelWriter'\n"


@pytest.mark.parametrize(
    ("number", "name"), [(1e4, "1e4"), (0.5, "5e-1"), (1, "1e0"), (250, "2.5e2"), (0.125, "1.25e-1")]
)
def test_numbers_in_file_names(number: float, name: str) -> None:
    assert file_name(number, 10, "shear_flow") == f"shear_flow_Reynolds_{name}_Schmidt_1e1.hdf5"


def test_a_log_file_gets_a_line_per_quarter_and_no_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [*TINY[: TINY.index("--reynolds")], "--reynolds", "100", "--schmidt", "1"]
    assert main(["shear-flow", str(tmp_path / "shear"), *words]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    first, *quarters, last = said.out.splitlines()
    assert first.startswith("5 trajectories of 4 frames") and last.startswith("3 files written")
    done = [int(line.split(" of 20 frames")[0]) for line in quarters]
    assert len(done) <= 4 and done == sorted(done) and done[-1] == 20
