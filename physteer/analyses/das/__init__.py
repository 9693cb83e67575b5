"""Distributed alignment search on a frozen network: which subspace of an activation carries a variable.

`InterventionVariant`s are the interventions that are trained or compared side by side; `InterchangeObjective` is what
``fit`` minimises, `InterchangeEvaluation` what validation and test measure, and `write_learned` leaves what was learned
in files. The `DAS` callback puts them on a `ForecastModule`.
"""

from physteer.analyses.das.class_loss import ClassLoss
from physteer.analyses.das.directions import Shifts, learned_subspaces, write_learned
from physteer.analyses.das.evaluation import InterchangeEvaluation
from physteer.analyses.das.fixed_subspaces import FixedSubspace, read_fixed_subspaces
from physteer.analyses.das.losses import FieldLoss, ReadoutLoss
from physteer.analyses.das.objective import InterchangeObjective
from physteer.analyses.das.variants import InterventionVariant, Kind, VariantPlan, make_variants

__all__ = [
    "ClassLoss",
    "FieldLoss",
    "FixedSubspace",
    "InterchangeEvaluation",
    "InterchangeObjective",
    "InterventionVariant",
    "Kind",
    "ReadoutLoss",
    "Shifts",
    "VariantPlan",
    "learned_subspaces",
    "make_variants",
    "read_fixed_subspaces",
    "write_learned",
]
