"""Distributed alignment search through the real command line, on tiny data and a tiny random Walrus."""

import csv
import dataclasses
import math
import shutil
from pathlib import Path

import h5py
import pytest
import torch
from helpers.experiments import callback, experiment, two_processes, weights
from helpers.planted import two_walruses_in_one
from helpers.searches import SMALL, fit, search, table
from torch import Tensor

from physteer import WalrusModule
from physteer.analyses.das import FieldLoss, InterchangeObjective, VariantPlan, make_variants
from physteer.analyses.engine import ForecastSuffix, PrefixCache
from physteer.cli import main
from physteer.concepts import Concept, ConceptSubspace
from physteer.data import CounterfactualDataModule
from physteer.interventions import Locus, Site
from physteer.metrics import largest_principal_angle
from physteer.walrus import save

FIELDS = ("tracer", "pressure", "velocity_x", "velocity_y")


@pytest.fixture(scope="module")
def walrus(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("walrus") / "walrus.safetensors")


def state(checkpoint: Path) -> dict[str, Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def learned(checkpoint: Path) -> dict[str, Tensor]:
    """The trained numbers of a checkpoint."""
    return {name: value for name, value in state(checkpoint).items() if "_learned_" in name or "_shuffled_" in name}


def of_step(run: Path, step: int) -> Path:
    return next((run / "checkpoints").glob(f"*step={step}.ckpt"))


@pytest.fixture(scope="module")
def searched(tiny_well, walrus, tmp_path_factory):
    """Two sites, two ranks and boundless, four steps, a checkpoint every two; the folder."""
    folder = tmp_path_factory.mktemp("searched")
    das = {"sites": ["encoder", "blocks.0"], "ranks": [1, 3], "boundless": True, "null_penalty": 0.5}
    fit(search(folder, tiny_well, walrus, das=das, data={"null_parameter": "Schmidt"}))
    return folder


def test_a_search_makes_a_run_folder(searched):
    run = searched / "run"
    for name in ("recovery_test.png", "recovery_fields_test.png"):
        assert (run / "figures" / name).stat().st_size > 10_000
    assert (run / "report.html").is_file()
    valid, test = table(run, "valid"), table(run)
    assert {key[1] for key in valid} == {"learned", "shuffled", "model"}
    assert {key[1] for key in test} == {"learned", "shuffled", "random", "full", "model"}
    for site in ("encoder", "blocks.0"):
        for rank in ("1", "3"):
            for metric in ("recovery", "nearness", "interchange_accuracy"):
                assert (site, "learned", rank, "", metric, "") in test
            who = site, "learned", rank, ""
            for field in ("", *FIELDS):
                recovery, control = (test[site, kind, rank, "", "recovery", field] for kind in ("learned", "shuffled"))
                for scores in (valid, test):
                    assert (*who, "recovery_above_shuffled", field) in scores
                assert test[*who, "recovery_above_shuffled", field] == pytest.approx(recovery - control, abs=1e-6)
                beaten = recovery > test[site, "random", rank, "1", "recovery", field]
                assert test[*who, "recovery_p_value", field] == (0.5 if beaten else 1.0)  # of one random rotation
            for field in FIELDS:
                assert test[site, "learned", rank, "", "null_movement", field] >= 0
                assert test[site, "random", rank, "1", "movement", field] > 0
                share = test[*who, "null_movement", field] / test[*who, "movement", field]
                assert test[*who, "null_share", field] == pytest.approx(share, rel=1e-6)
            of = [{f: test[*who, m, f] ** 2 for f in FIELDS} for m in ("null_movement", "movement")]
            pooled = [math.sqrt(sum(null.values()) / sum(moved.values())) for null, moved in [of]]
            assert test[*who, "null_share", ""] == pytest.approx(pooled[0], rel=1e-6)
            null, moved = (sum(value for f, value in squares.items() if f != "tracer") for squares in of)
            exact = "exact_null_share", "pressure, velocity_x, velocity_y"
            assert test[*who, *exact] == pytest.approx(math.sqrt(null / moved), rel=1e-6)
    assert {p.name for p in (run / "concepts").iterdir()} == {p.name for p in (run / "rotations").iterdir()}
    assert len(list((run / "concepts").glob("das_Reynolds_*_rank[13].safetensors"))) == 4
    assert len(list((run / "concepts").glob("das_Reynolds_*_boundless.safetensors"))) == 2
    with (run / "logs/version_0/metrics.csv").open() as file:
        logged = next(csv.reader(file))
    names = ("blocks.0_learned_rank_3", "blocks.0_shuffled_rank_3", "encoder_learned_boundless")
    scalars = {f"val/{metric}{end}" for metric in ("recovery", "nearness") for end in ("", *(f"/{n}" for n in names))}
    assert scalars <= set(logged)
    ceiling = {key[4:] for key in test if key[1] == "model"}
    assert ceiling == {("nearness", "")}


def test_directions_lie_inside_their_subspaces_and_point_to_larger_values(searched, tiny_well):
    checkpoint = state(searched / "run/checkpoints/last.ckpt")
    for path in sorted((searched / "run/concepts").glob("*_rank[13].safetensors")):
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


# --- checkpoints


def test_a_checkpoint_holds_the_interventions_alone(searched):
    path = searched / "run/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"] and all(name.startswith("interventions.") for name in checkpoint["state_dict"])
    assert path.stat().st_size < 300_000  # two boundless rotations with their optimiser; the network is as large alone
    assert {
        group["weight_decay"] for group in checkpoint["optimizer_states"][0]["param_groups"] if group["params"]
    } == {0}


def test_resuming_gives_the_rotations_of_an_uninterrupted_search(searched, tmp_path):
    config = (searched / "das.yaml").read_text().replace(str(searched / "run"), str(tmp_path / "run"))
    (tmp_path / "das.yaml").write_text(config)
    fit(tmp_path / "das.yaml", "--ckpt_path", of_step(searched / "run", 2))
    whole, resumed = state(searched / "run/checkpoints/last.ckpt"), state(tmp_path / "run/checkpoints/last.ckpt")
    first = state(of_step(searched / "run", 2))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert all(not torch.equal(first[name], whole[name]) for name in learned(of_step(searched / "run", 2)))
    assert table(tmp_path / "run") == table(searched / "run")


def test_a_checkpoint_is_scored_again(searched, tmp_path):
    words = ["--ckpt_path", str(searched / "run/checkpoints/last.ckpt"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["test", "--config", str(searched / "das.yaml"), *words]) == 0
    assert table(tmp_path) == table(searched / "run")
    assert not (tmp_path / "concepts").exists()  # they are measured on valid, in fit


def test_more_random_rotations_are_scored_later(searched, tmp_path):
    """They are drawn and not learned: no checkpoint holds them."""
    config = (searched / "das.yaml").read_text().replace("random: 1\n", "random: 19\n")
    (tmp_path / "das.yaml").write_text(config)
    path = searched / "run/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert not any("random" in name for name in checkpoint["state_dict"])
    former = "interventions.blocks_0_random_rank_1_1.subspaces.0.rotation.raw"  # earlier ones did
    checkpoint["state_dict"][former] = torch.zeros(32, 1)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    words = ["--ckpt_path", str(tmp_path / "last.ckpt"), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["test", "--config", str(tmp_path / "das.yaml"), *words]) == 0
    found, before = table(tmp_path / "run"), table(searched / "run")
    assert all(found[key] == value for key, value in before.items() if not key[4].endswith("p_value"))
    assert {key[3] for key in found if key[1] == "random"} == {str(n + 1) for n in range(19)}
    recovery = {key[1:4]: v for key, v in found.items() if key[0] == "blocks.0" and key[4:] == ("recovery", "")}
    randoms = [recovery["random", "3", str(n + 1)] for n in range(19)]
    beating = sum(value >= recovery["learned", "3", ""] for value in randoms)
    assert found["blocks.0", "learned", "3", "", "recovery_p_value", ""] == (1 + beating) / 20


def test_a_checkpoint_of_another_network_is_refused(searched, tmp_path, capsys):
    other = weights(tmp_path / "walrus.safetensors", seed=1)
    words = ["--ckpt_path", str(searched / "run/checkpoints/last.ckpt"), "--model.checkpoint", str(other)]
    assert main(["test", "--config", str(searched / "das.yaml"), *words]) == 2
    assert "the checkpoint was trained on the frozen model" in capsys.readouterr().err


# --- what Lightning brings

QUICK = {"limit_test_batches": 0}  # without figures


def test_early_stopping_and_the_best_checkpoint(tiny_well, walrus, tmp_path):
    stopping = callback("lightning.pytorch.callbacks.EarlyStopping", monitor="val/recovery", mode="max", patience=2)
    best = callback("lightning.pytorch.callbacks.ModelCheckpoint", monitor="val/recovery", mode="max")
    settings = {"max_steps": 9, "val_check_interval": 1, "model": {"learning_rate": 0.0}}
    fit(search(tmp_path, tiny_well, walrus, callbacks=[stopping, best], **settings, **QUICK))
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 1  # never better than at first
    with (tmp_path / "run/logs/version_0/metrics.csv").open() as file:
        assert max(int(row["step"]) for row in csv.DictReader(file)) == 2  # two more, then it stops


def test_rotations_stay_float32_and_orthonormal_in_mixed_precision(tiny_well, walrus, tmp_path):
    fit(search(tmp_path, tiny_well, walrus, precision="bf16-mixed"))
    (raw,) = (v for name, v in learned(tmp_path / "run/checkpoints/last.ckpt").items() if "_learned_" in name)
    assert raw.dtype == torch.float32
    (path,) = (tmp_path / "run/rotations").iterdir()
    basis = ConceptSubspace.load(path).basis
    assert (basis.mT @ basis - torch.eye(2)).abs().max() < 1e-6


def test_two_processes_find_what_one_finds(tiny_well, walrus, tmp_path):
    data = {"evaluation_pairs": 5, "null_parameter": "Schmidt"}
    config = search(tmp_path, tiny_well, walrus, das={"null_penalty": 0.5}, data=data)
    fit(config)
    words = ["--data.batch_size", 2, "--trainer.default_root_dir", tmp_path / "two"]
    two_processes(tmp_path, "fit", "--config", config, *words)
    one, other = (learned(tmp_path / f"{name}/checkpoints/last.ckpt") for name in ("run", "two"))
    assert len(one) == 2  # learned and shuffled
    assert all((value - other[name]).abs().max() < 1e-5 for name, value in one.items())
    alone, both = (table(tmp_path / name) for name in ("run", "two"))
    assert alone.keys() == both.keys()
    assert all(both[key] == pytest.approx(value, abs=1e-4) for key, value in alone.items())
    (name,) = (path.name for path in (tmp_path / "run/concepts").iterdir())
    one, two = (Concept.load(tmp_path / run / "concepts" / name) for run in ("run", "two"))
    assert one.counts == two.counts == {"pairs": 5}
    assert torch.allclose(one.direction, two.direction, atol=1e-5 * float(one.direction.norm()))


# --- every kind of pair, truth and loss

READOUT = {"class_path": "physteer.data.ReadoutTruth", "init_args": {"readout": "kinetic_energy"}}
READOUT_LOSS = {"class_path": "physteer.analyses.das.ReadoutLoss", "init_args": {"readout": "kinetic_energy"}}
MATCHED = {"class_path": "physteer.data.MatchedTruth", "init_args": {"agreement": 1.0}}
FAR = {"same_initial_condition": False, "other_parameters": "any"}


@pytest.mark.parametrize(
    ("das", "data"),
    [
        ({"ranks": [1, 2], "seeds": 2}, {"variables": ["Reynolds", "Schmidt"]}),
        ({"loss": READOUT_LOSS}, {"truth": READOUT, **FAR}),
        ({"loss": READOUT_LOSS}, {}),
        ({}, {"truth": MATCHED}),
        ({"frames": None}, FAR),
    ],
    ids=["two variables", "readout", "readout of the true frame", "matched", "means of all frames"],
)
def test_searches_of_every_kind(tiny_well, walrus, tmp_path, das, data):
    well = tmp_path / "well"  # validation too on two initial conditions, so that sources can be of the other
    shutil.copytree(tiny_well, well, ignore=shutil.ignore_patterns("valid"))
    shutil.copytree(tiny_well / "data/test", well / "data/valid")
    fit(search(tmp_path, well, walrus, das=das, data=data, max_steps=2, model={"jitter_seed": 0}))
    found = table(tmp_path / "run")
    fields = {key[5] for key in found if key[4] == "recovery"}
    assert fields == ({"", "kinetic_energy"} if "truth" in data and "loss" in das else fields)
    assert all(value == value for value in found.values())
    variables = data.get("variables", ["Reynolds"])
    names = {f"das_{v}_blocks.0_rank{r}.safetensors" for v in variables for r in das.get("ranks", [2])}
    assert {path.name for path in (tmp_path / "run/concepts").iterdir()} == names
    assert ("full" in {key[1] for key in found}) == (len(variables) == 1)
    before, after = (learned(of_step(tmp_path / "run", 2)), make(walrus, das.get("ranks", [2]), len(variables)))
    assert all(not torch.equal(value, before[f"interventions.{name}"]) for name, value in after.items())


def make(walrus: Path, ranks, n_variables: int) -> dict[str, Tensor]:
    """The rotations a search begins with."""
    variants = make_variants({Site.parse("blocks.0"): 32}, n_variables, VariantPlan(tuple(ranks), random=1), [])
    return {f"{variant.key}.{n}": p for variant in variants if variant.trained for n, p in variant.state_dict().items()}


# --- exact truths


def module(walrus: Path, jitter_seed: int | None = None) -> WalrusModule:
    one = WalrusModule(str(walrus), jitter_seed=jitter_seed).eval()
    one.freeze_network()
    return one


def objective(
    module: WalrusModule, frames, *, last_frame: bool, spatial_mean_only: bool = False
) -> InterchangeObjective:
    site = Site.parse("blocks.0")
    variants = make_variants({site: 32}, 1, VariantPlan((2,), boundless=True, random=1), [])
    cache = PrefixCache(module.forecaster, [site], last_frame=last_frame, max_bytes=2**26, folder=None)
    return InterchangeObjective(
        variants,
        ForecastSuffix(cache),
        FieldLoss(),
        Locus(frames=frames),
        spatial_mean_only=spatial_mean_only,
        boundary_penalty=1.0,
    )


@pytest.fixture(scope="module")
def pairs(tiny_well):
    data = CounterfactualDataModule(str(tiny_well), ["Reynolds"], n_steps_input=3, train_pairs=4, batch_size=4)
    yield next(iter(data.train_dataloader()))
    data.teardown("fit")


@pytest.mark.parametrize("jitter_seed", [None, 0])
@pytest.mark.parametrize("spatial_mean_only", [False, True])
@pytest.mark.parametrize("last_frame", [False, True])
def test_a_base_that_is_its_own_source_is_not_changed(walrus, pairs, jitter_seed, spatial_mean_only, last_frame):
    same = dataclasses.replace(pairs, pairs=tuple(dataclasses.replace(p, sources=(p.base,)) for p in pairs.pairs))
    one = module(walrus, jitter_seed)
    searched = objective(
        one, [-1] if last_frame else None, last_frame=last_frame, spatial_mean_only=spatial_mean_only
    ).eval()
    forecaster, suffix = one.forecaster, searched.suffix
    prepared = suffix.prepare(forecaster, same)
    with torch.no_grad():
        found = suffix.at(forecaster, Site.parse("blocks.0"), prepared)
        unedited = searched.unedited(forecaster, same, found).prediction
        whole = forecaster.predict_next(same.base.context, same.base)
        assert torch.allclose(unedited, whole, atol=1e-5)
        for variant in searched.variants:
            assert torch.equal(searched.edited(forecaster, same, variant.eval(), found).prediction, unedited), (
                variant.label
            )


def test_sources_share_the_jitter_of_their_base(walrus, pairs):
    one = module(walrus, 0)
    suffix = objective(one, [-1], last_frame=True).suffix
    prepared = suffix.prepare(one.forecaster, pairs, mismatched=True)
    pixels = torch.cat([prefix.snapshots[Site.parse("blocks.0")].rows[0] for prefix in prepared.base])
    for sources in (*prepared.sources, *prepared.mismatched):
        assert torch.equal(torch.cat([p.snapshots[Site.parse("blocks.0")].rows[0] for p in sources]), pixels)
    own, _ = one.forecaster.inputs(pairs.sources[0].context, pairs.sources[0])
    assert not torch.equal(own.shifts.pixels, pixels)


def test_one_frame_alone_gives_the_loss_and_gradients_of_all(walrus, pairs):
    found = []
    for last_frame in (False, True):
        one = module(walrus)
        searched = objective(one, [-1], last_frame=last_frame)
        loss = searched(one.forecaster, pairs, 0)
        loss.backward()
        found.append(
            (loss.detach(), [p.grad for variant in searched.variants for p in variant.parameters() if variant.trained])
        )
    (loss, gradients), (other, others) = found
    assert torch.allclose(loss, other, rtol=1e-5)
    assert all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(a.norm())) for a, b in zip(gradients, others, strict=True)
    )


def test_a_half_that_is_a_network_of_its_own_is_exchanged_exactly(tiny_well, tmp_path):
    """A tracer of another flow: known to live in half of the channels at every site, in no random half of them.

    The answer is the model's own, so nearness judges: bases have no answer of that kind for a change.
    """
    checkpoint = tmp_path / "walrus.safetensors"
    save(two_walruses_in_one(), checkpoint)
    directions = []
    for site in ("encoder", "blocks.0"):
        directions.append(tmp_path / f"tracer_{site}.safetensors")
        ConceptSubspace(torch.eye(32)[:, :16], site).save(directions[-1])
    das = {"sites": ["encoder", "blocks.0"], "ranks": [16], "frames": None, "directions": list(map(str, directions))}
    truth = {"class_path": "helpers.planted.SplicedTruth", "init_args": {"checkpoint": str(checkpoint)}}
    data = {"truth": truth, "variables": ["Schmidt"]}
    config = search(tmp_path, tiny_well, checkpoint, das=das, data=data, limit_train_batches=0, limit_val_batches=0)
    assert main(["test", "--config", str(config)]) == 0
    found = table(tmp_path / "run")
    for site in ("encoder", "blocks.0"):
        moved = found[site, "full", "32", "", "movement", "tracer"]
        assert moved > 1e-3
        assert found[site, "direction", "16", f"tracer_{site}", "nearness", "tracer"] > 1 - 1e-6
        assert found[site, "random", "16", "1", "nearness", "tracer"] < 0.9
        for field in ("pressure", "velocity_x", "velocity_y"):
            assert found[site, "direction", "16", f"tracer_{site}", "movement", field] == 0


def test_a_planted_subspace_is_found(tiny_well, walrus, tmp_path, capsys):
    planted = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(5)))[0]
    ConceptSubspace(planted, "blocks.0").save(tmp_path / "planted.safetensors")
    given = {"checkpoint": str(walrus), "subspace": str(tmp_path / "planted.safetensors")}
    data = {
        "truth": {"class_path": "helpers.planted.PlantedTruth", "init_args": given},
        "train_pairs": 32,
        "batch_size": 4,
    }
    data |= {"other_parameters": "any"}
    das = {"frames": None, "directions": [given["subspace"]], "seeds": 2}
    settings = {"max_steps": 100, "val_check_interval": 100, "model": {"learning_rate": 0.1}}
    fit(search(tmp_path, tiny_well, walrus, das=das, data=data, **settings))
    found = ConceptSubspace.load(tmp_path / "run/rotations/das_Reynolds_blocks.0_rank2.safetensors")
    assert largest_principal_angle(found.basis, planted) < 1
    scores = table(tmp_path / "run")
    nearness = {key[1]: value for key, value in scores.items() if key[4:] == ("nearness", "")}
    assert nearness["direction"] > 1 - 1e-6 and nearness["learned"] > 0.999  # to the model's own answer
    assert nearness["reseeded"] > 0.999 and scores["blocks.0", "reseeded", "2", "2", "angle", ""] < 1
    printed = capsys.readouterr().out.splitlines()
    starts = next(i for i, line in enumerate(printed) if line.startswith("starts: "))
    assert printed[starts + 2].split()[:3] == ["blocks.0", "2", "2"]
    assert max(nearness["shuffled"], nearness["random"], nearness["full"]) < 0.5


# --- mistakes


@pytest.mark.parametrize(
    ("das", "data", "message"),
    [
        ({"ranks": [33]}, {}, "rank 33 for 1 variable(s) at blocks.0: its 32 channels allow 1 to 32"),
        ({"ranks": [0]}, {}, "rank 0 for 1 variable(s) at blocks.0: its 32 channels allow 1 to 32"),
        ({"seeds": 0}, {}, "DAS.seeds must be from 1 to 100; found 0"),
        ({"boundary_penalty": -1.0}, {}, "DAS.boundary_penalty must be at least 0; found -1.0"),
        ({"ranks": [17]}, {"variables": ["Reynolds", "Schmidt"]}, "rank 17 for 2 variable(s) at blocks.0"),
        ({"ranks": []}, {}, "DAS.ranks must be different numbers, or boundless true; found []"),
        ({"ranks": [32]}, {}, "the rotation of rank 32 has no gradient"),
        ({"sites": ["blocks.1"], "frames": [0]}, {}, "site blocks.1: the rotation of rank 2 has no gradient"),
        ({"sites": ["blocks.1"], "frames": [0], "ranks": [], "boundless": True}, {}, "site blocks.1: the rotation of"),
        ({"sites": ["block.0"]}, {}, "did you mean 'blocks.0'"),
        ({"frames": [5]}, {}, "frame 5: the activation has 3"),
        ({"directions": ["nowhere.safetensors"]}, {}, "there is no concept file nowhere.safetensors"),
        ({}, {"variables": ["Reynold"]}, "no parameter 'Reynold' that all files share"),
        ({}, {"include": ["Reynolds_2e2"]}, "Reynolds is 200 everywhere; pairs need two values"),
        ({}, {"truth": MATCHED | {"init_args": {"agreement": 1e-9}}}, "is known for no pair"),
        ({}, {"truth": READOUT}, "FieldLoss needs frames as the answer; with ReadoutTruth use ReadoutLoss"),
        ({}, {"n_steps_input": 2, "pair_every": 4, "first_start": 30}, "frames"),
    ],
)
def test_mistakes_end_a_search_in_one_line(tiny_well, walrus, tmp_path, capsys, das, data, message):
    assert main(["fit", "--config", str(search(tmp_path, tiny_well, walrus, das=das, data=data, **QUICK))]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("physteer: error: "), lines


def test_windows_alone_are_refused(tiny_well, walrus, tmp_path, capsys):
    config = experiment(
        tmp_path / "x.yaml",
        model={"checkpoint": str(walrus)},
        data={"path": str(tiny_well)},
        callbacks=[callback("DAS", **SMALL)],
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["fit", "--config", str(config), "--trainer.max_steps", "1"]) == 2
    assert "DAS needs pairs: set data.class_path to physteer.CounterfactualDataModule" in capsys.readouterr().err
    steps = ["--data.rollout_steps", "1"]
    assert main(["predict", "--config", str(search(tmp_path, tiny_well, walrus)), *steps]) == 2
    assert "in predict, Steer uses what it learned" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_told(tiny_well, walrus, tmp_path, capsys):
    well = tmp_path / "well"
    shutil.copytree(tiny_well, well)
    for path in (well / "data/train").iterdir():
        with h5py.File(path, "r+") as file:
            file["t0_fields/tracer"][:, 1:] = float("nan")
    assert main(["fit", "--config", str(search(tmp_path, well, walrus, **QUICK))]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "finite" in error and "Reynolds_2e" in error
