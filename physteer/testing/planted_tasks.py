"""Tasks with a known program: what the answer is, and what it would be if one variable of the program were another's.

Each variable of the program is planted in one attention head (`physteer.testing.planted_training`); the answers under
an interchange of it are exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from physteer.errors import PhysteerError, did_you_mean
from physteer.testing.planted_transformer import PlantedTransformer


@dataclass(frozen=True, eq=False)
class PlantedPairs:
    """Base and source tokens, row by row (`physteer.analyses.engine.PlainSuffix`)."""

    base: Tensor
    """[B, T]."""
    source: Tensor
    """[B, T]."""

    @property
    def base_inputs(self) -> tuple[Tensor]:
        """What the network gets of the bases."""
        return (self.base,)

    @property
    def source_inputs(self) -> list[tuple[Tensor]]:
        """What the network gets of the sources, of the one variable."""
        return [(self.source,)]


class PlantedTask(ABC):
    """A task over tokens [B, T], its program's variables, and where they are planted.

    Answers are [B, A]: at the last A positions. A network's output for them is [B, A, n_outputs].
    """

    name: ClassVar[str]
    """Of the task, in files and tables."""
    planted: ClassVar[Mapping[str, str]]
    """The node that carries each variable, such as `blocks.1.attention.heads[0]`."""
    only_last: ClassVar[bool]
    """Whether the last position alone has an answer (A = 1); else all have (A = T)."""

    @abstractmethod
    def network(self) -> PlantedTransformer:
        """Return an untrained network that fits the task, initialised by torch's global generator."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw tokens [n, T]."""

    @abstractmethod
    def answers(self, tokens: Tensor) -> Tensor:
        """Return what the program answers, [B, A]."""

    @abstractmethod
    def interchanged(self, variable: str, base: Tensor, source: Tensor) -> Tensor:
        """Return what the program answers, [B, A], to the base if a variable has the value it has for the source.

        Raises:
            PhysteerError: The program has no such variable.
        """

    @abstractmethod
    def evaluation_pairs(self, n: int, generator: torch.Generator) -> PlantedPairs:
        """Draw n pairs whose answers differ, and for which every variable's interchange gives the source's answer."""

    @abstractmethod
    def loss(self, output: Tensor, answers: Tensor) -> Tensor:
        """Return the mean loss of outputs [B, A, n_outputs] for answers [B, A]."""

    @abstractmethod
    def agree(self, output: Tensor, answers: Tensor) -> Tensor:
        """Return whether each sample is answered as in `answers` at every position: bool [B]."""

    @abstractmethod
    def read(self, output: Tensor) -> Tensor:
        """Return the answers [B, A] that outputs [B, A, n_outputs] give."""

    def check_variable(self, variable: str) -> None:
        """Check that the program has a variable.

        Raises:
            PhysteerError: It has not.
        """
        if variable not in self.planted:
            known = ", ".join(repr(name) for name in self.planted)
            close = did_you_mean(variable, tuple(self.planted))
            raise PhysteerError(f"the task {self.name!r} has no variable {variable!r}{close or ';'} it has {known}")


class Recall(PlantedTask):
    """Look up the value that follows a key: "k₁ v₁ k₂ v₂ k₃ v₃ k₄ v₄ q → value".

    All four keys appear, in random order, so any sample's order of keys can be looked up in any other's. Values are
    independent and may repeat. Tokens 0–3 are keys, later ones values; answers are values, counted from 0.

    Variables: `key_before`, the key before each value (the order of keys), and `value`, the value looked up.
    """

    name = "recall"
    planted: ClassVar[Mapping[str, str]] = {
        "key_before": "blocks.0.attention.heads[0]",
        "value": "blocks.1.attention.heads[0]",
    }
    only_last = True
    N_KEYS = 4
    N_VALUES = 8

    def network(self) -> PlantedTransformer:
        """Return an untrained network of 26 k parameters; its outputs are scores of the values."""
        return PlantedTransformer(self.N_KEYS + self.N_VALUES, 2 * self.N_KEYS + 1, self.N_VALUES)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw tokens [n, 9]."""
        values = torch.randint(self.N_VALUES, (n, self.N_KEYS), generator=generator)
        query = torch.randint(self.N_KEYS, (n, 1), generator=generator)
        return self._tokens(self._order(n, generator), values, query)

    def answers(self, tokens: Tensor) -> Tensor:
        """Return the value of the key that is asked for, [B, 1]."""
        return self.interchanged("key_before", tokens, tokens)

    def interchanged(self, variable: str, base: Tensor, source: Tensor) -> Tensor:
        """Return the answer [B, 1] with the source's order of keys, or the source's value itself."""
        self.check_variable(variable)
        keys = source
        if variable == "value":
            base = source
        place = (keys[:, 0:-1:2] == base[:, -1:]).long().argmax(1, keepdim=True)
        return base[:, 1::2].gather(1, place) - self.N_KEYS

    def evaluation_pairs(self, n: int, generator: torch.Generator) -> PlantedPairs:
        """Draw pairs that share values and query and differ in the order of keys, and in the answer."""
        base = self.draw(4 * n, generator)  # 2 of 3 have another answer
        source = base.clone()
        source[:, 0:-1:2] = self._order(len(base), generator)
        differ = (self.answers(base) != self.answers(source))[:, 0].nonzero()[:n, 0]
        return PlantedPairs(base[differ], source[differ])

    def loss(self, output: Tensor, answers: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return functional.cross_entropy(output.flatten(0, 1), answers.flatten())

    def agree(self, output: Tensor, answers: Tensor) -> Tensor:
        """Return whether the value with the greatest score is the answer."""
        return (self.read(output) == answers).all(1)

    def read(self, output: Tensor) -> Tensor:
        """Return the value with the greatest score."""
        return output.argmax(-1)

    def _order(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, self.N_KEYS, generator=generator).argsort(1)

    def _tokens(self, keys: Tensor, values: Tensor, query: Tensor) -> Tensor:
        pairs = rearrange([keys, values + self.N_KEYS], "kind n pair -> n (pair kind)")
        return torch.cat([pairs, query], dim=1)


class RunningFraction(PlantedTask):
    """Say at every position which fraction of the tokens so far, this one included, is the marked token (token 0).

    How often the token appears differs from sequence to sequence, uniformly from never to always, so that the
    fractions spread over [0, 1]. Variable: `count`, the running fraction itself.
    """

    name = "regression"
    planted: ClassVar[Mapping[str, str]] = {"count": "blocks.1.attention.heads[0]"}
    only_last = False
    VOCABULARY = 4
    LENGTH = 8
    TOLERANCE = 0.05
    """τ: answers that are nearer than this agree."""

    def network(self) -> PlantedTransformer:
        """Return an untrained network of 26 k parameters with one output, the fraction."""
        return PlantedTransformer(self.VOCABULARY, self.LENGTH, 1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw tokens [n, 8]."""
        share = torch.rand(n, 1, generator=generator)
        marked = torch.rand(n, self.LENGTH, generator=generator) < share
        others = torch.randint(1, self.VOCABULARY, (n, self.LENGTH), generator=generator)
        return others.masked_fill(marked, 0)

    def answers(self, tokens: Tensor) -> Tensor:
        """Return the running fractions, [B, T]."""
        so_far = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return (tokens == 0).float().cumsum(1) / so_far

    def interchanged(self, variable: str, base: Tensor, source: Tensor) -> Tensor:
        """Return the source's fractions, [B, T]: nothing else enters the answer."""
        self.check_variable(variable)
        return self.answers(source)

    def evaluation_pairs(self, n: int, generator: torch.Generator) -> PlantedPairs:
        """Draw independent pairs whose last answers are further apart than 2τ."""
        base, source = self.draw(4 * n, generator), self.draw(4 * n, generator)
        apart = (self.answers(base) - self.answers(source))[:, -1].abs() > 2 * self.TOLERANCE
        chosen = apart.nonzero()[:n, 0]
        return PlantedPairs(base[chosen], source[chosen])

    def loss(self, output: Tensor, answers: Tensor) -> Tensor:
        """Return the mean squared error."""
        return functional.mse_loss(output[..., 0], answers)

    def agree(self, output: Tensor, answers: Tensor) -> Tensor:
        """Return whether all fractions are within τ."""
        return ((output[..., 0] - answers).abs() <= self.TOLERANCE).all(1)

    def read(self, output: Tensor) -> Tensor:
        """Return the fractions."""
        return output[..., 0]


TASKS: Mapping[str, PlantedTask] = {task.name: task for task in (Recall(), RunningFraction())}
"""The tasks by name."""
