"""Imports point one way (the line the design draws), and light commands stay light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT

ROOMS = (  # from top to bottom: each imports only rooms below it
    "commands",
    "callbacks",
    "testing",
    "reports",
    "analyses",
    "adapters",
    "forecast",
    "concepts",
    "interventions",
    "walrus",
    "data",
    "metrics",
)
HELPERS = ("errors", "files", "run_folder", "tables", "tensor_files", "untrusted")
"""Files beside the rooms that any room may import, unless `NEVER` says otherwise."""
NEVER = {  # beyond the order of the rooms
    "callbacks": ("physteer.testing",),
    "reports": ("physteer.forecast", "physteer.interventions", "physteer.walrus", "lightning"),
    "analyses": ("lightning",),
    "concepts": ("physteer.data", "lightning"),
    "interventions": ("physteer.walrus", "physteer.data", "physteer.metrics", "lightning"),
    "walrus": ("physteer.data", "physteer.metrics", "lightning"),
}
TABLES = (  # what reports read of analyses: rows and files, no computation
    "physteer.analyses.basis.table",
    "physteer.analyses.das.table",
    "physteer.analyses.effects.circuit_table",
    "physteer.analyses.effects.table",
    "physteer.analyses.probing.class_table",
    "physteer.analyses.probing.table",
    "physteer.analyses.probing.trajectory_maps",
    "physteer.analyses.steering.initial_condition_rows",
    "physteer.analyses.steering.spectrum_rows",
    "physteer.analyses.steering.summary_rows",
    "physteer.analyses.steering.table",
    "physteer.analyses.steering.written_rollouts",
)
SIBLINGS = tuple(f"physteer.analyses.{name}" for name in ("basis", "das", "effects", "probing", "steering"))


def files() -> dict[str, Path]:
    """Return every source file by module name; callbacks/ counts as physteer.callbacks."""
    found = {}
    for folder, prefix in ((ROOT / "physteer", "physteer"), (ROOT / "callbacks", "physteer.callbacks")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if prefix == "physteer" and parts[0] == "callbacks":  # the link to callbacks/
                continue
            found[".".join([prefix, *(part for part in parts if part != "__init__")])] = path
    return found


def imports(module: str, path: Path) -> Iterator[str]:
    """Yield the absolute name of everything a file imports, wherever in the file it does."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)  # may be a module


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


SOURCES = files()


def room(module: str) -> str:
    """Return the room a module lies in; of files at the top their own name."""
    return module.split(".")[1] if "." in module else ""


def inner_imports(module: str) -> set[str]:
    """Return the modules of ours that a module imports; a package counts only where a name of its own is imported."""
    names = {name for name in imports(module, SOURCES[module]) if inside(name, "physteer")}
    modules = {name if name in SOURCES else name.rpartition(".")[0] for name in names}
    return {name for name in modules if name in SOURCES and name != module}


def test_the_check_sees_the_code():
    names = set(imports("physteer.cli", SOURCES["physteer.cli"]))
    assert {"importlib", "physteer.errors.PhysteerError"} <= names
    assert "physteer.commands.trainer_cli.run" in names  # in a function
    assert {room(module) for module in SOURCES} == {"", "__main__", "cli", *ROOMS, *HELPERS}
    assert len(ROOMS) <= 12 and len([path for path in (ROOT / "physteer").glob("*.py")]) <= 8


@pytest.mark.parametrize("own", ROOMS)
def test_rooms_import_only_rooms_below_them(own):
    wrong = []
    for module in SOURCES:
        if room(module) != own:
            continue
        for name in imports(module, SOURCES[module]):
            above = name.startswith("physteer.") and room(name) in ROOMS[: ROOMS.index(own)]
            if above or any(inside(name, forbidden) for forbidden in NEVER.get(own, ())):
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_interventions_and_metrics_need_nothing_but_errors():
    for own in ("interventions", "metrics"):
        outside = {
            name
            for module in SOURCES
            if room(module) == own
            for name in inner_imports(module)
            if room(name) not in (own, "errors")
        }
        assert not outside, f"{own} imports {outside}"


def test_reports_read_tables_and_compute_nothing():
    wrong = [
        f"{module} imports {name}"
        for module in SOURCES
        if room(module) == "reports"
        for name in inner_imports(module)
        if inside(name, "physteer.analyses") and name not in TABLES
    ]
    assert not wrong, "\n".join(wrong)


def test_analyses_are_siblings():
    wrong = [
        f"{module} imports {name}"
        for module in SOURCES
        for name in inner_imports(module)
        for own in SIBLINGS
        if inside(module, own) and any(inside(name, other) for other in SIBLINGS if other != own)
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_imported_in_a_circle():
    edges = {module: {n for n in inner_imports(module) if SOURCES[n].name != "__init__.py"} for module in SOURCES}
    seen: dict[str, int] = {}  # 1: being visited, 2: done
    circles = []

    def visit(module: str, path: tuple[str, ...]) -> None:
        if seen.get(module) == 1:
            circles.append(" -> ".join([*path[path.index(module) :], module]))
        if module in seen:
            return
        seen[module] = 1
        for name in sorted(edges[module]):
            visit(name, (*path, module))
        seen[module] = 2

    for module in SOURCES:
        visit(module, ())
    assert not circles, "\n".join(circles)


def test_only_its_own_files_know_walrus():
    """Everything above asks a forecaster: no check for the module's class, no look into the network's configuration."""
    own = ("physteer.walrus", "physteer.forecast.walrus_forecaster", "physteer.forecast.walrus_module")
    wrong = [
        module
        for module, path in SOURCES.items()
        if not any(inside(module, part) for part in own)
        and re.search(r"isinstance\([^)]*WalrusModule|network\.config\.", path.read_text())
    ]
    assert not wrong


def python_files(*folders: str) -> dict[Path, set[str]]:
    """Return what the Python files below folders import."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {path: set(imports(path.stem, path)) for path in paths}


def test_callbacks_are_imported_through_physteer():
    names = [*python_files("tests", "benchmarks").values(), *(set(imports(*item)) for item in SOURCES.items())]
    assert not [name for imported in names for name in imported if inside(name, "callbacks")]


def test_no_test_imports_another():
    """What tests share is a fixture, or lies in helpers/."""
    found = python_files("tests")
    tests = {path.stem for path in found if path.name.startswith(("test_", "conftest"))}
    wrong = [(path.name, name) for path, names in found.items() for name in names if tests & set(name.split("."))]
    assert not wrong


LIGHT = [
    ["--help"],
    ["--version"],
    *([command, "--help"] for command in ("data", "sites", "convert", "report", "compare", "demo")),
]
HEAVY = ("torch", "lightning", "matplotlib", "the_well", "wandb")
PROBE = f"""
import sys
from physteer.cli import main
for words in {LIGHT!r}:
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    if status or loaded:
        sys.exit(f"{{words}} ends with {{status}} and loads {{loaded}}")
"""


def test_light_commands_load_nothing_heavy(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: physteer") == len(LIGHT) - 1
