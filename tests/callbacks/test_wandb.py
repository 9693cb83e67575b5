"""Weights & Biases: an offline run through the real command line, read back from its file."""

import json
import math
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from helpers.experiments import NETWORK, callback, experiment, weights
from helpers.paths import ROOT
from lightning.pytorch.loggers import WandbLogger
from wandb.proto import wandb_internal_pb2

from physteer.cli import main
from physteer.commands.guards.wandb_folders import wandb_folders
from physteer.concepts import CausalBasis, Concept

LOGGER = ROOT / "configs/logger/wandb.yaml"
BLOCK = 32768


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Read a W&B file: LevelDB's log format (blocks of 32 KiB, records in parts) after seven bytes of its own."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:  # no room for a header: padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if kind == 0:
            place += BLOCK - place % BLOCK
            continue
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def finished(folder: Path) -> list[wandb_internal_pb2.Record]:
    """Return the records of the one run in a folder; W&B's own process may still be writing the last of them."""
    (path,) = folder.glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 30
    while True:
        found = list(records(path))
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, f"the run was not finished: {len(found)} records"
        time.sleep(0.1)


def items(updates) -> dict[str, object]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}


@pytest.mark.parametrize("how", ["setting", "environment"])
def test_an_offline_run_holds_losses_scores_and_configuration(tiny_well, tmp_path, monkeypatch, how):
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = ["--trainer.logger.offline", "true"]
    if how == "environment":
        monkeypatch.setenv("WANDB_MODE", "offline")
        words = []
    config = experiment(
        tmp_path / "fit.yaml",
        model={"network": NETWORK, "learning_rate": 2e-3},
        data={"path": str(tiny_well), "rollout_steps": 4, "batch_size": 4, "one_step_every": 4},
        max_steps=4,
        log_every_n_steps=1,
        val_check_interval=2,
        num_sanity_val_steps=0,
        logger=str(LOGGER),
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["fit", "--config", str(config), *words]) == 0
    history, settings, ended = [], {}, None
    for record in finished(tmp_path / "run/wandb"):
        if record.HasField("history"):
            history.append(items(record.history.item))
        elif record.HasField("run"):
            assert record.run.project == "physteer"
            settings |= items(record.run.config.update)
        elif record.HasField("config"):
            settings |= items(record.config.update)
        elif record.HasField("exit"):
            ended = record.exit.exit_code
    losses = [row["train/loss"] for row in history if "train/loss" in row]
    assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)
    for name in ("val/one_step/model/vrmse/velocity_x", "val/rollout/model/vrmse_step_4/mean_over_fields"):
        assert len([row for row in history if name in row]) == 2
    assert any("val/rollout/linear/vrmse_step_1/mean_over_fields" in row for row in history)
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    found = {name.split("/")[0] for name in settings}
    assert {"model", "data", "trainer", "seed_everything"} <= found
    assert settings["model"]["init_args"]["learning_rate"] == 2e-3
    assert settings["data"] == saved["data"] and settings["model"] == saved["model"]
    assert saved["trainer"]["logger"]["init_args"]["save_dir"] == "."  # with another run folder, the logger follows
    assert ended == 0


def test_a_failed_run_is_marked_so(tiny_well, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = experiment(
        tmp_path / "fit.yaml",
        model={"network": NETWORK | {"tokens_2d": 5}},
        data={"path": str(tiny_well), "rollout_steps": 4},
        max_steps=1,
        logger=str(LOGGER),
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["fit", "--config", str(config)]) == 2
    run = finished(tmp_path / "run/wandb")
    assert [record.exit.exit_code for record in run if record.HasField("exit")] == [1]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    yield
    assert not list((tmp_path / "home").rglob("*wandb*"))
    assert not {"WANDB_DATA_DIR", "WANDB_CACHE_DIR"} & os.environ.keys()


def staged(run) -> dict[str, list[Path]]:
    """The files that `wandb sync` will upload as artifacts, by artifact."""
    return {
        record.artifact.name: [Path(entry.local_path) for entry in record.artifact.manifest.contents]
        for record in run
        if record.HasField("artifact")
    }


def artifacts(run) -> dict[str, wandb_internal_pb2.ArtifactRecord]:
    return {record.artifact.name: record.artifact for record in run if record.artifact.type == "concept"}


def test_a_steered_run_sends_curves_summary_figures_videos_and_its_concept(tiny_well, tmp_path, offline):
    direction = torch.randn(8, 8, 1, 32, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "a+b.safetensors"
    Concept(direction, "blocks.0", classes={"feature": "Reynolds >= 2000"}).save(path)
    config = experiment(
        tmp_path / "steer.yaml",
        model={"checkpoint": str(weights(tmp_path / "walrus.safetensors"))},
        data={"path": str(tiny_well), "rollout_steps": 3, "include": ["Reynolds_2e2_Schmidt_5e-1"]},
        callbacks=[
            callback("Steer", concept=str(path), strengths=[-0.2, 0.2]),
            callback("Controls", random=1, strengths=[0.2]),
            callback("Diagnostics", parameter="Reynolds", values=[200, 2000]),
            "RolloutWriter",
            callback("RolloutVideo", windows=1, fields=["tracer"], strengths=[0.2]),
            "Figures",
        ],
        logger=str(LOGGER),
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["predict", "--config", str(config)]) == 0
    folder = tmp_path / "run"
    run = finished(folder / "wandb")
    history = [items(record.history.item) for record in run if record.HasField("history")]
    curves = [row for row in history if "rollout_step" in row]
    assert [row["rollout_step"] for row in curves] == [1, 2, 3]
    summary = pd.read_csv(folder / "tables/summary.csv", keep_default_na=False, na_values={"value": ["nan"]}).to_dict(
        "records"
    )
    n_curves = set()
    for row in summary:  # every curve is the table's
        value, strength = float(row["value"]), float(row["strength"])
        if row["role"] == "random" or row["step"] == 0 or math.isnan(strength):
            continue
        if row["role"] in ("truth", "unsteered"):
            start = [row["role"], {0: "", 1: "above", -1: "below"}[strength]]
        else:
            start = ["steer", row["direction"], row["site"], row["mode"], f"{strength:+g}"]
        metric = row["quantity"].removesuffix("_value")
        metric += "_change" if row["quantity"] in ("enstrophy", "vortex_area") else ""
        name = "/".join(part for part in (*start, metric, row["field"].replace(" ", "_")) if part)
        if math.isfinite(value):
            assert curves[row["step"] - 1][name] == pytest.approx(value, rel=1e-8)
            n_curves.add(name)
    sent = {name for curve in curves for name in curve if not name.startswith("_")}  # as W&B's own do
    assert sent == {*n_curves, "rollout_step", "trainer/global_step"}
    assert {f"steer/a+b/blocks.0/drop/+0.2/{m}" for m in ("alignment_cosine/tracer", "movement/velocity_x")} <= n_curves
    assert {"unsteered/enstrophy", "truth/enstrophy", "truth/above/enstrophy"} <= curves[0].keys()
    assert not [name for name in curves[0] if "random" in name]
    axes = {record.metric.glob_name: record.metric.step_metric for record in run if record.HasField("metric")}
    assert axes["steer/*"] == "rollout_step"

    (media,) = [row for row in history if "summary/path" in row]
    kinds = {name.removesuffix("/_type"): content for name, content in media.items() if name.endswith("/_type")}
    assert kinds["summary"] == "table-file"
    assert kinds["figures/dose_response_a+b_drop_blocks.0"] == "image-file"
    assert [kind for name, kind in kinds.items() if name.startswith("videos/")] == ["video-file"]
    files = next((folder / "wandb").glob("offline-run-*")) / "files"
    told = json.loads((files / media["summary/path"]).read_text())
    assert told["columns"] == list(summary[0]) and len(told["data"]) > 20
    assert "random" not in {row[told["columns"].index("role")] for row in told["data"]}
    (video,) = [content for name, content in media.items() if name.startswith("videos/") and name.endswith("/path")]
    (written,) = (folder / "videos").iterdir()
    assert (files / video).read_bytes() == written.read_bytes()

    (concept,) = artifacts(run).values()
    assert (concept.name, concept.type) == ("a_b", "concept")
    assert json.loads(concept.metadata)["classes"] == {"feature": "Reynolds >= 2000"}
    (entry,) = concept.manifest.contents
    assert entry.path == path.name and entry.size == path.stat().st_size

    files = [file for listed in staged(run).values() for file in listed]
    assert len(files) >= 2 and all(file.is_relative_to(folder) and file.is_file() for file in files)
    assert Path(entry.local_path).read_bytes() == path.read_bytes()  # a copy: the concept lies outside the run folder
    assert not (folder / "wandb/cache").exists()


def test_a_capture_run_sends_its_concepts(tiny_well, tmp_path, offline):
    capture = callback(
        "Capture", name="re", sites=["blocks.0", "blocks.1"], feature="Reynolds >= 2000", control="Reynolds <= 500"
    )
    config = experiment(
        tmp_path / "capture.yaml",
        model={"checkpoint": str(weights(tmp_path / "walrus.safetensors"))},
        data={"path": str(tiny_well), "rollout_steps": 1},
        callbacks=[capture],
        logger=str(LOGGER),
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["predict", "--config", str(config)]) == 0
    run = finished(tmp_path / "run/wandb")
    assert artifacts(run).keys() == {"re_blocks.0", "re_blocks.1"}
    (file,) = staged(run)["re_blocks.0"]
    assert file == tmp_path / "run/concepts/re_blocks.0.safetensors"  # itself, no copy
    assert not (tmp_path / "run/wandb/artifacts").exists()


def test_a_direction_of_a_causal_basis_is_sent(tiny_well, tmp_path, offline):
    directions = torch.eye(32, 2, dtype=torch.float64)
    path = tmp_path / "basis.safetensors"
    mean, energies = (torch.zeros(size, dtype=torch.float64) for size in (32, 2))
    CausalBasis(directions, directions.clone(), mean, energies, "blocks.0").save(path)
    config = experiment(
        tmp_path / "steer.yaml",
        model={"checkpoint": str(weights(tmp_path / "walrus.safetensors"))},
        data={"path": str(tiny_well), "rollout_steps": 1, "include": ["Reynolds_2e2_Schmidt_5e-1"]},
        callbacks=[callback("Steer", concept=f"{path}#2", strengths=[0.2])],
        logger=str(LOGGER),
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["predict", "--config", str(config)]) == 0
    assert artifacts(finished(tmp_path / "run/wandb")).keys() == {"basis_2"}


def test_folders_that_the_user_has_chosen_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", "mine")
    monkeypatch.delenv("WANDB_CACHE_DIR", raising=False)
    with wandb_folders([WandbLogger(save_dir=tmp_path, offline=True)]):
        assert os.environ["WANDB_DATA_DIR"] == "mine"
        assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "wandb/cache")
    assert os.environ["WANDB_DATA_DIR"] == "mine" and "WANDB_CACHE_DIR" not in os.environ
    with wandb_folders([]):
        assert "WANDB_CACHE_DIR" not in os.environ


def test_effects_of_nodes_arrive_as_a_table_with_figures(tiny_well, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = experiment(
        tmp_path / "effects.yaml",
        model={"checkpoint": str(weights(tmp_path / "walrus.safetensors"))},
        data={"path": str(tiny_well), "variables": ["Reynolds"], "pair_every": 4, "train_pairs": 4}
        | {"evaluation_pairs": 4, "batch_size": 4},
        callbacks=[callback("Effects", nodes=["blocks.*.time.heads[*]"], variants=["source"], scales=[0.5, 1.0])],
        logger=str(LOGGER),
        default_root_dir=str(tmp_path / "run"),
    )
    config.write_text(config.read_text().replace("physteer.WellDataModule", "physteer.CounterfactualDataModule"))
    assert main(["validate", "--config", str(config), "--trainer.logger.offline", "true"]) == 0
    logged = {}
    for record in finished(tmp_path / "run/wandb"):
        if record.HasField("history"):
            logged |= items(record.history.item)
    assert (logged["effects/valid/_type"], logged["effects/valid/nrows"]) == ("table-file", 4)
    assert {"figures/effects_aligned_valid/path", "figures/effects_heads_valid/path"} <= logged.keys()
    assert "val/effect/blocks.1.time.heads[1]" in logged
