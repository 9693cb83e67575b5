"""Two processes (gloo, on the CPU) through the real command line: the same results as one."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from experiments import NETWORK, callback, experiment, weights

from physteer.cli import main
from physteer.concepts import Concept

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def two(folder, *words, status=0):
    """Run a command in two processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "physteer", *map(str, words), *TWO],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def arrays(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        found |= {f"@{name}": np.asarray(value) for name, value in file.attrs.items()}
    return found


def scores(path: Path) -> dict[tuple, float]:
    with path.open() as file:
        return {tuple(row.values())[:4]: float(row["vrmse"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    weights(folder / "walrus.safetensors")
    generator = torch.Generator().manual_seed(0)
    Concept(torch.randn(8, 8, 1, 32, generator=generator), "blocks.0").save(folder / "concept.safetensors")
    return folder


def test_predict_writes_each_trajectory_once_and_the_concept_is_the_same(folder, tiny_well):
    """Nine windows: the second process has one less, and batches of other sizes than a single process has."""
    config = experiment(
        folder / "predict.yaml",
        model={"checkpoint": str(folder / "walrus.safetensors"), "jitter_seed": 3},
        data={
            "path": str(tiny_well),
            "predict_split": "train",
            "exclude": ["Reynolds_2e2_Schmidt_2e0"],
            "rollout_steps": 2,
            "batch_size": 2,
        },
        callbacks=[
            callback("Capture", name="c", sites=["blocks.1"], feature="Reynolds >= 2000", control="Reynolds <= 500"),
            callback("Steer", concept=str(folder / "concept.safetensors"), strengths=[-0.2, 0.2]),
            "RolloutWriter",
        ],
    )
    said = two(folder, "predict", "--config", config, "--trainer.default_root_dir", folder / "two")
    assert said.stderr.count("\n") == 1 and said.stdout == "", said.stderr  # the first process alone reports progress
    assert main(["predict", "--config", str(config), "--trainer.default_root_dir", str(folder / "one")]) == 0
    files = {str(p.relative_to(folder / "one")): p for p in (folder / "one").rglob("*.hdf5")}
    assert len(files) == 4 * 9
    assert {str(p.relative_to(folder / "two")) for p in (folder / "two").rglob("*") if p.is_file()} == {
        *files,
        "concepts/c_blocks.1.safetensors",
        "config.yaml",
        "environment.json",
    }
    for name, path in files.items():
        one, other = arrays(path), arrays(folder / "two" / name)
        assert one.keys() == other.keys()
        for key, value in one.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=1e-5, err_msg=f"{name} {key}")
            else:
                assert np.array_equal(value, other[key]), f"{name} {key}"
    one, other = (Concept.load(folder / run / "concepts/c_blocks.1.safetensors") for run in ("one", "two"))
    assert one.counts == other.counts == {"feature": 6, "control": 3}
    assert (one.direction - other.direction).abs().max() <= 1e-6 * one.direction.abs().max()
    assert (one.site, one.model, one.data, one.classes) == (other.site, other.model, other.data, other.classes)


def test_fit_and_scores(folder, tiny_well):
    config = experiment(
        folder / "fit.yaml",
        model={"network": NETWORK, "warmup_steps": 2},
        data={"path": str(tiny_well), "rollout_steps": 4, "batch_size": 3, "one_step_every": 4},
        callbacks=["ExportWeights"],
        max_steps=4,
        val_check_interval=4,
        default_root_dir=str(folder / "fit"),
    )
    said = two(folder, "fit", "--config", config)
    assert said.stdout.startswith("step 4: VRMSE one step ") and said.stdout.count("\n") == 1
    validated = scores(folder / "fit/tables/scores_val.csv")

    # the trained weights, scored by one process and by two
    words = ["--config", config, "--ckpt_path", folder / "fit/checkpoints/last.ckpt"]
    assert main(["validate", *map(str, words), "--trainer.default_root_dir", str(folder / "one")]) == 0
    alone = scores(folder / "one/tables/scores_val.csv")
    assert alone.keys() == validated.keys() and len(alone) == 75
    assert all(validated[key] == pytest.approx(value, rel=1e-5) for key, value in alone.items())
    two(folder, "test", *words, "--trainer.default_root_dir", folder / "two")
    assert main(["test", *map(str, words), "--trainer.default_root_dir", str(folder / "one")]) == 0
    alone, both = (scores(folder / run / "tables/scores_test.csv") for run in ("one", "two"))
    assert alone.keys() == both.keys()
    assert all(both[key] == pytest.approx(value, rel=1e-5) for key, value in alone.items())


def test_a_mistake_ends_both_processes(folder, tiny_well):
    config = experiment(
        folder / "mistake.yaml",
        model={"checkpoint": str(folder / "walrus.safetensors")},
        data={"path": str(tiny_well), "rollout_steps": 1},
        callbacks=[callback("Capture", name="c", sites=["blocks.0"], feature="Reynold > 1", control="Reynolds < 1")],
        default_root_dir=str(folder / "mistake"),
    )
    lines = two(folder, "predict", "--config", config, status=2).stderr.splitlines()
    assert 1 <= len(lines) <= 2 and all("there is no 'Reynold', only" in line for line in lines), lines
