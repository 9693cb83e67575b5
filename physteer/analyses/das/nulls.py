"""The exact null: fields that a source must not move which differs from its base in another parameter alone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from physteer.analyses.engine import Outcome, Suffix
from physteer.data.pair import Pair, PairBatch
from physteer.data.pairs import PairDataset
from physteer.errors import PhysteerError, did_you_mean
from physteer.interventions import Site

TRACER = "tracer"
"""A passive field: its own parameters move it and nothing else."""
_FLOOR = 1e-12
"""Of squares in units of r_Δ: the root of 0 has no gradient."""


def exact_null_fields(asked: Sequence[str] | None, predicted: Sequence[str]) -> tuple[str, ...]:
    """Return the fields that the null parameter cannot move.

    Args:
        asked: names of these fields; None for all but a field named `TRACER`, as for the Schmidt number of a shear
            flow: it changes how a passive tracer diffuses, and never velocity or pressure.
        predicted: names of the fields that the model predicts.

    Returns:
        In the order of the predicted fields.

    Raises:
        PhysteerError: A name is none of the predicted fields.
    """
    for name in asked or ():
        if name not in predicted:
            raise PhysteerError(
                f"DAS.null_fields: the model predicts no field {name!r}, only {', '.join(predicted)}"
                f"{did_you_mean(name, predicted)}"
            )
    return tuple(field for field in predicted if (field != TRACER if asked is None else field in asked))


class NullSources:
    """Gives bases of training pairs sources that differ from them in the null parameter alone.

    Args:
        pairs: null pairs of the training split, whose rules say which sources are possible.
    """

    def __init__(self, pairs: PairDataset) -> None:
        self.pairs = pairs

    def of(self, batch: PairBatch) -> PairBatch:
        """Return the pairs with null sources in place of their own, without those that have none.

        What is drawn depends on the seed and the pair alone, not on the order of training.
        """
        return dataclasses.replace(batch, pairs=tuple(filter(None, map(self._drawn, batch.pairs))))

    def _drawn(self, pair: Pair) -> Pair | None:
        draw = random.Random(f"{self.pairs.seed}/{pair.base}/{pair.sources}/null")
        possible = [self.pairs.candidates(pair.base, name) for name in self.pairs.rules.variables]
        if not all(possible):
            return None
        return dataclasses.replace(pair, sources=tuple(draw.choice(sources) for sources in possible))


@dataclass(frozen=True, eq=False)
class NullActivations:
    """One site of a batch of null pairs."""

    batch: PairBatch
    activations: Any
    """Of the suffix, at the site."""
    unedited: Tensor
    """The prediction without an edit, [B, 1, C, H, W, D]."""


class NullPenalty:
    """γ · mean over pairs of RMS (ŷ' − ŷ_b)/r_Δ, over cells and the fields of the exact null.

    It is a mean over pairs, so that it does not depend on how they are shared out to processes. Pairs without a null
    source count as 0.

    Args:
        weight: γ.
        fields: names of the fields that must not move.
        sources: draws the null pairs.
    """

    def __init__(self, weight: float, fields: Sequence[str], sources: NullSources) -> None:
        self.weight, self.fields, self.sources = weight, tuple(fields), sources

    def prepare(
        self, suffix: Suffix[Any, Any], model: Any, batch: PairBatch, sites: Sequence[Site], unedited: Any
    ) -> Mapping[Site, NullActivations]:
        """Run null pairs of a batch's bases up to all sites, except for windows in the suffix's cache.

        Args:
            suffix: of the objective.
            model: the forecaster.
            batch: of training pairs.
            sites: of the trained variants.
            unedited: returns the outcome without edits of (model, batch, activations).

        Returns:
            By site; empty where no base has a null source.
        """
        nulls = self.sources.of(batch)
        if not nulls.pairs:
            return {}
        prepared, found = suffix.prepare(model, nulls), {}
        for site in sites:
            activations = suffix.at(model, site, prepared)
            with torch.no_grad():
                found[site] = NullActivations(nulls, activations, unedited(model, nulls, activations).prediction)
        return found

    def of(self, outcome: Outcome, nulls: NullActivations, n_pairs: int) -> Tensor:
        """Return the penalty.

        Args:
            outcome: of the edited pass of null pairs.
            nulls: these pairs.
            n_pairs: of the batch, with those that have no null source.
        """
        if outcome.scale is None:
            raise PhysteerError("DAS.null_penalty needs the scale of the base windows; the outcome has none")
        names = nulls.batch.metadata.channels.names
        channels = [names.index(field) for field in self.fields]
        moved = ((outcome.prediction - nulls.unedited) / outcome.scale.differences)[:, :, channels]
        squares = moved.square().flatten(1).mean(1)  # [B]
        return self.weight * (squares + _FLOOR).sqrt().sum() / n_pairs
