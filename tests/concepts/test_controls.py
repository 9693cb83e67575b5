"""Control directions: random ones of the concept's norm and smoothness, and concepts of shuffled labels."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch.linalg import vector_norm

from physteer.concepts import DifferenceOfMeans, LabelPermutations, ShuffledDifferences, random_directions
from physteer.errors import PhysteerError
from physteer.interventions import Steer

GRID, D = (4, 6, 1), 8


def smooth_concept(seed=0):
    """A direction with a mean and one long wave."""
    generator = torch.Generator().manual_seed(seed)
    mean, wave = torch.randn(2, D, generator=generator)
    x = torch.arange(GRID[1]) * (2 * torch.pi / GRID[1])
    return mean + torch.cos(x).view(1, -1, 1, 1) * wave + torch.zeros(*GRID, D)


def spatial_energy(direction):
    return torch.fft.fftn(direction.double(), dim=(0, 1, 2)).abs().square().sum(-1)


# --- random directions


def test_random_directions_have_the_norm_and_the_spatial_spectrum_of_the_concept():
    for concept in (smooth_concept(), torch.randn(5, 3, 2, D), torch.randn(1, 1, 1, D)):
        for direction in random_directions(concept, 5):
            assert direction.shape == concept.shape and direction.dtype == torch.float32
            torch.testing.assert_close(vector_norm(direction), vector_norm(concept), rtol=1e-5, atol=0)
            torch.testing.assert_close(spatial_energy(direction), spatial_energy(concept), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["drop", "pad", "interpolate", "none"])
def test_steering_along_a_control_moves_as_far_as_along_the_concept(mode):
    h = torch.randn(2, 3, *GRID, D)
    moved = [
        vector_norm(Steer(v, 0.3, mode)(h) - h) for v in (smooth_concept(), *random_directions(smooth_concept(), 3))
    ]
    torch.testing.assert_close(
        torch.stack(moved), torch.full((4,), float(0.3 * vector_norm(h, dim=(2, 3, 4, 5)).norm()))
    )


def test_random_directions_are_white_in_the_channels():
    means = torch.stack([v.mean((0, 1, 2)) for v in random_directions(smooth_concept(), 1000)])
    units = means / vector_norm(means, dim=1, keepdim=True)
    torch.testing.assert_close(units.mean(0), torch.zeros(D), atol=0.05, rtol=0)
    torch.testing.assert_close(D * units.mT @ units / 1000, torch.eye(D), atol=0.2, rtol=0)


def test_a_direction_depends_on_seed_and_number_alone():
    concept = smooth_concept()
    many, few = random_directions(concept, 5, seed=3), random_directions(concept, 2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(many, few, strict=False))
    scaled = random_directions(2 * concept, 2, seed=3)
    torch.testing.assert_close(scaled[0], 2 * few[0])
    pairs = itertools.combinations([*many, *random_directions(concept, 5, seed=4)], 2)
    assert not any(torch.allclose(a, b) for a, b in pairs)
    assert random_directions(concept, 0) == []
    with pytest.raises(PhysteerError, match=r"\[h, w, δ, d\]"):
        random_directions(concept[0], 1)


# --- permutations of labels


def crossed(n_conditions=3, parameters=(100, 200, 1000, 2000)):
    """One unit per initial condition and parameter; high parameters show the feature."""
    units = [
        (f"re{p}/{i}", "feature" if p >= 1000 else "control", f"ic{i}") for i in range(n_conditions) for p in parameters
    ]
    return LabelPermutations({unit: label for unit, label, _ in units}, {unit: group for unit, _, group in units})


def count(labels, groups):
    counts = {}
    for unit, label in labels.items():
        key = (groups[unit], label)
        counts[key] = counts.get(key, 0) + 1
    return counts


def test_shuffles_keep_the_labels_of_every_initial_condition():
    permutations = crossed()
    shuffles = permutations.shuffled(50, seed=1)
    for labels in shuffles:
        assert count(labels, permutations.groups) == count(permutations.labels, permutations.groups)
        assert labels != permutations.labels
    assert len({tuple(sorted(labels.items())) for labels in shuffles}) == 50


def test_every_arrangement_is_as_likely():
    permutations = crossed(2, (100, 1000, 2000))  # 3 × 3 arrangements
    assert permutations.arrangements() == 9
    seen = [tuple(sorted(permutations.shuffled(1, seed)[0].items())) for seed in range(1600)]
    counts = [seen.count(labels) for labels in set(seen)]
    assert len(counts) == 8 and all(140 < n < 260 for n in counts)  # 200 ± 13
    assert len(permutations.shuffled(8)) == 8  # all there are


def test_more_shuffles_than_arrangements_are_refused():
    with pytest.raises(PhysteerError, match=r"9 shuffles .* there are 8 besides"):
        crossed(2, (100, 1000, 2000)).shuffled(9)
    alone = LabelPermutations({"a": "feature", "b": "control"}, {"a": "ic1", "b": "ic2"})
    with pytest.raises(PhysteerError, match="there are 0 besides"):
        alone.shuffled(1)
    with pytest.raises(PhysteerError, match="unit 'a' has a class but no initial condition"):
        LabelPermutations({"a": "feature"}, {})


def test_initial_conditions_without_both_classes_are_not_matched():
    labels = {"a": "feature", "b": "control", "c": "feature", "d": "feature"}
    groups = {"a": "ic1", "b": "ic1", "c": "ic2", "d": "ic2"}
    assert dict(LabelPermutations(labels, groups).matched().labels) == {"a": "feature", "b": "control"}


def test_shuffles_are_the_same_in_every_process_and_order():
    permutations = crossed()
    backwards = LabelPermutations(
        dict(reversed(permutations.labels.items())), dict(reversed(permutations.groups.items()))
    )
    assert backwards.shuffled(5, 2) == permutations.shuffled(5, 2)
    code = (
        "from physteer.concepts.label_permutation import LabelPermutations\n"
        f"print(LabelPermutations({dict(permutations.labels)!r}, {dict(permutations.groups)!r}).shuffled(5, 2))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == repr(permutations.shuffled(5, 2))  # another hash seed, another process


# --- shuffled concepts


def activations(permutations, strength=0.0, own=3.0, seed=0, windows=2):
    """Activations [windows, 2, *GRID, D] per unit: its initial condition's pattern, the concept's, and noise."""
    generator = torch.Generator().manual_seed(seed)
    groups = sorted(set(permutations.groups.values()))
    patterns = {group: own * torch.randn(*GRID, D, generator=generator) for group in groups}
    concept = torch.randn(*GRID, D, generator=generator)
    return concept, {
        unit: patterns[permutations.groups[unit]]
        + strength * concept * (1 if label == "feature" else -1)
        + torch.randn(windows, 2, *GRID, D, generator=generator)
        for unit, label in permutations.labels.items()
    }


def test_each_is_the_difference_of_means_of_its_shuffled_labels():
    permutations = crossed()
    _, seen = activations(permutations)
    shuffled = ShuffledDifferences(permutations, 4, seed=7)
    for unit, h in seen.items():
        shuffled.update([unit] * len(h), h)
    concepts = shuffled.fit(site="blocks.1", model="m", data="d", selections={"feature": "Re > 500"})
    assert len(concepts) == 4
    for i, (labels, concept) in enumerate(zip(permutations.shuffled(4, seed=7), concepts, strict=True)):
        one = DifferenceOfMeans()
        for unit, h in seen.items():
            one.update(labels[unit], h)
        truth = one.fit(site="blocks.1", model="m", data="d", selections={"feature": "Re > 500"})
        torch.testing.assert_close(concept.direction, truth.direction, rtol=0, atol=1e-6)
        assert (concept.counts, concept.classes, concept.site) == (truth.counts, truth.classes, truth.site)
        assert f"seed 7, shuffle {i}" in concept.formula and truth.formula in concept.formula


@pytest.mark.parametrize("split", [[24], [1] * 24, [5, 0, 19]])
def test_any_batching_and_number_of_processes_give_the_same_concepts(split):
    permutations = crossed()
    _, seen = activations(permutations)
    units = [unit for unit, h in seen.items() for _ in h]
    h = torch.cat(list(seen.values()))
    whole = ShuffledDifferences(permutations, 3)
    whole.update(units, h)
    merged, first = ShuffledDifferences(permutations, 3), 0
    for n in split:
        process, sent = ShuffledDifferences(permutations, 3), ShuffledDifferences(permutations, 3)
        process.update(units[first : first + n], h[first : first + n])
        sent.load_state_dict(process.state_dict())
        merged.merge(sent)
        first += n
    for a, b in zip(merged.fit(site="a"), whole.fit(site="a"), strict=True):
        torch.testing.assert_close(a.direction, b.direction, rtol=0, atol=1e-7)
        assert a.counts == b.counts == {"feature": 12, "control": 12}


def test_shuffling_within_initial_conditions_takes_the_concept_out_and_keeps_initial_conditions_out():
    permutations = crossed(8)
    truth, seen = activations(permutations, strength=0.5)
    real, shuffled = DifferenceOfMeans(), ShuffledDifferences(permutations, 19)
    for unit, h in seen.items():
        real.update(permutations.labels[unit], h)
        shuffled.update([unit] * len(h), h)

    def cosine(direction):
        return float((direction * truth).sum() / direction.norm() / truth.norm())

    controls = [concept.direction for concept in shuffled.fit(site="a")]
    concept = real.fit(site="a").direction
    assert cosine(concept) > 0.9
    assert all(abs(cosine(v)) < cosine(concept) for v in controls)
    assert abs(sum(map(cosine, controls)) / 19) < 0.35
    assert max(float(v.norm()) for v in controls) < float(concept.norm())  # patterns of initial conditions cancel


def test_what_does_not_fit_is_refused():
    permutations = crossed()
    shuffled = ShuffledDifferences(permutations, 2)
    h = torch.randn(1, 1, *GRID, D)
    with pytest.raises(PhysteerError, match="no window was seen"):
        shuffled.fit(site="a")
    with pytest.raises(PhysteerError, match="unit 're7/0' is not among those"):
        shuffled.update(["re7/0"], h)
    with pytest.raises(PhysteerError, match="2 units were named for 1 windows"):
        shuffled.update(["re100/0"] * 2, h)
    shuffled.update(["re100/0"], h)
    with pytest.raises(PhysteerError, match="is empty in shuffle 0"):
        shuffled.fit(site="a")
    with pytest.raises(PhysteerError, match=r"\[2, 6, 1, 8\] cannot join those of \[4, 6, 1, 8\]"):
        shuffled.update(["re100/0"], h[:, :, :2])
    with pytest.raises(PhysteerError, match="different labels"):
        shuffled.merge(ShuffledDifferences(permutations, 2, seed=5))
    with pytest.raises(PhysteerError, match="sums of 2 shuffles were given for 3"):
        ShuffledDifferences(permutations, 3).load_state_dict(shuffled.state_dict())
    with pytest.raises(PhysteerError, match="class 'control' is neither 'feature' nor 'laminar'"):
        ShuffledDifferences(permutations, 2, control="laminar")
    for unit in permutations.labels:
        shuffled.update([unit], torch.ones(1, 1, *GRID, D))
    with pytest.raises(PhysteerError, match="constant or not finite"):
        shuffled.fit(site="a")
