"""The built wheel holds everything, callbacks and configurations included, and every module imports from it alone."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from helpers.paths import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
ELSEWHERE = {  # packages whose folder is not inside physteer/, where a link of that name stands for it
    package.removeprefix("physteer."): folder
    for package, folder in SETTINGS["tool"]["setuptools"]["package-dir"].items()
}
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
    folders = {"physteer": "physteer"} | {folder: f"physteer/{name}" for name, folder in ELSEWHERE.items()}
    for folder, prefix in folders.items():
        for path in (ROOT / folder).rglob("*"):
            relative = path.relative_to(ROOT / folder)
            hidden = any(part == "__pycache__" or part.startswith(".") for part in relative.parts)
            link = prefix == "physteer" and relative.parts[0] in ELSEWHERE
            if path.is_file() and not hidden and not link:
                found.add(f"{prefix}/{relative.as_posix()}")
    return found


def test_folders_at_the_top_are_linked_where_they_are_imported():
    assert set(ELSEWHERE) >= {"callbacks"}
    for name, folder in ELSEWHERE.items():
        link = ROOT / "physteer" / name
        assert link.is_symlink() and link.resolve() == ROOT / folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that nothing is written into the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("physteer", *ELSEWHERE.values()):
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
