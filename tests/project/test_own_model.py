"""What "Bring your own model" shows runs: its files, its YAML and its commands, on small data."""

import re
import subprocess
import sys

import pytest
import torch
import yaml
from helpers.paths import ROOT, importing

from physteer.cli import main

PAGE = (ROOT / "docs/own-model.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)


def block(language: str, contains: str) -> str:
    (found,) = [text for kind, text in BLOCKS if kind == language and contains in text]
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_well):
    """The page's files, beside a folder of data at the place that it names."""
    for _, text in BLOCKS:
        name = re.match(r"# (\w+\.(?:py|yaml))\n", text)
        if name:
            (tmp_path / name[1]).write_text(text)
    declared = block("python", "# in MyNet").partition("\n")[2]
    (tmp_path / "my_emulator.py").write_text(block("python", "# my_emulator.py") + "\n" + declared)
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "runs/demo/data").symlink_to(tiny_well)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("my_emulator", "my_forecaster", "my_staged", "test_my_emulator"):
        sys.modules.pop(name, None)


def fit(model: str, *words: object) -> int:
    quick = ["--trainer.max_steps", 2, "--trainer.val_check_interval", 2, "--trainer.limit_val_batches", 1]
    quick += ["--data.rollout_steps", 1, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    command = ["fit", "--config", ROOT / "configs/emulator/fit.yaml", "--model", model, *quick, *words]
    return main([*map(str, command)])


def test_a_network_by_yaml_is_trained_loaded_listed_and_steered(folder, capsys):
    assert fit("my_model.yaml") == 0
    weights = "runs/emulator/fit/weights.safetensors"
    model = ["--model", "my_model.yaml", "--model.checkpoint", weights]
    # as a user's shell does: the installed command does not put the working directory on Python's path
    command = [sys.executable, "-P", "-m", "physteer", "sites", "--config", ROOT / "configs/emulator/fit.yaml", *model]
    environment = importing(__file__) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    listed = done.stdout
    assert done.returncode == 0, done.stderr
    assert re.search(r"mix +b c h w +\[1, 32, 32, 64\]", listed) and re.search(r"mix\.0 +unknown", listed)
    capture = yaml.safe_load((ROOT / "configs/emulator/capture.yaml").read_text())
    capture["trainer"]["callbacks"][0]["init_args"] |= {"sites": ["mix"], "control": "Reynolds <= 500"}
    capture["trainer"]["callbacks"][1]["init_args"]["sites"] = ["mix"]
    capture["model"] = "my_model.yaml"
    (folder / "capture.yaml").write_text(yaml.safe_dump(capture))
    few = ["--data.rollout_every", "3", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    assert main(["predict", "--config", "capture.yaml", *model[2:], *few]) == 0
    assert (folder / "runs/emulator/capture/concepts/vortex_mix.safetensors").is_file()
    das = yaml.safe_load((ROOT / "configs/emulator/das.yaml").read_text())
    das["trainer"]["callbacks"][0]["init_args"]["sites"] = ["mix"]
    (folder / "das.yaml").write_text(yaml.safe_dump(das))
    assert main(["fit", "--config", "das.yaml", *model, "--trainer.accelerator", "cpu"]) == 2
    assert "DAS needs a network that runs in stages; MyNet has no method 'encode'" in capsys.readouterr().err


def test_a_network_of_other_numbers(folder):
    import my_forecaster
    from helpers.emulators import FIELDS, pairs

    from physteer.testing import check_forecaster

    torch.manual_seed(0)
    forecaster = my_forecaster.ZScores(my_forecaster.MyNet(4, 5), FIELDS)
    data = pairs(folder / "runs/demo/data")
    data.n_steps_input = 5
    report = check_forecaster(forecaster, data, ["mix"], skip=["two processes"])
    assert {*report.not_offered} == {"replay", "DAS", "effects", "causal basis"}
    batch = next(
        iter(data.pairs("train", data.rules, 4).collate([data.pairs("train", data.rules, 4)[0]]).read for _ in "1")
    )
    assert batch


def test_a_network_in_stages_is_checked_as_the_page_does(folder):
    environment = importing(__file__) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_my_emulator.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "causal basis: holds" in done.stdout and "two processes: holds" in done.stdout


def test_any_module_in_python():
    names: dict = {}
    torch.manual_seed(0)
    exec(compile(block("python", "TransformerEncoder"), "own-model.md", "exec"), names)
    plain = names["model"](names["base"])
    for name in ("swapped", "steered", "without"):
        assert not torch.equal(names[name], plain), name
    exec(compile(block("python", "GPT2LMHeadModel"), "own-model.md", "exec"), names)
    assert names["written"].shape == (1, 14)
    assert not torch.equal(names["logits"], names["gpt2"](names["ids"]).logits)


def test_configurations_and_commands_are_real():
    for path in re.findall(r"--config (\S+\.yaml)", PAGE):
        assert (ROOT / path).is_file(), path
