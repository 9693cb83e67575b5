"""What README shows is accepted by the command line, and what it names exists."""

import re

import pytest
import yaml
from helpers.paths import ROOT

from physteer import cli

README = (ROOT / "README.md").read_text()


def test_the_published_walrus_is_steered_by_the_yaml_of_the_first_screen(tmp_path, capsys):
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", README, re.S) if "hf://" in b)
    (tmp_path / "steer.yaml").write_text(block)
    with pytest.raises(SystemExit, match="0"):
        cli.main(["predict", "--config", str(tmp_path / "steer.yaml"), "--print_config"])
    merged = yaml.safe_load(capsys.readouterr().out)
    assert merged["model"]["init_args"]["checkpoint"] == "hf://DJ-Fear/walrus_steering"
    assert [c["class_path"].split(".")[-1] for c in merged["trainer"]["callbacks"]] == [
        "RolloutWriter",
        "Figures",
        "Steer",
    ]


def test_every_command_and_file_it_names_is_there():
    commands = set(re.findall(r"^\| `physteer (\w+)", README, re.M))
    assert commands | {"validate", "test"} == {*cli.TRAINER, *cli.COMMANDS}
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing and links
