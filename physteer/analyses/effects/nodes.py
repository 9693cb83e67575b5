"""Nodes: the parts of a model whose effect is measured, and the patterns that name many of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.errors import PhysteerError, did_you_mean
from physteer.interventions import Site, StagedModel, path_pattern, write_of
from physteer.interventions.seeds import generator_of

_HEADS = re.compile(r"(?P<module>[^\[\]\s]+)(?:\[(?P<head>\*|\d+)\])?(?:\s+as\s+(?P<layout>.+))?")
_BLOCK = re.compile(r"blocks\.(?P<block>\d+)(?:\.(?P<kind>.+))?")


@dataclass(frozen=True)
class Node:
    """An activation that is replaced, at all positions or at one."""

    site: Site
    position: int | None = None
    """Index on axis 1 of the activation (the frame, or the token); None for all."""

    @property
    def block(self) -> int:
        """The block that it lies in, or whose output it is; −1 for what comes before the blocks."""
        match = _BLOCK.fullmatch(self.site.module)
        return -1 if match is None else int(match["block"])

    @property
    def kind(self) -> str:
        """The path of its module inside the block, such as ``space.heads``; ``output`` for the block's own output."""
        match = _BLOCK.fullmatch(self.site.module)
        return self.site.module if match is None else match["kind"] or "output"

    @property
    def head(self) -> int:
        """Index of the head; −1 where the node is no head."""
        return -1 if self.site.head is None else self.site.head

    @property
    def name(self) -> str:
        """The site, with the position after ``@``."""
        return str(self.site) if self.position is None else f"{self.site}@{self.position}"

    def put(self, new: Tensor, base: Tensor) -> Tensor:
        """Return the activation [B, T, …] that is new at the node's positions and the base's elsewhere."""
        if self.position is None:
            return new
        placed = base.clone()
        placed[:, self.position] = new[:, self.position]
        return placed


def expand_nodes(
    patterns: Sequence[str], heads: Mapping[str, int], positions: Sequence[int | None] = (None,)
) -> tuple[Node, ...]:
    """Return the nodes that patterns name, in the order of computation.

    Args:
        patterns: sites such as ``blocks.3`` or ``blocks.1.space.heads[2]``; ``*`` stands for one part of a path, and
            ``[*]`` for every head. The layout of a model that declares none follows after "as", as in ``Site.parse``.
        heads: every site of the model in the order of computation, with its number of heads; 0 where its output is not
            per head.
        positions: of each node; None for all positions at once.

    Raises:
        PhysteerError: A pattern names nothing, or asks for heads that are not there.
    """
    sites: set[Site] = set()
    for pattern in patterns:
        sites.update(_sites(pattern, heads))
    if not sites:
        raise PhysteerError("nodes must be one or more patterns such as blocks.*.space.heads[*]; found none")
    place = {name: i for i, name in enumerate(heads)}
    ordered = sorted(sites, key=lambda site: (place[site.module], -1 if site.head is None else site.head))
    return tuple(Node(site, position) for site in ordered for position in positions)


def drawn_nodes(nodes: Sequence[Node], n: int | None, seed: int) -> tuple[Node, ...]:
    """Draw n of the nodes at random, in their order; all of them where there are fewer, or n is None."""
    if n is None or n >= len(nodes):
        return tuple(nodes)
    order = torch.randperm(len(nodes), generator=generator_of("nodes", seed))[:n]
    return tuple(nodes[i] for i in sorted(order.tolist()))


def check_leaves(model: StagedModel, nodes: Sequence[Node]) -> None:
    """Check that nodes can be patched together: each adds to the residual stream by itself.

    Raises:
        PhysteerError: A node is the stream itself, does not write to it, or is part of another one.
    """
    sites = {node.site for node in nodes}
    for site in sites:
        write = write_of(model, site)
        if write is None:
            raise PhysteerError(
                f"node {site} does not add to the residual stream at one place: a circuit is of leaf nodes such as "
                "attention heads and feed-forward updates"
            )
        if write.stream == site:
            raise PhysteerError(
                f"node {site} is the residual stream itself: a circuit is of leaf nodes such as attention heads and "
                "feed-forward updates"
            )
        if site.head is not None and Site(site.module) in sites:
            raise PhysteerError(f"nodes {site} and {site.module} overlap: leave one out")


def _sites(pattern: str, heads: Mapping[str, int]) -> list[Site]:
    match = _HEADS.fullmatch(pattern.strip())
    if match is None:
        raise PhysteerError(f"{pattern!r} is no pattern of nodes; write one such as 'blocks.*.space.heads[*]'")
    modules = [name for name in heads if path_pattern(match["module"]).fullmatch(name)]
    if not modules:
        concrete = re.sub(r"\*", "0", match["module"])
        close = did_you_mean(concrete, heads)
        raise PhysteerError(f"no site matches {pattern!r}{close or ';'} 'physteer sites' lists all {len(heads)}")
    head, layout = match["head"], match["layout"]
    if head is None:
        return [Site(name, layout=layout) for name in modules]
    without = [name for name in modules if not heads[name]]
    if without:
        raise PhysteerError(f"{pattern!r} asks for heads, but the output of {without[0]} is not per head")
    if head == "*":
        return [Site(name, i, layout) for name in modules for i in range(heads[name])]
    for name in modules:
        if int(head) >= heads[name]:
            raise PhysteerError(f"{pattern!r} asks for head {head}; {name} has {heads[name]}, counted from 0")
    return [Site(name, int(head), layout) for name in modules]
