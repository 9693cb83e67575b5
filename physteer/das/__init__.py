"""Distributed alignment search on a frozen network: which subspace of an activation carries a variable.

`Arm`s are the interventions that are trained or compared side by side; `Prefixes` gives them what the frozen network
computes before their sites, once per window; `InterchangeObjective` is what ``fit`` minimises, `InterchangeEvaluation`
what validation and test measure, and `write_learned` leaves what was learned in files. The `DAS` callback puts them on
a `WalrusModule`.
"""

from physteer.das.arms import Arm, ArmPlan, Kind, make_arms
from physteer.das.class_loss import ClassLoss
from physteer.das.directions import Shifts, learned_subspaces, write_learned
from physteer.das.evaluation import InterchangeEvaluation
from physteer.das.given import GivenSubspace, read_given
from physteer.das.losses import FieldLoss, Outcome, ReadoutLoss
from physteer.das.objective import InterchangeObjective
from physteer.das.prefixes import Prefixes

__all__ = [
    "Arm",
    "ArmPlan",
    "ClassLoss",
    "FieldLoss",
    "GivenSubspace",
    "InterchangeEvaluation",
    "InterchangeObjective",
    "Kind",
    "Outcome",
    "Prefixes",
    "ReadoutLoss",
    "Shifts",
    "learned_subspaces",
    "make_arms",
    "read_given",
    "write_learned",
]
