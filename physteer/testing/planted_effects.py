"""Are known circuits found? Effects, attribution and the circuit search on networks whose circuit is planted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.analyses.effects import (
    Attribution,
    CircuitSearch,
    ClassMeasure,
    EffectSums,
    EffectSweep,
    Measure,
    Node,
    NodeRuns,
    NumberMeasure,
    NumberTruth,
    Patch,
    StatisticsFitter,
    expand_nodes,
    staged_runs,
)
from physteer.analyses.effects.attribution_sums import AttributionSums
from physteer.analyses.effects.table import EffectRow
from physteer.interventions import Site, take_snapshots
from physteer.interventions.seeds import derangement
from physteer.testing.planted_tasks import PlantedTask, RunningFraction
from physteer.testing.planted_transformer import PlantedTransformer

LEAVES = ("blocks.*.attention.heads[*]", "blocks.*.feed_forward.update")
COMPONENTS = 4
"""Principal directions per node, half of a head's width."""
GROUPS = 20
"""Pairs are independent draws; intervals resample this many groups of them."""
_EFFECTS = {  # which column judges a patch: by the task and by whether the pair's own source is put in
    ("recall", "resample"): "class_changed",
    ("recall", "source"): "class_to_source",
    ("regression", "resample"): "tolerance_model",
    ("regression", "source"): "tolerance_to_source",
}


@dataclass(frozen=True)
class PlantedRecovery:
    """How well the analyses tell planted nodes from the others, on fresh pairs."""

    auroc: Mapping[str, float]
    """By patch (``resample``, ``span_source``), at scale 1: area under the ROC curve, planted nodes against others."""
    gap: Mapping[str, float]
    """By patch: least effect of a planted node less the greatest of any other."""
    outside: Mapping[str, float]
    """By patch: greatest effect of a node that is not planted."""
    together: float
    """Share of pairs that keep their answer with all nodes outside patched together, from other samples."""
    attribution_auroc: float
    """The same area of the estimates."""
    circuit: tuple[str, ...]
    """The nodes that the search has chosen."""
    planted: bool
    """Whether these are the planted ones."""


def planted_runs(
    network: PlantedTransformer, task: PlantedTask, n: int, generator: torch.Generator, sites: Sequence[Site]
) -> NodeRuns:
    """Run n fresh pairs up to nodes; partners are other bases.

    Args:
        network: trained, frozen.
        task: of the network.
        n: how many pairs.
        generator: of the draw.
        sites: of the nodes.
    """
    pairs = task.evaluation_pairs(n, generator)
    partners = pairs.base[derangement(len(pairs.base), generator)]
    number = isinstance(task, RunningFraction)
    return staged_runs(
        network,
        sites,
        (pairs.base,),
        {"source": (pairs.source,), "resample": (partners,)},
        finish=(lambda y: y[:, -1, 0]) if number else (lambda y: y[:, -1]),
        truth=NumberTruth(task.answers(pairs.base)[:, -1]) if number else None,
    )


def measure_of(task: PlantedTask) -> Measure:
    """Return what judges a task's outputs."""
    return NumberMeasure(task.TOLERANCE) if isinstance(task, RunningFraction) else ClassMeasure()


def leaves(network: PlantedTransformer) -> tuple[Node, ...]:
    """Return all heads and feed-forwards."""
    heads = {name: network.sizes["n_heads"] if name.endswith("heads") else 0 for name in network.site_names()}
    return expand_nodes(LEAVES, heads)


def planted_effects(
    network: PlantedTransformer, task: PlantedTask, patches: Sequence[Patch], n: int = 2048, seed: int = 0
) -> list[EffectRow]:
    """Return the effects of every leaf under some patches, over n fresh pairs.

    Args:
        network: trained, frozen.
        task: of the network.
        patches: to apply.
        n: how many pairs.
        seed: of the draws; means and principal directions are of other samples.
    """
    nodes = leaves(network)
    sites = [node.site for node in nodes]
    generator = torch.Generator().manual_seed(1_000_003 * seed + 1)
    fitter = StatisticsFitter(sites, COMPONENTS)
    for site, snapshot in take_snapshots(network, sites, task.draw(n, generator)).items():
        fitter.update(site, snapshot.activation)
    sweep = EffectSweep(nodes, patches, measure_of(task), fitter.fit())
    runs = planted_runs(network, task, n, generator, sites)
    sums = EffectSums(sweep.keys, _groups(GROUPS), len(sweep.measure.columns))
    for i, terms in sweep.terms(runs):
        for j, one in enumerate(terms):
            sums.add(i * len(patches) + j, one, _groups(len(runs)))
    return sweep.rows(sums)


def planted_recovery(network: PlantedTransformer, task: PlantedTask, n: int = 2048, seed: int = 0) -> PlantedRecovery:
    """Look for a planted circuit in every way there is, on n fresh pairs.

    Args:
        network: trained, frozen.
        task: of the network.
        n: how many pairs, and as many others that choose the circuit.
        seed: of the draws.
    """
    nodes, names = leaves(network), set(task.planted.values())
    inside = torch.tensor([node.name in names for node in nodes])
    rows = planted_effects(network, task, [Patch("resample", 1.0), Patch("span_source", 1.0)], n, seed)
    auroc, gap, outside = {}, {}, {}
    for variant, kind in (("resample", "resample"), ("span_source", "source")):
        column = _EFFECTS[task.name, kind]
        by = {row.node: row.value for row in rows if (row.variant, row.effect) == (variant, column)}
        effects = torch.tensor([by[node.name] for node in nodes])
        auroc[variant] = _auroc(effects, inside)
        outside[variant] = float(effects[~inside].max())
        gap[variant] = float(effects[inside].min()) - outside[variant]
    sites, generator = [node.site for node in nodes], torch.Generator().manual_seed(1_000_003 * seed + 2)
    runs = planted_runs(network, task, n, generator, sites)
    attribution = AttributionSums(Attribution(nodes, measure_of(task)), _groups(GROUPS), seed)
    attribution.add(runs, _groups(len(runs)), generator)
    attribution.merge(torch.device("cpu"))

    def batches() -> Iterator[tuple[NodeRuns, Sequence[str]]]:
        yield runs, _groups(len(runs))

    search = CircuitSearch(nodes, measure_of(task), _groups(GROUPS), seed)
    found, _ = search.choose(attribution, batches, torch.device("cpu"))
    circuit = tuple(sorted(nodes[i].name for i in found.order[: found.size]))
    return PlantedRecovery(
        auroc,
        gap,
        outside,
        _together(task, runs, [node for node, planted in zip(nodes, inside.tolist(), strict=True) if not planted]),
        _auroc(attribution.ranking(), inside),
        circuit,
        set(circuit) == names,
    )


def _together(task: PlantedTask, runs: NodeRuns, outside: Sequence[Node]) -> float:
    """Return the share of pairs that keep their answer when all nodes outside are taken from the partners."""
    with torch.no_grad():
        patched = runs.output({node.site: runs.others["resample"][node.site] for node in outside})
    base = runs.outputs.base
    if isinstance(task, RunningFraction):
        return float(((patched - base).abs() <= task.TOLERANCE).double().mean())
    return float((patched.argmax(-1) == base.argmax(-1)).double().mean())


def _auroc(scores: Tensor, inside: Tensor) -> float:
    """Return the share of (planted, other) pairs of nodes that scores put in the right order; ties count half."""
    planted, others = scores[inside][:, None].double(), scores[~inside][None].double()
    return float(((planted > others).double() + (planted == others).double() / 2).mean())


def _groups(n: int) -> list[str]:
    return [str(i % GROUPS) for i in range(n)]
