"""Measures of what a patch does to the output: of predicted fields, of classes, and of numbers.

Each gives, per pair, numerators and denominators, which are added up over pairs before they are divided. δŷ is the
change of the output by a patch; the reference is the pass that the patch took its activation from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from physteer.analyses.effects.patches import Reference
from physteer.analyses.effects.runs import Outputs
from physteer.metrics.statistics import Floats, pooled_ratio, root_of_ratio

SPACE = (-3, -2, -1)


@dataclass(frozen=True)
class Column:
    """One number that a measure gives of every patch."""

    effect: str
    """What it is, such as ``field`` or ``aligned``."""
    field: str = ""
    """Of which field; empty for all together, and where there are no fields."""
    region: str = ""
    """In which region of the flow; empty for everywhere."""

    def statistic(self, sums: Floats) -> Floats:
        """Return the number from a sum of numerators and a sum of denominators, [..., 2] → [...]."""
        return root_of_ratio(sums) if self.effect in ROOTS else pooled_ratio(sums)


ROOTS = ("field",)
"""Effects that are square roots of their ratio of sums."""


class Measure(Protocol):
    """Judges outputs."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it gives, K columns."""
        ...

    def applies(self, column: Column, reference: Reference | None) -> bool:
        """Return whether a column means something for patches that take their activation from a reference."""
        ...

    def terms(self, patched: Tensor, outputs: Outputs, reference: Reference | None) -> Tensor:
        """Return the numerators and denominators of every column, [B, K, 2].

        Args:
            patched: output under a patch, [B, …].
            outputs: of the passes without patches.
            reference: where the patch took its activation from.
        """
        ...

    def merit(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return the numerator and denominator of how far outputs are the source's, [B, 2]: 0 unedited, 1 exact.

        Circuits are judged by it.
        """
        ...

    def distance(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return the squared distance of outputs from the base's, [B], as random cotangents estimate it."""
        ...

    def scalar(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return a differentiable number per pair that grows as outputs become the source's, [B], for attribution."""
        ...


@dataclass(frozen=True, eq=False)
class FieldTruth:
    """What is known of a batch of pairs, fields in units of the base window's r_Δ."""

    change: Tensor
    """Δ* = y* − y_b, the simulated change, [B, steps, C, H, W, D]."""
    regions: Mapping[str, Tensor]
    """Which cells lie in each region, bool [B, 1, H, W, D]."""


class FieldMeasure:
    """Effects on predicted changes of fields [B, C, H, W, D], in units of r_Δ.

    * ``field``: √(Σ‖δŷ‖² / Σ‖ŷ_reference − ŷ_b‖²), unsigned: how far the output moves, over how far the reference's
      own output lies away. Outputs are predicted changes, each in units of its own window's r_Δ, so taking everything
      from the reference gives 1. Without a reference, over the predicted change itself, ‖ŷ_b‖.
    * ``aligned``: Σ⟨δŷ, Δ*⟩ / Σ‖Δ*‖², signed: which share of the simulated change a source's activation makes.

    ‖·‖² is a mean over cells, and for all fields together its sum over fields.

    Args:
        fields: names of the C fields.
        regions: names of parts of the flow (`FieldTruth.regions`).
    """

    def __init__(self, fields: Sequence[str], regions: Sequence[str] = ()) -> None:
        self.fields, self.regions = tuple(fields), tuple(regions)
        names = ("", *self.fields)
        places = ("", *self.regions)
        self.columns = (
            *(Column("field", field) for field in names),
            *(Column("aligned", field, region) for region in places for field in names),
        )

    def applies(self, column: Column, reference: Reference | None) -> bool:
        """Return whether a column means something: ``aligned`` is for sources alone."""
        return column.effect == "field" or reference == "source"

    def terms(self, patched: Tensor, outputs: Outputs, reference: Reference | None) -> Tensor:
        """Return the numerators and denominators of every column, [B, K, 2]."""
        moved = patched - outputs.base
        away = outputs.base if reference is None else outputs.others[reference] - outputs.base
        terms = [_ratio(_square(moved), _square(away))]
        for region in ("", *self.regions):
            if reference == "source":
                change = outputs.truth.change[:, 0]
                mask = outputs.truth.regions[region] if region else None
                terms.append(_ratio(_dot(moved, change, mask), _dot(change, change, mask)))
            else:
                terms.append(torch.zeros_like(terms[0]))
        return torch.cat(terms, dim=1)

    def merit(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return the terms of the aligned effect over all fields, [B, 2]."""
        change = outputs.truth.change[:, 0]
        moved = patched - outputs.base
        return torch.stack([_dot(moved, change, None).sum(1), _dot(change, change, None).sum(1)], dim=1)

    def distance(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return ‖δŷ‖², the sum over fields of the mean over cells, [B]."""
        return _square(patched - outputs.base).sum(1)

    def scalar(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return ⟨ŷ, Δ*⟩, [B]."""
        aligned: Tensor = (patched * outputs.truth.change[:, 0]).mean(SPACE).sum(1)
        return aligned


class ClassMeasure:
    """Effects on the answer of a classifier, from logits [B, K].

    Among pairs whose answers (the model's own for base and reference) differ: ``class_changed``, the share whose
    answer changes at all, and ``class_to_source``, the share whose answer becomes the reference's. Over all pairs:
    ``kl_base_patched`` and ``kl_patched_base``, the divergences KL(p_base‖p_patched) and KL(p_patched‖p_base) in nats.
    Without a reference, ``class_changed`` is over all pairs.
    """

    columns = (
        Column("class_changed"),
        Column("class_to_source"),
        Column("kl_base_patched"),
        Column("kl_patched_base"),
    )

    def applies(self, column: Column, reference: Reference | None) -> bool:
        """Return whether a column means something: nothing becomes a reference's answer without one."""
        return column.effect != "class_to_source" or reference is not None

    def terms(self, patched: Tensor, outputs: Outputs, reference: Reference | None) -> Tensor:
        """Return the numerators and denominators of every column, [B, 4, 2]."""
        answer, base = patched.argmax(-1), outputs.base.argmax(-1)
        ones = torch.ones_like(base, dtype=torch.float64)
        there = base if reference is None else outputs.others[reference].argmax(-1)
        differs = ones if reference is None else (there != base).double()
        after, before = (functional.log_softmax(x.double(), -1) for x in (patched, outputs.base))
        numerators = [
            (answer != base) * differs,
            (answer == there) * differs,
            (before.exp() * (before - after)).sum(-1),
            (after.exp() * (after - before)).sum(-1),
        ]
        return torch.stack(
            [torch.stack([n, d], -1) for n, d in zip(numerators, (differs, differs, ones, ones), strict=True)], 1
        )

    def merit(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return whether answers are the source's, among pairs whose answers differ, [B, 2]."""
        source, base = outputs.others["source"].argmax(-1), outputs.base.argmax(-1)
        differs = (source != base).double()
        return torch.stack([(patched.argmax(-1) == source) * differs, differs], 1)

    def distance(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return the squared distance of the logits, [B]."""
        return (patched - outputs.base).double().square().sum(1)

    def scalar(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return the logit of the source's answer less that of the base's, [B]."""
        source, base = outputs.others["source"].argmax(-1), outputs.base.argmax(-1)
        picked = patched.gather(1, torch.stack([source, base], 1))
        return picked[:, 0] - picked[:, 1]


@dataclass(frozen=True, eq=False)
class NumberTruth:
    """The right answers of a batch whose outputs are numbers."""

    base: Tensor
    """For the bases, [B]."""


class NumberMeasure:
    """Effects on a number, [B]: shares of pairs whose output is further than a tolerance τ from an answer.

    ``tolerance_model``: from the model's own answer for the base. ``tolerance_program``: from the right answer, which
    on a model that is wrong counts its errors as effects. ``tolerance_to_source``: the share that comes within τ of the
    reference's output, among pairs whose outputs differ by more than τ. ``field`` and ``aligned`` as `FieldMeasure`
    has them, towards the reference's output.

    Args:
        tolerance: τ, in units of the output.
    """

    columns = (
        Column("tolerance_model"),
        Column("tolerance_program"),
        Column("tolerance_to_source"),
        Column("field"),
        Column("aligned"),
    )

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def applies(self, column: Column, reference: Reference | None) -> bool:
        """Return whether a column means something: the last three compare with a reference."""
        return reference is not None or column.effect in ("tolerance_model", "tolerance_program")

    def terms(self, patched: Tensor, outputs: Outputs, reference: Reference | None) -> Tensor:
        """Return the numerators and denominators of every column, [B, 5, 2]."""
        y, base = patched.double(), outputs.base.double()
        ones = torch.ones_like(y)
        there = base if reference is None else outputs.others[reference].double()
        differs = ((there - base).abs() > self.tolerance).double()
        columns = [
            (((y - base).abs() > self.tolerance).double(), ones),
            (((y - outputs.truth.base.double()).abs() > self.tolerance).double(), ones),
            (((y - there).abs() <= self.tolerance) * differs, differs),
            ((y - base).square(), (there - base).square()),
            ((y - base) * (there - base), (there - base).square()),
        ]
        return torch.stack([torch.stack(part, 1) for part in zip(*columns, strict=True)], -1)

    def merit(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return whether outputs are within τ of the source's, among pairs whose outputs differ, [B, 2]."""
        source = outputs.others["source"]
        differs = ((source - outputs.base).abs() > self.tolerance).double()
        return torch.stack([((patched - source).abs() <= self.tolerance) * differs, differs], 1)

    def distance(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return the squared change, [B]."""
        return (patched - outputs.base).double().square()

    def scalar(self, patched: Tensor, outputs: Outputs) -> Tensor:
        """Return the output times the difference of the source's output from the base's, [B]."""
        return patched * (outputs.others["source"] - outputs.base)


def _square(x: Tensor) -> Tensor:
    return _dot(x, x, None)


def _dot(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    """Return ⟨a b⟩ per field, the mean over cells, [B, C] in float64; with a mask, its part inside."""
    product = a.double() * b.double()
    return (product if mask is None else product * mask).mean(SPACE)


def _ratio(numerators: Tensor, denominators: Tensor) -> Tensor:
    """Return terms for all fields together and each alone, [B, C] → [B, 1 + C, 2]."""
    both = torch.stack([numerators, denominators], -1)
    return torch.cat([both.sum(1, keepdim=True), both], 1)
