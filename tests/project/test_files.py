"""Files are whole or not there, and what stops a write is told in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from helpers.paths import importing
from helpers.small_disk import small_disk

from physteer.data import Axis, WellField, WellFile, WellWriter
from physteer.errors import PhysteerError
from physteer.files import atomic_write, reason, temporary_name


def content(cells: int = 16, frames: int = 5) -> WellFile:
    axes = (Axis("x", np.arange(cells)), Axis("y", np.arange(cells)))
    return WellFile("flow", axes, np.arange(frames), 2, (WellField("pressure"), WellField("velocity", order=1)))


class TestAtomicWrite:
    def test_appears_when_the_block_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "deep/er/a.txt"
        with atomic_write(path) as temporary:
            temporary.write_text("new")
            assert temporary.parent == path.parent
            assert not path.exists()
        assert path.read_text() == "new"
        assert os.listdir(path.parent) == ["a.txt"]

    def test_an_error_leaves_the_older_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError
        with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
            raise KeyboardInterrupt  # before anything was written
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_the_temporary_name_is_found_by_no_search(self, tmp_path: Path) -> None:
        fs = fsspec.filesystem("file")
        for name in ("a.hdf5", "b.h5", "c.safetensors", "d.png", "e.csv", "f.html"):
            temporary_name(tmp_path / name).touch()
            ending = Path(name).suffix
            assert not list(tmp_path.glob(f"*{ending}")) and not fs.glob(f"{tmp_path}/*{ending}")
        assert len(os.listdir(tmp_path)) == 6
        assert temporary_name(tmp_path / "a") != temporary_name(tmp_path / "a")

    def test_what_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with (
            pytest.raises(PhysteerError, match=r"cannot write .*/file/a\.txt: (File exists|Not a directory)"),
            atomic_write(tmp_path / "file" / "a.txt"),
        ):
            pass
        (tmp_path / "folder").mkdir()
        with (
            pytest.raises(PhysteerError, match=r"cannot write .*/folder: Is a directory"),
            atomic_write(tmp_path / "folder") as temporary,
        ):
            temporary.touch()
        assert sorted(os.listdir(tmp_path)) == ["file", "folder"]

    def test_a_full_disk_is_told(self, tmp_path: Path) -> None:
        with (
            small_disk(1000),
            pytest.raises(PhysteerError, match=r"cannot write .*/a\.txt: File too large"),
            atomic_write(tmp_path / "a.txt") as temporary,
        ):
            temporary.write_bytes(bytes(2000))
        assert not os.listdir(tmp_path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder_is_told(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with (
            pytest.raises(PhysteerError, match=r"cannot write .*/a\.txt: Permission denied"),
            atomic_write(tmp_path / "a.txt") as temporary,
        ):
            temporary.touch()
        tmp_path.chmod(0o700)

    def test_a_read_only_file_system_is_told(self) -> None:
        with (
            pytest.raises(PhysteerError, match=r"cannot write /proc/physteer/a\.txt: "),
            atomic_write("/proc/physteer/a.txt"),
        ):
            pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (
            OSError("[Errno 5] Can't write (errno = 5, error message = 'Input/output error', buf = 0x1)"),
            "Input/output error",
        ),
        (KeyError("no such\n  group"), "no such group"),
        (ValueError(), "ValueError"),
    ],
)
def test_reasons_are_short(error: Exception, words: str) -> None:
    assert reason(error) == words


class TestWellWriter:
    @pytest.mark.parametrize("size", [0, 500, 4000, 12000, 20000, 40000])
    def test_a_full_disk_is_told(self, tmp_path: Path, size: int) -> None:
        """Wherever in the file it strikes: layout, fields, or what HDF5 writes when it closes the file."""
        values = {"pressure": np.ones((2, 5, 16, 16)), "velocity": np.ones((2, 5, 16, 16, 2))}
        with (
            small_disk(size),
            pytest.raises(PhysteerError, match=r"cannot write .*/a\.hdf5: File too large"),
            WellWriter(tmp_path / "a.hdf5", content()) as writer,
        ):
            writer.write(values)
        assert not os.listdir(tmp_path)

    def test_a_full_disk_ends_a_long_simulation_at_once(self, tmp_path: Path) -> None:
        written = 0
        with (
            small_disk(3_000_000),
            pytest.raises(PhysteerError, match="File too large"),
            WellWriter(tmp_path / "a.hdf5", content(64, 1000)) as writer,
        ):
            for frame in range(1000):
                writer.write({"pressure": np.ones((2, 64, 64))}, frames=frame)
                written += 1
        assert 0 < written < 120  # 32 kB each
        assert not os.listdir(tmp_path)

    def test_a_full_disk_does_not_crash_the_process(self, tmp_path: Path) -> None:
        """HDF5 alone crashes at exit when it could not close a file."""
        code = """
            import resource
            import numpy as np
            from physteer.cli import main
            resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))
            words = "data shear-flow OUT --reynolds 100 --schmidt 1 --resolution 16 32 --frames 9 --widths 0.1"
            raise SystemExit(main(words.replace("OUT", "out").split()))
        """
        lines = "\n".join(line.strip() for line in code.splitlines())
        done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert last.startswith("physteer: error: cannot write out/data/") and "File too large" in last
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_killed_it_leaves_nothing_that_is_taken_for_data(self, tmp_path: Path) -> None:
        code = """
            import time
            from test_files import content
            from physteer.data import WellWriter
            with WellWriter("a.hdf5", content()) as writer:
                print("open", flush=True)
                time.sleep(60)
        """
        lines = "\n".join(line.removeprefix(" " * 12) for line in code.splitlines())
        with subprocess.Popen(
            [sys.executable, "-c", lines], cwd=tmp_path, env=importing(__file__), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "open\n"
            process.send_signal(signal.SIGKILL)
        left = os.listdir(tmp_path)
        assert len(left) == 1 and left[0].startswith(".a.hdf5.") and left[0].endswith(".tmp")
