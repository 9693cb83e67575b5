"""Passes under patches: starting right behind a node equals running the whole model under edits."""

import pytest
import torch
from helpers.experiments import random_walrus
from torch import nn

from physteer.analyses.effects import (
    ClassMeasure,
    EffectSums,
    EffectSweep,
    Node,
    NumberMeasure,
    NumberTruth,
    expand_nodes,
    make_patches,
    staged_runs,
    whole_runs,
)
from physteer.analyses.effects.patches import NodeStatistics
from physteer.errors import PhysteerError
from physteer.interventions import (
    Edit,
    Interchange,
    Locus,
    Site,
    replayed,
    resumed,
    take_last_frame_snapshots,
    take_snapshots,
    write_of,
)
from physteer.testing.planted_tasks import Recall

PERIODIC = ((2, 2),) * 3


@pytest.fixture(scope="module")
def walrus():
    return random_walrus().eval().requires_grad_(False)


def windows(walrus, seed):
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(2, 3, 4, 32, 32, 1, generator=generator)
    return fields, walrus.config.labels(["pressure", "velocity_x", "velocity_y", "tracer"]), PERIODIC


def test_every_node_writes_to_the_stream_as_it_says(walrus):
    sites = [Site("encoder")]
    for i in range(2):
        for inside in ("time", "space"):
            sites += [Site(f"blocks.{i}.{inside}.heads"), Site(f"blocks.{i}.{inside}.heads", 1)]
        sites += [Site(f"blocks.{i}.{name}") for name in ("time.update", "time", "space.attention_update")]
        sites += [Site(f"blocks.{i}.space.ff_hidden"), Site(f"blocks.{i}.space.ff_update"), Site(f"blocks.{i}")]
    base, source = windows(walrus, 0), windows(walrus, 1)
    for take, locus in ((take_snapshots, Locus()), (take_last_frame_snapshots, Locus(frames=[-1]))):
        snapshots, others = take(walrus, sites, *base), take(walrus, sites, *source)
        for site in sites:
            new, write = others[site].activation, write_of(walrus, site)
            changed = snapshots[write.stream].activation + write.of(new - snapshots[site].activation)
            fast = resumed(walrus, snapshots[write.stream], changed, last_frame_only=True)
            # the last block computes the last frame alone
            value = new[:, -1:] if site.module.startswith("blocks.1.") else new
            slow = replayed(
                walrus, snapshots[site], [Edit(site, Interchange(value), locus=locus)], last_frame_only=True
            )
            torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5, msg=f"{site} {take.__name__}")


def test_a_stream_of_another_shape_is_refused(walrus):
    (snapshot,) = take_snapshots(walrus, ["encoder"], *windows(walrus, 0)).values()
    with pytest.raises(PhysteerError, match="site encoder: a stream of shape"):
        resumed(walrus, snapshot, snapshot.activation[:, -1:])


def test_one_frame_and_a_source_of_three_says_what_to_do(walrus):
    site = Site("blocks.1.time.update")
    snapshot = take_snapshots(walrus, [site], *windows(walrus, 0))[site]
    with pytest.raises(PhysteerError, match="only the last frame is computed here, so give the last frame"):
        replayed(walrus, snapshot, [Edit(site, Interchange(snapshot.activation))], last_frame_only=True)


@pytest.fixture(scope="module")
def recall():
    task = Recall()
    torch.manual_seed(0)
    network = task.network().eval().requires_grad_(False)
    pairs = task.evaluation_pairs(32, torch.Generator().manual_seed(1))
    return network, pairs


def sweeps(network, pairs, nodes, patches, measure, truth=None):
    """The terms of a staged sweep and of one that runs the whole model for every patch."""
    sites = list(dict.fromkeys(node.site for node in nodes))
    sweep = EffectSweep(nodes, patches, measure, {})
    others = {"source": pairs.source, "resample": pairs.base.roll(1, 0)}
    read = (lambda y: y[:, -1]) if truth is None else (lambda y: y[:, -1, 0])
    staged = staged_runs(network, sites, (pairs.base,), {k: (v,) for k, v in others.items()}, finish=read, truth=truth)
    whole = whole_runs(network, sites, lambda tokens: read(network(tokens)), pairs.base, others, truth=truth)
    return [dict(sweep.terms(runs)) for runs in (staged, whole)], sweep


def heads(network):
    return {name: 4 if name.endswith("heads") else 0 for name in network.site_names()}


def test_a_sweep_of_a_staged_model_equals_that_of_the_whole_model(recall):
    network, pairs = recall
    nodes = expand_nodes(["encoder", "blocks.*", "blocks.*.*.heads[*]", "blocks.*.feed_forward.update"], heads(network))
    patches = make_patches(["zero", "resample", "source", "scaled_source"], [0.0, 0.5, 1.0, 2.0])
    (staged, whole), sweep = sweeps(network, pairs, nodes, patches, ClassMeasure())
    assert staged.keys() == whole.keys() == set(range(len(nodes))) and len(nodes) == 13
    for i, terms in staged.items():
        torch.testing.assert_close(terms, whole[i], rtol=1e-4, atol=1e-5)
    sums = EffectSums(sweep.keys, [str(g) for g in range(8)], 4)
    for i, terms in staged.items():
        for j, one in enumerate(terms):
            sums.add(i * len(terms) + j, one, [str(row % 8) for row in range(32)])
    rows = {(r.node, r.variant, r.scale, r.effect): r.value for r in sweep.rows(sums)}
    assert rows["encoder", "source", 1.0, "class_to_source"] == 1.0  # all positions: the source's own pass
    assert rows["blocks.1", "resample", 1.0, "class_to_source"] == 1.0
    assert rows["encoder", "source", 0.0, "class_changed"] == 0.0
    assert rows["encoder", "source", 0.0, "kl_base_patched"] == 0.0
    assert ("encoder", "zero", 1.0, "class_to_source") not in rows  # there is no source's answer


def test_positions_are_patched_each_alone(recall):
    network, pairs = recall
    nodes = [Node(Site("encoder"), position) for position in range(pairs.base.shape[1])]
    (staged, whole), _ = sweeps(network, pairs, nodes, make_patches(["source"], [1.0]), ClassMeasure())
    changed = (pairs.base != pairs.source).any(0).tolist()
    for position, moved in enumerate(changed):
        torch.testing.assert_close(staged[position], whole[position], rtol=1e-4, atol=1e-6)
        assert bool(staged[position][..., 2, 0].abs().max() > 1e-9) == moved  # KL: tokens that are equal do nothing


def test_numbers_are_judged_by_a_tolerance():
    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x):
            return 2 * self.part(x)[:, -1, 0]

    model, base = Doubled(), torch.zeros(4, 3, 1)
    source = torch.tensor([0.0, 0.02, 1.0, 2.0]).view(4, 1, 1).expand(4, 3, 1)
    measure = NumberMeasure(0.05)
    truth = NumberTruth(torch.tensor([0.0, 0.0, 0.0, 9.0]))
    runs = whole_runs(model, [Site("part")], model, base, {"source": source}, truth=truth)
    sweep = EffectSweep([Node(Site("part"))], make_patches(["source"], [1.0, 0.5]), measure, {})
    ((_, terms),) = sweep.terms(runs)
    sums = terms.sum(1)  # [patches, columns, 2]
    by = {column.effect: sums[0, k] for k, column in enumerate(measure.columns)}
    assert by["tolerance_model"].tolist() == [2, 4]  # outputs 0, .04, 2 and 4 against 0
    assert by["tolerance_program"].tolist() == [2, 4]  # the last right answer is 9
    assert by["tolerance_to_source"].tolist() == [2, 2]
    assert by["field"][0] == by["field"][1] and by["aligned"][0] == by["aligned"][1]
    half = dict(zip((c.effect for c in measure.columns), sums[1], strict=True))["aligned"]
    assert half[0] / half[1] == pytest.approx(0.5)


def test_positions_and_means_of_unknown_axes_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten())  # [B, C, H, W]: axis 1 is no position, the last no channels
    base, source = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)

    def sweep(site: Site, position: int | None, variant: str):
        runs = whole_runs(model, [site], model, base, {"source": source})
        (patch,) = make_patches([variant], [1.0])
        statistics = NodeStatistics(torch.zeros(runs.base[site].shape[-1]))
        return runs.patched(Node(site, position), patch, statistics)

    assert sweep(Site("0"), None, "source").shape == (2, 3, 4, 4)
    for position, variant in ((-1, "source"), (None, "mean")):
        with pytest.raises(PhysteerError, match=r"site 0: .* of the node must know which axis of the activation"):
            sweep(Site("0"), position, variant)
    assert sweep(Site.parse("0 as b c h w"), None, "mean").shape == (2, 1, 4, 4, 3)
    runs = whole_runs(model, [Site.parse("0 as b c h w")], model, base, {"source": source})
    assert torch.equal(runs.output({Site("0"): runs.others["source"][Site("0")]}), model(source))


def test_a_site_that_the_forward_does_not_call_is_an_error(recall):
    network, pairs = recall
    network.idle = nn.Identity()
    with pytest.raises(PhysteerError, match="site 'idle' has no activation"):
        whole_runs(network, [Site("idle")], lambda tokens: network(tokens)[:, -1], pairs.base, {})
