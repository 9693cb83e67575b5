"""Effects of nodes and circuits through the real command line, on tiny data and a tiny random Walrus."""

import json
import math
from dataclasses import astuple
from pathlib import Path

import pytest
from helpers.experiments import callback, experiment, two_processes, weights

from physteer.analyses.effects import EffectSweep
from physteer.analyses.effects.circuit_table import read_circuit_tables
from physteer.analyses.effects.table import EffectRow, read_attribution_tables, read_effect_table
from physteer.cli import main

EFFECTS = {
    "nodes": ["encoder", "blocks.*.time.heads[*]", "blocks.*.space.ff_update", "blocks.*"],
    "variants": ["mean", "resample", "source", "span_self", "complement_source"],
    "scales": [0.0, 1.0],
    "components": 4,
    "statistics_windows": 6,
    "rollouts": ["blocks.*"],
}


@pytest.fixture(scope="module")
def walrus(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("walrus") / "walrus.safetensors")


def configured(folder: Path, well, walrus, name: str, settings: dict, **data) -> Path:
    path = experiment(
        folder / f"{name}.yaml",
        model={"checkpoint": str(walrus)},
        data={"path": str(well), "variables": ["Reynolds"], "null_parameter": "Schmidt", "pair_every": 4}
        | {"train_pairs": 8, "evaluation_pairs": 6, "batch_size": 4, "horizon": 2, **data},
        callbacks=[callback(name, **settings)],
        default_root_dir=str(folder / "run"),
    )
    path.write_text(path.read_text().replace("physteer.WellDataModule", "physteer.CounterfactualDataModule"))
    return path


@pytest.fixture(scope="module")
def swept(tiny_well, walrus, tmp_path_factory):
    """The configuration and run folder of a sweep over all frames."""
    folder = tmp_path_factory.mktemp("swept")
    config = configured(folder, tiny_well, walrus, "Effects", EFFECTS)
    assert main(["validate", "--config", str(config)]) == 0
    return config, folder / "run"


def by_key(rows: list[EffectRow]) -> dict[tuple, float]:
    found = {astuple(row)[:11]: row.value for row in rows}
    assert len(found) == len(rows)  # each once
    return found


def value(rows: list[EffectRow], **wanted) -> float:
    (row,) = [row for row in rows if all(getattr(row, name) == v for name, v in wanted.items())]
    return row.value


def test_a_sweep_makes_a_run_folder(swept):
    _, run = swept
    names = [
        "effects_aligned_valid.pdf",
        "effects_aligned_valid.svg",
        "effects_heads_valid.png",
        "effects_steps_valid.png",
    ]
    for name in names:
        assert (run / "figures" / name).stat().st_size > 5_000, name
    page = (run / "report.html").read_text()
    assert "<title>blocks.0.time.heads[1]</title>" in page, "lines tell their node under the pointer"
    assert "the largest of 9 nodes" in page and "rank correlation with exact effects" in page
    assert not (run / "unfinished").exists()
    rows = read_effect_table(run, "valid")
    assert {row.effect for row in rows} == {"field", "aligned", "null_share"}
    assert {row.region for row in rows} == {"", "vortices", "strain", "background"}
    assert {row.step for row in rows} == {1, 2}
    assert {row.node for row in rows if row.step == 2} == {"blocks.0", "blocks.1"}
    estimates, checks = read_attribution_tables(run, "valid")
    assert len(estimates) == 2 * 9 and {check.estimate for check in checks} == {"aligned", "field"}


def test_what_must_be_exact_is_exact(swept):
    rows = read_effect_table(swept[1], "valid")
    all_of = {"effect": "field", "field": "", "step": 1}
    # everything of the last block from another pass is that pass; nothing at scale 0, or of itself, is nothing
    for variant in ("source", "resample"):
        assert value(rows, node="blocks.1", variant=variant, scale=1.0, **all_of) == pytest.approx(1, abs=1e-4)
        assert value(rows, node="blocks.0", variant=variant, scale=0.0, **all_of) == 0
    assert value(rows, node="encoder", variant="span_self", scale=1.0, **all_of) == 0
    assert not [row for row in rows if row.effect == "aligned" and not row.variant.endswith("source")]
    # regions add up to the whole: Σ over regions of the numerators, so effects lie between the regions'
    for row in (r for r in rows if r.effect == "aligned" and not r.region and r.step == 1 and r.scale == 1.0):
        same = {
            "node": row.node,
            "variant": row.variant,
            "scale": 1.0,
            "effect": "aligned",
            "field": row.field,
            "step": 1,
        }
        parts = [value(rows, region=region, **same) for region in ("vortices", "strain", "background")]
        if all(map(math.isfinite, [row.value, *parts])):
            assert min(parts) - 1e-9 <= row.value <= max(parts) + 1e-9


def test_estimates_agree_with_exact_effects_in_sign_and_order(swept):
    estimates, checks = read_attribution_tables(swept[1], "valid")
    assert all(check.spearman > 0.5 and check.nodes == 9 for check in checks)
    rows = read_effect_table(swept[1], "valid")
    for row in estimates:
        exact = value(
            rows, node=row.node, variant="source", scale=1.0, effect=row.estimate, field="", region="", step=1
        )
        assert row.exact == pytest.approx(exact, rel=1e-4, abs=1e-7)


def test_frames_may_be_patched_each_alone(tiny_well, walrus, tmp_path):
    few = {"nodes": ["encoder", "blocks.1.*.heads[*]"], "variants": ["source"], "scales": [1.0], "exact": 6}
    config = configured(tmp_path, tiny_well, walrus, "Effects", {**few, "frames": [0, -1]})
    assert main(["validate", "--config", str(config)]) == 0
    rows = read_effect_table(tmp_path / "run", "valid")
    assert len({row.node for row in rows}) == 6 and {row.position for row in rows} == {0, 2}
    estimates, _ = read_attribution_tables(tmp_path / "run", "valid")
    assert len(estimates) == 2 * 2 * 5, "all nodes are estimated"
    early = [row.value for row in rows if "blocks.1" in row.node and row.position == 0 and row.effect == "field"]
    assert max(early) == 0, "the prediction reads the last frame of the last block alone"


class Killed(Exception):
    """Ends a run in the middle."""


def test_a_sweep_that_was_killed_goes_on_where_it_was(swept, tiny_well, walrus, tmp_path, monkeypatch):
    config = configured(tmp_path, tiny_well, walrus, "Effects", EFFECTS)
    whole, done = EffectSweep.terms, []

    def killed(self, runs, finished=()):
        for i, terms in whole(self, runs, finished):
            done.append(i)
            yield i, terms
            if len(done) == 4:
                raise Killed

    monkeypatch.setattr(EffectSweep, "terms", killed)
    with pytest.raises(Killed):
        main(["validate", "--config", str(config)])
    assert len(list((tmp_path / "run/unfinished").iterdir())) == 1
    assert main(["validate", "--config", str(config)]) == 0
    again = done[4 : done.index(8, 4) + 1]  # of the first batch; what was not yet written is computed again
    assert 0 not in again and set(again) | set(done[:4]) == set(range(9))
    assert by_key(read_effect_table(tmp_path / "run", "valid")) == by_key(read_effect_table(swept[1], "valid"))


def test_two_processes_find_the_same_effects_and_the_same_circuit(swept, tiny_well, walrus, tmp_path):
    effects, one = swept
    circuit = configured(tmp_path, tiny_well, walrus, "Circuit", {"random_orders": 1})
    assert main(["validate", "--config", str(circuit)]) == 0
    more = ["validate", "--config", circuit, "--trainer.default_root_dir", tmp_path / "two"]
    two_processes(tmp_path, "validate", "--config", effects, "--trainer.default_root_dir", tmp_path / "two", then=more)
    first, second = (by_key(read_effect_table(run, "valid")) for run in (one, tmp_path / "two"))
    assert first.keys() == second.keys()
    for key, number in first.items():
        assert second[key] == pytest.approx(number, rel=1e-4, abs=1e-6, nan_ok=True), key
    chosen = [json.loads((run / "circuit.json").read_text()) for run in (tmp_path / "run", tmp_path / "two")]
    assert chosen[0] == chosen[1] and len(chosen[0]["order"]) == 10
    tables = [read_circuit_tables(run, "test") for run in (tmp_path / "run", tmp_path / "two")]
    for parts in zip(*tables, strict=True):
        for a, b in zip(*parts, strict=True):
            assert a.value == pytest.approx(b.value, rel=1e-4, abs=1e-6, nan_ok=True), (a, b)
    curve, scores = tables[0]
    by = {(row.order, row.n): row.value for row in curve}
    assert by["attribution", 0] == by["random 1", 0] == 0 and by["attribution", 10] == pytest.approx(1)
    found = {row.score: row.value for row in scores}
    size = int(found["size"])
    assert found["faithfulness"] == pytest.approx(by["attribution", size], abs=1e-4)
    assert (tmp_path / "run/figures/circuit_test.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "settings", "data", "said"),
    [
        ("Effects", {"nodes": ["blocks.*.tims.heads[*]"]}, {}, "no site matches"),
        ("Effects", {"variants": ["span_source"], "components": 40}, {}, "components must be at most the width"),
        ("Effects", {"frames": [7]}, {}, "frames must be among the 3 of the context"),
        ("Effects", {"variants": ["resample"]}, {"evaluation_pairs": 1}, "resample takes the activations of another"),
        ("Effects", {"rollouts": ["blocks.*"]}, {"horizon": 1}, "Effects.rollouts need data.horizon of 2"),
        ("Circuit", {"nodes": ["blocks.*"]}, {}, "is the residual stream itself"),
    ],
)
def test_mistakes_are_told_in_one_sentence(name, settings, data, said, tiny_well, walrus, tmp_path, capsys):
    config = configured(tmp_path, tiny_well, walrus, name, settings, **data)
    assert main(["validate", "--config", str(config)]) != 0
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and error.count("physteer: ") <= 1


def test_other_commands_are_refused(tiny_well, walrus, tmp_path, capsys):
    config = configured(tmp_path, tiny_well, walrus, "Effects", {})
    assert main(["fit", "--config", str(config), "--trainer.max_steps", "1"]) != 0
    assert "Effects measures: run `physteer validate` or `physteer test`" in capsys.readouterr().err
    config = configured(tmp_path, tiny_well, walrus, "Circuit", {})
    assert main(["test", "--config", str(config)]) != 0
    assert "chosen on valid and reported on test" in capsys.readouterr().err
