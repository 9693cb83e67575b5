"""The files behind windows: local or remote, one handle per process, and broken ones told in one line."""

import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import torch
from helpers.handles import open_count
from helpers.wells import CUBE, PLANET, open_windows, write

from physteer.data import Window, WindowDataset, WindowSpec
from physteer.data.open_files import MOST_OPEN
from physteer.errors import PhysteerError


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves parts of files, as any data server does."""

    def send_head(self):
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            return super().send_head()
        first, last = wanted.removeprefix("bytes=").split("-")
        stream, size = path.open("rb"), path.stat().st_size
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(min(int(last), size - 1) - int(first) + 1))
        self.end_headers()
        stream.seek(int(first))
        self.rest = min(int(last), size - 1) - int(first) + 1
        return stream

    def copyfile(self, source, outputfile) -> None:
        outputfile.write(source.read(getattr(self, "rest", -1)))

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def address(well_folders: dict[str, Path]) -> Iterator[str]:
    """The folders behind a web server."""
    root = well_folders["cube"].parent
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def in_memory(well_folders: dict[str, Path]) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    fs.put(str(well_folders["cube"].parent), "/wells", recursive=True)
    yield "memory://wells"
    fs.rm("/wells", recursive=True)


class TestRemote:
    @pytest.mark.parametrize("where", ["address", "in_memory"])
    def test_values_are_those_of_the_local_files(
        self, well_folders: dict[str, Path], where: str, request: pytest.FixtureRequest
    ) -> None:
        url = request.getfixturevalue(where)
        for name in ("cube", "film"):
            with open_windows(f"{url}/{name}") as remote, open_windows(well_folders[name]) as local:
                assert remote.windows == local.windows
                for index in (0, 17, -1):
                    assert torch.equal(remote[index].fields, local[index].fields)
                    assert remote[index].parameters == local[index].parameters

    @pytest.mark.parametrize("where", ["address", "in_memory"])
    def test_workers_read_too(self, well_folders: dict[str, Path], where: str, request: pytest.FixtureRequest) -> None:
        """A forked process cannot use its parent's connections."""
        with open_windows(f"{request.getfixturevalue(where)}/cube", WindowSpec(2, 1, every=None)) as remote:
            remote[0]  # the parent's are open
            loader = torch.utils.data.DataLoader(remote, batch_size=None, num_workers=2)
            read = {str(sample.window): sample.fields for sample in loader}
            assert len(read) == len(remote)
            with open_windows(well_folders["cube"]) as local:
                for window in remote.windows:
                    assert torch.equal(read[str(window)], local.read(window).fields)

    @pytest.mark.parametrize("where", ["address", "in_memory"])
    def test_a_missing_split_is_told(self, where: str, request: pytest.FixtureRequest) -> None:
        url = request.getfixturevalue(where)
        with pytest.raises(PhysteerError, match=f"no HDF5 files in {url}/tube; .* has .*cube, film, planet"):
            open_windows(f"{url}/tube")

    @pytest.mark.parametrize(
        ("url", "options", "message"),
        [
            (
                "hf://datasets/polymathic-ai/shear_flow/data/train",
                {"endpoint": "http://127.0.0.1:9"},
                "cannot list hf://",
            ),
            ("http://127.0.0.1:9/data/train", {}, r"(cannot list|no HDF5 files in) http://127.0.0.1:9/data/train"),
            ("abc://data/train", {}, "cannot list abc://data/train: .*abc"),
        ],
    )
    def test_no_connection_is_one_line(self, url: str, options: dict[str, str], message: str) -> None:
        with pytest.raises(PhysteerError, match=message) as caught:
            open_windows(url, storage_options=options)
        assert "\n" not in str(caught.value)


class TestHandles:
    def test_one_per_file_and_none_after_closing(self, well_folders: dict[str, Path]) -> None:
        dataset = open_windows(well_folders["cube"])
        assert open_count(well_folders["cube"]) == 0
        for index in (0, 1, 2, -1, -2, 0):
            dataset[index]
        assert open_count(well_folders["cube"]) == 2
        dataset.close()
        assert open_count(well_folders["cube"]) == 0
        again = dataset[0].fields  # a closed data set opens again
        assert again.shape[0] == 3
        dataset.close()
        assert open_count(well_folders["cube"]) == 0

    def test_a_data_set_that_cannot_be_used_leaves_none(self, well_folders: dict[str, Path]) -> None:
        with pytest.raises(PhysteerError) as caught:
            open_windows(well_folders["cube"], WindowSpec(20, 1))
        assert caught.value.__traceback__ is not None
        assert open_count(well_folders["cube"]) == 0

    def test_a_folder_of_many_files(self, tmp_path: Path) -> None:
        """More files than a process may hold open: rollouts lie one per file."""
        source = write(tmp_path / "source.hdf5", replace(PLANET, trajectories=1, frames=3))
        count = MOST_OPEN + 20
        (tmp_path / "many").mkdir()
        for number in range(count):
            shutil.copy(source, tmp_path / "many" / f"{number:04d}.hdf5")
        with open_windows(tmp_path / "many") as dataset:
            for _ in range(2):
                samples = [dataset[index] for index in range(count)]
                assert open_count(tmp_path) == MOST_OPEN
            assert all(torch.equal(sample.fields, samples[0].fields) for sample in samples)
        assert open_count(tmp_path) == 0

    def test_a_pickled_data_set_opens_its_own(self, well_folders: dict[str, Path]) -> None:
        with open_windows(well_folders["cube"]) as dataset:
            dataset[0]
            with pickle.loads(pickle.dumps(dataset)) as copy:
                assert torch.equal(copy[-1].fields, dataset[-1].fields)
                assert open_count(well_folders["cube"]) == 2  # HDF5 itself opens a file once
            assert torch.equal(dataset[-1].fields, dataset[-1].fields)
        assert open_count(well_folders["cube"]) == 0

    def test_a_forked_process_opens_its_own(self, well_folders: dict[str, Path]) -> None:
        with open_windows(well_folders["cube"], WindowSpec(2, 1, every=None), include=["cube_0"]) as dataset:
            before = dataset[0].fields
            loader = torch.utils.data.DataLoader(
                HandleCount(dataset, well_folders["cube"]), batch_size=None, num_workers=1
            )
            assert list(loader) == [1, 1, 1]  # not the parent's beside its own
            assert torch.equal(dataset[0].fields, before)  # which still works
            assert open_count(well_folders["cube"]) == 1


class HandleCount(torch.utils.data.Dataset):
    def __init__(self, dataset: WindowDataset, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> int:
        self.dataset[index]
        return open_count(self.folder)


def edit(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class TestBadFiles:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (truncate, r"cannot read .*b\.hdf5: .*truncated file"),
            (lambda path: path.write_bytes(b"no HDF5 at all"), r"cannot read .*b\.hdf5"),
            (lambda path: path.write_bytes(b""), r"cannot read .*b\.hdf5"),
            (edit(lambda f: f.pop("scalars")), r"b\.hdf5: .*scalars"),
            (edit(lambda f: f.attrs.pop("grid_type")), r"cannot read .*b\.hdf5: .*grid_type"),
            (edit(lambda f: f["dimensions"].pop("phi")), r"cannot read .*b\.hdf5: .*phi"),
            (edit(lambda f: f["t0_fields/height"].attrs.pop("dim_varying")), r"cannot read .*b\.hdf5: .*dim_varying"),
            (
                edit(lambda f: f.attrs.modify("dataset_name", "other")),
                "files of different data sets: b.hdf5 is of other, a.hdf5 of ",
            ),
            (
                edit(lambda f: f["boundary_conditions/phi_periodic"].attrs.modify("bc_type", "WALL")),
                r"b has boundaries",
            ),
            (edit(lambda f: f["boundary_conditions/phi_periodic"].attrs.modify("bc_type", "JELLY")), r"b\.hdf5: JELLY"),
        ],
    )
    def test_are_told_when_opened(self, tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
        write(tmp_path / "a.hdf5", PLANET)
        change(write(tmp_path / "b.hdf5", PLANET, 1))
        with pytest.raises(PhysteerError, match=message) as caught:
            open_windows(tmp_path)
        assert "\n" not in str(caught.value)
        assert open_count(tmp_path) == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (truncate, r"cannot read .*b\.hdf5: .*truncated file"),
            (Path.unlink, r"cannot read .*b\.hdf5: No such file"),
            (edit(lambda f: f["t0_fields"].attrs.modify("field_names", ["depth"])), r"cannot read .*b\.hdf5: .*depth"),
            (
                edit(lambda f: f["t0_fields"].attrs.__setitem__("field_names", [1.0][:0])),
                r"b\.hdf5: it has no field 'height'",
            ),
            (edit(lambda f: f["t0_fields/height"].attrs.modify("sample_varying", False)), r"cannot read .*b\.hdf5"),
        ],
    )
    def test_are_told_when_read(self, tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
        """What was whole when the data set was opened may be cut short later, or lack what another file has."""
        write(tmp_path / "a.hdf5", PLANET)
        path = write(tmp_path / "b.hdf5", PLANET, 1)
        with open_windows(tmp_path) as dataset:
            change(path)
            assert dataset.read(Window("a", 0, 0)).fields.isfinite().all()
            with pytest.raises(PhysteerError, match=message) as caught:
                dataset.read(Window("b", 0, 0))
        assert "\n" not in str(caught.value)

    def test_a_failed_checksum_is_told(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.hdf5", CUBE)
        with h5py.File(path) as file:
            chunk = file["t0_fields/density"].id.get_chunk_info(0)
        content = bytearray(path.read_bytes())
        content[chunk.byte_offset + 4] ^= 255
        path.write_bytes(content)
        with (
            open_windows(tmp_path) as dataset,
            pytest.raises(PhysteerError, match=r"cannot read .*a\.hdf5: ") as caught,
        ):
            dataset[0]
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_values_that_are_not_finite_are_told(self, tmp_path: Path, bad: float) -> None:
        path = write(tmp_path / "a.hdf5", CUBE)
        with h5py.File(path, "r+") as file:
            file["t1_fields/velocity"][2, 5:, 1, 1, 1, 0] = bad
        message = r"velocity_x of trajectory 2 in .*a\.hdf5 has values that are not finite, first in frame 5"
        with open_windows(tmp_path, WindowSpec(2, 1, strides=(2,))) as dataset:
            dataset.read(Window("a", 2, 0, 2))  # frames 0, 2, 4
            with pytest.raises(PhysteerError, match=message):
                dataset.read(Window("a", 2, 3, 2))

    def test_large_values_are_finite(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.hdf5", PLANET)
        with h5py.File(path, "r+") as file:
            file["t0_fields/height"][...] = 3e38  # their sum is not
        with open_windows(tmp_path) as dataset:
            assert (dataset[0].fields[:, 0] == np.float32(3e38)).all()

    def test_two_endings_of_one_name_are_told(self, tmp_path: Path) -> None:
        write(tmp_path / "a.hdf5", PLANET)
        write(tmp_path / "a.h5", PLANET)
        with pytest.raises(PhysteerError, match=r"both a\.h5 and a\.hdf5"):
            open_windows(tmp_path)
        with open_windows(tmp_path, exclude=[".h5"]) as dataset:
            assert dataset.files == ["a"]

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (WindowSpec(8, 2), r"one needs 8 \+ 2 frames, 1 apart, from frame 0; trajectories have up to 9 frames"),
            (WindowSpec(2, 1, strides=(5, 6)), "5 apart"),
            (WindowSpec(2, 1, first=7), "from frame 7"),
            (WindowSpec(2, 1, trajectories=(1, 7)), "no trajectory 7; files have up to 3"),
            (WindowSpec(2, 1, share=(0, 0.1)), r"no trajectory is left: those from 0% to 10% of 3 are \[\]"),
            (WindowSpec(2, 1, trajectories=(2,), share=(0, 0.5)), r"are \[0, 1\], asked for are \[2\]"),
        ],
    )
    def test_windows_that_do_not_fit_are_told(
        self, well_folders: dict[str, Path], spec: WindowSpec, message: str
    ) -> None:
        with pytest.raises(PhysteerError, match=message):
            open_windows(well_folders["planet"], spec)

    def test_missing_folders_are_told(self, well_folders: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(
            PhysteerError, match=r"no HDF5 files in .*/tube; .* has acoustic.*, cube, film, planet, star"
        ):
            open_windows(well_folders["cube"].parent / "tube")
        with pytest.raises(PhysteerError, match="nowhere does not exist"):
            open_windows(tmp_path / "nowhere/train")
