"""Concept vectors: the golden difference of means, streams and merges, moments, and the file."""

import json
from dataclasses import fields, replace

import pytest
import torch
from helpers import golden
from helpers.paths import ROOT
from safetensors.torch import load_file, save_file

from physteer.concepts import Concept, DifferenceOfMeans
from physteer.errors import PhysteerError
from physteer.tensor_files import write_tensors

FOLDER = ROOT / "tests/golden"


def activations(n: int = 10, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 2, 4, 1, 5, generator=generator) * 3 + 2


def some_concept() -> Concept:
    return Concept(
        direction=torch.randn(2, 3, 1, 4),
        site="blocks.3",
        model="hf://owner/model",
        data="shear_flow/train",
        formula="Δ",
        classes={"vortex": "Reynolds >= 5000", "laminar": "Reynolds < 5000"},
        counts={"vortex": 18, "laminar": 10},
    )


# --- difference of means


def test_golden_concept():
    case = json.loads((FOLDER / "index.json").read_text())["delta_concept"]
    fitter = DifferenceOfMeans()
    transforms = {"feature": lambda a, i: a * (1 + i) + i, "control": lambda a, i: a * 2 - 1}
    for label, transform in transforms.items():
        for i, key in enumerate(case[f"{label}_keys"]):
            a = transform(golden.recipe(key, tuple(case["shape"])), i)  # [T, B, d, h, w, δ]
            fitter.update(label, a.permute(1, 0, 3, 4, 5, 2))
    concept = fitter.fit(site="blocks.0")
    truth = load_file(FOLDER / "delta_concept.safetensors")["delta"][0, 0].permute(1, 2, 3, 0)
    assert float((concept.direction - truth).abs().max()) <= 1e-6
    assert concept.counts == {"feature": 6, "control": 4}


@pytest.mark.parametrize("split", [[10], [1] * 10, [3, 7], [0, 9, 1]])
def test_any_batching_and_any_number_of_processes_give_the_same_concept(split):
    feature, control = activations(seed=1), activations(seed=2)
    whole = DifferenceOfMeans()
    whole.update("feature", feature)
    whole.update("control", control)
    merged = DifferenceOfMeans()
    for f, c in zip(feature.split(split), control.split(split), strict=True):
        process = DifferenceOfMeans()
        process.update("feature", f)
        process.update("control", c)
        sent = DifferenceOfMeans()
        sent.load_state_dict(process.state_dict())
        merged.merge(sent)
    assert merged.fit(site="a").counts == {"feature": 10, "control": 10}
    torch.testing.assert_close(merged.fit(site="a").direction, whole.fit(site="a").direction, rtol=0, atol=1e-7)


def test_processes_that_saw_nothing_change_nothing():
    fitter, idle = DifferenceOfMeans("vortex", "laminar"), DifferenceOfMeans("vortex", "laminar")
    fitter.update("vortex", activations(seed=1))
    fitter.update("laminar", activations(seed=2))
    before = fitter.fit(site="a").direction
    sent = DifferenceOfMeans("vortex", "laminar")
    sent.load_state_dict(idle.state_dict())
    fitter.merge(sent)
    idle.merge(fitter)
    assert torch.equal(fitter.fit(site="a").direction, before)
    assert torch.equal(idle.fit(site="a").direction, before)


def test_amplitude_and_offset_of_a_frame_do_not_matter():
    a, b = activations(seed=1), activations(seed=2)
    one, other = DifferenceOfMeans(), DifferenceOfMeans()
    one.update("feature", a)
    one.update("control", b)
    other.update("feature", a * 100 - 7)
    other.update("control", b * torch.rand(10, 3, 1, 1, 1, 1) + 5)
    torch.testing.assert_close(one.fit(site="a").direction, other.fit(site="a").direction, rtol=1e-4, atol=1e-4)


def test_the_sign_points_from_control_to_feature():
    ramp = torch.linspace(-1, 1, 5).expand(4, 2, 1, 1, 1, 5)
    fitter = DifferenceOfMeans("up", "down")
    fitter.update("up", ramp)
    fitter.update("down", -ramp)
    direction = fitter.fit(site="a", selections={"up": "slope > 0"}).direction[0, 0, 0]
    torch.testing.assert_close(direction, 2 * ramp[0, 0, 0, 0, 0] / ramp[0, 0, 0, 0, 0].std())


def test_difference_of_means_refuses_what_it_cannot_use():
    fitter = DifferenceOfMeans()
    fitter.update("feature", activations())
    with pytest.raises(PhysteerError, match="class 'control' is empty"):
        fitter.fit(site="a")
    with pytest.raises(PhysteerError, match="class 'vortex' is neither 'feature' nor 'control'"):
        fitter.update("vortex", activations())
    with pytest.raises(PhysteerError, match=r"\[2, 3, 1, 5\] cannot join those of \[2, 4, 1, 5\]"):
        fitter.update("control", activations()[:, :, :, :3])
    with pytest.raises(PhysteerError, match="both called 'x'"):
        DifferenceOfMeans("x", "x")
    for bad in (torch.ones(1, 1, 2, 4, 1, 5), torch.full((1, 1, 2, 4, 1, 5), torch.nan)):
        fitter = DifferenceOfMeans()
        fitter.update("feature", activations())
        fitter.update("control", bad)
        with pytest.raises(PhysteerError, match="class 'control' has an activation that is constant or not finite"):
            fitter.fit(site="a")


# --- the file


def test_a_concept_is_read_as_it_was_written(tmp_path):
    concept = some_concept()
    concept.save(tmp_path / "new folder" / "vortex.safetensors")
    read = Concept.load(tmp_path / "new folder" / "vortex.safetensors")
    assert torch.equal(read.direction, concept.direction)
    for f in fields(Concept):
        assert f.name == "direction" or getattr(read, f.name) == getattr(concept, f.name)


def test_equal_concepts_are_equal_files(tmp_path):
    concept = some_concept()
    for i in range(8):
        concept.save(tmp_path / f"{i}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "vortex.safetensors"
    some_concept().save(path)
    before = path.read_bytes()
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(PhysteerError, match=r"cannot write .*taken"):
        some_concept().save(taken)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken", "vortex.safetensors"]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(PhysteerError, match="there is no concept file"):
        Concept.load(path)
    some_concept().save(path)
    whole = path.read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(PhysteerError, match="not a whole safetensors file"):
            Concept.load(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(PhysteerError, match="not a concept: it holds the tensors weight"):
        Concept.load(path)
    for header, message in (
        ({"version": 99, "site": "a"}, "concept format 99; this physteer reads 1"),
        ({"version": 1, "site": "a"}, "has no checksum"),
        ([], "is a JSON list, not an object"),
    ):
        save_file({"direction": torch.ones(1, 1, 1, 2)}, path, {"physteer.concept": json.dumps(header)})
        with pytest.raises(PhysteerError, match=message):
            Concept.load(path)
    for direction, message in ((torch.ones(2), r"\[h, w, δ, d\]"), (torch.full((1, 1, 1, 2), torch.nan), "not finite")):
        write_tensors(path, "concept", 1, {"direction": direction}, {"site": "a"})
        with pytest.raises(PhysteerError, match=message):
            Concept.load(path)


def test_a_concept_of_another_width_is_refused():
    concept = replace(some_concept(), direction=torch.ones(1, 1, 1, 64))
    concept.check_width(64, "blocks.3")
    with pytest.raises(PhysteerError, match=r"concept has width 64, site blocks\.3 has 128"):
        concept.check_width(128, "blocks.3")
