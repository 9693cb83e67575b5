"""Configurations of others: code that they name comes from listed packages alone."""

import sys
from pathlib import Path

import pytest

from physteer.cli import main
from physteer.commands.guards.listed_packages import VARIABLE, check_packages


@pytest.fixture
def unexpected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file when it is imported."""
    (tmp_path / "unexpected.py").write_text(
        "import lightning, pathlib\npathlib.Path('ran').touch()\nclass Model(lightning.LightningModule): ...\n"
        "def function(): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    yield tmp_path
    sys.modules.pop("unexpected", None)


PARTS = {
    "model": "model: {class_path: unexpected.Model}\n",
    "callback": "trainer: {callbacks: [{class_path: unexpected.Model}]}\n",
    "function": "model: {class_path: physteer.WalrusModule, init_args: {objective: unexpected.function}}\n",
    "logger": "trainer: {logger: unexpected.Model}\n",
    "part": "model: part.yaml\n",
}


@pytest.mark.parametrize("part", PARTS)
def test_no_other_code_is_imported(part: str, unexpected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (unexpected / "part.yaml").write_text("class_path: unexpected.Model\n")
    (unexpected / "config.yaml").write_text(PARTS[part])
    assert main(["predict", "--config", "config.yaml", "--data.path", "data"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("physteer: error: ") and error.count("\n") == 1
    assert "names unexpected." in error and "add unexpected if you trust it" in error
    assert not (unexpected / "ran").exists()


@pytest.mark.parametrize("words", [["--model=unexpected.Model"], ["--trainer.logger", "unexpected.Model"]])
def test_nor_named_on_the_command_line(words: list[str], unexpected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data.path", "data", *words]) == 2
    assert "names unexpected." in capsys.readouterr().err
    assert not (unexpected / "ran").exists()


def test_listed_code_and_plain_texts_pass(unexpected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "sites": ["blocks.2", "blocks.1.space.heads"],
        "class_path": "physteer.WalrusModule",
        "path": "a.b.hdf5",
    }
    check_packages(settings)
    monkeypatch.setenv(VARIABLE, "some, unexpected")
    check_packages({"class_path": "unexpected.Model"})
    monkeypatch.delenv(VARIABLE)
    check_packages({"class_path": "os.system"})  # without the variable everything is admitted
