"""The losses of strict interchange-intervention training, from one stacked forward.

Geiger et al. (arXiv 2112.00826) train a network so that a chosen node carries a variable of a program: with the node's
value taken from a source s, the network must answer as the program does when the variable is the source's. The strict
form (Gupta et al., InterpBench, arXiv 2407.14494) adds that values of nodes outside the circuit must not matter:

    L_behaviour = ℓ(f(b), H(b))
    L_IIT       = ℓ(f(b; Π(u) ← s), H(b; u ← s))
    L_strict    = ℓ(f(b; N ← s), H(b)), N: each outside node with probability ½, drawn for every sample

One node at a time would not do for N: nodes may then compute the same thing twice, and patched together they break the
answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.interventions import Replacement, attached
from physteer.testing.planted_patches import LeafPatches
from physteer.testing.planted_tasks import PlantedTask
from physteer.testing.planted_transformer import PlantedTransformer


@dataclass(frozen=True, eq=False)
class PlantedLosses:
    """The three terms, each a mean over samples."""

    behaviour: Tensor
    """ℓ of the unpatched answers."""
    interchange: Tensor
    """ℓ of the answers under the interchange of one variable per sample."""
    strict: Tensor
    """ℓ of the answers with outside nodes patched."""

    def total(self, strict_weight: float) -> Tensor:
        """Return L_behaviour + L_IIT + weight · L_strict."""
        return self.behaviour + self.interchange + strict_weight * self.strict


class StrictInterchange:
    """Computes the losses of a network for batches of a task; sources are the samples before, in the same batch.

    Args:
        network: of the task's sizes.
        task: its program, and where its variables are to be.
        generator: of the variables that are interchanged and the nodes that are patched.
    """

    def __init__(self, network: PlantedTransformer, task: PlantedTask, generator: torch.Generator) -> None:
        self.patches, self.task, self.generator = LeafPatches(network), task, generator
        self.carriers = torch.stack([self.patches.select([node]) for node in task.planted.values()])
        """[variables, N]: the node of each variable."""
        self.outside = ~self.carriers.any(0)

    def __call__(self, network: PlantedTransformer, tokens: Tensor) -> PlantedLosses:
        """Return the losses for tokens [B, T]."""
        task, rows = self.task, len(tokens)
        variable = torch.randint(len(task.planted), (rows,), generator=self.generator)
        strict = (torch.rand(rows, len(self.patches.nodes), generator=self.generator) < 0.5) & self.outside
        edits = self.patches.edits(
            torch.cat([self.carriers[variable], strict]), lambda path, mask: _FromRowBefore(*mask.chunk(2))
        )
        with attached(network, edits):
            output = network(tokens.repeat(3, 1), last_frame_only=task.only_last)
        unpatched, interchanged, strictly = output.chunk(3)
        answers = task.answers(tokens)
        return PlantedLosses(
            behaviour=task.loss(unpatched, answers),
            interchange=task.loss(interchanged, self._counterfactual(tokens, variable)),
            strict=task.loss(strictly, answers),
        )

    def _counterfactual(self, tokens: Tensor, variable: Tensor) -> Tensor:
        """Return the program's answers [B, A], each under the interchange of its own variable."""
        sources = tokens.roll(1, 0)
        of_each = torch.stack([self.task.interchanged(name, tokens, sources) for name in self.task.planted])
        return of_each[variable.to(tokens.device), torch.arange(len(tokens), device=tokens.device)]


class _FromRowBefore(Replacement):
    """r of three stacked groups of rows: unpatched, interchanged, and patched outside; sources are unpatched rows.

    The sources of the interchange are off the tape: the node must carry the variable because its readers ask for it,
    and because the unpatched answer needs it. Those of the strict term are on it: what an outside node says is
    trained to be irrelevant from both ends. Off the tape, only its readers would learn to ignore it.
    """

    def __init__(self, interchanged: Tensor, strict: Tensor) -> None:
        super().__init__()
        self.interchanged, self.strict = interchanged, strict

    def forward(self, h: Tensor) -> Tensor:
        """Return the three groups, [3B, T, …]."""
        unpatched, interchanged, strict = h.chunk(3)
        source = unpatched.roll(1, 0)
        return torch.cat(
            [
                unpatched,
                torch.where(self.interchanged.to(h.device), source.detach(), interchanged),
                torch.where(self.strict.to(h.device), source, strict),
            ]
        )
