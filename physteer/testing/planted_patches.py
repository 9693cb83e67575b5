"""Patching many leaf nodes at once, another set of them in every row of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from physteer.errors import PhysteerError, did_you_mean
from physteer.interventions import Edit, Replacement, Site, attached, captured
from physteer.testing.planted_transformer import PlantedTransformer


class LeafPatches:
    """The leaf nodes of a network, and passes in which some of them have other values.

    Args:
        network: whose nodes (`PlantedTransformer.leaf_nodes`).
    """

    def __init__(self, network: PlantedTransformer) -> None:
        self.nodes = network.leaf_nodes()
        self._head_width = network.sizes["width"] // network.sizes["n_heads"]
        self._columns: dict[str, list[int]] = {}
        """By module path: which of the nodes are its heads, or the module itself."""
        for i, node in enumerate(self.nodes):
            self._columns.setdefault(Site.parse(node).module, []).append(i)

    def select(self, nodes: Iterable[str]) -> Tensor:
        """Return which of the nodes are the given ones, bool [N].

        Raises:
            PhysteerError: One of them is no leaf node.
        """
        chosen = torch.zeros(len(self.nodes), dtype=torch.bool)
        for node in nodes:
            if node not in self.nodes:
                close = did_you_mean(node, self.nodes)
                raise PhysteerError(f"{node!r} is no leaf node{close or '; these are ' + ', '.join(self.nodes)}")
            chosen[self.nodes.index(node)] = True
        return chosen

    def activations(self, network: PlantedTransformer, tokens: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the nodes' modules for tokens [B, T], off the autograd tape.

        Returns:
            By module path, [B, T, d]; of heads d = n·hd.
        """
        with torch.no_grad(), captured(network, list(self._columns)) as activations:
            network(tokens)
        return activations

    def output(
        self,
        network: PlantedTransformer,
        tokens: Tensor,
        activations: Mapping[str, Tensor],
        chosen: Tensor,
        *,
        last_frame_only: bool = False,
    ) -> Tensor:
        """Return the output of a pass in which the chosen nodes have the given values, at all positions.

        Args:
            network: of the nodes.
            tokens: [R, T].
            activations: of another pass, row by row (`activations`).
            chosen: bool [R, N], the nodes of each row.
            last_frame_only: compute the last position's output alone.
        """
        edits = self.edits(chosen, lambda path, mask: _FromPass(activations[path], mask))
        with attached(network, edits):
            output: Tensor = network(tokens, last_frame_only=last_frame_only)
        return output

    def edits(self, chosen: Tensor, replacement: Callable[[str, Tensor], Replacement]) -> list[Edit]:
        """Return one edit for every module that has a chosen node.

        Args:
            chosen: bool [R, N], the nodes of each row.
            replacement: given a module's path and the mask of its chosen nodes, bool, [R, 1, n·hd] of heads, else
                [R, 1, 1], returns what replaces the module's whole activation.
        """
        edits = []
        for path, columns in self._columns.items():
            mask = chosen[:, columns]
            if bool(mask.any()):
                mask = mask.repeat_interleave(self._head_width, dim=1) if path.endswith("heads") else mask
                edits.append(Edit(path, replacement(path, mask[:, None])))
        return edits


class _FromPass(Replacement):
    """r(h) = the activation of another pass where a mask is true, h elsewhere."""

    def __init__(self, source: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.source, self.mask = source, mask

    def forward(self, h: Tensor) -> Tensor:
        """Return the mixture; where only the last position of h is computed, with the source's last."""
        return torch.where(self.mask.to(h.device), self.source[:, -h.shape[1] :], h)
