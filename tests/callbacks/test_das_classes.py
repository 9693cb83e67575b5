"""Searches whose loss is a class readout: frozen probes that read the source's class off the edited pass."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.experiments import callback, weights
from helpers.planted import a_channel_for_the_tracer, tell_by_the_tracer_alone
from helpers.searches import fit, search, table
from torch import Tensor
from torch.nn.functional import cross_entropy

from physteer import WalrusModule
from physteer.analyses.das import ClassLoss, InterchangeObjective, VariantPlan, make_variants
from physteer.analyses.engine import ForecastSuffix, Outcome, PrefixCache
from physteer.cli import main
from physteer.concepts import ClassFitter, ClassProbe, ConceptSubspace
from physteer.data import CounterfactualDataModule, ReadoutTruth
from physteer.data.batch import Batch
from physteer.data.pair import PairBatch
from physteer.errors import PhysteerError
from physteer.interventions import Edit, Interchange, Locus, Site, attached, captured
from physteer.metrics import largest_principal_angle
from physteer.walrus import model_id, save

READ = Site.parse("blocks.1")
VALUES = {"Reynolds": (200.0, 2000.0), "Schmidt": (0.5, 2.0)}


@pytest.fixture(scope="module")
def walrus(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("walrus") / "walrus.safetensors")


def frozen(walrus: Path, jitter_seed: int | None = None) -> WalrusModule:
    one = WalrusModule(str(walrus), jitter_seed=jitter_seed).eval()
    one.freeze_network()
    return one


def features(module: WalrusModule, batch: Batch) -> Tensor:
    """What a probe is fitted to: the mean over the last frame's tokens, [B, d]."""
    with torch.no_grad(), captured(module.network, [READ]) as h:
        module.forecaster.predict_next(batch.context, batch)
    return h[str(READ)][:, -1].mean((1, 2, 3))


def fitted(walrus: Path, well: Path, parameter: str = "Reynolds") -> ClassProbe:
    """A probe of the train windows."""
    module = frozen(walrus)
    truth = ReadoutTruth("kinetic_energy")  # costs nothing
    data = CounterfactualDataModule(str(well), [parameter], truth, n_steps_input=3, train_pairs=108, batch_size=12)
    fitter = ClassFitter(parameter, VALUES[parameter])
    for pairs in data.train_dataloader():
        labels = [VALUES[parameter].index(value) for value in pairs.base.parameters[parameter].tolist()]
        fitter.update_classes(features(module, pairs.base), torch.tensor(labels))
    data.teardown("fit")
    return fitter.fit([1.0], site=str(READ), model=model_id(module.network), data=str(well))


@pytest.fixture(scope="module")
def probes(walrus, tiny_well, tmp_path_factory) -> dict[str, str]:
    """Files of probes at the last block, by parameter."""
    folder = tmp_path_factory.mktemp("probes")
    found = {}
    for parameter in VALUES:
        found[parameter] = str(folder / f"{READ}_{parameter}_classes.safetensors")
        fitted(walrus, tiny_well, parameter).save(found[parameter])
    return found


def class_loss(*paths: str) -> dict:
    return {"class_path": "ClassLoss", "init_args": {"probes": list(paths)}}


BEST = callback("lightning.pytorch.callbacks.ModelCheckpoint", monitor="val/class_accuracy", mode="max")


@pytest.mark.parametrize("site", ["encoder", "blocks.0", "blocks.0.time.heads[1]", "blocks.1.space.heads"])
@pytest.mark.parametrize("last_frame", [False, True])
def test_loss_and_gradient_are_those_of_the_whole_pass(walrus, probes, tiny_well, site, last_frame):
    """Sources are shifted as their bases are."""
    module, path = frozen(walrus, jitter_seed=3), probes["Reynolds"]
    data = CounterfactualDataModule(str(tiny_well), ["Reynolds"], n_steps_input=3, train_pairs=4, batch_size=4)
    pairs = next(iter(data.train_dataloader()))
    data.teardown("fit")
    forecaster = module.forecaster
    width = forecaster.site_shapes([Site.parse(site)], data.pair_windows("train").metadata, 3)[Site.parse(site)][-1]
    (variant,) = make_variants({Site.parse(site): width}, 1, VariantPlan((2,), shuffled=False, random=0), [])[:1]
    cache = PrefixCache(forecaster, [variant.site], last_frame=last_frame, max_bytes=2**26, folder=None)
    locus = Locus(frames=[-1])
    objective = InterchangeObjective(
        [variant], ForecastSuffix(cache), ClassLoss([path]), locus, spatial_mean_only=False, boundary_penalty=1.0
    )
    loss = objective(forecaster, pairs, 0)
    (found,) = torch.autograd.grad(loss, list(variant.parameters()))

    (base, _), (source, _) = (forecaster.inputs(batch.context, pairs.base) for batch in (pairs.base, pairs.sources[0]))
    with torch.no_grad(), captured(module.network, [site]) as theirs:
        module.network(*source)
    edit = Edit(site, Interchange(locus.take(theirs[site])), variant.subspaces[0], locus)
    with attached(module.network, [edit]), captured(module.network, [READ], detach=False) as h:
        module.network(*base)
    probe = ClassProbe.load(path)
    scores = probe.scores(h[str(READ)][:, -1].mean((1, 2, 3)))[0]
    whole = cross_entropy(scores, probe.labels([dict(pair.changed)["Reynolds"] for pair in pairs.pairs]))
    (expected,) = torch.autograd.grad(whole, list(variant.parameters()))
    assert float(whole.detach()) > 1e-3 and float(expected.norm()) > 1e-6
    assert abs(loss - whole) < 1e-5 * whole
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_a_direction_that_a_class_is_read_along_is_found(tiny_well, tmp_path):
    """The tracer alone tells the classes apart, and lives in one channel."""
    channel = 7
    save(a_channel_for_the_tracer(channel), tmp_path / "walrus.safetensors")
    shutil.copytree(tiny_well, tmp_path / "well")
    tell_by_the_tracer_alone(tmp_path / "well")
    probe = tmp_path / "probe.safetensors"
    fitted(tmp_path / "walrus.safetensors", tmp_path / "well").save(probe)
    settings = {"max_steps": 100, "val_check_interval": 100, "model": {"learning_rate": 0.1}}
    data = {"train_pairs": 48, "evaluation_pairs": 40, "batch_size": 8, "pair_every": 1}
    das = {"ranks": [1], "loss": class_loss(str(probe)), "random": 3}
    fit(search(tmp_path, tmp_path / "well", tmp_path / "walrus.safetensors", das=das, data=data, **settings))
    found = ConceptSubspace.load(tmp_path / "run/rotations/das_Reynolds_blocks.0_rank1.safetensors")
    assert largest_principal_angle(found.basis, torch.eye(32)[:, [channel]]) < 2
    read = {key[1]: value for key, value in table(tmp_path / "run").items() if key[4] == "class_accuracy"}
    assert read["model"] >= 0.97 and read["unedited"] <= 0.03
    assert read["learned"] >= 0.97 and read["full"] == read["model"]
    assert 0.2 < read["shuffled"] < 0.8 and read["random"] < 0.5, read
    assert (tmp_path / "run/figures/class_accuracy_Reynolds_test.png").stat().st_size > 10_000
    page = (tmp_path / "run/report.html").read_text()
    assert "figures/class_accuracy_Reynolds_test.png" in page and page.index("Learned subspaces") < page.index(
        "Concepts"
    )


def test_every_variable_is_read_by_a_probe_of_its_own(walrus, probes, tiny_well, tmp_path):
    data = {"variables": ["Reynolds", "Schmidt"], "null_parameter": None}
    das = {"ranks": [1], "loss": class_loss(probes["Schmidt"], probes["Reynolds"])}
    fit(search(tmp_path, tiny_well, walrus, das=das, data=data, callbacks=[BEST], max_steps=2))
    read = {(*key[1:4], key[5]): value for key, value in table(tmp_path / "run").items() if key[4] == "class_accuracy"}
    whose = [
        ("learned", "1", ""),
        ("shuffled", "1", ""),
        ("random", "1", "1"),
        ("model", "0", ""),
        ("unedited", "0", ""),
    ]
    assert read.keys() == {(*who, parameter) for who in whose for parameter in VALUES}
    assert all(0 <= value <= 1 for value in read.values())
    assert {key[1] for key in table(tmp_path / "run", "valid")} == {"learned", "shuffled", "model"}
    with (tmp_path / "run/logs/version_0/metrics.csv").open() as file:
        names = {"val/class_accuracy", "val/class_accuracy/blocks.0_shuffled_rank_1", "test/class_accuracy"}
        assert names <= set(file.readline().strip().split(","))
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    assert all(name.startswith("interventions.") for name in torch.load(checkpoint, weights_only=True)["state_dict"])


@pytest.mark.parametrize(
    ("changes", "das", "message"),
    [
        ({"site": "blocks.0"}, {}, "reads blocks.0, which is not computed after the edited site blocks.0"),
        ({"site": "blocks.0.time"}, {}, "reads blocks.0.time, which is not computed after the edited site blocks.0"),
        ({"site": "encoder"}, {}, "reads encoder, which is not computed after the edited site blocks.0"),
        ({"site": "blocks.1.space"}, {}, "the order of the sites that 'physteer sites' lists; blocks.1.space is none"),
        ({"site": "blocks.2"}, {}, "site 'blocks.2' not found"),
        ({"site": "blocks.1.time.heads[0]"}, {}, "has width 32; site blocks.1.time.heads[0] has width 16"),
        ({"model": "another"}, {}, "was fitted to model another; this model is "),
        ({"parameter": "Schmidt"}, {}, "needs one probe for each of data.variables, Reynolds; found Schmidt ("),
        ({"classes": (200.0, 1000.0)}, {}, "has Reynolds 200, 2000; probe "),
        ({}, {"loss": class_loss()}, "needs one probe for each of data.variables, Reynolds; found none"),
        ({}, {"loss": class_loss("nowhere.safetensors")}, "there is no class probe file nowhere.safetensors"),
    ],
)
def test_probes_that_do_not_fit_are_told(walrus, probes, tiny_well, tmp_path, capsys, changes, das, message):
    path = tmp_path / "probe.safetensors"
    replace(ClassProbe.load(probes["Reynolds"]), **changes).save(path)
    config = search(tmp_path, tiny_well, walrus, das={"loss": class_loss(str(path)), **das}, limit_test_batches=0)
    assert main(["fit", "--config", str(config)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("physteer: error: ") and message in line
    assert "loss" in das or "not found" in message or "lists" in message or str(path) in line


def test_a_probe_with_several_penalties_is_no_readout(probes, tmp_path):
    probe = ClassProbe.load(probes["Reynolds"])
    twice = {name: torch.cat([getattr(probe, name)] * 2) for name in ("weights", "bias", "alphas")}
    replace(probe, **twice).save(tmp_path / "probe.safetensors")
    with pytest.raises(PhysteerError, match="holds 2 penalties; a loss reads a chosen one"):
        ClassLoss([str(tmp_path / "probe.safetensors")])


class Quietest(torch.nn.Module):
    """A loss of one's own that reads an activation."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.sites = (Site.parse(site),)

    def forward(self, outcome: Outcome, pairs: PairBatch) -> Tensor:
        return outcome.activations[self.sites[0]].square().mean()


def test_a_loss_of_ones_own_reads_activations(walrus, tiny_well, tmp_path, capsys):
    for site, code in (("blocks.1", 0), ("encoder", 2)):
        loss = {"class_path": f"{__name__}.Quietest", "init_args": {"site": site}}
        config = search(tmp_path / site, tiny_well, walrus, das={"loss": loss}, max_steps=2, limit_test_batches=0)
        assert main(["fit", "--config", str(config)]) == code
    assert "the loss reads encoder, which is not computed after the edited site blocks.0" in capsys.readouterr().err
