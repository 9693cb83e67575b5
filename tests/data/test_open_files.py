"""What a process keeps of the files that it reads."""

import gc
from pathlib import Path

import h5py
from helpers.wells import CUBE, open_windows, write


def open_datasets() -> int:
    """Return how many datasets HDF5 has open in this process."""
    gc.collect()
    return int(h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_DATASET))


def test_chunks_of_the_latest_files_alone(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / f"f{number}.hdf5", CUBE, number)
    before = open_datasets()
    with open_windows(tmp_path) as windows:
        firsts = [next(w for w in windows.windows if w.file == f"f{number}") for number in range(6)]
        samples, counts = [], []
        for window in firsts:
            samples.append(windows.read(window))
            counts.append(open_datasets() - before)
        assert len(windows._open_files._files) == 6  # files stay open
        assert counts[0] > 0 and counts[1:] == [2 * counts[0]] * 5
        for window, sample in zip(firsts, samples, strict=True):
            assert windows.read(window).fields.equal(sample.fields)
        assert open_datasets() - before <= 2 * counts[0]
    assert open_datasets() == before
