"""Steer, Controls and DataInterpolation: which conditions they make, and what rollouts these give."""

import itertools
import math

import lightning as L
import pytest
import torch
from helpers.experiments import callback, experiment, random_walrus, weights
from torch.linalg import vector_norm

from physteer import WalrusModule
from physteer.analyses.steering.table import read_metrics
from physteer.callbacks import Controls, DataInterpolation, RolloutCallback, Steer
from physteer.cli import main
from physteer.commands.trainer_cli import run
from physteer.concepts import Concept
from physteer.data.counterfactual import solver_truth
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.forecast import steered_rollout
from physteer.interventions import Condition
from physteer.walrus import model_id

GRID, D = (8, 8, 1), 32


class Collector(RolloutCallback):
    """Keeps the conditions and rollouts of a run."""

    def __init__(self):
        self.conditions, self.frames, self.batches = {}, {}, []

    def on_rollout_end(self, trainer, pl_module, rollout):
        self.batches.append(rollout.batch)
        for condition, frames in zip(rollout.conditions, rollout.frames, strict=True):
            self.conditions[condition.name] = condition
            self.frames[condition.name] = frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, and concepts of random numbers at two blocks of equal shape, with three shuffles each."""
    folder = tmp_path_factory.mktemp("steer")
    weights(folder / "walrus.safetensors")
    model = model_id(random_walrus())
    names = [f"{name}_{site}" for name in ("vortex", "mixing") for site in ("blocks.0", "blocks.1")]
    files = names + [f"shuffled/{name}_{i}" for name in names for i in (2, 10, 1)]
    for seed, name in enumerate(files):
        direction = torch.randn(*GRID, D, generator=torch.Generator().manual_seed(seed))
        direction += torch.linspace(0, 1, D)  # so that the mean over space is no small rest
        site = "blocks.0" if "blocks.0" in name else "blocks.1"
        Concept(direction, site, model).save(folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def predicted(folder, tiny_well, tmp_path):
    """Run ``predict`` with some callbacks; return what was rolled out."""

    def predict(*callbacks: L.Callback, steps=1, include=("Reynolds_2e3_Schmidt_5e-1",), **model):
        module = WalrusModule(checkpoint=str(folder / "walrus.safetensors"), **model)
        data = WellDataModule(str(tiny_well), 3, rollout_steps=steps, include=list(include), batch_size=8)
        collector = Collector()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(
            accelerator="cpu", callbacks=[*callbacks, collector], default_root_dir=tmp_path / "run", **quiet
        )
        trainer.predict(module, data, return_predictions=False)
        return collector

    return predict


def concept(folder, name):
    return str(folder / f"{name}.safetensors")


def along(condition):
    """The direction at each site of a condition."""
    return {str(edit.site): edit.replacement.direction for edit in condition.edits}


def of_role(collector, role):
    return [condition for condition in collector.conditions.values() if condition.role == role]


def changes(collector, name):
    return (collector.frames[name] - collector.frames["unsteered"]).double()


# ---------------------------------------------------------------------- Steer


@pytest.mark.filterwarnings("ignore:.*was measured at")
def test_every_mode_and_strength_is_a_condition(folder, predicted):
    both = [concept(folder, "vortex_blocks.0"), concept(folder, "vortex_blocks.1")]
    found = predicted(
        Steer(both, [-0.2, 0.1], ["drop", "none"]),
        Steer(both[0], [0.1], rollout_steps=[0, 2]),
        Steer(both[0], [0.1], site="blocks.1"),
    )
    assert list(found.conditions) == [
        "unsteered",
        "vortex_blocks.0 + vortex_blocks.1 drop -0.2",
        "vortex_blocks.0 + vortex_blocks.1 drop +0.1",
        "vortex_blocks.0 + vortex_blocks.1 none -0.2",
        "vortex_blocks.0 + vortex_blocks.1 none +0.1",
        "vortex_blocks.0 drop steps 0 2 +0.1",
        "vortex_blocks.0 drop +0.1 at blocks.1",
    ]
    one = found.conditions["vortex_blocks.0 + vortex_blocks.1 none -0.2"]
    assert (one.direction, one.mode, one.strength) == ("vortex_blocks.0 + vortex_blocks.1", "none", -0.2)
    assert list(along(one)) == ["blocks.0", "blocks.1"]
    assert found.conditions["vortex_blocks.0 drop steps 0 2 +0.1"].mode == "drop steps 0 2"


def test_sites_steered_together_are_what_edits_by_hand_at_both_give(folder, predicted):
    names = ("vortex_blocks.0", "mixing_blocks.1")
    found = predicted(Steer([concept(folder, name) for name in names], [0.3], "none"))
    batch, module = found.batches[0], WalrusModule(checkpoint=str(folder / "walrus.safetensors"))

    def hook(name):
        v = Concept.load(concept(folder, name)).direction

        def steered(module, args, h):
            norm = h.flatten(2).norm(dim=-1)[..., None, None, None, None]
            return h + 0.3 * norm * v / v.norm()

        return steered

    def by_hand(*steered):
        hooks = [module.network.blocks[int(name[-1])].register_forward_hook(hook(name)) for name in steered]
        with torch.no_grad():
            frame = module.forecaster.predict_next(batch.context, batch)
        for one in hooks:
            one.remove()
        return frame

    together = found.frames["vortex_blocks.0 + mixing_blocks.1 none +0.3"]
    torch.testing.assert_close(together, by_hand(*names), rtol=1e-4, atol=1e-5)
    for name in names:  # neither is idle
        assert vector_norm(together - by_hand(name)) > 0.02 * vector_norm(together - by_hand())


def test_a_concept_at_another_site_is_used_with_a_warning(folder, predicted):
    with pytest.warns(UserWarning, match=r"vortex_blocks.0.safetensors was measured at blocks.0; Steer adds it at bl"):
        predicted(Steer(concept(folder, "vortex_blocks.0"), [0.1], site="blocks.1"))


@pytest.mark.parametrize(
    ("concepts", "settings", "message"),
    [
        (["vortex_blocks.0", "vortex_blocks.1"], {"site": "blocks.1"}, "Steer.site must be null for several concepts"),
        (["vortex_blocks.0", "mixing_blocks.0"], {}, "two concepts of the site blocks.0"),
        (["vortex_blocks.0", "vortex_blocks.0"], {}, "Steer.concept must be one or more, all different"),
        ([], {}, "Steer.concept must be one or more"),
        (["vortex_blocks.0"], {"mode": []}, "Steer.mode must be one or more"),
        (["vortex_blocks.0"], {"mode": ["pad", "pad"]}, "Steer.mode must be one or more, all different"),
    ],
)
def test_settings_that_make_no_sense(folder, predicted, concepts, settings, message):
    with pytest.raises(PhysteerError, match=message):
        predicted(Steer([concept(folder, name) for name in concepts], [0.1], **settings))


def test_one_name_for_two_conditions_says_who_gives_it(folder, predicted):
    twice = [Steer(concept(folder, "vortex_blocks.0"), strengths) for strengths in ([0.1, 0.2], [0.2])]
    both = r"trainer.callbacks\[0\] \(Steer\) and trainer.callbacks\[1\] \(Steer\) both add a condition called 'vortex"
    with pytest.raises(PhysteerError, match=both):
        predicted(*twice)


# ---------------------------------------------------------------------- Controls


def test_every_setting_has_its_random_directions(folder, predicted):
    both = [concept(folder, "vortex_blocks.0"), concept(folder, "vortex_blocks.1")]
    found = predicted(
        Steer(both[0], [-0.3, 0.3], ["drop", "pad", "interpolate", "none"]),
        Steer(both, [-0.3, 0.0, 0.3]),
        Steer(both[1], [0.3], rollout_steps=[0]),
        Controls(random=2),
    )
    concepts, controls = of_role(found, "concept"), of_role(found, "random")
    per_setting = {}
    for one in controls:
        per_setting.setdefault((one.mode, one.strength, *along(one)), []).append(one.direction)
    assert per_setting.keys() == {(one.mode, one.strength, *along(one)) for one in concepts if one.strength}
    assert all(len(set(names)) == 2 for names in per_setting.values())
    assert "random 2 drop -0.3 at blocks.0, blocks.1" in found.conditions
    assert "random 1 like vortex_blocks.0 none +0.3 at blocks.0" in found.conditions
    assert "random 1 drop steps 0 +0.3 at blocks.1" in found.conditions


def test_a_control_is_the_same_direction_at_either_sign_and_of_the_concepts_norm(folder, predicted):
    found = predicted(Steer(concept(folder, "vortex_blocks.0"), [-0.3, 0.3], ["drop", "none"]), Controls(random=3))
    pairs = {}
    for one in of_role(found, "random"):
        pairs.setdefault((one.direction, one.mode), {})[one.strength] = one
    assert len(pairs) == 6
    steered = along(found.conditions["vortex_blocks.0 none +0.3"])["blocks.0"]
    for pair in pairs.values():
        up, down = (along(pair[a])["blocks.0"] for a in (0.3, -0.3))
        assert torch.equal(up, down)
        torch.testing.assert_close(vector_norm(up), vector_norm(steered))
    drawn = [along(pair[0.3])["blocks.0"].mean((0, 1, 2)) for pair in pairs.values()]
    assert all(float(torch.cosine_similarity(a, b, dim=0)) < 0.9 for a, b in itertools.combinations(drawn, 2))


def test_what_controls_do_at_minus_alpha_mirrors_plus_alpha_to_first_order(folder, predicted):
    """Change = a₁ α + a₂ α² + …: as α is halved, the even part goes down fourfold and the odd part twofold."""
    strengths = [sign * size for size in (0.1, 0.05) for sign in (1, -1)]
    found = predicted(Steer(concept(folder, "vortex_blocks.1"), strengths), Controls(random=3))
    for i in (1, 2, 3):
        up, down, half_up, half_down = (
            changes(found, f"random {i} drop {a:+g} at blocks.1") for a in (0.1, -0.1, 0.05, -0.05)
        )
        even, odd = vector_norm(up + down), vector_norm(up - down)
        half_even, half_odd = vector_norm(half_up + half_down), vector_norm(half_up - half_down)
        assert even < 0.2 * odd
        torch.testing.assert_close(odd / half_odd, torch.tensor(2.0, dtype=torch.float64), rtol=0.05, atol=0)
        assert even / half_even > 3


def test_sites_of_one_shape_do_not_share_draws(folder, predicted):
    both = [concept(folder, "vortex_blocks.0"), concept(folder, "vortex_blocks.1")]
    found = predicted(Steer(both, [0.3], ["drop", "none"]), Controls(random=2))
    for one in of_role(found, "random"):
        a, b = (v.mean((0, 1, 2)) for v in along(one).values())
        assert float(torch.cosine_similarity(a, b, dim=0).abs()) < 0.7


def test_concepts_at_one_site_share_the_controls_that_are_no_more_than_a_mean(folder, predicted):
    steers = [Steer(concept(folder, f"{name}_blocks.0"), [0.3], ["drop", "none"]) for name in ("vortex", "mixing")]
    names = [one.direction for one in of_role(predicted(*steers, Controls(random=1)), "random")]
    assert names == ["random 1", "random 1 like vortex_blocks.0", "random 1 like mixing_blocks.0"]


def test_strengths_are_signed(folder, predicted):
    steer = Steer(concept(folder, "vortex_blocks.0"), [-0.4, -0.2, 0.2])
    found = predicted(steer, Controls(random=2, strengths=[-0.4, 0.2]))
    assert [one.strength for one in of_role(found, "random")] == [-0.4, -0.4, 0.2, 0.2]


def test_shuffled_concepts_steer_at_their_site_in_every_mode(folder, predicted):
    found = predicted(
        Steer(concept(folder, "vortex_blocks.0"), [-0.3, 0.3], ["drop", "none"]),
        Controls(random=0, shuffled=[f"{folder}/shuffled/vortex_*.safetensors"]),
    )
    controls = of_role(found, "shuffled")
    expected = itertools.product(("drop", "none"), (-0.3, 0.3), ("1", "10", "2"))
    assert [(c.mode, c.strength, c.direction) for c in controls] == [
        (mode, alpha, f"vortex_blocks.0_{i}") for mode, alpha, i in expected
    ]
    for one in controls:
        shuffle = Concept.load(concept(folder, f"shuffled/{one.direction}"))
        assert torch.equal(along(one)["blocks.0"], shuffle.direction)


def test_sites_steered_together_get_the_concepts_of_one_shuffle(folder, predicted):
    both = [concept(folder, "vortex_blocks.0"), concept(folder, "mixing_blocks.1")]
    files = [
        concept(folder, f"shuffled/{name}_2") for name in ("vortex_blocks.0", "vortex_blocks.1", "mixing_blocks.1")
    ]
    found = predicted(Steer(both, [0.3]), Controls(random=0, shuffled=files))
    (one,) = of_role(found, "shuffled")
    assert one.direction == "vortex_blocks.0_2 + vortex_blocks.1_2"
    for site, direction in along(one).items():
        assert torch.equal(direction, Concept.load(concept(folder, f"shuffled/vortex_{site}_2")).direction)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strengths": [0.3]}, r"Controls.strengths has α = \+0.3; what is steered has -0.3, \+0.2$"),
        ({"strengths": []}, "Controls.strengths must be one or more"),
        ({"shuffled": ["shuffled/nothing_*.safetensors"]}, r"there is no file .*nothing_\*"),
        (
            {"shuffled": ["shuffled/vortex_blocks.1_*.safetensors"]},
            "concepts of blocks.1 only; what is steered is at bl",
        ),
    ],
)
def test_controls_that_make_no_sense(folder, predicted, settings, message):
    if "shuffled" in settings:
        settings = {"shuffled": [f"{folder}/{pattern}" for pattern in settings["shuffled"]]}
    with pytest.raises(PhysteerError, match=message):
        predicted(Steer(concept(folder, "vortex_blocks.0"), [-0.3, 0.0, 0.2]), Controls(**settings))


# ---------------------------------------------------------------------- DataInterpolation

VALUES = [200.0, 2000.0]


def test_at_strength_one_the_model_continues_the_solvers_context(folder, predicted):
    found = predicted(DataInterpolation("Reynolds", VALUES, [1.0, -1.0, 0.5]), steps=2, include=["Schmidt_5e-1"])
    batch = found.batches[0]
    low = batch.parameters["Reynolds"] == 200
    assert low.any() and not low.all()
    module = WalrusModule(checkpoint=str(folder / "walrus.safetensors"))
    for sign, rows, value in ((1, low, 2000), (-1, ~low, 200)):
        there = torch.cat([batch.context[:, :1], solver_truth(batch, 2, {"Reynolds": value}, start=0)], 1)
        with torch.no_grad():
            condition = Condition("there", context=lambda _, x=there: x)
            frames = torch.cat(list(steered_rollout(module.forecaster, batch, 2, [condition])), 1)
        steered = found.frames[f"data interpolation {sign:+d}"]
        torch.testing.assert_close(steered[rows], frames[rows], rtol=1e-4, atol=1e-5)
        assert steered[~rows].isnan().all(), "there is no such value"
        assert vector_norm((steered - found.frames["unsteered"])[rows]) > 1e-3 * vector_norm(steered[rows])


def test_towards_strength_zero_it_is_the_unsteered_rollout(predicted):
    found = predicted(DataInterpolation("Reynolds", VALUES, [-0.2, -0.1, -1e-6]))
    assert found.batches[0].parameters["Reynolds"].eq(2000).all()
    sizes = [vector_norm(changes(found, f"data interpolation {a:+g}")) for a in (-0.2, -0.1, -1e-6)]
    assert 1.7 < sizes[0] / sizes[1] < 2.3
    assert sizes[2] < 1e-4 * sizes[0]
    (one,) = {(c.role, c.direction, c.mode, c.edits) for c in of_role(found, "data")}
    assert one == ("data", "data interpolation", "", ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("Rayleigh", VALUES, [0.1]), "no parameter 'Rayleigh'; they have Reynolds, Schmidt"),
        (("Reynolds", [200.0], [0.1]), "two or more, all different"),
        (("Reynolds", VALUES, [0.0]), "from −1 to 1 and not 0"),
        (("Reynolds", VALUES, [1.5]), "from −1 to 1 and not 0"),
        (("Reynolds", VALUES, [math.nan]), "from −1 to 1 and not 0"),
    ],
)
def test_interpolations_that_make_no_sense(predicted, settings, message):
    with pytest.raises(PhysteerError, match=message):
        predicted(DataInterpolation(*settings))


# ---------------------------------------------------------------------- the command line


def test_a_run_has_controls_at_both_signs_and_data_in_its_table(folder, tiny_well, tmp_path):
    steer = callback(
        "Steer",
        concept=[concept(folder, "vortex_blocks.0"), concept(folder, "vortex_blocks.1")],
        strengths=[-0.3, 0.3],
        mode=["drop", "none"],
    )
    shuffled = callback("Controls", random=2, shuffled=[f"{folder}/shuffled/*_2.safetensors"], strengths=[-0.3, 0.3])
    data = callback("DataInterpolation", parameter="Reynolds", values=VALUES, strengths=[-0.3, 0.3])
    config = experiment(
        tmp_path / "steer.yaml",
        model={"checkpoint": str(folder / "walrus.safetensors"), "conditions_per_forward": 7},
        data={
            "path": str(tiny_well),
            "rollout_steps": 2,
            "include": ["Schmidt_5e-1"],
            "trajectories": [0],
            "batch_size": 1,
        },
        callbacks=[steer, shuffled, data, callback("Diagnostics", parameter="Reynolds", values=VALUES)],
        default_root_dir=str(tmp_path / "run"),
    )
    assert main(["predict", "--config", str(config)]) == 0
    table = read_metrics(tmp_path / "run")
    conditions = table.drop_duplicates("condition").groupby("role")
    strengths = {role: sorted(rows.strength) for role, rows in conditions if role != "truth"}
    both = [-0.3, 0.3]
    assert strengths == {
        "unsteered": [0],
        "concept": sorted(2 * both),
        "random": sorted(4 * both),
        "shuffled": sorted(4 * both),
        "data": both,
        "blurred": [-1.0, 1.0],
    }
    assert set(table[table.role.isin(["concept", "random", "shuffled"])].site) == {"blocks.0, blocks.1"}
    interpolated = table[table.role == "data"]
    up = interpolated[interpolated.strength > 0]
    assert set(up.window) == {w for w in set(table.window) if "Reynolds_2e2" in w}, "2000 is the last value"
    assert up[up.metric == "alignment_cosine"].value.notna().any()
    assert (interpolated.site == "").all() and not interpolated.value.isna().all()


def test_words_of_the_command_line_may_be_lists_too(folder, tmp_path):
    both = [concept(folder, "vortex_blocks.0"), concept(folder, "vortex_blocks.1")]
    config = experiment(
        tmp_path / "no.yaml", model={"checkpoint": str(folder / "walrus.safetensors")}, data={"path": str(tmp_path)}
    )
    for given, concepts in ((f"[{both[0]}, {both[1]}]", both), (both[0], both[:1])):
        words = ["--trainer.callbacks+=Steer", f"--trainer.callbacks.concept={given}"]
        words += ["--trainer.callbacks.strengths=[0.1]", "--trainer.callbacks.mode=[drop,none]"]
        cli = run(["predict", "--config", str(config), *words], only_build=True)
        (steer,) = [one for one in cli.trainer.callbacks if isinstance(one, Steer)]
        assert steer.concepts == concepts and steer.modes == ["drop", "none"]


def test_steering_some_frames_alone(folder, predicted):
    """The last frame is what the last block steers anyway; the first of three frames changes something else."""
    concept = str(folder / "vortex_blocks.0.safetensors")
    found = predicted(
        Steer(concept, [0.3]), Steer(concept, [0.3], frames=[-1]), Steer(concept, [0.3], frames=[0, 1, 2]), Controls(1)
    )
    names = [f"vortex_blocks.0 drop{how} +0.3" for how in ("", " frames -1", " frames 0 1 2")]
    everywhere, last, every = (found.frames[name] for name in names)
    assert torch.allclose(everywhere, every, atol=1e-6)
    assert not torch.allclose(everywhere, last, atol=1e-4)
    assert "random 1 drop frames -1 +0.3 at blocks.0" in found.conditions
    end = str(folder / "vortex_blocks.1.safetensors")
    found = predicted(Steer(end, [0.3]), Steer(end, [0.3], frames=[-1]))
    both = [found.frames[f"vortex_blocks.1 drop{how} +0.3"] for how in ("", " frames -1")]
    assert torch.allclose(*both, atol=1e-6)


def test_frames_that_are_not_there(folder, predicted):
    with pytest.raises(PhysteerError, match=r"Steer.frames \[3\]: the context has 3 frames"):
        predicted(Steer(str(folder / "vortex_blocks.0.safetensors"), [0.3], frames=[3]))
    with pytest.raises(PhysteerError, match=r"Steer.frames must be one or more, all different"):
        Steer(str(folder / "vortex_blocks.0.safetensors"), [0.3], frames=[])
