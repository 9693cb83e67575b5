"""Counterfactual pairs: matched by content, with answers that are true."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from physteer.commands import data as data_command
from physteer.data import CounterfactualDataModule, WindowDataset, WindowSpec
from physteer.data.matching import initial_conditions, match_initial_conditions
from physteer.data.pairs import PairDataset
from physteer.data.partners import PairRules
from physteer.data.samplers import OnceInOrder
from physteer.data.truths import MatchedTruth, ReadoutTruth, SolverTruth
from physteer.errors import PhysteerError


def open_split(tiny_well: Path, split: str = "train", n_output: int = 1, **spec) -> WindowDataset:
    return WindowDataset(str(tiny_well / "data" / split), WindowSpec(3, n_output, **spec))


def make(dataset: WindowDataset, rules: PairRules, truth=None, n: int = 40, **more) -> PairDataset:
    return PairDataset(dataset, match_initial_conditions(dataset), rules, truth or SolverTruth(), n, **more)


def test_initial_conditions_are_found_by_content(tiny_well: Path) -> None:
    with open_split(tiny_well) as train, open_split(tiny_well, "test") as test:
        found, others = match_initial_conditions(train), match_initial_conditions(test)
        assert len(found.frames) == 3
        assert len(others.frames) == 2
        assert len(found.of) == 12
        for number in range(3):  # crossed: each begins at 2 Reynolds × 2 Schmidt numbers
            assert sum(n == number for n in found.of.values()) == 4
        assert found.shared_with(others) == set()
        assert found.shared_with(found) == {0, 1, 2}
        assert set(found.without({1}).of.values()) == {0, 2}


def test_a_tolerance_tells_what_is_the_same(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        assert len(match_initial_conditions(train, tolerance=100.0).frames) == 1
        assert len(match_initial_conditions(train, fields=["tracer"]).frames) == 3


def test_noise_in_one_of_two_files_makes_no_new_initial_conditions(tmp_path: Path) -> None:
    """Values on both sides of any rounding are one initial condition."""
    words = ["--resolution", "16", "32", "--frames", "4", "--initial-conditions", "4", "--valid", "0", "--test", "0"]
    assert data_command.main(["shear-flow", str(tmp_path), "--reynolds", "100", "200", "--schmidt", "1", *words]) == 0
    path, _ = sorted(tmp_path.glob("data/train/*.hdf5"))
    with h5py.File(path, "r+") as file:
        for name in ("t0_fields/tracer", "t0_fields/pressure", "t1_fields/velocity"):
            values = file[name][:]
            file[name][:] = values + 1e-6 * np.random.default_rng(0).standard_normal(values.shape)
    with open_split(tmp_path) as train:
        found = initial_conditions(train)
        assert len(found.of) == 8 and len(found.frames) == len(set(found.names)) == 4
        assert {number: len([1 for n in found.of.values() if n == number]) for number in range(4)} == dict.fromkeys(
            range(4), 2
        )


def test_a_fluid_at_rest_is_told_by_what_it_carries(tmp_path: Path) -> None:
    words = ["--resolution", "16", "32", "--frames", "4", "--initial-conditions", "3", "--valid", "0", "--test", "0"]
    assert data_command.main(["diffusion", str(tmp_path), "--reynolds", "100", "200", "--schmidt", "1", *words]) == 0
    with open_split(tmp_path) as train:
        found = match_initial_conditions(train)
        assert len(found.frames) == 3 and len(found.of) == 6
        assert len({found.name(window) for window in train.windows}) == len(set(found.names)) == 3


def test_pairs_keep_the_rules(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        ics = match_initial_conditions(train).of
        aligned = make(train, PairRules(("Reynolds",)))
        free = make(train, PairRules(("Reynolds",), same_initial_condition=False, other_parameters="any"))
        for pairs, same in ((aligned, True), (free, False)):
            for i in range(len(pairs)):
                pair = pairs.pair(i)
                base, source = pair.base, pair.sources[0]
                assert base.start == source.start
                assert (ics[base.file, base.trajectory] == ics[source.file, source.trajectory]) is same
                own, other = train.parameters_of(base), train.parameters_of(source)
                assert own["Reynolds"] != other["Reynolds"]
                assert pair.changed == (("Reynolds", other["Reynolds"]),)
                if same:
                    assert own["Schmidt"] == other["Schmidt"]
                    assert pair.counterfactual == source  # the source is the stored answer's trajectory
        assert len({free.pair(i).sources[0] for i in range(40)}) > 10
        assert any(
            train.parameters_of(free.pair(i).base)["Schmidt"] != train.parameters_of(free.pair(i).sources[0])["Schmidt"]
            for i in range(40)
        )


def test_a_pair_depends_on_seed_and_index_alone(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        rules = PairRules(("Reynolds",), same_initial_condition=False)
        one, two, other = make(train, rules), make(train, rules, n=7), make(train, rules, seed=1)
        assert [one.pair(i) for i in range(7)] == [two.pair(i) for i in range(7)]
        assert [one.pair(i) for i in range(7)] != [other.pair(i) for i in range(7)]


def test_mismatched_sources_are_those_of_other_pairs(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        pairs = make(train, PairRules(("Reynolds",)), n=6, mismatched=True)
        batch = pairs.collate([pairs[i] for i in range(6)])
        others = [pairs.other(i) for i in range(6)]
        assert all(other != i and 0 <= other < 6 for i, other in enumerate(others))
        assert batch.mismatched[0].windows == tuple(pairs.pair(other).sources[0] for other in others)
        assert pairs.collate([pairs[3]]).mismatched[0].windows == batch.mismatched[0].windows[3:4]  # of whatever batch
        with pytest.raises(PhysteerError, match="one pair only"):
            make(train, PairRules(("Reynolds",)), n=1, mismatched=True)


def test_bases_take_turns(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        pairs = make(train, PairRules(("Reynolds",)))
        n = len(pairs.bases)
        assert {pairs.pair(i).base for i in range(n)} == set(pairs.bases)


def test_several_sources_each_give_their_variable(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        pairs = make(train, PairRules(("Reynolds", "Schmidt")))
        batch = pairs.collate([pairs[i] for i in range(4)])
        assert len(batch.sources) == 2
        for row, pair in enumerate(batch.pairs):
            changed = dict(pair.changed)
            assert changed["Reynolds"] == batch.sources[0].parameters_of(row)["Reynolds"]
            assert changed["Schmidt"] == batch.sources[1].parameters_of(row)["Schmidt"]
            assert pair.counterfactual is not None
            counterfactual = train.parameters_of(pair.counterfactual)
            assert (counterfactual["Reynolds"], counterfactual["Schmidt"]) == (changed["Reynolds"], changed["Schmidt"])


def test_the_solvers_answer_to_the_own_parameters_is_the_stored_future(tiny_well: Path) -> None:
    """From a late frame of the same trajectory, the answer at θ* is what a restart there gives."""
    with open_split(tiny_well) as train:
        truth = SolverTruth(remembered=3)
        pairs = make(train, PairRules(("Reynolds",)), truth)
        batch = pairs.collate([pairs[i] for i in range(6)])
        again = pairs.collate([pairs[i] for i in range(6)])
        assert torch.allclose(batch.truth, again.truth, atol=1e-6)
        evolving = batch.base.channels.predicted
        moved = (batch.truth - batch.base.targets)[:, :, evolving].abs().amax((1, 2, 3, 4, 5))
        assert (moved > 1e-4).all()  # another viscosity, another future
        assert torch.isfinite(batch.truth).all()


def test_answers_that_are_remembered_take_no_more_memory_than_allowed(tiny_well: Path) -> None:
    """At most a mebibyte, of 40 kB each, whatever the batches are that they were simulated in."""
    with open_split(tiny_well) as train:
        truth = SolverTruth(memory=1)
        pairs = make(train, PairRules(("Reynolds",)), truth, n=40)
        for first in range(0, 40, 10):
            answers = pairs.collate([pairs[i] for i in range(first, first + 10)]).truth
        kept = list(truth._answers.values())
        assert len(kept) == 2**20 // answers[0].nbytes < 40
        assert sum(answer.untyped_storage().nbytes() for answer in kept) <= 2**20
        assert torch.equal(kept[-1], answers[-1]), "the latest"


def test_the_tracers_diffusivity_never_moves_the_velocity(tiny_well: Path) -> None:
    """The exact null: a passive tracer."""
    with open_split(tiny_well) as train:
        pairs = make(train, PairRules(("Schmidt",)))
        batch = pairs.collate([pairs[i] for i in range(6)])
        names = batch.base.channels.names
        difference = (batch.truth - batch.base.targets).abs().amax((0, 1, 3, 4, 5))
        assert difference[names.index("tracer")] > 1e-3
        for name in ("velocity_x", "velocity_y", "pressure"):
            assert difference[names.index(name)] < 2e-4  # float32 storage of the state the solver restarts from


def test_the_answer_to_a_null_is_the_bases_own_future(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        pairs = make(train, PairRules(("Reynolds",), null="Schmidt"))
        batch = pairs.collate([pairs[i] for i in range(6)])
        for row in range(6):
            own, other = batch.base.parameters_of(row), batch.sources[0].parameters_of(row)
            assert own["Reynolds"] == other["Reynolds"]
            assert own["Schmidt"] != other["Schmidt"]
        assert (batch.truth - batch.base.targets).abs().max() < 2e-4
        assert all(pair.counterfactual == pair.base for pair in batch.pairs)


def test_stored_answers_are_taken_only_while_trajectories_agree(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        rules = PairRules(("Reynolds",))
        loose = make(train, rules, MatchedTruth(agreement=10.0))
        batch = loose.collate([loose[i] for i in range(4)])
        for row, pair in enumerate(batch.pairs):
            assert pair.counterfactual is not None
            assert torch.equal(batch.truth[row], train.read(pair.counterfactual).fields[3:])
        strict = make(train, rules, MatchedTruth(agreement=1e-9))
        with pytest.raises(PhysteerError, match="known for no pair"):
            strict.pair(0)


def test_a_readout_is_the_sources(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        pairs = make(train, PairRules(("Reynolds",)), ReadoutTruth("kinetic_energy"))
        batch = pairs.collate([pairs[i] for i in range(3)])
        velocity = [batch.base.channels.index(f"velocity_{axis}") for axis in "xyz"]
        last = batch.sources[0].context[:, -1, velocity]
        assert torch.allclose(batch.truth, last.square().sum(1).mean((1, 2, 3)) / 2, rtol=1e-4)
    with pytest.raises(PhysteerError, match=r"no readout 'enstropy'.*did you mean 'enstrophy'"):
        ReadoutTruth("enstropy")


def test_what_cannot_be_paired_is_said(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        with pytest.raises(PhysteerError, match=r"no parameter 'Reynold'.*did you mean 'Reynolds'"):
            make(train, PairRules(("Reynold",)))
        matched = match_initial_conditions(train)
        alone = matched.without({1, 2})
        with pytest.raises(PhysteerError, match=r"no pairs match.*1 initial conditions in 4 trajectories.*0 of"):
            PairDataset(train, alone, PairRules(("Reynolds",), same_initial_condition=False), SolverTruth(), 4)
    one = WindowDataset(str(tiny_well / "data/train"), WindowSpec(3, 1), include=["Reynolds_2e2"])
    with one, pytest.raises(PhysteerError, match="Reynolds is 200 everywhere; pairs need two values"):
        make(one, PairRules(("Reynolds",)))


def module(tiny_well: Path, **more) -> CounterfactualDataModule:
    return CounterfactualDataModule(str(tiny_well), ["Reynolds"], n_steps_input=3, batch_size=4, **more)


def test_the_data_module_holds_initial_conditions_out(tiny_well: Path, tmp_path: Path) -> None:
    data = module(tiny_well, null_parameter="Schmidt", train_pairs=10, evaluation_pairs=5)
    assert sum(len(batch) for batch in data.train_dataloader()) == 10
    pairs, nulls = data.test_dataloader()
    assert [len(batch) for batch in pairs] == [4, 1]
    assert all(dict(pair.changed)["Reynolds"] for batch in nulls for pair in batch.pairs)
    data.teardown("test")
    leaky = tmp_path / "leaky"
    shutil.copytree(tiny_well, leaky)
    for file in (leaky / "data/train").iterdir():
        shutil.copy(file, leaky / "data/valid" / file.name)
    same = module(leaky)
    with pytest.raises(PhysteerError, match="'valid' is in 'train' too: none is held out"):
        same.val_dataloader()
    same.teardown("validate")


def test_a_split_alone_has_nothing_held_out_and_a_broken_one_beside_it_is_told(tiny_well: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_well / "data/test", tmp_path / "data/test")
    alone = module(tmp_path, evaluation_pairs=5)
    assert sum(len(batch) for batch in alone.test_dataloader()[0]) == 5
    alone.teardown("test")
    (tmp_path / "data/train").mkdir()
    (tmp_path / "data/train/broken.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    broken = module(tmp_path)
    with pytest.raises(PhysteerError, match=r"cannot read .*broken.hdf5"):
        broken.test_dataloader()
    broken.teardown("test")


def test_any_number_of_processes_sees_the_same_pairs(tiny_well: Path) -> None:
    with open_split(tiny_well) as train:
        pairs = make(train, PairRules(("Reynolds",)), n=11)
        shares = [[pairs.pair(i) for i in OnceInOrder(pairs, 3, rank)] for rank in range(3)]
        alone = [pairs.pair(i) for i in range(11)]
        assert sorted(str(pair) for share in shares for pair in share) == sorted(map(str, alone))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"null_parameter": "Reynolds"}, "data.null_parameter 'Reynolds' is among"),
        ({"train_pairs": 0}, "data.train_pairs must be at least 2"),
        ({"horizon": 0}, "data.horizon must be at least 1"),
        ({"match_tolerance": float("nan")}, "data.match_tolerance must be at least 0, found nan"),
    ],
)
def test_bad_settings_are_named(tiny_well: Path, wrong: dict, message: str) -> None:
    with pytest.raises(PhysteerError, match=message):
        module(tiny_well, **wrong)
