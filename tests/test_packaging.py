"""The built wheel holds everything, physteer.callbacks included, and every module imports from it alone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPPED = ("__pycache__", "*.pyc", ".*.tmp*")

IMPORT_ALL = """
import importlib, pathlib, sys
wheel = pathlib.Path(sys.argv[1])
checkout = pathlib.Path(sys.argv[2])
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path[:] = [str(wheel), *(entry for entry in sys.path if entry and pathlib.Path(entry).resolve() != checkout)]
for name in sys.argv[3:]:
    module = importlib.import_module(name)
    assert pathlib.Path(module.__file__).is_relative_to(wheel), f"{name} came from {module.__file__}"
"""


def packaged_files() -> set[str]:
    """Return what has to be in the wheel, as paths in it."""
    found = set()
    for folder, prefix in ((ROOT / "physteer", "physteer"), (ROOT / "callbacks", "physteer/callbacks")):
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            hidden = any(part == "__pycache__" or part.startswith(".") for part in relative.parts)
            if path.is_file() and not hidden and relative.parts[0] != "callbacks":  # the link to callbacks/
                found.add(f"{prefix}/{relative.as_posix()}")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that nothing is written into the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("physteer", "callbacks"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns(*SKIPPED))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = folder.glob("physteer-*.whl")
    return path


def test_wheel_holds_every_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert set(names) == packaged_files()
    assert "physteer/py.typed" in names and "physteer/callbacks/__init__.py" in names


def test_wheel_has_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert "physteer = physteer.cli:main" in archive.read(entry_points).decode()


def test_every_module_imports_from_the_wheel_alone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in packaged_files()
        if name.endswith(".py") and not name.endswith("__main__.py")
    )
    command = [sys.executable, "-c", IMPORT_ALL, tmp_path, ROOT, *modules]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
