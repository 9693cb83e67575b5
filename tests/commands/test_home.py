"""``~`` is the user's home in every setting that names a file, in YAML as on the command line."""

import shutil
from pathlib import Path

import pytest
from helpers.experiments import concept, experiment, weights

from physteer.cli import main


def test_everywhere(tiny_well: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    shutil.copytree(tiny_well, home / "data [1]")  # and a path is no pattern
    weights(home / "walrus.safetensors")
    concept(home / "concept.safetensors")
    experiment(
        home / "config.yaml",
        model={"checkpoint": "~/walrus.safetensors"},
        data={"path": "~/data [1]", "rollout_steps": 1, "include": ["Reynolds_2e2_Schmidt_2"]},
        callbacks=[
            "RolloutWriter",
            {"class_path": "Steer", "init_args": {"concept": "~/concept.safetensors", "strengths": [0.5]}},
        ],
        default_root_dir="~/run",
    )
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert main(["predict", "--config=~/config.yaml"]) == 0
    assert len(list(home.glob("run/rollouts/*/data/test/*.hdf5"))) == 6  # truth, unsteered, steered
    assert main(["report", "~/run"]) == 0 and (home / "run/report.html").exists()
    assert not list(work.iterdir())
