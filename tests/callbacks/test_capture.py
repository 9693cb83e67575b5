"""Matched classes, shuffled labels, natural spaces and stored activations, against computations by hand."""

import itertools
import re

import lightning as L
import numpy as np
import pytest
import torch
import xarray as xr
from helpers.experiments import callback, experiment, random_walrus, two_processes, weights
from safetensors.torch import load_file

from physteer import WalrusModule
from physteer.analyses.steering.classes import label_permutations, units_of
from physteer.analyses.steering.natural_meter import NaturalMeter
from physteer.callbacks import NaturalSpaces, RolloutCallback, Steer
from physteer.callbacks.activation_store import _chunk
from physteer.callbacks.windows import predict_dataset
from physteer.cli import main
from physteer.concepts import Concept, DifferenceOfMeans, Naturalness
from physteer.data.batch import Window, collate
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.data.matching import initial_conditions
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.interventions import captured
from physteer.walrus import save

SITES = ["blocks.0.space.ff_hidden", "blocks.1"]
CLASSES = {"feature": "Reynolds >= 2000", "control": "Reynolds <= 500"}
EVERYTHING = [
    callback("Capture", name="re", sites=SITES, shuffles=3, seed=5, **CLASSES),
    callback("NaturalSpaces", sites=SITES, directions=8, held_out=5),
    callback("ActivationStore", sites=SITES),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capture")
    weights(folder / "walrus.safetensors")
    return folder


def config(folder, well, name, callbacks, **data):
    settings = {"path": str(well), "predict_split": "train", "rollout_steps": 1, "batch_size": 5, **data}
    model = {"checkpoint": str(folder / "walrus.safetensors"), "jitter_seed": None}
    return experiment(
        folder / f"{name}.yaml", model=model, data=settings, callbacks=callbacks, default_root_dir=str(folder / name)
    )


def predict(folder, well, name, callbacks, **data):
    assert main(["predict", "--config", str(config(folder, well, name, callbacks, **data))]) == 0
    return folder / name


@pytest.fixture(scope="module")
def run(folder, tiny_well):
    """One process; 12 windows of 3 initial conditions, in batches of 5, 5 and 2."""
    return predict(folder, tiny_well, "one", EVERYTHING)


@pytest.fixture(scope="module")
def by_hand(tiny_well):
    """The windows, and their activations from a plain forward over all of them."""
    dataset = WindowDataset(f"{tiny_well}/data/train", WindowSpec(3, 1, every=None))
    batch = collate([dataset[i] for i in range(len(dataset))], n_input=3, metadata=dataset.metadata)
    matched = initial_conditions(dataset)
    groups = {window: matched.name(window) for window in dataset.windows}
    module = WalrusModule(checkpoint=None, network=random_walrus().config)
    module.network.load_state_dict(random_walrus().state_dict())
    with torch.no_grad(), captured(module.network, SITES) as seen:
        module.forecaster.run(module.forecaster.inputs(batch.context, batch)[0])
    dataset.close()
    return batch, groups, seen


# ---------------------------------------------------------------------- processes


def test_two_processes_write_what_one_writes(folder, tiny_well, run):
    two_processes(folder, "predict", "--config", config(folder, tiny_well, "two", EVERYTHING, batch_size=2))
    files = {str(path.relative_to(run)) for path in run.rglob("*.safetensors") if "journal" not in path.parts}
    shuffled = {f"concepts/shuffled/re_{site}_{i:02d}.safetensors" for site in SITES for i in range(3)}
    assert files == shuffled | {f"{what}{site}.safetensors" for what in ("concepts/re_", "natural/") for site in SITES}
    for name in files:
        ours, theirs = load_file(run / name), load_file(folder / "two" / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            if key != "directions":  # an eigenvector's sign is anybody's
                worst = float((ours[key] - theirs[key]).abs().max() / ours[key].abs().max())
                assert worst <= (1e-6 if "concepts" in name else 1e-4), f"{name} {key}: {worst}"
    for name in files - {f"natural/{site}.safetensors" for site in SITES}:
        one, two = (Concept.load(path / name) for path in (run, folder / "two"))
        assert (
            (one.counts, one.initial_conditions)
            == (two.counts, two.initial_conditions)
            == (
                {"feature": 6, "control": 6},
                3,
            )
        )
    with xr.open_zarr(run / "activations.zarr") as one, xr.open_zarr(folder / "two/activations.zarr") as two:
        xr.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
        assert one.attrs == two.attrs


class FailsOnce(L.Callback):
    """Fails in the second batch of the first run."""

    armed = True

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 1 and FailsOnce.armed:
            FailsOnce.armed = False
            raise PhysteerError("it failed")


def test_a_run_that_is_started_again_ends_with_the_same(folder, tiny_well, run):
    path = config(folder, tiny_well, "again", [*EVERYTHING, f"{__name__}.FailsOnce"])
    assert main(["predict", "--config", str(path)]) == 2
    assert not (folder / "again/activations.zarr").exists() and not (folder / "again/natural").exists()
    for start in ("in the middle", "with nothing left to do"):
        assert main(["predict", "--config", str(path)]) == 0, start
        for name in (f"concepts/re_{SITES[1]}", f"concepts/shuffled/re_{SITES[0]}_02", f"natural/{SITES[1]}"):
            ours, theirs = (load_file(one / f"{name}.safetensors") for one in (run, folder / "again"))
            for key in ours.keys() - {"directions"}:
                torch.testing.assert_close(theirs[key], ours[key], rtol=1e-4, atol=1e-6)
        concept = Concept.load(folder / f"again/concepts/re_{SITES[1]}.safetensors")
        assert concept.counts == {"feature": 6, "control": 6} and concept.initial_conditions == 3
        with xr.open_zarr(run / "activations.zarr") as one, xr.open_zarr(folder / "again/activations.zarr") as other:
            xr.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


class FailsBehindTheFirstBlock(L.Callback):
    """Ends a run that computes the second block."""

    def on_predict_start(self, trainer, pl_module):
        def fail(*args):
            raise PhysteerError("the second block was run")

        pl_module.network.blocks[1].register_forward_pre_hook(fail)


def test_without_rollouts_nothing_behind_the_site_is_computed(folder, tiny_well, run):
    """The concept is the one of a run that rolls out too."""
    capture = callback("Capture", name="re", sites=SITES[:1], shuffles=3, seed=5, **CLASSES)
    alone = predict(folder, tiny_well, "alone", [capture, f"{__name__}.FailsBehindTheFirstBlock"], rollout_steps=6)
    one, other = (load_file(path / f"concepts/re_{SITES[0]}.safetensors")["direction"] for path in (run, alone))
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    both = [capture, "RolloutWriter", f"{__name__}.FailsBehindTheFirstBlock"]
    assert main(["predict", "--config", str(config(folder, tiny_well, "both", both))]) == 2


# ---------------------------------------------------------------------- shuffled labels


def test_shuffled_concepts_are_those_of_the_shuffled_labels(run, by_hand):
    batch, groups, seen = by_hand
    labels = {
        window: "feature" if re >= 2000 else "control"
        for window, re in zip(batch.windows, batch.parameters["Reynolds"].tolist(), strict=True)
    }
    units = units_of(labels)
    assert len(set(units.values())) == 12 and len(set(groups.values())) == 3
    for i, dealt in enumerate(label_permutations(labels, units, groups).shuffled(3, seed=5)):
        for site in SITES:
            fitter = DifferenceOfMeans()
            for row, window in enumerate(batch.windows):
                fitter.update(dealt[units[window]], seen[site][row : row + 1])
            found = Concept.load(run / f"concepts/shuffled/re_{site}_{i:02d}.safetensors")
            truth = fitter.fit(site=site).direction
            torch.testing.assert_close(found.direction, truth, rtol=1e-4, atol=1e-5)
            assert f"seed 5, shuffle {i}" in found.formula and found.classes == CLASSES


def test_a_unit_is_as_large_as_its_label():
    windows = [Window("a", t, start, stride) for t in (0, 1) for start in (0, 5) for stride in (1, 2)]

    def n_units(rule):
        units = units_of({window: "feature" if rule(window) else "control" for window in windows})
        assert units.keys() == set(windows)
        return len(set(units.values()))

    assert n_units(lambda w: w.trajectory == 0) == 2
    assert n_units(lambda w: w.stride == 2) == 4
    assert n_units(lambda w: w.start == 0) == 8


@pytest.mark.parametrize(
    ("classes", "data"),
    [
        ({"feature": "start == 4", "control": "start == 0"}, {"rollout_every": 4}),
        ({"feature": "stride == 2", "control": "stride == 1"}, {"time_strides": [1, 2]}),
        ({"feature": "enstrophy > 1.5", "control": "enstrophy < 1.5"}, {"rollout_every": 4}),
    ],
)
def test_classes_inside_a_trajectory_are_matched_and_shuffled_too(folder, tiny_well, classes, data):
    capture = callback("Capture", name="c", sites=["encoder"], shuffles=2, **classes)
    folder = predict(folder, tiny_well, f"inside_{classes['feature'].split()[0]}", [capture], **data)
    concepts = [Concept.load(path) for path in sorted(folder.rglob("c_encoder*.safetensors"))]
    assert len(concepts) == 3
    directions = [concept.direction for concept in concepts]
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.pairwise(directions))
    assert all(min(concept.counts.values()) > 0 for concept in concepts)


# ---------------------------------------------------------------------- initial conditions


def test_initial_conditions_without_both_classes_are_left_out(folder, tiny_well, capsys):
    lacking = {**CLASSES, "feature": "Reynolds >= 2000 and trajectory != 0"}
    capture = callback("Capture", name="c", sites=["encoder"], **lacking)
    concept = Concept.load(predict(folder, tiny_well, "matched", [capture]) / "concepts/c_encoder.safetensors")
    assert concept.counts == {"feature": 4, "control": 4} and concept.initial_conditions == 2
    said = capsys.readouterr().err
    assert "concept 'c': 1 of 3 initial conditions lack one of the classes and are left out" in said
    capture["init_args"]["match_initial_conditions"] = False
    concept = Concept.load(predict(folder, tiny_well, "mixed", [capture]) / "concepts/c_encoder.safetensors")
    assert concept.counts == {"feature": 4, "control": 6} and concept.initial_conditions == 3
    assert "left out" not in capsys.readouterr().err


def test_a_concept_of_some_frames(folder, tiny_well, by_hand):
    batch, _, seen = by_hand
    feature = batch.parameters["Reynolds"] >= 2000
    for frames in ([-1], [0, 1]):  # the last block computes the last frame alone unless asked
        capture = callback("Capture", name="c", sites=["blocks.1"], frames=frames, **CLASSES)
        found = Concept.load(
            predict(folder, tiny_well, f"frames{frames[0]}", [capture]) / "concepts/c_blocks.1.safetensors"
        )
        fitter = DifferenceOfMeans()
        for label, rows in (("feature", feature), ("control", ~feature)):
            fitter.update(label, seen["blocks.1"][rows][:, frames])
        torch.testing.assert_close(found.direction, fitter.fit(site="").direction, rtol=1e-4, atol=1e-5)
        assert found.formula.endswith(
            f"frames {', '.join(map(str, frames))} of the context; matched initial conditions"
        )


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (
            callback("Capture", name="c", sites=["encoder"], feature="trajectory == 0", control="trajectory == 1"),
            r"concept 'c': none of the 2 initial conditions in .* has windows of both classes; match_initial",
        ),
        (
            callback("Capture", name="c", sites=["encoder"], shuffles=216, **CLASSES),
            "concept 'c': 216 shuffles of the labels .*; there are 215 besides the labels themselves",
        ),
        (callback("Capture", name="c", sites=["encoder"], shuffles=-1, **CLASSES), "shuffles must be at least 0"),
        (
            callback("Capture", name="c", sites=["encoder"], feature="enstrophi > 1", control="enstrophy < 1"),
            "there is no 'enstrophi', only .*did you mean 'enstrophy'",
        ),
        (
            callback("NaturalSpaces", sites=["encoder"], held_out=0),
            "NaturalSpaces.held_out must be at least 1; found 0",
        ),
        (callback("ActivationStore", sites=["encoder"], dtype="int8"), "dtype.*float16"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_first_forward(folder, tiny_well, capsys, listed, message):
    assert main(["predict", "--config", str(config(folder, tiny_well, "bad", [listed]))]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert re.search(message, said[0]), said


# ---------------------------------------------------------------------- natural spaces


def test_half_of_the_initial_conditions_are_fitted_and_the_rest_held_out(run, by_hand):
    batch, groups, seen = by_hand
    fitted = set(sorted(set(groups.values()))[::2])
    rows = [row for row, window in enumerate(batch.windows) if groups[window] in fitted]
    assert len(rows) == 8
    for site in SITES:
        natural = Naturalness.load(run / f"natural/{site}.safetensors")
        tokens = seen[site][rows, -1].double().flatten(0, 3)
        torch.testing.assert_close(natural.space.mean, tokens.mean(0), rtol=1e-4, atol=1e-5)
        assert natural.space.tokens == len(tokens) and natural.site == site and len(natural.space.variances) == 8
        torch.testing.assert_close(
            natural.space.variances, torch.linalg.eigvalsh(tokens.mT.cov()).flip(0)[:8], rtol=1e-3, atol=1e-6
        )
        rest = [row for row in range(len(batch)) if row not in rows]
        truth = natural.space.distances(seen[site][rest, -1:]).mahalanobis.flatten()
        assert len(truth) == 4 == len(natural.mahalanobis)  # of 5 that were allowed
        torch.testing.assert_close(natural.mahalanobis, truth.sort().values, rtol=1e-4, atol=1e-5)
        assert natural.model and natural.data.endswith("data/train")


class Listener(RolloutCallback):
    """Owns a meter, as `Diagnostics` does."""

    def __init__(self, meter):
        self.meter, self.rows = meter, []

    def on_predict_start(self, trainer, pl_module):
        dataset = predict_dataset(trainer)
        self.meter.check(pl_module.forecaster, dataset.metadata, dataset.spec.n_input)
        pl_module.observers.append(self.meter)

    def on_rollout_start(self, trainer, pl_module, batch, conditions):
        self.meter.start(len(conditions))

    def on_rollout_end(self, trainer, pl_module, rollout):
        names = [condition.name for condition in rollout.conditions]
        for condition, row, *rest in self.meter.rows():
            self.rows.append((names[condition], str(rollout.batch.windows[row]), *rest))

    def on_predict_end(self, trainer, pl_module):
        pl_module.observers.remove(self.meter)


def trainer(folder, *callbacks):
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
    )


@pytest.mark.parametrize("per_forward", [None, 2])
def test_steered_activations_are_measured_after_the_edit_and_downstream(folder, run, tiny_well, per_forward, by_hand):
    listener = Listener(NaturalMeter([str(run / f"natural/{site}.safetensors") for site in SITES]))
    steer = Steer(str(run / f"concepts/re_{SITES[0]}.safetensors"), [0.0, 0.1, 3.0])
    module = WalrusModule(checkpoint=str(folder / "walrus.safetensors"), conditions_per_forward=per_forward)
    data = WellDataModule(str(tiny_well), n_steps_input=3, rollout_steps=2, predict_split="train", batch_size=7)
    trainer(folder / "meter", steer, listener).predict(module, data, return_predictions=False)
    assert not module.observers
    found = {row[:5]: row[5] for row in listener.rows}
    assert len(found) == len(listener.rows) == 4 * 12 * 2 * 2 * 2  # conditions, windows, steps, sites, metrics
    assert all(0 < value < 100 for value in found.values())

    def mean(condition, site, metric="natural_percentile"):
        values = [v for key, v in found.items() if key[0] == condition and key[3:] == (site, metric)]
        return sum(values) / len(values)

    names = list(dict.fromkeys(row[0] for row in listener.rows))
    assert names[0] == "unsteered"
    for site in SITES:
        assert mean(names[1], site) == pytest.approx(mean("unsteered", site), abs=1e-6)
        assert mean(names[3], site) == pytest.approx(100 * 4.5 / 5)  # farther than all four held out
    batch, groups, seen = by_hand
    fitted = set(sorted(set(groups.values()))[::2])  # the others are held out: ties, which round-off breaks
    for site in SITES:
        natural = Naturalness.load(run / f"natural/{site}.safetensors")
        truth = natural.percentiles(seen[site][:, -1:])
        for row, window in ((i, w) for i, w in enumerate(batch.windows) if groups[w] in fitted):
            key = ("unsteered", str(window), 1, site)
            assert found[*key, "natural_percentile"] == pytest.approx(float(truth.mahalanobis[row, 0]))
            assert found[*key, "residual_percentile"] == pytest.approx(float(truth.residual[row, 0]))


def test_natural_spaces_of_another_model_or_none_are_refused(folder, run, tiny_well, tmp_path):
    path = run / f"natural/{SITES[1]}.safetensors"
    with pytest.raises(PhysteerError, match=r"is of blocks\.1, as another natural space"):
        NaturalMeter([str(path)] * 2)
    with pytest.raises(PhysteerError, match="is not a natural space: it holds the tensors direction"):
        NaturalMeter([str(run / "concepts/re_blocks.1.safetensors")])
    other = WalrusModule(checkpoint=str(weights(tmp_path / "other.safetensors", seed=1)))
    data = WellDataModule(str(tiny_well), n_steps_input=3, rollout_steps=1, batch_size=8)
    with pytest.raises(PhysteerError, match=r"the natural space at blocks\.1 was measured on model .*; this model is"):
        trainer(tmp_path, Listener(NaturalMeter([str(path)]))).predict(other, data, return_predictions=False)
    alone = WellDataModule(str(tiny_well), n_steps_input=3, rollout_steps=1, batch_size=8, trajectories=[0])
    with pytest.raises(PhysteerError, match=r"two or more initial conditions; all 4 in .* have one"):
        trainer(tmp_path, NaturalSpaces(["blocks.1"])).predict(other, alone, return_predictions=False)
    assert not other.observers


# ---------------------------------------------------------------------- stored activations


def test_xarray_reads_the_activations_by_name(run, by_hand, tiny_well):
    batch, groups, seen = by_hand
    with xr.open_zarr(run / "activations.zarr") as stored:
        assert dict(stored.sizes) == {
            "window": 12, "frame": 3, "h": 8, "w": 8, "delta": 1, "channel_64": 64, "channel_32": 32
        }  # fmt: skip
        assert stored.attrs["data"].endswith("data/train") and stored.attrs["model"]
        for site in SITES:
            assert stored[site].dims[:5] == ("window", "frame", "h", "w", "delta") and stored[site].dtype == np.float32
            np.testing.assert_allclose(stored[site].values, seen[site].numpy(), rtol=1e-4, atol=1e-5)
            assert stored[site].attrs == {"long_name": f"activation at {site}", "units": "1"}
            assert {"address", "Reynolds", "initial_condition", "time"} <= set(stored[site].coords)
        assert list(stored.address.values) == [str(window) for window in batch.windows]
        assert list(stored.initial_condition.values) == [groups[window] for window in batch.windows]
        assert stored.trajectory.dtype == np.int64 and stored.start.values.tolist() == [0] * 12
        np.testing.assert_allclose(stored.time.values, batch.times[:, :3])
        fast = stored["blocks.1"].where((stored.Reynolds == 2000).compute(), drop=True)
        assert fast.sizes["window"] == 6 and set(fast.Schmidt.values) == {0.5, 2}


def test_half_precision_takes_half_the_space_and_refuses_what_it_cannot_hold(folder, run, tiny_well, capsys):
    store = callback("ActivationStore", sites=["blocks.1"], dtype="float16")
    half = predict(folder, tiny_well, "half", [store])
    with xr.open_zarr(half / "activations.zarr") as a, xr.open_zarr(run / "activations.zarr") as b:
        assert a["blocks.1"].dtype == np.float16 and "channel" in a.dims
        np.testing.assert_allclose(a["blocks.1"].values, b["blocks.1"].values, rtol=1e-3, atol=1e-3)
    loud = random_walrus()
    with torch.no_grad():
        loud.blocks[1].space.ff_out.weight.mul_(1e6)
    save(loud, folder / "loud.safetensors")
    path = config(folder, tiny_well, "loud", [store])
    path.write_text(path.read_text().replace("walrus.safetensors", "loud.safetensors"))
    assert main(["predict", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert "activation at blocks.1 for shear_flow_" in said and "float16 ends at 65504; use dtype: float32" in said
    assert not (folder / "loud/activations.zarr").exists()  # a part is not called the whole
    assert (folder / "loud/activations.zarr.partial").is_dir()


def test_a_store_that_cannot_be_made_is_told_in_one_line(folder, tiny_well, capsys):
    (folder / "taken").mkdir()
    (folder / "taken/activations.zarr.partial").write_text("not a folder")
    path = config(folder, tiny_well, "taken", [callback("ActivationStore", sites=["blocks.1"])])
    assert main(["predict", "--config", str(path)]) == 2
    assert "activations.zarr.partial" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "itemsize", "chunk"),
    [
        ((5, 16, 16, 1, 128), 2, (1, 5, 16, 16, 1, 128)),  # a whole window
        ((6, 32, 64, 1, 1408), 4, (1, 1, 32, 64, 1, 1408)),  # 11 MiB a frame
        ((3, 16, 16, 16, 1408), 4, (1, 1, 11, 16, 16, 1408)),  # 22 MiB a frame
    ],
)
def test_chunks_are_windows_or_parts_of_at_most_16_mib(shape, itemsize, chunk):
    assert _chunk(shape, itemsize) == chunk


# ---------------------------------------------------------------------- data that are not finite


def test_an_activation_that_is_not_finite_names_the_window(folder, tiny_well, capsys):
    broken = random_walrus()
    with torch.no_grad():
        broken.blocks[0].space.ff_out.weight[0, 0] = torch.nan
    save(broken, folder / "broken.safetensors")
    for listed in (EVERYTHING[0], EVERYTHING[2]):
        path = config(folder, tiny_well, "broken", [listed])
        path.write_text(path.read_text().replace("walrus.safetensors", "broken.safetensors"))
        assert main(["predict", "--config", str(path)]) == 2
        assert "at blocks.1 for shear_flow_Reynolds_2e2_Schmidt_" in capsys.readouterr().err
