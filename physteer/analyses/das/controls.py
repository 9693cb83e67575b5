"""Learned rotations against those trained on shuffled pairs or from other starts, and random ones of the same rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

from physteer.analyses.das.scores import RowIdentity, VariantScores, score_row
from physteer.analyses.das.table import ABOVE_SHUFFLED, P_VALUE, InterchangeScore
from physteer.analyses.das.variants import InterventionVariant
from physteer.interventions import LowRankRotation
from physteer.metrics import Interval, control_p_value, largest_principal_angle


def above_shuffled(
    identity: RowIdentity, learned: VariantScores, shuffled: VariantScores
) -> Iterator[InterchangeScore]:
    """Yield how much more a learned rotation has than the one trained on shuffled pairs; a collective over processes.

    The intervals are paired: in every resample of initial conditions both are taken from the same ones.
    """
    mean, each = learned.recovery.above(shuffled.recovery)
    for field, interval in {"": mean, **each}.items():
        yield score_row(identity, "recovery" + ABOVE_SHUFFLED, field, interval)
    for parameter, interval in learned.classes.above(shuffled.classes).items():
        yield score_row(identity, "class_accuracy" + ABOVE_SHUFFLED, parameter, interval)


def angle(identity: RowIdentity, learned: InterventionVariant, reseeded: InterventionVariant) -> InterchangeScore:
    """Return the largest principal angle, in degrees, between what is learned from two starts, over all variables."""
    both = zip(learned.subspaces, reseeded.subspaces, strict=True)
    angles = [largest_principal_angle(cast(LowRankRotation, a).basis, cast(LowRankRotation, b).basis) for a, b in both]
    return score_row(identity, "angle", "", Interval(max(angles), math.nan, math.nan, 0))


def p_values(rows: Sequence[InterchangeScore]) -> Iterator[InterchangeScore]:
    """Yield the rank of each learned rotation among the random ones of its site and rank (`control_p_value`).

    Args:
        rows: of all variants. Where there are no random rotations of a rank, there is no p value.
    """
    for row in rows:
        if row.kind != "learned" or row.metric not in ("recovery", "class_accuracy") or math.isnan(row.value):
            continue
        place = (row.site, row.rank, row.metric, row.field)
        controls = [r.value for r in rows if r.kind == "random" and (r.site, r.rank, r.metric, r.field) == place]
        if controls:
            p = Interval(control_p_value(row.value, controls), math.nan, math.nan, row.initial_conditions)
            identity = row.site, row.kind, row.rank, row.name
            yield score_row(identity, row.metric + P_VALUE, row.field, p)
