"""Imports point one way (the line the design draws), and light commands stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT

TRAINERS = ("lightning", "pytorch_lightning")
TOP = ("physteer.callbacks", "physteer.commands", "physteer.cli", "physteer.commands.trainer_cli", "physteer.demo")
MODULE = ("physteer.forecast.module", "physteer.forecast.objectives", "physteer.forecast.steered_rollout")
NETWORK_SIDE = ("physteer.walrus", "physteer.interventions", "physteer.concepts")
REST = ("physteer.data", "physteer.reports", "the_well", "h5py", *MODULE, *TOP, *TRAINERS)

FORBIDDEN = {
    "physteer.walrus": ("physteer.interventions", "physteer.concepts", "physteer.metrics", *REST),
    "physteer.interventions": ("physteer.walrus", "physteer.concepts", "physteer.metrics", *REST),
    "physteer.concepts": ("physteer.walrus", *REST),
    "physteer.metrics": (*NETWORK_SIDE, *REST),
    "physteer.data": (*NETWORK_SIDE, "physteer.reports", "physteer.forecast.rollout", *MODULE, *TOP),
    "physteer.forecast.rollout": (*NETWORK_SIDE, *REST),
    "physteer.reports": ("physteer.walrus", "physteer.interventions", "physteer.data", *MODULE, *TOP, *TRAINERS),
    "physteer.forecast.module": TOP,
    "physteer.forecast.objectives": TOP,
    "physteer.forecast.steered_rollout": TOP,
    "physteer.callbacks": tuple(name for name in TOP if name != "physteer.callbacks"),
}


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


def test_the_check_sees_the_code():
    names = set(imports("physteer.cli", SOURCES["physteer.cli"]))
    assert {
        "importlib",
        "physteer.errors.PhysteerError",
        "physteer.commands.trainer_cli.run",
    } <= names  # the last in a function
    assert set(FORBIDDEN) <= {name for module in SOURCES for name in (module, module.rpartition(".")[0])}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    wrong = [
        f"{module} imports {name}"
        for module, path in SOURCES.items()
        if inside(module, package)
        for name in imports(module, path)
        if any(inside(name, forbidden) for forbidden in FORBIDDEN[package])
    ]
    assert not wrong, "\n".join(wrong)


def test_callbacks_are_imported_through_physteer():
    trees = [
        *SOURCES.items(),
        *((p.stem, p) for folder in ("tests", "benchmarks") for p in (ROOT / folder).glob("*.py")),
    ]
    wrong = [module for module, path in trees for name in imports(module, path) if inside(name, "callbacks")]
    assert not wrong


LIGHT = (
    ["--help"],
    ["--version"],
    *([command, "--help"] for command in ("data", "sites", "convert", "report", "demo")),
)
HEAVY = ("torch", "lightning", "matplotlib", "the_well", "wandb")
PROBE = f"""
import sys
from physteer.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else status)
"""


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_light_commands_load_nothing_heavy(words, tmp_path):
    done = subprocess.run([sys.executable, "-c", PROBE, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "physteer" in done.stdout
