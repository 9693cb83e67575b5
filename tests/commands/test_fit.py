"""Training and scores through the real command line."""

import csv
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.experiments import CONFIG, NETWORK, callback, experiment, weights
from helpers.small_disk import small_disk

from physteer import WalrusModule
from physteer.cli import main
from physteer.commands.trainer_cli import run
from physteer.data.batch import collate
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.data.samplers import TrainingOrder
from physteer.forecast import steered_rollout
from physteer.walrus import load

TRAINER = {"max_steps": 6, "log_every_n_steps": 1, "num_sanity_val_steps": 0, "val_check_interval": 3}


def training(folder, well, *, model=None, data=None, callbacks=(), **trainer):
    """Write the configuration of a short training."""
    model = {"network": NETWORK, "learning_rate": 3e-3, "warmup_steps": 2, "jitter_seed": 0, **(model or {})}
    data = {"path": str(well), "rollout_steps": 4, "batch_size": 4, "one_step_every": 4, **(data or {})}
    settings = {**TRAINER, "default_root_dir": str(folder / "run"), **trainer}
    return experiment(folder / "fit.yaml", model=model, data=data, callbacks=list(callbacks), **settings)


def metrics(run: Path, version: int = 0) -> list[dict[str, str]]:
    with (run / f"logs/version_{version}/metrics.csv").open() as file:
        return list(csv.DictReader(file))


def column(rows, name):
    return [float(row[name]) for row in rows if row.get(name)]


def network(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def current_umask() -> int:
    os.umask(umask := os.umask(0))
    return umask


def scores(path: Path) -> dict[tuple, float]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["loader", "forecast", "field", "step", "vrmse"]
    return {(r["loader"], r["forecast"], r["field"], int(r["step"])): float(r["vrmse"]) for r in rows}


@pytest.fixture(scope="module")
def trained(tiny_well, tmp_path_factory):
    """Six steps, a checkpoint every two, never interrupted; the run folder and what was said."""
    folder = tmp_path_factory.mktemp("trained")
    every = callback(
        "lightning.pytorch.callbacks.ModelCheckpoint", every_n_train_steps=2, save_top_k=-1, save_last=True
    )
    config = training(folder, tiny_well, callbacks=[every, "ExportWeights", "LearningRateMonitor"])
    assert main(["fit", "--config", str(config)]) == 0
    return folder


def test_training_makes_a_run_folder(trained):
    run = trained / "run"
    assert {p.name for p in run.iterdir()} == {
        "config.yaml",
        "environment.json",
        "checkpoints",
        "logs",
        "tables",
        "weights.safetensors",
    }
    steps = {p.name.partition("step=")[2] for p in (run / "checkpoints").iterdir()} - {""}
    assert steps == {"2.ckpt", "4.ckpt", "6.ckpt"} and (run / "checkpoints/last.ckpt").is_file()
    assert {path.stat().st_mode & 0o777 for path in run.rglob("*.ckpt")} == {0o666 & ~current_umask()}
    rows = metrics(run)
    assert len(column(rows, "train/loss")) == 6 and all(map(torch.isfinite, torch.tensor(column(rows, "train/loss"))))
    assert column(rows, "lr-AdamW/pg1")[:2] == pytest.approx([1.5e-3, 3e-3])  # linear warm-up
    assert column(rows, "lr-AdamW/pg1")[-1] < 1e-3  # cosine decay
    assert len(column(rows, "val/one_step/model/vrmse/mean_over_fields")) == 2
    assert len(column(rows, "val/rollout/persistence/vrmse_step_4/mean_over_fields")) == 2


def test_exported_weights_are_the_last_ones(trained):
    exported, last = load(trained / "run/weights.safetensors"), network(trained / "run/checkpoints/last.ckpt")
    assert exported.config == CONFIG
    assert all(torch.equal(p, last[f"network.{name}"]) for name, p in exported.named_parameters())


def test_the_loss_of_a_fixed_batch_falls(tiny_well, tmp_path):
    model = {"jitter_seed": None, "learning_rate": 1e-2}
    config = training(
        tmp_path, tiny_well, model=model, max_steps=30, overfit_batches=1, limit_val_batches=0, val_check_interval=None
    )
    assert main(["fit", "--config", str(config)]) == 0
    loss = column(metrics(tmp_path / "run"), "train/loss")
    assert len(loss) == 30 and loss[-1] < 0.6 * loss[0], loss


@pytest.mark.parametrize("step", [2, 4])
def test_resuming_gives_the_weights_of_an_uninterrupted_run(trained, tiny_well, tmp_path, step):
    config = training(tmp_path, tiny_well, callbacks=["ExportWeights"])
    checkpoint = next((trained / "run/checkpoints").glob(f"*step={step}.ckpt"))
    assert main(["fit", "--config", str(config), "--ckpt_path", str(checkpoint)]) == 0
    last = network(tmp_path / "run/checkpoints/last.ckpt")
    whole = network(trained / "run/checkpoints/last.ckpt")
    assert last.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in last.items())
    assert len(column(metrics(tmp_path / "run"), "train/loss")) == 6 - step


def test_resuming_in_a_later_epoch(tiny_well, tmp_path):
    """Epochs of three steps: the order of the windows differs between epochs and not between runs."""
    every = callback(
        "lightning.pytorch.callbacks.ModelCheckpoint", every_n_train_steps=1, save_top_k=-1, save_last=True
    )
    data = {"include": ["Reynolds_2e3_Schmidt_2e0"], "batch_size": 9}  # 3 trajectories of 9 windows
    settings = {"data": data, "max_steps": 7, "val_check_interval": None, "limit_val_batches": 0}
    whole = training(tmp_path / "whole", tiny_well, callbacks=[every], **settings)
    assert main(["fit", "--config", str(whole)]) == 0
    for step in (3, 5):
        config = training(tmp_path / f"from{step}", tiny_well, callbacks=[every], **settings)
        checkpoint = next((tmp_path / "whole/run/checkpoints").glob(f"*step={step}.ckpt"))
        assert main(["fit", "--config", str(config), "--ckpt_path", str(checkpoint)]) == 0
        a, b = (network(tmp_path / f"{name}/run/checkpoints/last.ckpt") for name in ("whole", f"from{step}"))
        assert all(torch.equal(tensor, b[name]) for name, tensor in a.items()), step


def test_the_order_of_training_windows(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    windows = range(10)

    def order(rank, epoch, world=2, skip=0):
        sampler = TrainingOrder(windows, world, rank, skip)
        sampler.set_epoch(epoch)
        return list(sampler)

    for epoch in range(3):
        assert sorted(order(0, epoch) + order(1, epoch)) == [*windows]
    assert len({tuple(order(0, epoch)) for epoch in range(3)}) == 3
    assert order(0, 1, skip=2) == order(0, 1)[2:]
    going_on = TrainingOrder(windows, 1, 0, skip=4)
    assert len(list(going_on)) == 6 and len(list(going_on)) == 10  # only the epoch that was interrupted
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    assert order(0, 1) != sorted(order(0, 1))


def test_short_trials_run(tiny_well, tmp_path):
    config = training(tmp_path, tiny_well, max_steps=-1, val_check_interval=None)
    assert main(["fit", "--config", str(config), "--trainer.fast_dev_run", "2"]) == 0
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    bare = ["--trainer.barebones", "true", "--trainer.max_steps", "1"]
    lean = training(tmp_path, tiny_well, val_check_interval=None, num_sanity_val_steps=None, log_every_n_steps=None)
    assert main(["fit", "--config", str(lean), *bare]) == 0


def test_the_last_checkpoint_of_the_run_folder(tiny_well, tmp_path):
    config = training(tmp_path, tiny_well, max_steps=3)
    assert main(["fit", "--config", str(config), "--ckpt_path", "last"]) == 0  # none yet: a first start
    assert main(["fit", "--config", str(config), "--ckpt_path", "last", "--trainer.max_steps", "5"]) == 0
    assert [int(row["step"]) for row in metrics(tmp_path / "run", 1) if row.get("train/loss")] == [3, 4]

    found = []
    last = tmp_path / "run/checkpoints/last.ckpt"
    for words in (["--ckpt_path", "last"], ["--ckpt_path", str(last)], []):
        assert main(["validate", "--config", str(config), *words]) == 0
        found.append(scores(tmp_path / "run/tables/scores_val.csv"))
    assert found[0] == found[1] != found[2]


def test_last_is_the_newest_whole_checkpoint(trained, tiny_well, tmp_path, capsys):
    """Whichever callback wrote it; half files, of runs that were killed or of a full disk, are told and left."""
    config, run = training(tmp_path, tiny_well, max_steps=3), tmp_path / "run"
    words = ["--config", str(config), "--ckpt_path", "last"]
    assert main(["validate", *words]) == 2
    assert capsys.readouterr().err == f"physteer: error: ckpt_path last: there is no checkpoint in {run}\n"
    assert not run.exists()

    whole = run / "other/hpc_ckpt_1.ckpt"
    whole.parent.mkdir(parents=True)
    shutil.copy(next((trained / "run/checkpoints").glob("*step=2.ckpt")), whole)
    (run / "checkpoints").mkdir()
    half, empty = run / "checkpoints/last.ckpt", run / "checkpoints/last-v1.ckpt"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    empty.touch()
    for age, path in enumerate((half, empty, whole)):
        os.utime(path, (1e9 - age, 1e9 - age))
    told = (
        f"physteer: ckpt_path last: {half} is not whole (it ends early or is damaged); {empty} is not whole (it is "
        f"empty); using {whole}"
    )
    for command in ("validate", "fit"):
        assert main([command, *words]) == 0
        assert capsys.readouterr().err.splitlines()[0] == told
    assert [int(row["step"]) for row in metrics(run) if row.get("train/loss")] == [2]
    assert half.stat().st_size < whole.stat().st_size and empty.stat().st_size == 0  # left as they were

    for path in (whole, *(run / "checkpoints").glob("*step=3*"), *(run / "checkpoints").glob("last-v2*")):
        path.unlink()
    for command in ("test", "fit"):
        assert main([command, *words]) == 2
        said = capsys.readouterr().err
        assert f"{half} is not whole" in said and "there is no other; delete it" in said and said.count("\n") == 1


def test_a_full_disk_leaves_the_older_checkpoint(tiny_well, tmp_path, capsys):
    config, last = (
        training(tmp_path, tiny_well, max_steps=2, val_check_interval=1),
        tmp_path / "run/checkpoints/last.ckpt",
    )
    assert main(["fit", "--config", str(config)]) == 0
    before = last.read_bytes()
    capsys.readouterr()
    with small_disk(len(before) // 2):
        words = ["--ckpt_path", "last", "--trainer.max_steps", "4"]
        assert main(["fit", "--config", str(config), *words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "checkpoints/" in said[0] and said[0].endswith(".ckpt: File too large")
    assert last.read_bytes() == before and not list((tmp_path / "run").rglob(".*.tmp"))


def test_mixed_precision_trains_weights_in_float32(tiny_well, tmp_path):
    config = training(tmp_path, tiny_well, precision="bf16-mixed", gradient_clip_val=1.0)
    assert main(["fit", "--config", str(config)]) == 0
    assert torch.isfinite(torch.tensor(column(metrics(tmp_path / "run"), "train/loss"))).all()
    assert {t.dtype for t in network(tmp_path / "run/checkpoints/last.ckpt").values()} == {torch.float32}


@pytest.mark.parametrize("command", ["validate", "test"])
def test_scores_stand_beside_baselines_and_are_right(tiny_well, tmp_path, command, capsys):
    data = {"path": str(tiny_well), "rollout_steps": 4, "batch_size": 3, "one_step_every": 4}
    model = {"checkpoint": str(weights(tmp_path / "walrus.safetensors"))}
    config = experiment(tmp_path / "run.yaml", model=model, data=data, default_root_dir=str(tmp_path / "run"))
    assert main([command, "--config", str(config)]) == 0
    split = {"validate": "val", "test": "test"}[command]
    found = scores(tmp_path / f"run/tables/scores_{split}.csv")
    fields = ["tracer", "pressure", "velocity_x", "velocity_y"]

    module = WalrusModule(**model).eval().requires_grad_(False)
    for loader, steps, every in (("one_step", 1, 4), ("rollout", 4, None)):
        folder = f"{tiny_well}/data/{'valid' if split == 'val' else 'test'}"
        with WindowDataset(folder, WindowSpec(3, steps, every=every)) as windows:
            batch = collate([windows[i] for i in range(len(windows))], n_input=3, metadata=windows.metadata)
        before, last = batch.context[:, -2:-1], batch.context[:, -1:]
        ahead = torch.arange(1, steps + 1).view(1, -1, 1, 1, 1, 1)
        forecasts = {
            "model": torch.cat(list(steered_rollout(module.forecaster, batch, steps)), 1),
            "persistence": last.expand_as(batch.targets),
            "linear": last + ahead * (last - before),
        }
        for name, forecast in forecasts.items():
            error = (forecast - batch.targets).square().mean((-3, -2, -1))
            vrmse = (error / (batch.targets.var((-3, -2, -1)) + 1e-7)).sqrt().mean(0)[:, :4]  # [steps, fields]
            for step in range(steps):
                for field, value in zip(fields, vrmse[step].tolist(), strict=True):
                    assert found.pop((loader, name, field, step + 1)) == pytest.approx(value, rel=1e-4)
                mean = found.pop((loader, name, "mean_over_fields", step + 1))
                assert mean == pytest.approx(float(vrmse[step].mean()), rel=1e-4)
    assert not found

    said = capsys.readouterr().out
    header, *lines, path = said.splitlines()
    assert header.split() == ["VRMSE", "model", "persistence", "linear"]
    assert path.endswith(f"tables/scores_{split}.csv")
    assert [line.split()[:-4] for line in lines if line.startswith("rollout")] == [
        ["rollout", "1"],
        *[["rollout", "4"]] * 5,
    ]


def test_training_says_little_and_that_clearly(tiny_well, tmp_path, capfd):
    config = training(tmp_path, tiny_well)
    capfd.readouterr()
    assert main(["fit", "--config", str(config)]) == 0
    said = capfd.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["step 3", "step 6"]
    assert all("VRMSE one step" in line and "persistence" in line for line in said.out.splitlines())
    assert len(said.err.splitlines()) == 1 and said.err.startswith("fit: 6 of 6 steps in "), said.err


def test_checkpoints_of_another_model_are_refused(trained, tiny_well, tmp_path, capsys):
    model = {"network": NETWORK | {"n_blocks": 1}}
    config = training(tmp_path, tiny_well, model=model)
    last = str(trained / "run/checkpoints/last.ckpt")
    assert main(["fit", "--config", str(config), "--ckpt_path", last]) == 2
    assert (
        "the checkpoint is not one of this model: it has unknown tensors: network.blocks.1" in capsys.readouterr().err
    )


def test_the_callbacks_of_every_run_can_be_configured(tiny_well, tmp_path):
    config = training(tmp_path, tiny_well, callbacks=[callback("RolloutProgress", refresh_rate=0), "ScoreTable"])
    names = [type(c).__name__ for c in run(["fit", "--config", str(config)], only_build=True).trainer.callbacks]
    assert names.count("RolloutProgress") == names.count("ScoreTable") == names.count("ModelCheckpoint") == 1
    off = ["--trainer.enable_progress_bar", "false", "--trainer.enable_checkpointing", "false"]
    config = training(tmp_path, tiny_well)
    names = [type(c).__name__ for c in run(["fit", "--config", str(config), *off], only_build=True).trainer.callbacks]
    assert "RolloutProgress" not in names and "ModelCheckpoint" not in names and "ScoreTable" in names
