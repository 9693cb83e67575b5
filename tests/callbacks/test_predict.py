"""Capturing, steering and writing rollouts through the real command line, against computations by hand."""

import itertools
import json
import re
import signal
from pathlib import Path

import h5py
import lightning as L
import pytest
import torch
import yaml
from helpers.experiments import callback, experiment, random_walrus, weights
from the_well.data import WellDataset

from physteer import WalrusModule
from physteer.callbacks import Capture, RolloutCallback, RolloutWriter, Steer
from physteer.cli import main
from physteer.commands.trainer_cli import run
from physteer.concepts import Concept
from physteer.data.batch import collate
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.interventions import Condition, Edit, Zero
from physteer.walrus import model_id

N_INPUT, N_STEPS = 3, 3
SITES = ["encoder", "blocks.0.space.ff_hidden", "blocks.0", "blocks.1"]
STRENGTHS = [-0.3, 0.0, 0.4]
CAPTURE = callback("Capture", name="vortex", sites=SITES, feature="Reynolds >= 2000", control="Reynolds <= 500")


def batch_of(path, n_steps, split):
    """All windows of a split that predict would read, as one batch."""
    spec = WindowSpec(N_INPUT, n_steps, every=None)
    with WindowDataset(f"{path}/data/{split}", spec) as windows:
        return collate([windows[i] for i in range(len(windows))], n_input=N_INPUT, metadata=windows.metadata)


def step(walrus, window, labels, boundaries):
    """One step as SCIENCE and the published code define it, with nothing of ours but the network."""
    r = window.square().mean((1, 3, 4, 5), keepdim=True).sqrt().clamp_min(1e-5)
    r_delta = window.diff(dim=1).square().mean((1, 3, 4, 5), keepdim=True).sqrt().clamp_min(1e-5)
    frame = window[:, -1:] + walrus(window / r, labels, boundaries)[:, -1:] * r_delta
    frame[:, :, 4] = window[:, -1:, 4]  # velocity_z is inflated: it stays 0
    return frame


def tree(folder: Path) -> dict[str, Path]:
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*.hdf5"))}


def stored(path: Path) -> dict[str, torch.Tensor]:
    with h5py.File(path) as file:
        return {
            name: torch.tensor(file[group][name][0]) for group in ("t0_fields", "t1_fields") for name in file[group]
        }


def same(a: Path, b: Path) -> bool:
    """Whether two rollout files hold the same frames, bit for bit."""
    x, y = stored(a), stored(b)
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


@pytest.fixture(scope="module")
def captured(tiny_well, tmp_path_factory):
    """A run that captures a concept at several sites."""
    folder = tmp_path_factory.mktemp("capture")
    data = {"path": str(tiny_well), "predict_split": "train", "rollout_steps": 1, "batch_size": 5}
    model = {"checkpoint": str(weights(folder / "walrus.safetensors"))}
    config = experiment(
        folder / "capture.yaml", model=model, data=data, callbacks=[CAPTURE], default_root_dir=str(folder / "run")
    )
    assert main(["predict", "--config", str(config)]) == 0
    return folder


def steering(folder, well, name, *, model=None, data=None, callbacks=None, **steer):
    """Write the configuration of a steering run; returns it and the run folder."""
    concept = str(folder / "run/concepts/vortex_blocks.0.safetensors")
    listed = callbacks or [callback("Steer", **{"concept": concept, "strengths": STRENGTHS, **steer}), "RolloutWriter"]
    settings = {"path": str(well), "rollout_steps": N_STEPS, "batch_size": 3, **(data or {})}
    weights = {"checkpoint": str(folder / "walrus.safetensors"), **(model or {})}
    run = folder / name
    return experiment(
        folder / f"{name}.yaml", model=weights, data=settings, callbacks=listed, default_root_dir=str(run)
    ), run


@pytest.fixture(scope="module")
def steered(captured, tiny_well):
    config, run = steering(captured, tiny_well, "steer")
    assert main(["predict", "--config", str(config)]) == 0
    return run


# ---------------------------------------------------------------------- concepts


def test_a_concept_is_the_difference_of_standardised_means_of_plain_forwards(captured, tiny_well):
    batch = batch_of(tiny_well, 1, "train")
    walrus, seen = random_walrus(), {}
    for site in SITES:
        walrus.get_submodule(site).register_forward_hook(lambda m, a, h, site=site: seen.__setitem__(site, h))
    with torch.no_grad():
        step(walrus, batch.context, walrus.config.labels(batch.channels.names), batch.grid.boundaries)
    feature = batch.parameters["Reynolds"] >= 2000
    assert feature.sum() == 6 and len(batch) == 12
    for site, h in seen.items():
        flat = h.double().flatten(2)
        z = ((flat - flat.mean(-1, keepdim=True)) / flat.std(-1, keepdim=True)).view(h.shape).mean(1)
        truth = z[feature].mean(0) - z[~feature].mean(0)
        concept = Concept.load(captured / f"run/concepts/vortex_{site}.safetensors")
        torch.testing.assert_close(concept.direction.double(), truth, rtol=1e-4, atol=1e-5 * float(truth.abs().max()))
        assert concept.site == site and concept.counts == {"feature": 6, "control": 6}
        assert concept.model == model_id(walrus) and concept.data.endswith("data/train")
        assert concept.classes == {"feature": "Reynolds >= 2000", "control": "Reynolds <= 500"}
    assert seen["blocks.0.space.ff_hidden"].shape[-1] == 64  # not the width of the residual stream


def test_a_concept_does_not_depend_on_what_else_the_run_does(captured, tiny_well):
    """Steered forwards, later steps and a second Capture are not mixed in; two groups of conditions, three batches."""
    other = callback("Capture", name="other", sites=["encoder"], feature="Schmidt == 2", control="Schmidt == 0.5")
    steer = callback("Steer", concept=str(captured / "run/concepts/vortex_encoder.safetensors"), strengths=[0.5])
    config, run = steering(
        captured,
        tiny_well,
        "both",
        model={"conditions_per_forward": 1},
        data={"predict_split": "train", "batch_size": 5},
        callbacks=[CAPTURE, other, steer],
    )
    assert main(["predict", "--config", str(config)]) == 0
    for site in SITES:
        alone, beside = (
            Concept.load(f / f"concepts/vortex_{site}.safetensors").direction for f in (captured / "run", run)
        )
        torch.testing.assert_close(beside, alone, rtol=1e-5, atol=1e-6)
    assert (run / "concepts/other_encoder.safetensors").is_file()


# ---------------------------------------------------------------------- steered rollouts


def test_one_run_holds_every_condition_of_every_window(steered):
    windows = [f"shear_flow_Reynolds_{r}_Schmidt_{s}" for r, s in itertools.product(("2e2", "2e3"), ("5e-1", "2e0"))]
    files = [f"{w}_trajectory{t:04d}_start0000.hdf5" for w in windows for t in range(2)]
    names = {f"vortex_blocks.0_drop_{s}" for s in ("-0.3", "+0", "+0.4")} | {"unsteered", "truth"}
    assert set(tree(steered / "rollouts")) == {f"{name}/data/test/{file}" for name in names for file in files}
    with h5py.File(steered / "rollouts/vortex_blocks.0_drop_+0.4/data/test" / files[0]) as file:
        found = {key: file.attrs[key] for key in ("condition", "strength", "direction", "mode", "site", "n_context")}
        assert found == {
            "condition": "vortex_blocks.0 drop +0.4",
            "strength": 0.4,
            "direction": "vortex_blocks.0",
            "mode": "drop",
            "site": "blocks.0",
            "n_context": N_INPUT,
        }
        assert file.attrs["source_file"] == windows[0] and file.attrs["Reynolds"] == 200


def test_strength_zero_is_the_unsteered_run_bit_for_bit(captured, tiny_well):
    """In forwards of one shape: products of matrices may round rows of one batch differently, edit or no edit."""
    config, run = steering(captured, tiny_well, "apart", model={"conditions_per_forward": 1}, strengths=[0.0, 0.4])
    assert main(["predict", "--config", str(config)]) == 0
    rollouts = tree(run / "rollouts")
    plain = {name: path for name, path in rollouts.items() if name.startswith("unsteered")}
    for name, path in plain.items():
        assert same(path, rollouts[name.replace("unsteered", "vortex_blocks.0_drop_+0")])
        assert not same(path, rollouts[name.replace("unsteered", "vortex_blocks.0_drop_+0.4")])


def test_files_are_what_a_loop_by_hand_gives(steered, captured, tiny_well):
    batch, walrus = batch_of(tiny_well, N_STEPS, "test"), random_walrus()
    labels, boundaries = walrus.config.labels(batch.channels.names), batch.grid.boundaries
    v = Concept.load(captured / "run/concepts/vortex_blocks.0.safetensors").direction.mean((0, 1, 2))

    def steer(alpha):
        def hook(module, args, h):
            norm = h.flatten(2).norm(dim=-1)[..., None, None, None, None]
            return h + alpha * norm * v / (v.norm() * h[0, 0, ..., 0].numel() ** 0.5)

        return walrus.blocks[0].register_forward_hook(hook)

    for alpha in (0.0, *STRENGTHS):
        condition = f"vortex_blocks.0_drop_{alpha:+g}" if alpha else "unsteered"
        window, frames, hook = batch.context, [], steer(alpha)
        with torch.no_grad():
            for _ in range(N_STEPS):
                frames.append(step(walrus, window, labels, boundaries))
                window = torch.cat([window[:, 1:], frames[-1]], 1)
        hook.remove()
        whole = torch.cat([batch.context, *frames], 1)
        for row, address in enumerate(batch.windows):
            written = stored(steered / f"rollouts/{condition}/data/test/{address}.hdf5")
            for name, channel in (("tracer", 0), ("pressure", 1)):
                torch.testing.assert_close(written[name], whole[row, :, channel, ..., 0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(written["velocity"][..., 0], whole[row, :, 2, ..., 0], rtol=1e-4, atol=1e-5)
            assert torch.equal(written["pressure"][:N_INPUT], batch.context[row, :, 1, ..., 0])


def test_truth_is_the_stored_simulation(steered, tiny_well):
    batch = batch_of(tiny_well, N_STEPS, "test")
    for row, address in enumerate(batch.windows):
        written = stored(steered / f"rollouts/truth/data/test/{address}.hdf5")
        assert torch.equal(written["tracer"], batch.fields[row, :, 0, ..., 0])
        assert torch.equal(written["velocity"][..., 1], batch.fields[row, :, 3, ..., 0])


def test_the_well_and_we_read_a_steered_run_like_any_simulation(steered):
    folder = steered / "rollouts/vortex_blocks.0_drop_-0.3"
    well = WellDataset(path=str(folder / "data/test"), n_steps_input=N_INPUT, n_steps_output=N_STEPS)
    assert len(well) == 8
    assert well[0]["output_fields"].shape == (N_STEPS, 32, 64, 4)
    with WindowDataset(f"{folder}/data/test", WindowSpec(N_INPUT, N_STEPS)) as windows:
        sample = windows[0]
    assert sample.parameters["Reynolds"] == 200 and sample.parameters["Schmidt"] in (0.5, 2)
    assert torch.isfinite(sample.fields).all()


@pytest.mark.parametrize("per_forward", [1, 2])
def test_groups_of_conditions_give_the_same_files(captured, tiny_well, steered, per_forward):
    config, run = steering(
        captured,
        tiny_well,
        f"groups{per_forward}",
        model={"conditions_per_forward": per_forward},
        data={"batch_size": 8},
    )
    assert main(["predict", "--config", str(config)]) == 0
    mine, theirs = tree(run / "rollouts"), tree(steered / "rollouts")
    assert mine.keys() == theirs.keys()
    for name, path in mine.items():
        a, b = stored(path), stored(theirs[name])
        for field in a:
            torch.testing.assert_close(a[field], b[field], rtol=1e-4, atol=1e-5)


def test_some_steps_only(captured, tiny_well, steered):
    config, run = steering(captured, tiny_well, "late", rollout_steps=[1], strengths=[0.4])
    assert main(["predict", "--config", str(config)]) == 0
    for name, path in tree(run / "rollouts/vortex_blocks.0_drop_steps_1_+0.4").items():
        plain, always = (
            stored(steered / f"rollouts/{condition}" / name) for condition in ("unsteered", "vortex_blocks.0_drop_+0.4")
        )
        late = stored(path)["tracer"]
        torch.testing.assert_close(late[: N_INPUT + 1], plain["tracer"][: N_INPUT + 1])
        assert (late[N_INPUT + 1] - plain["tracer"][N_INPUT + 1]).abs().max() > 1e-4
        assert (late[N_INPUT + 1] - always["tracer"][N_INPUT + 1]).abs().max() > 1e-4


# ---------------------------------------------------------------------- jitter


def test_jitter_is_shared_by_conditions_and_independent_of_batches(captured, tiny_well, steered):
    runs = []
    for name, size, seed in (("j1", 1, 0), ("j3", 3, 0), ("other", 3, 1)):
        config, run = steering(
            captured,
            tiny_well,
            name,
            model={"jitter_seed": seed, "conditions_per_forward": 1},
            data={"batch_size": size},
            strengths=[0.0, 0.4],
        )
        assert main(["predict", "--config", str(config)]) == 0
        runs.append(tree(run / "rollouts"))
        for window, path in runs[-1].items():
            if window.startswith("unsteered"):
                assert same(path, runs[-1][window.replace("unsteered", "vortex_blocks.0_drop_+0")])
    one, three, other = runs
    for name, path in one.items():
        a, b, c = stored(path)["tracer"], stored(three[name])["tracer"], stored(other[name])["tracer"]
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        if not name.startswith("truth"):
            assert (a - c).abs().max() > 1e-4  # the draws matter
            assert (a - stored(steered / "rollouts" / name)["tracer"]).abs().max() > 1e-4


def test_a_spatial_concept_under_jitter_warns(captured, tiny_well, capsys):
    config, _ = steering(captured, tiny_well, "warn", model={"jitter_seed": 0}, mode="pad", strengths=[0.1])
    assert main(["predict", "--config", str(config)]) == 0
    assert "warning: model.jitter_seed is 0" in capsys.readouterr().err
    config, _ = steering(captured, tiny_well, "fine", model={"jitter_seed": 0}, strengths=[0.1])
    assert main(["predict", "--config", str(config)]) == 0
    assert "warning" not in capsys.readouterr().err


# ---------------------------------------------------------------------- the run folder


def test_the_saved_configuration_repeats_the_run(steered, captured, capfd):
    again = captured / "again"
    capfd.readouterr()
    assert main(["predict", "--config", str(steered / "config.yaml"), "--trainer.default_root_dir", str(again)]) == 0
    mine, theirs = tree(again), tree(steered)
    assert mine.keys() == theirs.keys() and len(mine) == 40
    assert all(path.read_bytes() == theirs[name].read_bytes() for name, path in mine.items())
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (steered, again)]
    for settings in configs:
        settings["trainer"].pop("default_root_dir")
    assert configs[0] == configs[1]
    environment = json.loads((again / "environment.json").read_text())
    assert environment["stage"] == "predict" and environment["seed"] == 0 and environment["versions"]["torch"]
    said = capfd.readouterr()
    assert re.fullmatch(r"predict: 9 of 9 steps in \d+ s\n", said.err), said.err
    assert said.out == ""
    made = {"config.yaml", "environment.json", "experiment.json", "journal", "rollouts"}
    assert {path.name for path in again.iterdir()} == made


def test_two_settings_of_one_concept_have_names_of_their_own(captured, tiny_well):
    concept = str(captured / "run/concepts/vortex_blocks.0.safetensors")
    settings = [{}, {"site": "blocks.1"}, {"mode": "pad"}, {"rollout_steps": [0, 2]}]
    steers = [callback("Steer", concept=concept, strengths=[0.2], **more) for more in settings]
    data = {"trajectories": [0], "include": ["Reynolds_2e3_Schmidt_2e0"]}
    config, run = steering(captured, tiny_well, "many", data=data, callbacks=[*steers, "RolloutWriter"])
    assert main(["predict", "--config", str(config)]) == 0
    assert {path.name for path in (run / "rollouts").iterdir()} == {
        "truth",
        "unsteered",
        "vortex_blocks.0_drop_+0.2",
        "vortex_blocks.0_drop_+0.2_at_blocks.1",
        "vortex_blocks.0_pad_+0.2",
        "vortex_blocks.0_drop_steps_0_2_+0.2",
    }


def test_the_same_setting_twice_is_refused(captured, tiny_well, capsys):
    concept = str(captured / "run/concepts/vortex_blocks.0.safetensors")
    twice = [callback("Steer", concept=concept, strengths=[0.2])] * 2
    config, run = steering(captured, tiny_well, "twice", callbacks=[*twice, "RolloutWriter"])
    assert main(["predict", "--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert "trainer.callbacks[0] (Steer) and trainer.callbacks[1] (Steer) both add" in error
    assert "a condition called 'vortex_blocks.0 drop +0.2'" in error
    assert not (run / "rollouts").exists()


def test_networks_in_low_precision_keep_the_data_in_float32(captured, tiny_well, steered):
    config, run = steering(captured, tiny_well, "low", data={"include": ["Reynolds_2e3"]}, strengths=[0.4])
    concept = Concept.load(captured / "run/concepts/vortex_blocks.0.safetensors")
    assert main(["predict", "--config", str(config), "--trainer.precision", "bf16-true"]) == 0
    for name, path in tree(run / "rollouts").items():
        low, full = stored(path)["tracer"], stored(steered / "rollouts" / name)["tracer"]
        assert torch.equal(low[:N_INPUT], full[:N_INPUT])
        change = (full[N_INPUT:] - full[N_INPUT - 1]).abs().max()
        assert (low - full).abs().max() < 0.1 * change
    assert concept.direction.dtype == torch.float32
    assert json.loads((run / "environment.json").read_text())["precision"] == "bf16-true"


@pytest.mark.slow
def test_compiled_blocks_give_the_same_concept(captured, tiny_well):
    data = {"predict_split": "train", "rollout_steps": 1, "batch_size": 5}
    sites = callback("Capture", **CAPTURE["init_args"] | {"sites": ["blocks.0", "blocks.1"]})
    config, run = steering(captured, tiny_well, "compiled", model={"compile": True}, data=data, callbacks=[sites])
    assert main(["predict", "--config", str(config)]) == 0
    for site in ("blocks.0", "blocks.1"):
        plain, compiled = (
            Concept.load(f / f"concepts/vortex_{site}.safetensors").direction for f in (captured / "run", run)
        )
        assert (plain - compiled).abs().max() < 1e-4 * plain.abs().max()


# ---------------------------------------------------------------------- nothing left behind


class Failing(RolloutCallback):
    """Raises in the middle of a rollout."""

    def __init__(self, error: BaseException):
        self.error = error

    def on_rollout_step(self, trainer, pl_module, step, n_steps):
        if step == 2:
            raise self.error


@pytest.mark.parametrize("error", [None, ValueError("halfway"), KeyboardInterrupt()])
def test_callbacks_leave_nothing_on_the_module(captured, tiny_well, tmp_path, error):
    concept = str(captured / "run/concepts/vortex_blocks.0.safetensors")
    module = WalrusModule(checkpoint=str(captured / "walrus.safetensors"))
    data = WellDataModule(str(tiny_well), n_steps_input=3, rollout_steps=3, predict_split="train")
    theirs = module.network.blocks[0].register_forward_hook(lambda *_: None)
    callbacks = [
        Capture("vortex", ["blocks.0", "blocks.1"], "Reynolds > 500", "Reynolds < 500"),
        Steer(concept, [0.1]),
        RolloutWriter(),
        *([Failing(error)] if error else []),
    ]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, default_root_dir=tmp_path, **quiet)
    if error is None:
        trainer.predict(module, data, return_predictions=False)
        trainer.predict(module, data, return_predictions=False)  # again: the conditions are not doubled
    else:
        on_interrupt = signal.getsignal(signal.SIGINT)  # Lightning ignores it after a KeyboardInterrupt
        with pytest.raises(SystemExit if isinstance(error, KeyboardInterrupt) else type(error)):
            trainer.predict(module, data, return_predictions=False)
        signal.signal(signal.SIGINT, on_interrupt)
    hooks = {name: len(m._forward_hooks) for name, m in module.network.named_modules() if m._forward_hooks}
    assert hooks == {"blocks.0": 1}
    theirs.remove()
    assert [condition.name for condition in module.conditions] == ["unsteered"]
    assert not module.observers and module.rolls_out
    assert not list(tmp_path.rglob("*.tmp*"))
    assert (tmp_path / "concepts").exists() == (error is None)


def test_capture_needs_the_unsteered_model_first(captured, tiny_well, tmp_path):
    module = WalrusModule(checkpoint=str(captured / "walrus.safetensors"))
    module.conditions = [Condition("zero", (Edit("blocks.0", Zero()),))]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=[Capture("vortex", ["blocks.0"], "Reynolds > 500", "Reynolds < 500")],
        default_root_dir=tmp_path,
        **quiet,
    )
    with pytest.raises(PhysteerError, match="unsteered model first"):
        trainer.predict(module, WellDataModule(str(tiny_well), 3, rollout_steps=1), return_predictions=False)


def test_run_hands_out_what_it_built(captured, tiny_well):
    config, _ = steering(captured, tiny_well, "build")
    cli = run(["predict", "--config", str(config)], only_build=True)
    assert isinstance(cli.model, WalrusModule) and isinstance(cli.datamodule, WellDataModule)
    assert [type(c).__name__ for c in cli.trainer.callbacks][:2] == ["Steer", "RolloutWriter"]
