"""Distributed alignment search on a frozen network: which subspace of an activation carries a variable.

`InterventionVariant`s are the interventions that are trained or compared. ``fit`` minimises `InterchangeObjective`,
validation and test compute `InterchangeEvaluation`, and `write_learned` writes the learned subspaces to files. The
`DAS` callback installs them on a `ForecastModule`.
"""

from physteer.analyses.das.class_loss import ClassLoss
from physteer.analyses.das.directions import Shifts, learned_subspaces, write_learned
from physteer.analyses.das.evaluation import InterchangeEvaluation
from physteer.analyses.das.losses import FieldLoss, ReadoutLoss
from physteer.analyses.das.nulls import NullPenalty, NullSources, exact_null_fields
from physteer.analyses.das.objective import InterchangeObjective
from physteer.analyses.das.variants import InterventionVariant, Kind, VariantPlan, make_variants, untrained_keys

__all__ = [
    "ClassLoss",
    "FieldLoss",
    "InterchangeEvaluation",
    "InterchangeObjective",
    "InterventionVariant",
    "Kind",
    "NullPenalty",
    "NullSources",
    "ReadoutLoss",
    "Shifts",
    "VariantPlan",
    "exact_null_fields",
    "learned_subspaces",
    "make_variants",
    "untrained_keys",
    "write_learned",
]
