"""Patterns of nodes."""

import pytest
from helpers.experiments import random_walrus

from physteer.analyses.effects import Node, expand_nodes
from physteer.analyses.effects.nodes import check_leaves
from physteer.errors import PhysteerError
from physteer.interventions import Site

HEADS = {
    "encoder": 0,
    "blocks.0.time.heads": 2,
    "blocks.0.space.ff_update": 0,
    "blocks.0": 0,
    "blocks.1.time.heads": 2,
    "blocks.1": 0,
}


def names(*patterns, positions=(None,)):
    return [node.name for node in expand_nodes(patterns, HEADS, positions)]


def test_patterns_name_nodes_in_the_order_of_computation():
    assert names("blocks.*", "encoder") == ["encoder", "blocks.0", "blocks.1"]
    assert names("blocks.*.time.heads[*]") == [f"blocks.{i}.time.heads[{j}]" for i in (0, 1) for j in (0, 1)]
    assert names("blocks.1.time.heads[1]", "blocks.1.*.heads[*]") == [
        "blocks.1.time.heads[0]",
        "blocks.1.time.heads[1]",
    ]
    assert names("blocks.0.*.ff_update", positions=(0, 2)) == [
        "blocks.0.space.ff_update@0",
        "blocks.0.space.ff_update@2",
    ]


def test_a_node_tells_where_it_is():
    node = Node(Site.parse("blocks.12.space.heads[3]"), 1)
    assert (node.block, node.kind, node.head, node.name) == (12, "space.heads", 3, "blocks.12.space.heads[3]@1")
    assert (Node(Site("blocks.3")).kind, Node(Site("encoder")).block) == ("output", -1)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("blocks.*.tme.heads[*]", r"no site matches 'blocks.\*.tme.heads\[\*\]'; did you mean 'blocks.0.time.heads'"),
        ("blocks.*[*]", "asks for heads, but the output of blocks.0 is not per head"),
        ("blocks.0.time.heads[2]", "asks for head 2; blocks.0.time.heads has 2, counted from 0"),
        ("blocks[", "is no pattern of nodes"),
    ],
)
def test_what_matches_nothing_is_refused(pattern, said):
    with pytest.raises(PhysteerError, match=said):
        names(pattern)


def test_circuits_are_of_leaves():
    walrus = random_walrus()

    def check(*sites):
        check_leaves(walrus, [Node(Site.parse(site)) for site in sites])

    check("blocks.0.time.heads[0]", "blocks.1.space.ff_update")
    with pytest.raises(PhysteerError, match=r"node blocks.0 is the residual stream itself"):
        check("blocks.0")
    with pytest.raises(PhysteerError, match=r"blocks.0.time.heads\[0\] and blocks.0.time.heads overlap"):
        check("blocks.0.time.heads", "blocks.0.time.heads[0]")
    with pytest.raises(PhysteerError, match=r"blocks.0.time.q does not add to the residual stream"):
        check("blocks.0.time.q")
