"""A penalty on what must not move: sources that differ in a parameter which the variable's subspace should ignore."""

import dataclasses

import pytest
import torch
from helpers.experiments import weights
from helpers.searches import fit, search, table

from physteer import WalrusModule
from physteer.analyses.das import (
    FieldLoss,
    InterchangeObjective,
    NullPenalty,
    NullSources,
    VariantPlan,
    make_variants,
)
from physteer.analyses.engine import ForecastSuffix, PrefixCache
from physteer.cli import main
from physteer.data import CounterfactualDataModule
from physteer.interventions import Locus, Site

SITE = Site.parse("blocks.0")
FIELDS = ("pressure", "velocity_x", "velocity_y")


@pytest.fixture(scope="module")
def walrus(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("walrus") / "walrus.safetensors")


@pytest.fixture(scope="module")
def data(tiny_well):
    data = CounterfactualDataModule(str(tiny_well), ["Reynolds"], n_steps_input=3, train_pairs=4, batch_size=4)
    yield data
    data.teardown("fit")


@pytest.fixture(scope="module")
def sources(data):
    return NullSources(data.pairs("train", dataclasses.replace(data.rules, null="Schmidt"), 4))


def test_the_penalty_lowers_the_null_of_held_out_pairs(tiny_well, walrus, tmp_path):
    shares, moved = {}, {}
    for weight in (0.0, 30.0):
        folder = tmp_path / str(weight)
        das = {"null_penalty": weight, "shuffled": False, "random": 0, "ranks": [4]}
        data = {"null_parameter": "Schmidt", "train_pairs": 32, "evaluation_pairs": 12}
        fit(search(folder, tiny_well, walrus, das=das, data=data, max_steps=40, val_check_interval=40))
        found = table(folder / "run")
        who = "blocks.0", "learned", "4", ""
        shares[weight] = found[*who, "exact_null_share", ", ".join(FIELDS)]
        moved[weight] = [found[*who, "null_movement", field] for field in FIELDS]
    assert shares[30.0] < 0.9 * shares[0.0]
    assert all(with_penalty < 0.5 * without for with_penalty, without in zip(moved[30.0], moved[0.0], strict=True))


def test_null_sources_differ_in_the_null_parameter_alone(data, sources):
    pairs = next(iter(data.train_dataloader()))
    nulls = sources.of(pairs)
    assert nulls.base_windows == pairs.base_windows and nulls.pairs == sources.of(pairs).pairs
    for pair in nulls.pairs:
        (source,) = pair.sources
        own, other = (data.pair_windows("train").parameters_of(window) for window in (pair.base, source))
        assert {name for name in own if own[name] != other[name]} == {"Schmidt"}
    read = pairs.base.parameters["Schmidt"].tolist(), nulls.sources[0].parameters["Schmidt"].tolist()
    assert all(a != b for a, b in zip(*read, strict=True))


def test_the_penalty_is_the_mean_rms_of_pairs_and_its_windows_are_cached(walrus, data, sources):
    module = WalrusModule(str(walrus), jitter_seed=0).eval()
    module.freeze_network()
    forecaster, pairs = module.forecaster, next(iter(data.train_dataloader()))
    variants = make_variants({SITE: 32}, 1, VariantPlan((2,), shuffled=False, random=0), [])
    cache = PrefixCache(forecaster, [SITE], last_frame=True, max_bytes=2**26, folder=None)
    objectives = [
        InterchangeObjective(variants, ForecastSuffix(cache), FieldLoss(), Locus(frames=[-1]), null_penalty=penalty)
        for penalty in (None, NullPenalty(0.5, FIELDS, sources))
    ]
    alone, penalised = (objective(forecaster, pairs, 1) for objective in objectives)

    nulls, suffix = sources.of(pairs), objectives[0].suffix
    activations = suffix.at(forecaster, SITE, suffix.prepare(forecaster, nulls))
    with torch.no_grad():
        edited = objectives[0].edited(forecaster, nulls, variants[0], activations).prediction
        moved = (edited - objectives[0].unedited(forecaster, nulls, activations).prediction)[:, :, 1:4]
    rms = (moved / activations.scale.differences[:, :, 1:4]).square().mean((1, 2, 3, 4, 5)).sqrt()
    assert pairs.metadata.channels.names[1:4] == FIELDS and len(rms) == 4
    assert float((penalised - alone).detach()) == pytest.approx(0.5 * float(rms.mean()), rel=1e-3)
    (gradient,) = torch.autograd.grad(penalised - alone, list(variants[0].parameters()))
    assert float(gradient.norm()) > 0

    again = dataclasses.replace(pairs, samples={})
    objectives[1](forecaster, again, 2)
    assert not {pair.sources[0] for pair in nulls.pairs} & again.samples.keys()


@pytest.mark.parametrize(
    ("das", "data", "message"),
    [
        ({"null_penalty": 1.0}, {}, "DAS.null_penalty is of null pairs: set data.null_parameter"),
        ({"null_fields": ["tracer"]}, {}, "DAS.null_fields is of null pairs: set data.null_parameter"),
        ({"null_penalty": -1.0}, {}, "DAS.null_penalty must be at least 0; found -1.0"),
        ({"null_penalty": 1.0, "null_fields": []}, {"null_parameter": "Schmidt"}, "has no field that must not move"),
        (
            {"null_penalty": 1.0, "null_fields": ["velocity"]},
            {"null_parameter": "Schmidt"},
            "the model predicts no field 'velocity', only tracer, pressure",
        ),
    ],
)
def test_penalties_that_mean_nothing_are_refused(tiny_well, walrus, tmp_path, capsys, das, data, message):
    assert main(["fit", "--config", str(search(tmp_path, tiny_well, walrus, das=das, data=data))]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("physteer: error: ") and message in line
