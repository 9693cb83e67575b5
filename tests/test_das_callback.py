"""Distributed alignment search through the real command line, on tiny data and a tiny random Walrus."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from experiments import callback, experiment, weights

from physteer.cli import main
from physteer.concepts import Concept, ConceptSubspace

SETTINGS = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
EVERY = callback("lightning.pytorch.callbacks.ModelCheckpoint", every_n_train_steps=2, save_top_k=-1, save_last=True)
SMALL = {"sites": ["blocks.0"], "ranks": [2], "frames": [-1], "random": 1}


@pytest.fixture(scope="module")
def walrus(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("walrus") / "walrus.safetensors")


def search(folder, well, walrus, *, das=None, model=None, data=None, callbacks=(EVERY,), **trainer) -> Path:
    """Write the configuration of a short search."""
    path = experiment(
        folder / "das.yaml",
        model={"checkpoint": str(walrus), "learning_rate": 3e-2, "warmup_steps": 1, **(model or {})},
        data={"path": str(well), "variables": ["Reynolds"], "pair_every": 4, "train_pairs": 8, "evaluation_pairs": 4}
        | {"batch_size": 4, **(data or {})},
        callbacks=[callback("DAS", **SMALL, **(das or {})) if das is None else callback("DAS", **{**SMALL, **das})]
        + list(callbacks),
        **{**SETTINGS, "default_root_dir": str(folder / "run"), **trainer},
    )
    path.write_text(path.read_text().replace("physteer.WellDataModule", "physteer.CounterfactualDataModule"))
    return path


def fit(config, *words) -> None:
    assert main(["fit", "--config", str(config), *map(str, words)]) == 0


def table(run: Path, split: str = "test") -> dict[tuple[str, ...], float]:
    with (run / f"tables/interchange_{split}.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("site", "kind", "rank", "name", "metric", "field")
    found = {tuple(row[name] for name in names): float(row["value"]) for row in rows}
    assert len(found) == len(rows)  # each once
    return found


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def searched(tiny_well, walrus, tmp_path_factory):
    """Two sites and two ranks, four steps, a checkpoint every two; the folder."""
    folder = tmp_path_factory.mktemp("searched")
    das = {"sites": ["encoder", "blocks.0"], "ranks": [1, 3]}
    fit(search(folder, tiny_well, walrus, das=das, data={"null_parameter": "Schmidt"}))
    return folder


def test_a_search_makes_a_run_folder(searched):
    run = searched / "run"
    for name in ("recovery_test.png", "recovery_fields_test.png"):
        assert (run / "figures" / name).stat().st_size > 10_000
    assert (run / "report.html").is_file()
    valid, test = table(run, "valid"), table(run)
    assert {key[1] for key in valid} == {"learned", "shuffled"}
    assert {key[1] for key in test} == {"learned", "shuffled", "random", "full", "model"}
    for site in ("encoder", "blocks.0"):
        for rank in ("1", "3"):
            for metric in ("recovery", "interchange_accuracy"):
                assert (site, "learned", rank, "", metric, "") in test
            for field in ("tracer", "pressure", "velocity_x", "velocity_y"):
                assert test[site, "learned", rank, "", "null_movement", field] >= 0
                assert test[site, "random", rank, "1", "movement", field] > 0
    assert {p.name for p in (run / "concepts").iterdir()} == {p.name for p in (run / "rotations").iterdir()}
    assert len(list((run / "concepts").iterdir())) == 4


def test_directions_lie_inside_their_subspaces_and_point_to_larger_values(searched, tiny_well):
    checkpoint = state(searched / "run/checkpoints/last.ckpt")
    for path in sorted((searched / "run/concepts").iterdir()):
        concept, subspace = Concept.load(path), ConceptSubspace.load(searched / "run/rotations" / path.name)
        assert concept.site == subspace.site and concept.model == subspace.model != ""
        assert concept.data.endswith("valid") and subspace.data.endswith("train") and subspace.variable == "Reynolds"
        assert concept.counts == {"pairs": 4} and concept.initial_conditions == 1
        direction = concept.direction.flatten().double()
        assert torch.dist(subspace.along(direction), direction) < 1e-5 * direction.norm()
        eye = torch.eye(subspace.basis.shape[1])
        assert (subspace.basis.mT @ subspace.basis - eye).abs().max() < 1e-5
        rank = path.stem.partition("_rank")[2]
        key = f"{subspace.site.replace('.', '_')}_learned_rank_{rank}.subspaces.0.rotation.raw"
        raw = checkpoint[f"interventions.{key}"]
        q = torch.linalg.qr(raw)[0]
        assert (q @ q.mT - subspace.basis @ subspace.basis.mT).abs().max() < 1e-5
