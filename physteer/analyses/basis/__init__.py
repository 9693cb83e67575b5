"""Causal bases: the directions of an activation that a frozen model's output depends on, in the order of their effect.

`fit_basis` extracts the basis of one site of any torch model from its `Part`s (`whole_parts`, `parts_of`). For
forecasters, `ForecastExtraction` makes the parts of windows, and `BasisEvaluation` scores bases on held-out initial
conditions, beside other subspaces. The `CausalBasis` callback connects both to a `ForecastModule`.
"""

from physteer.analyses.basis.ablation import MODES, Mode, Part, Targets, parts_of, row_derangement, with_partners
from physteer.analyses.basis.comparison import ComparedSubspace, check_directions, compared_subspaces, comparison_ranks
from physteer.analyses.basis.divergences import CrossEntropyIncrease, FieldDivergence, KLDivergence, check_divergence
from physteer.analyses.basis.energy import AblationData, AblationEnergy
from physteer.analyses.basis.evaluation import BasisEvaluation, with_curves
from physteer.analyses.basis.fitting import BasisFit, BasisPlan, StoppedExtractionError, fit_basis
from physteer.analyses.basis.forecast_extraction import ForecastExtraction
from physteer.analyses.basis.forecasts import ForecastRows
from physteer.analyses.basis.metric import METRICS, MetricName
from physteer.analyses.basis.state import ExtractionSettings, ExtractionState
from physteer.analyses.basis.unfinished import UnfinishedExtractions
from physteer.analyses.basis.whole_parts import whole_parts

__all__ = [
    "METRICS",
    "MODES",
    "AblationData",
    "AblationEnergy",
    "BasisEvaluation",
    "BasisFit",
    "BasisPlan",
    "ComparedSubspace",
    "CrossEntropyIncrease",
    "ExtractionSettings",
    "ExtractionState",
    "FieldDivergence",
    "ForecastExtraction",
    "ForecastRows",
    "KLDivergence",
    "MetricName",
    "Mode",
    "Part",
    "StoppedExtractionError",
    "Targets",
    "UnfinishedExtractions",
    "check_directions",
    "check_divergence",
    "compared_subspaces",
    "comparison_ranks",
    "fit_basis",
    "parts_of",
    "row_derangement",
    "whole_parts",
    "with_curves",
    "with_partners",
]
