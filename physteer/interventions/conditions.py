"""Conditions: several settings of an experiment in one forward, stacked along the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from einops import rearrange
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.interventions.edit import Edit
from physteer.interventions.locus import Index, Locus

Role = Literal["unsteered", "concept", "random", "shuffled", "data"]
"""What a condition is for: the comparison, the concept itself, or one of its controls."""


@dataclass(frozen=True)
class Condition:
    """One setting of an experiment: its edits and how tables name it."""

    name: str
    """Unique among the conditions of a run, such as `concept drop +0.4`."""
    edits: tuple[Edit, ...] = ()
    """Without edits, the model is unchanged."""
    direction: str = ""
    """Name of the direction that is steered along: a concept's name, `random 3`, …"""
    strength: float = 0.0
    """α, signed."""
    mode: str = ""
    """How the direction is fitted to the grid, and the rollout steps it is added at if not all; or `erased`."""
    role: Role = "unsteered"
    """Concept, or which control: `random` and `shuffled` directions, `data` for changes of the input itself."""
    context: Callable[[Any], Tensor] | None = None
    """Returns for a batch the frames to start from, of the shape of its context; None for the context itself. A row of
    NaN has no rollout."""

    @property
    def site(self) -> str:
        """Where the model is edited, sites joined by commas; empty where it is not."""
        return ", ".join(str(edit.site) for edit in self.edits)


UNSTEERED = Condition("unsteered")
"""The baseline of every comparison."""


def stack_conditions(conditions: Sequence[Condition], n_samples: int) -> list[Edit]:
    """Return the edits of one forward over conditions × samples; each acts on the rows of its condition only.

    Args:
        conditions: c of them, names all different.
        n_samples: rows of each; row i·n_samples + j of the batch is sample j under condition i (`separated`).

    Raises:
        PhysteerError: Two conditions have one name.
    """
    names = [condition.name for condition in conditions]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise PhysteerError(f"two conditions are called {twice[0]!r}; names must differ")
    if len(conditions) == 1:
        return list(conditions[0].edits)
    return [
        edit.at(replace(edit.locus, rows=_rows(edit.locus, i * n_samples, n_samples)))
        for i, condition in enumerate(conditions)
        for edit in condition.edits
    ]


def separated(batch: Tensor, n_conditions: int) -> Tensor:
    """Split stacked conditions: [c·B, …] → [c, B, …]."""
    return rearrange(batch, "(c b) ... -> c b ...", c=n_conditions)


def _rows(locus: Locus, first: int, n: int) -> Index:
    if locus.rows is None:
        return slice(first, first + n)
    if isinstance(locus.rows, slice):
        return [first + row for row in range(*locus.rows.indices(n))]
    beyond = [row for row in locus.rows if not -n <= row < n]
    if beyond:
        raise PhysteerError(f"row {beyond[0]}: a condition has {n} samples")
    return [first + row % n for row in locus.rows]
