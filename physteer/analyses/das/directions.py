"""Files of a search for other runs: its subspaces, and directions to steer along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from physteer.analyses.das.variants import InterventionVariant
from physteer.concepts import Concept, ConceptSubspace
from physteer.files import file_name
from physteer.interventions import BoundlessRotation, ColumnGroup, LowRankRotation, Site

FORMULA = "Π mean sign(θ_s − θ_b)(h_s − h_b)"


class SourceShift(Metric):
    """Mean over pairs, frames and tokens of sign(θ_s − θ_b)(h_s − h_b): points to larger values of the variable θ."""

    full_state_update = False
    total: Tensor
    pairs: Tensor

    def __init__(self, width: int, **kwargs: Any) -> None:
        """Start with no pairs.

        Args:
            width: d.
            **kwargs: torchmetrics' own.
        """
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pairs", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, base: Tensor, source: Tensor, sign: Tensor) -> None:
        """Add pairs.

        Args:
            base: h_b [B, T, …, d] of the exchanged frames.
            source: h_s, of the same shape.
            sign: of θ_s − θ_b, [B].
        """
        shift = (source.double() - base.double()).flatten(1, -2).mean(1)  # [B, d]
        self.total += sign.to(shift) @ shift
        self.pairs += len(shift)

    def compute(self) -> tuple[Tensor, int]:
        """Return the mean over the pairs of all processes, [d], and the number of pairs."""
        return self.total / self.pairs, int(self.pairs)


@dataclass(frozen=True)
class Shifts:
    """The `SourceShift`s of a split."""

    of: Mapping[tuple[Site, int], Tensor]
    """By site and index of the variable, [d]."""
    data: str
    """Folder of the split."""
    pairs: int
    initial_conditions: int


def learned_subspaces(
    variants: Sequence[InterventionVariant], variables: Sequence[str], model: str, data: str
) -> list[ConceptSubspace]:
    """Return the learned subspaces of every site, rank and variable."""
    learned = []
    for variant in variants:
        if variant.kind == "learned":
            for variable, space in zip(variables, variant.subspaces, strict=True):
                assert isinstance(space, LowRankRotation | ColumnGroup | BoundlessRotation)
                formula = "distributed alignment search" + (", boundless" if variant.boundless else "")
                learned.append(ConceptSubspace(space.basis, str(variant.site), variable, model, data, formula))
    return learned


def write_learned(folder: Path, subspaces: Sequence[ConceptSubspace], variables: Sequence[str], shifts: Shifts) -> None:
    """Write ``rotations/das_<variable>_<site>_rank<k>.safetensors``, and under ``concepts/`` a direction inside each.

    Args:
        folder: of the run.
        subspaces: from `learned_subspaces`.
        variables: of the run, in their order.
        shifts: measured on other pairs than those of the training. The direction is the part of the shift that lies in
            the subspace, so they also give it its sign.
    """
    for subspace in subspaces:
        suffix = "_boundless" if "boundless" in subspace.formula else ""
        name = file_name(f"das_{subspace.variable}_{subspace.site}_rank{subspace.basis.shape[1]}{suffix}")
        subspace.save(folder / f"rotations/{name}.safetensors")
        shift = shifts.of[Site.parse(subspace.site), variables.index(subspace.variable)]
        Concept(
            subspace.along(shift)[None, None, None],
            subspace.site,
            subspace.model,
            shifts.data,
            FORMULA,
            counts={"pairs": shifts.pairs},
            initial_conditions=shifts.initial_conditions,
        ).save(folder / f"concepts/{name}.safetensors")
