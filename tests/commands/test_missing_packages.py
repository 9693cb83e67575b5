"""Optional packages that are not installed: one line with the command that installs them."""

import importlib.util
import sys

import pytest
from helpers.experiments import NETWORK, callback, experiment

from physteer.cli import main
from physteer.commands.guards.missing_packages import missing_package

LIGHTNING = "lightning.pytorch"
OPTIONAL = {
    "tensorboard": {"logger": callback(f"{LIGHTNING}.loggers.TensorBoardLogger", save_dir=".")},
    "mlflow": {"logger": callback(f"{LIGHTNING}.loggers.MLFlowLogger")},
    "rich": {"callbacks": [f"{LIGHTNING}.callbacks.RichProgressBar"]},
    "deepspeed": {"strategy": "deepspeed"},
    "bitsandbytes": {"plugins": [callback(f"{LIGHTNING}.plugins.BitsandbytesPrecision", mode="nf4")]},
    "psutil": {"callbacks": [f"{LIGHTNING}.callbacks.DeviceStatsMonitor"]},
}
OWN = """
import lightning as L

class Late(L.Callback):
    def setup(self, *args, **kwargs):
        import surely_not_installed.part
"""


@pytest.fixture
def attempt(tiny_well, tmp_path, capsys):
    def run(**trainer) -> str:
        config = experiment(
            tmp_path / "fit.yaml",
            model={"network": NETWORK},
            data={"path": str(tiny_well)},
            max_steps=1,
            default_root_dir=str(tmp_path / "run"),
            **trainer,
        )
        assert main(["fit", "--config", str(config)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("physteer: error: ")

    return run


@pytest.mark.parametrize("package", OPTIONAL)
def test_what_lightning_can_use(attempt, package):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    settings = OPTIONAL[package]
    line = attempt(**settings)
    assert f" needs the package {package}" in line and "; install it with: pip install " in line
    name = str(settings).partition("'class_path': '")[2].partition("'")[0].rpartition(".")[2]
    assert line.startswith(name), line


def test_what_ones_own_callback_imports(attempt, tmp_path, monkeypatch):
    (tmp_path / "own_callbacks.py").write_text(OWN)
    (tmp_path / "own_early.py").write_text("import surely_not_installed\n" + OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_callbacks", "own_early"):
        line = attempt(callbacks=[f"{name}.Late"])
        assert line.startswith("Late needs the package surely_not_installed; install it with: pip install surely_not")
    line = attempt(callbacks=["surely_not_installed.Late"])  # a wrong class path is something else
    assert line.endswith("No module named 'surely_not_installed'") and "pip" not in line
    for name in ("own_callbacks", "own_early"):
        sys.modules.pop(name, None)


def test_the_name_for_pip():
    error = ModuleNotFoundError("No module named 'skimage'", name="skimage.measure")
    assert "pip install scikit-image" in str(missing_package(error, "physteer report"))
    error = ModuleNotFoundError("Requirement 'a-b>=1.2' not met. HINT: Try running `pip install -U 'a-b>=1.2'`")
    assert str(missing_package(error)) == "this run needs the package a-b; install it with: pip install 'a-b>=1.2'"
    assert missing_package(ModuleNotFoundError("No module named 'physteer.x'", name="physteer.x")) is None
    assert missing_package(ValueError("something else")) is None
