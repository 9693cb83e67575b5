"""The data module: splits, loaders, workers, processes, and what it leaves open."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import lightning as L
import pytest
import torch
from helpers.handles import open_count
from helpers.paths import importing
from helpers.wells import PLANET, write_splits
from torch import Tensor

from physteer.data import Batch, WellDataModule, WindowSpec
from physteer.data.samplers import OnceInOrder
from physteer.errors import PhysteerError


def module(path: Path | str, **more: object) -> WellDataModule:
    given = {"n_steps_input": 2, "rollout_steps": 3, "batch_size": 2, **more}
    return WellDataModule(str(path), **given)


def windows(loader) -> list[str]:
    return [str(window) for batch in loader for window in batch.windows]


class Reader(L.LightningModule):
    """Reads batches and nothing else."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.read: dict[str, list[str]] = {}
        self.fail, self.opened = fail, 0
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def note(self, stage: str, batch: Batch) -> None:
        if self.fail:
            raise RuntimeError("stop")
        self.read.setdefault(stage, []).extend(map(str, batch.windows))

    def training_step(self, batch: Batch, _) -> Tensor:
        self.note("fit", batch)
        return (self.weight * batch.fields.mean()).abs()

    def validation_step(self, batch: Batch, _, dataloader_idx: int = 0) -> None:
        self.note(f"validate {dataloader_idx}", batch)

    def test_step(self, batch: Batch, _, dataloader_idx: int = 0) -> None:
        self.note(f"test {dataloader_idx}", batch)

    def predict_step(self, batch: Batch, _) -> None:
        self.note("predict", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**more: object) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**{"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0, **quiet, **more})


class TestLoaders:
    def test_what_each_stage_reads(self, tiny_well: Path) -> None:
        data = module(tiny_well, one_step_every=4, batch_size=3)
        train = data.train_dataloader()
        assert len(windows(train)) == len(set(windows(train))) == 4 * 3 * 10
        one_step, rollouts = data.val_dataloader()
        assert [w.split("_start")[1] for w in windows(one_step)] == ["0000", "0004", "0008"] * 4
        assert [w.split("_start")[1] for w in windows(rollouts)] == ["0000"] * 4
        assert {batch.targets.shape[1] for batch in one_step} == {1}
        assert {batch.targets.shape[1] for batch in rollouts} == {3}
        assert len(windows(data.test_dataloader()[1])) == 8
        assert windows(data.predict_dataloader()) == windows(data.test_dataloader()[1])
        data.teardown("fit")

    def test_a_batch(self, tiny_well: Path) -> None:
        data = module(tiny_well, predict_split="train", rollout_every=4, first_start=1, trajectories=[2, 0])
        batches = list(data.predict_dataloader())
        assert windows(batches) == [
            f"shear_flow_Reynolds_{re}_Schmidt_{sc}_trajectory{trajectory:04d}_start{start:04d}"
            for re in ("2e2", "2e3")
            for sc in ("2e0", "5e-1")
            for trajectory in (0, 2)
            for start in (1, 5)
        ]
        batch = batches[0]
        assert len(batch) == 2
        assert batch.fields.shape == (2, 5, 5, 32, 64, 1)
        assert batch.channels.names == ("tracer", "pressure", "velocity_x", "velocity_y", "velocity_z")
        assert torch.equal(torch.cat([batch.context, batch.targets], 1), batch.fields)
        assert batch.context.shape[1] == 2
        assert batch.parameters["Schmidt"].tolist() == [2, 2]
        assert batch.parameters_of(0)["Reynolds"] == 200
        assert batch.times.tolist() == [[0.25, 0.5, 0.75, 1, 1.25], [1.25, 1.5, 1.75, 2, 2.25]]
        assert batch.grid.boundaries == ((2, 2),) * 3
        assert batch.grid.geometry.spacing == pytest.approx((1 / 32, 2 / 64, 1), rel=1e-6)
        assert batch.to("meta").fields.device.type == "meta"
        with h5py.File(tiny_well / "data/train" / f"{batch.windows[0].file}.hdf5") as file:
            assert torch.equal(batch.fields[0, :, 3, ..., 0], torch.tensor(file["t1_fields/velocity"][0, 1:6, ..., 1]))
        data.teardown("predict")

    def test_strides_give_windows_of_their_own(self, tiny_well: Path) -> None:
        data = module(tiny_well, time_strides=[1, 2, 1])
        read = windows(data.predict_dataloader())
        assert len(read) == len(set(read)) == 4 * 2 * 2
        assert sum(w.endswith("_stride2") for w in read) == 8
        data.teardown("predict")

    def test_workers_read_the_same(self, tiny_well: Path) -> None:
        loaders = {}
        for workers in (0, 2):
            data = module(tiny_well, num_workers=workers, one_step_every=3, batch_size=4)
            torch.manual_seed(5)
            loaders[workers] = [*data.train_dataloader(), *data.val_dataloader()[1], *data.predict_dataloader()]
            data.teardown("fit")
        assert len(loaders[0]) == len(loaders[2]) == 30 + 1 + 2
        for one, other in zip(loaders[0], loaders[2], strict=True):
            assert one.windows == other.windows
            assert torch.equal(one.fields, other.fields) and torch.equal(one.times, other.times)
            assert one.parameters.keys() == other.parameters.keys()
        assert loaders[0][0].windows[0].start != 0 or loaders[0][0].windows[1].start != 1  # shuffled


class TestSplits:
    def test_by_trajectory(self, tiny_well: Path) -> None:
        """Crossed initial conditions stay together: by content, none is on both sides."""
        shares = {"test": 0.33, "train": 0.34, "valid": 0.33}  # in whatever order a configuration names them
        data = module(tiny_well / "data/train", split_fractions=shares)
        starts: dict[str, list[bytes]] = {}
        for split in ("train", "valid", "test"):
            dataset = data.dataset(split, WindowSpec(1, 1, every=None))
            assert len(dataset) == 4  # one trajectory in each of four files
            starts[split] = [dataset[i].fields[0, 2:].numpy().tobytes() for i in range(4)]
            assert len(set(starts[split])) == 1
        assert len({some[0] for some in starts.values()}) == 3
        assert [w.trajectory for w in data.dataset("train", WindowSpec(1, 1, every=None)).windows] == [0] * 4
        data.teardown("fit")

    def test_leave_rollouts_their_trajectories(self, tiny_well: Path) -> None:
        data = module(tiny_well / "data/train", split_fractions={"train": 0.3, "test": 0.7}, trajectories=[0, 2])
        assert {w.trajectory for w in data.predict_dataloader().dataset.windows} == {2}
        data.teardown("predict")

    @pytest.mark.parametrize(
        ("shares", "message"),
        [
            ({"train": 0.8, "test": 0.4}, "sum to at most 1; found"),
            ({"train": 1.2, "test": -0.2}, r"shares in \[0, 1\]"),
            ({"train": 0.8, "tset": 0.2}, "train, valid, test"),
            ({}, "split_fractions must give"),
            ({"train": 0.0}, "split_fractions must give"),
        ],
    )
    def test_that_make_no_sense_are_told(self, tiny_well: Path, shares: dict[str, float], message: str) -> None:
        with pytest.raises(PhysteerError, match=message):
            module(tiny_well / "data/train", split_fractions=shares)

    def test_that_are_empty_are_told(self, tiny_well: Path) -> None:
        data = module(tiny_well / "data/train", split_fractions={"train": 0.9, "test": 0.1})
        with pytest.raises(PhysteerError, match=r"no trajectory is left: those from 90% to 100% of 3 are \[\]"):
            data.predict_dataloader()
        with pytest.raises(PhysteerError, match="gives 'valid' no share"):
            data.val_dataloader()
        data.teardown("predict")


class TestHandles:
    def test_one_per_file_for_all_loaders_of_a_split(self, tiny_well: Path) -> None:
        data = module(tiny_well)
        for loader in data.val_dataloader():
            windows(loader)
        assert len({id(loader.dataset._open_files) for loader in data.val_dataloader()}) == 1
        assert open_count(tiny_well) == 4
        data.teardown("validate")
        assert open_count(tiny_well) == 0

    @pytest.mark.parametrize("workers", [0, 1])
    def test_none_after_a_run(self, tiny_well: Path, workers: int) -> None:
        data, reader = module(tiny_well, one_step_every=5, num_workers=workers), Reader()
        trainer(limit_train_batches=2).fit(reader, data)
        assert open_count(tiny_well) == 0
        trainer().predict(reader, data, return_predictions=False)
        assert open_count(tiny_well) == 0
        assert [len(read) for read in reader.read.values()] == [4, 8, 4, 8]

    def test_none_after_an_error(self, tiny_well: Path) -> None:
        with pytest.raises(RuntimeError, match="stop"):
            trainer().predict(Reader(fail=True), module(tiny_well), return_predictions=False)
        assert open_count(tiny_well) == 0


class TestMistakes:
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"batch_size": 0}, "data.batch_size must be at least 1, found 0"),
            ({"n_steps_input": 0}, "data.n_steps_input must be at least 1, found 0"),
            ({"rollout_steps": -3}, "data.rollout_steps must be at least 1, found -3"),
            ({"rollout_every": 0}, "data.rollout_every must be at least 1, found 0"),
            ({"time_strides": []}, "data.time_strides must be at least 1"),
            ({"time_strides": [2, 0]}, "data.time_strides must be at least 1, found 0"),
            ({"first_start": -1}, "data.first_start must be at least 0, found -1"),
            ({"num_workers": -1}, "data.num_workers must be at least 0, found -1"),
        ],
    )
    def test_in_settings_are_told(self, setting: dict[str, object], message: str) -> None:
        with pytest.raises(PhysteerError, match=message):
            module("anywhere", **setting)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"path": "{}/elsewhere"}, r"no HDF5 files in .*/elsewhere/data/test; .*/elsewhere/data does not exist"),
            ({"predict_split": "train"}, r"no HDF5 files in .*/data/train; .*/data has test, valid"),
            ({"include": ["pancake"]}, "the filters leave none of the 2 files"),
            ({"rollout_steps": 8}, r"one needs 2 \+ 8 frames, 1 apart, from frame 0; trajectories have up to 9 frames"),
            ({"first_start": 5}, r"one needs 2 \+ 3 frames, 1 apart, from frame 5"),
            ({"trajectories": [0, 3]}, "no trajectory 3; files have up to 3, counted from 0"),
            ({"fields": {"heigth": "density"}}, "cannot rename 'heigth': .*; did you mean 'height'"),
        ],
    )
    def test_about_the_data_are_told(self, tmp_path: Path, setting: dict[str, object], message: str) -> None:
        shutil.rmtree(write_splits(tmp_path, PLANET) / "data/train")
        given = {"path": str(tmp_path), **setting}
        given["path"] = given["path"].format(tmp_path)
        with pytest.raises(PhysteerError, match=message) as caught:
            module(**given).predict_dataloader()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_found_while_reading_are_one_line(self, tmp_path: Path, workers: int) -> None:
        write_splits(tmp_path, PLANET)
        with h5py.File(tmp_path / "data/test/planet_1.hdf5", "r+") as file:
            file["t1_fields/velocity"][1, 3, 0, 0, 1] = float("nan")
        data = module(tmp_path, num_workers=workers)
        with pytest.raises(PhysteerError) as caught:
            windows(data.predict_dataloader())
        assert str(caught.value) == (
            f"velocity_phi of trajectory 1 in {tmp_path}/data/test/planet_1.hdf5 has values that are not finite, "
            "first in frame 3; if there is no flow in these cells, data.fill gives them a value"
        )
        data.teardown("predict")


SCRIPT = """
import json
from pathlib import Path
from test_data_module import Reader, module, trainer

data, reader = module({path!r}, one_step_every=2, trajectories=[0], exclude=["Reynolds_2e3_Schmidt_2e0"]), Reader()
many = trainer(devices=2, strategy="ddp")
many.fit(reader, data)
many.test(reader, data, verbose=False)
many.predict(reader, data, return_predictions=False)
few = module({path!r}, trajectories=[0], include=["Reynolds_2e3_Schmidt_2e0"])
alone = Reader()
for run in (many.validate, many.predict):
    run(alone, few, **({{"verbose": False}} if run == many.validate else {{"return_predictions": False}}))
reader.read |= {{f"few {{stage}}": read for stage, read in alone.read.items()}}
Path({out!r}, f"{{many.global_rank}}.json").write_text(json.dumps(reader.read))
"""


def test_two_processes_read_each_window_once(tiny_well: Path, tmp_path: Path) -> None:
    """Also where they cannot share evenly, 3 rollouts or a single one: all loops end."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(path=str(tiny_well), out=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=importing(__file__),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    expected = module(tiny_well, one_step_every=2, trajectories=[0], exclude=["Reynolds_2e3_Schmidt_2e0"])
    for stage, loader, counts in (
        ("validate 0", expected.val_dataloader()[0], (8, 7)),
        ("validate 1", expected.val_dataloader()[1], (2, 1)),
        ("test 0", expected.test_dataloader()[0], (15, 15)),
        ("test 1", expected.test_dataloader()[1], (2, 1)),
        ("predict", expected.predict_dataloader(), (2, 1)),
    ):
        assert tuple(len(rank[stage]) for rank in ranks) == counts
        assert sorted(ranks[0][stage] + ranks[1][stage]) == sorted(windows(loader))
    assert sorted(ranks[0]["fit"] + ranks[1]["fit"]) == sorted(windows(expected.train_dataloader()))
    one = module(tiny_well, trajectories=[0], include=["Reynolds_2e3_Schmidt_2e0"])
    for stage, loader in (("validate 1", one.val_dataloader()[1]), ("predict", one.predict_dataloader())):
        assert [rank.get(f"few {stage}", []) for rank in ranks] == [windows(loader), []]
    for data in (expected, one):
        data.teardown("fit")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_finished_windows_are_left_out_of_predict(tiny_well: Path, world: int) -> None:
    """Each process goes on in its own share; one may have nothing left, and still says it has a batch."""
    data = module(tiny_well, batch_size=3)
    everything = [str(window) for window in data.predict_dataset().windows]
    finished = {name for i, name in enumerate(everything) if i % 3 == 0 or i > 5}
    left_out = {index for index, name in enumerate(everything) if name in finished}
    left = [OnceInOrder(data.predict_dataset(), world, rank, left_out) for rank in range(world)]
    found = [[everything[index] for index in share] for share in left]
    assert sorted(name for share in found for name in share) == sorted(set(everything) - finished)
    assert all(name in everything[rank::world] for rank, share in enumerate(found) for name in share)
    data.finished = finished
    assert windows(data.predict_dataloader()) == [name for name in everything if name not in finished]
    assert [str(window) for window in data.predict_dataset().windows] == everything
    data.finished = set(everything)
    assert len(data.predict_dataloader()) == 1 and not list(data.predict_dataloader())
    data.teardown("predict")
