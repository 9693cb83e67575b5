"""Attribution is exact where the model is linear, and ranks nodes; joint patches add up in the residual stream."""

import pytest
import torch

from physteer.analyses.effects import (
    Attribution,
    ClassMeasure,
    JointPatches,
    NumberMeasure,
    NumberTruth,
    expand_nodes,
    staged_runs,
    whole_runs,
)
from physteer.analyses.effects.attribution_sums import rank_correlation
from physteer.errors import PhysteerError
from physteer.interventions import Edit, Interchange, attached
from physteer.testing.planted_effects import planted_recovery
from physteer.testing.planted_tasks import TASKS, Recall, RunningFraction
from physteer.testing.planted_weights import load_planted

LEAVES = ["blocks.*.attention.heads[*]", "blocks.*.feed_forward.update"]


def made(task, seed=0, n=64):
    torch.manual_seed(seed)
    network = task.network().eval().requires_grad_(False)
    pairs = task.evaluation_pairs(n, torch.Generator().manual_seed(seed))
    heads = {name: 4 if name.endswith("heads") else 0 for name in network.site_names()}
    return network, pairs, heads


def runs_of(network, pairs, nodes, finish, truth=None):
    others = {"source": (pairs.source,), "resample": (pairs.base.roll(1, 0),)}
    return staged_runs(network, [node.site for node in nodes], (pairs.base,), others, finish=finish, truth=truth)


def test_the_last_streams_attribution_is_its_derivative():
    """Replacing a node by a point close by changes the scalar by gradient × difference."""
    network, pairs, heads = made(Recall())
    nodes = expand_nodes([*LEAVES, "encoder", "blocks.*"], heads)
    measure = ClassMeasure()
    runs = runs_of(network, pairs, nodes, lambda y: y[:, -1])
    aligned, squares = Attribution(nodes, measure).terms(runs, torch.Generator().manual_seed(0))
    assert aligned.shape == squares.shape == (len(nodes), 64)
    step = 1e-3
    for i, node in enumerate(nodes):
        b, s = runs.base[node.site], runs.others["source"][node.site]
        near = runs.output({node.site: b + step * (s - b)})
        change = measure.scalar(near, runs.outputs) - measure.scalar(runs.outputs.base, runs.outputs)
        torch.testing.assert_close(change.double() / step, aligned[i], rtol=2e-2, atol=2e-2)


def test_random_cotangents_estimate_the_size_of_the_first_order_change():
    network, pairs, heads = made(RunningFraction())
    nodes = expand_nodes(LEAVES, heads)
    truth = NumberTruth(torch.zeros(64))
    measure = NumberMeasure(0.05)
    runs = runs_of(network, pairs, nodes, lambda y: y[:, -1, 0], truth)
    _, squares = Attribution(nodes, measure).terms(runs, torch.Generator().manual_seed(0))
    exact = [measure.distance(runs.output({n.site: runs.others["source"][n.site]}), runs.outputs).sum() for n in nodes]
    assert rank_correlation([*zip(squares.sum(1).tolist(), map(float, exact), strict=True)]) > 0.8


def test_attribution_needs_stages_and_writes():
    network, pairs, heads = made(Recall())
    nodes = expand_nodes(["blocks.0.attention.heads[0]"], heads)
    sites = [node.site for node in nodes]
    whole = whole_runs(network, sites, lambda x: network(x)[:, -1], pairs.base, {"source": pairs.source})
    with pytest.raises(PhysteerError, match="attribution needs a model that runs in stages"):
        Attribution(nodes, ClassMeasure()).terms(whole, torch.Generator())


def test_a_kept_set_runs_alive_and_the_rest_is_resampled():
    """Kept nodes see what the resampled ones changed; with all kept the pass is the source's own."""
    network, pairs, heads = made(Recall())
    leaves = expand_nodes(LEAVES, heads)
    runs = runs_of(network, pairs, leaves, lambda y: y[:, -1])
    joint = JointPatches(leaves, runs)
    assert joint.output([True] * len(leaves)) is runs.outputs.others["source"]
    torch.testing.assert_close(joint.output([True] * len(leaves)), network(pairs.source)[:, -1])
    kept = [i % 3 == 0 for i in range(len(leaves))]
    edits = [
        Edit(node.site, Interchange(runs.others["resample"][node.site]))
        for node, keep in zip(leaves, kept, strict=True)
        if not keep
    ]
    patched = joint.output(kept)
    with attached(network, edits):
        torch.testing.assert_close(patched, network(pairs.source)[:, -1])
    grown = [*joint.growing(range(len(leaves)))]
    assert len(grown) == len(leaves) + 1
    torch.testing.assert_close(grown[4], joint.output([i < 4 for i in range(len(leaves))]))


@pytest.mark.parametrize("name", TASKS)
def test_planted_circuits_are_found(name):
    """Effects, attribution and the search find the planted nodes of the shipped networks, and no others."""
    found = planted_recovery(load_planted(name), TASKS[name], n=1024)
    assert set(found.auroc.values()) == {1.0} and found.attribution_auroc >= 0.95
    assert min(found.gap.values()) >= 0.5 and max(found.outside.values()) <= 0.02
    assert found.together >= 0.98
    assert found.planted, found.circuit


def test_a_network_whose_answers_never_differ_has_no_circuit():
    network, _, _ = made(Recall())  # untrained: it says the same whatever is asked
    with pytest.raises(PhysteerError, match="a circuit needs pairs whose answers differ"):
        planted_recovery(network, Recall(), n=256)
