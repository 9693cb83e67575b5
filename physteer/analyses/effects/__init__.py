"""Causal effects of a model's nodes: what replacing an activation does to the output, and circuits of nodes.

`EffectSweep` runs patches of nodes over `NodeRuns`: `staged_runs` of a model that runs in stages, `whole_runs` of any
module, `ForecastRuns` of a forecaster over pairs of windows. `Attribution` estimates the effects of all nodes from a
few backward passes. `CircuitSearch` finds the few nodes that carry a variable together.
"""

from physteer.analyses.effects.attribution import Attribution
from physteer.analyses.effects.circuit import JointPatches
from physteer.analyses.effects.circuit_evaluation import CircuitEvaluation, CircuitPlan
from physteer.analyses.effects.circuit_search import Circuit, CircuitSearch
from physteer.analyses.effects.evaluation import EffectEvaluation, EffectPlan
from physteer.analyses.effects.measures import ClassMeasure, FieldMeasure, Measure, NumberMeasure, NumberTruth
from physteer.analyses.effects.nodes import Node, expand_nodes
from physteer.analyses.effects.patches import SCALES, VARIANTS, NodeStatistics, Patch, make_patches
from physteer.analyses.effects.runs import NodeRuns, staged_runs, whole_runs
from physteer.analyses.effects.statistics import StatisticsFitter
from physteer.analyses.effects.sums import EffectSums
from physteer.analyses.effects.sweep import EffectSweep

__all__ = [
    "SCALES",
    "VARIANTS",
    "Attribution",
    "Circuit",
    "CircuitEvaluation",
    "CircuitPlan",
    "CircuitSearch",
    "ClassMeasure",
    "EffectEvaluation",
    "EffectPlan",
    "EffectSums",
    "EffectSweep",
    "FieldMeasure",
    "JointPatches",
    "Measure",
    "Node",
    "NodeRuns",
    "NodeStatistics",
    "NumberMeasure",
    "NumberTruth",
    "Patch",
    "StatisticsFitter",
    "expand_nodes",
    "make_patches",
    "staged_runs",
    "whole_runs",
]
