"""How well a circuit is planted: what the network answers, and what it answers when nodes are patched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.testing.planted_patches import LeafPatches
from physteer.testing.planted_tasks import PlantedTask
from physteer.testing.planted_transformer import PlantedTransformer


@dataclass(frozen=True)
class PlantedScores:
    """Shares of samples, each in [0, 1]."""

    accuracy: float
    """Answered as the program does."""
    iia: Mapping[str, float]
    """By variable: answered as the program does under the interchange, when the variable's node is patched."""
    kept: Mapping[str, float]
    """By node outside the circuit: the network's own answer stays when that node alone is patched."""
    kept_together: float
    """The network's own answer stays when all nodes outside the circuit are patched together."""

    def named(self) -> Iterator[tuple[str, float]]:
        """Yield every share with a name for logs."""
        yield "accuracy", self.accuracy
        for variable, share in self.iia.items():
            yield f"iia/{variable}", share
        for node, share in self.kept.items():
            yield f"kept/{node}", share
        yield "kept/together", self.kept_together


@torch.no_grad()
def planted_scores(network: PlantedTransformer, task: PlantedTask, base: Tensor, source: Tensor) -> PlantedScores:
    """Measure a network on pairs of samples.

    Args:
        network: any of the task's sizes, trained or not.
        task: its program, and where its variables are to be.
        base: tokens [B, T] of the passes that are patched.
        source: tokens [B, T] of independent samples, whose activations are put in.

    Returns:
        The shares. A sample of several answers counts when all of them agree.
    """
    patches = LeafPatches(network)
    activations = patches.activations(network, source)

    def answered(nodes: Tensor) -> Tensor:
        chosen = nodes.expand(len(base), -1)
        return patches.output(network, base, activations, chosen, last_frame_only=task.only_last)

    outside = ~patches.select(task.planted.values())
    own = answered(torch.zeros_like(outside))
    own_answers = task.read(own)
    iia = {
        variable: _share(task.agree(answered(patches.select([node])), task.interchanged(variable, base, source)))
        for variable, node in task.planted.items()
    }
    kept = {
        node: _share(task.agree(answered(patches.select([node])), own_answers))
        for node, is_outside in zip(patches.nodes, outside.tolist(), strict=True)
        if is_outside
    }
    return PlantedScores(
        accuracy=_share(task.agree(own, task.answers(base))),
        iia=iia,
        kept=kept,
        kept_together=_share(task.agree(answered(outside), own_answers)),
    )


def _share(agreed: Tensor) -> float:
    return float(agreed.float().mean())
