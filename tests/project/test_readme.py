"""What README and docs show runs or is accepted by the command line, and what they name exists."""

import argparse
import ast
import functools
import importlib
import re
import shlex

import pytest
import torch
import yaml
from helpers.paths import ROOT

import physteer.callbacks
from physteer import cli
from physteer.interventions import captured

README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs/design.md").read_text()
PAGES = {
    name: (ROOT / name).read_text()
    for name in ("README.md", "CONTRIBUTING.md", "docs/design.md", "docs/own-model.md", "docs/science.md")
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def merged(capsys, *words: str) -> dict:
    """Let the real parser read a command of the trainer and return the settings that it understood."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--print_config"])
    assert end.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


def test_the_published_walrus_is_steered_by_the_yaml_of_the_first_screen(tmp_path, capsys):
    block = next(block for block in blocks("yaml") if "hf://" in block)
    (tmp_path / "steer.yaml").write_text(block)
    settings = merged(capsys, "predict", "--config", str(tmp_path / "steer.yaml"))
    assert settings["model"]["init_args"]["checkpoint"] == "hf://DJ-Fear/walrus_steering"
    classes = [callback["class_path"].split(".")[-1] for callback in settings["trainer"]["callbacks"]]
    assert classes == ["RolloutWriter", "Figures", "Steer"]


def test_the_yaml_of_three_parts_is_accepted(tmp_path, capsys):
    block = next(block for block in blocks("yaml") if "../model/" in block)
    (tmp_path / "run.yaml").write_text(block.replace("../", f"{ROOT}/configs/"))
    settings = merged(capsys, "predict", "--config", str(tmp_path / "run.yaml"))
    (capture,) = settings["trainer"]["callbacks"]
    assert capture["class_path"] == "physteer.callbacks.Capture" and capture["init_args"]["name"] == "vortex"


def test_the_snippet_runs_and_steers():
    (code,) = blocks("python")
    torch.manual_seed(0)
    names: dict = {}
    with torch.no_grad():
        exec(compile(code, "README.md", "exec"), names)
        model, inputs = names["model"], (names["x"], names["labels"], names["boundaries"])
        with captured(model, ["blocks.0"]) as activations:
            again = model(*inputs)
    unsteered, steered = names["unsteered"], names["steered"]
    assert steered.shape == unsteered.shape == names["x"].shape
    assert torch.equal(again, unsteered), "the edit is off the model again"
    h = activations["blocks.0"]
    moved = names["Steer"](names["direction"], strength=0.5)(h) - h
    torch.testing.assert_close(moved.flatten(2).norm(dim=-1), 0.5 * h.flatten(2).norm(dim=-1))
    assert (steered - unsteered).norm() > 0.01 * unsteered.norm(), "steering reaches the output"


def command_lines() -> list[str]:
    """Return every command line of physteer: in blocks, and in the first column of the table."""
    shown = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    shown += [line.removeprefix("# ") for block in blocks("yaml") for line in block.splitlines()]
    in_table = [f"physteer {words}" for words in re.findall(r"^\| `physteer ([^`]+)`", README, re.M)]
    return [line for line in [*shown, *in_table] if line.startswith("physteer ")]


FOR_PLACEHOLDERS = {
    "--config …": ["--print_config"],
    "--config steer.yaml": ["--print_config"],
    "--model my_model.yaml": [],
}
"""The words for a configuration that README does not name, or that a test of its own, or of `own-model.md`, reads."""


class _ParsedError(Exception):
    """The words of a command are understood; it need not go on."""


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_parses(line, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for placeholder, words in FOR_PLACEHOLDERS.items():
        line = line.replace(placeholder, shlex.join(words))
    command, *words = shlex.split(line)[1:]
    if command in cli.TRAINER:
        assert merged(capsys, command, *(word for word in words if word != "--print_config"))["trainer"]
        return
    parse = argparse.ArgumentParser.parse_known_args

    def stop_when_parsed(self, args=None, namespace=None):
        _, unknown = parse(self, args, namespace)
        assert not unknown
        raise _ParsedError

    words = ["--config", "some.yaml"] if "--print_config" in words else words
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop_when_parsed)
    with pytest.raises(_ParsedError):
        cli.main([command, *words])


def test_command_lines_are_found():
    lines = command_lines()
    assert "physteer fit --config configs/demo/das.yaml" in lines and "physteer data shear-flow OUT" in lines
    assert any("steer.yaml" in line for line in lines)


def configurations() -> list[str]:
    """Return every configuration that README names, patterns written out."""
    named = sorted(set(re.findall(r"configs/[\w/*]+\.yaml", README)))
    paths = [(pattern, sorted(ROOT.glob(pattern))) for pattern in named]
    assert paths and all(matches for _, matches in paths), paths
    return [str(path.relative_to(ROOT)) for _, matches in paths for path in matches]


@pytest.mark.parametrize("path", sorted(set(configurations())))
def test_every_configuration_parses_with_the_command_it_gives(path, capsys):
    command = re.search(rf"^#   physteer (\w+) --config {re.escape(path)}$", (ROOT / path).read_text(), re.M)
    assert command is not None, "the first lines of a configuration give its command"
    assert merged(capsys, command[1], "--config", str(ROOT / path))["trainer"]["default_root_dir"] != "runs/latest"


def test_every_command_is_in_the_table():
    commands = set(re.findall(r"^\| `physteer (\w+)", README, re.M))
    assert commands | {"validate", "test"} == {*cli.TRAINER, *cli.COMMANDS}


def test_every_callback_is_in_the_table():
    table = README[README.index("| callback |") : README.index("Each is thin")]
    first_column = re.findall(r"^\| ([^|]+) \|", table, re.M)
    named = {name for cell in first_column for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(physteer.callbacks.__all__) - {"RolloutCallback"}  # which is for writing others


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_are_there(page):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGES[page])
    assert not [link for link in links if not (folder / link).exists()]
    files = re.findall(r"\b((?:benchmarks|configs|physteer|slurm|tests)/[\w/]+\.\w+)\b", PAGES[page])
    assert not [file for file in files if not (ROOT / file).exists()]


def resolved(name: str) -> object:
    """Import what a dotted name says."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[end:], module)
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES)
def test_names_of_classes_and_functions_exist(page):
    for name in set(re.findall(r"`(physteer(?:\.\w+)+)[`(]", PAGES[page])):
        assert resolved(name) is not None, name


def test_the_design_lists_the_rooms_in_their_order():
    """The table of rooms is that of the test of imports."""
    assignments = ast.parse((ROOT / "tests/project/test_imports.py").read_text()).body
    (rooms,) = [
        ast.literal_eval(node.value)
        for node in assignments
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "ROOMS"
    ]
    table = DESIGN[DESIGN.index("| room,") : DESIGN.index("Three more rules")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(rooms)
