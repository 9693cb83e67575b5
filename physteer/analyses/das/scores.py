"""The scores of one intervention over pairs, and its rows of the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from physteer.analyses.das.table import InterchangeScore
from physteer.metrics import ChangeRecovery, InterchangeAccuracy, Interval, Movement, Nearness

RowIdentity = tuple[str, str, int, str]
"""Site, kind, rank and name of a row."""


class ClassAccuracy(nn.Module):
    """Share of pairs for which a frozen probe predicts the source's class from the activation, by parameter.

    For edited activations it is the interchange-intervention accuracy of the variable "value of the parameter" in the
    high-level model (Geiger et al., 2301.04709).
    """

    def __init__(self, parameters: Sequence[str], initial_conditions: Sequence[str]) -> None:
        """Start with no pairs.

        Args:
            parameters: of the probes; may be empty.
            initial_conditions: names of all there are.
        """
        super().__init__()
        self._names = tuple(parameters)
        self.scores = nn.ModuleList(InterchangeAccuracy(initial_conditions) for _ in parameters)

    def update(
        self, read: Mapping[str, Tensor], wanted: Mapping[str, Tensor], initial_conditions: Sequence[str]
    ) -> None:
        """Add pairs.

        Args:
            read: the classes that the probe predicts, [B], by parameter.
            wanted: the sources' classes, likewise.
            initial_conditions: of each pair's base.
        """
        for parameter, score in self._each():
            score.update(read[parameter], wanted[parameter], initial_conditions)

    def rows(self, identity: RowIdentity) -> list[InterchangeScore]:
        """Return a row for each parameter; a collective over the processes."""
        return [score_row(identity, "class_accuracy", parameter, score.accuracy()) for parameter, score in self._each()]

    def above(self, other: ClassAccuracy) -> dict[str, Interval]:
        """Return how much larger each accuracy is than another's of the same pairs; a collective over the processes."""
        both = zip(self._each(), other._each(), strict=True)
        return {parameter: score.above(theirs) for (parameter, score), (_, theirs) in both}

    def _each(self) -> Iterable[tuple[str, InterchangeAccuracy]]:
        return zip(self._names, cast(Sequence[InterchangeAccuracy], self.scores), strict=True)


class VariantScores(nn.Module):
    """The scores of a variant (defined in `InterchangeEvaluation`)."""

    def __init__(
        self,
        judged: Sequence[str],
        fields: Sequence[str],
        parameters: Sequence[str],
        initial_conditions: Sequence[str],
        null_initial_conditions: Sequence[str] | None,
        null_fields: Sequence[str],
    ) -> None:
        """Start with no pairs.

        Args:
            judged: names of the fields of the answer, or of its readout.
            fields: names of the predicted fields.
            parameters: of the frozen probes.
            initial_conditions: names of the initial conditions of all bases.
            null_initial_conditions: the same for null pairs; None without such pairs.
            null_fields: those of the predicted fields that null pairs must not move; may be empty.
        """
        super().__init__()
        self.recovery = ChangeRecovery(judged, initial_conditions)
        self.nearness = Nearness(judged, initial_conditions)
        self.accuracy = InterchangeAccuracy(initial_conditions)
        self.classes = ClassAccuracy(parameters, initial_conditions)
        self.movement = Movement(fields, initial_conditions)
        self._null_fields = tuple(null_fields)
        self.null_movement = None if null_initial_conditions is None else Movement(fields, null_initial_conditions)

    def add_nearer(self, nearer: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add pairs to the interchange accuracy: whether each prediction is nearer to the counterfactual, [B]."""
        self.accuracy.update(nearer.long(), torch.ones_like(nearer, dtype=torch.long), initial_conditions)

    def rows(self, identity: RowIdentity) -> list[InterchangeScore]:
        """Return the rows of the table; a collective over the processes."""
        recovery, nearness = self.recovery.recovery(), self.nearness.nearness()
        rows = []
        for metric, mean, each in (("recovery", *recovery), ("nearness", nearness.mean, nearness.per_field)):
            rows.append(score_row(identity, metric, "", mean))
            rows += [score_row(identity, metric, field, interval) for field, interval in each.items()]
        rows.append(score_row(identity, "interchange_accuracy", "", self.accuracy.accuracy()))
        rows += self.classes.rows(identity)
        for metric, score in (("movement", self.movement), ("null_movement", self.null_movement)):
            if score is not None:
                rows += [score_row(identity, metric, field, interval) for field, interval in score.movement().items()]
        return [*rows, *self._null_shares(identity)]

    def _null_shares(self, identity: RowIdentity) -> Iterator[InterchangeScore]:
        """Yield how far null pairs move the prediction over how far pairs do: per field, of all, of the exact null."""
        if self.null_movement is None:
            return
        fields = self.movement.fields
        pooled = {"": fields, **{field: (field,) for field in fields}}
        for name, members in pooled.items():
            yield score_row(identity, "null_share", name, self.null_movement.share_of(self.movement, members))
        if self._null_fields:
            share = self.null_movement.share_of(self.movement, self._null_fields)
            yield score_row(identity, "exact_null_share", ", ".join(self._null_fields), share)


def score_row(identity: RowIdentity, metric: str, field: str, interval: Interval) -> InterchangeScore:
    """Return a row of the table."""
    return InterchangeScore(
        *identity, metric, field, interval.value, interval.low, interval.high, interval.initial_conditions
    )
