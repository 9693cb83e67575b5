"""What comes in a node's place: formulas, no-ops, and parts that add up."""

import pytest
import torch

from physteer.analyses.effects import SCALES, VARIANTS, NodeStatistics, Patch, StatisticsFitter, make_patches
from physteer.errors import PhysteerError
from physteer.interventions import Site

SITE = Site("blocks.0")


@pytest.fixture
def activations():
    generator = torch.Generator().manual_seed(0)
    base, other, natural = (torch.randn(4, 3, 5, 6, generator=generator) + 1 for _ in range(3))
    fitter = StatisticsFitter([SITE], 2)
    fitter.update(SITE, natural * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.4, 0.3]))
    return base, other, fitter.fit()[SITE]


@pytest.mark.parametrize("part", ["span", "complement"])
def test_a_part_of_itself_at_scale_one_changes_not_a_bit(activations, part):
    base, _, statistics = activations
    assert Patch(f"{part}_self", 1.0)(base, None, statistics) is base
    assert not torch.equal(Patch(f"{part}_self", 2.0)(base, None, statistics), base)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("source", ["self", "source"])
def test_inside_and_outside_add_up_to_the_scaled_source(activations, scale, source):
    base, other, statistics = activations
    s = base if source == "self" else other
    given = None if source == "self" else other
    inside, outside = (Patch(f"{part}_{source}", scale)(base, given, statistics) for part in ("span", "complement"))
    torch.testing.assert_close(inside + outside - base, scale * s, rtol=1e-5, atol=1e-5)


def test_the_span_has_the_largest_variances_and_leaves_the_rest(activations):
    base, other, statistics = activations
    u = statistics.directions
    assert torch.allclose(u.mT @ u, torch.eye(2), atol=1e-6)
    assert u[0, 0].abs() > 0.9  # the channel of the largest variance
    changed = Patch("span_source", 1.0)(base, other, statistics) - base
    torch.testing.assert_close(changed @ u @ u.mT, changed, rtol=1e-5, atol=1e-5)


def test_scales_go_from_the_base_through_the_target(activations):
    base, other, statistics = activations
    for variant in ("zero", "mean", "resample", "source"):
        given = other if variant in ("resample", "source") else None
        assert Patch(variant, 0.0)(base, given, statistics) is base
        target = {"zero": torch.zeros_like(base), "mean": statistics.mean.expand_as(base)}.get(variant, other)
        assert torch.equal(Patch(variant, 1.0)(base, given, statistics), target)
        torch.testing.assert_close(Patch(variant, 2.0)(base, given, statistics), 2 * target - base)
    for variant in ("scaled_resample", "scaled_source"):
        assert torch.equal(Patch(variant, 0.0)(base, other, None), torch.zeros_like(base))
        assert torch.equal(Patch(variant, 5.0)(base, other, None), 5 * other)


def test_positions_may_have_statistics_of_their_own():
    generator = torch.Generator().manual_seed(1)
    natural = torch.randn(50, 2, 4, generator=generator)
    natural[:, 1] += 10
    fitter = StatisticsFitter([SITE], 1, per_position=True)
    fitter.update(SITE, natural)
    statistics = fitter.fit()[SITE]
    torch.testing.assert_close(statistics.mean, natural.mean(0), rtol=1e-4, atol=1e-5)
    one = NodeStatistics(statistics.mean[1], statistics.directions[1])
    torch.testing.assert_close(statistics.projected(natural)[:, 1], one.projected(natural[:, 1]))


@pytest.mark.parametrize(
    ("variants", "scales", "said"),
    [
        (["zerro"], [1.0], "variant 'zerro' of a patch is not one of"),
        (["zero", "zero"], [1.0], "variants must be one or more, all different"),
        (["zero"], [float("nan")], "scales must be finite"),
        (["zero"], [], "scales must be one or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(variants, scales, said):
    with pytest.raises(PhysteerError, match=said):
        make_patches(variants, scales)


def test_every_variant_has_a_formula():
    assert {patch.variant for patch in make_patches(list(VARIANTS), [1.0])} == VARIANTS.keys()


def test_nodes_that_do_not_vary_enough_are_named():
    with pytest.raises(PhysteerError, match=r"node blocks\.0 varies in 0 directions only"):
        fitter = StatisticsFitter([SITE], 1)
        fitter.update(SITE, torch.ones(4, 3, 6))
        fitter.fit()
    with pytest.raises(PhysteerError, match=r"components must be at most the width of every node; blocks\.0 has 6"):
        fitter = StatisticsFitter([SITE], 7)
        fitter.update(SITE, torch.randn(40, 3, 6))
        fitter.fit()
