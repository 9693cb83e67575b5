"""Concepts: directions in activation space, how they are fitted, and their files.

A fitter takes activations batch by batch (`update`), merges with the fitters of other processes (`merge`), and returns
a small frozen result (`fit`). A `Selection` decides which samples belong to a class.
"""

from physteer.concepts.causal_basis import CausalBasis
from physteer.concepts.class_probe import ClassFitter, ClassProbe
from physteer.concepts.concept import Concept
from physteer.concepts.controls import ShuffledDifferences, random_directions
from physteer.concepts.covariance import Covariance
from physteer.concepts.cross_moments import CrossMoments
from physteer.concepts.difference import DifferenceOfMeans, frame_sums, standardized
from physteer.concepts.fixed_subspaces import FixedSubspace, read_fixed_subspaces
from physteer.concepts.label_permutation import LabelPermutations
from physteer.concepts.leace import LeaceEraser, LeaceFitter
from physteer.concepts.natural_space import Distances, NaturalSpace
from physteer.concepts.naturalness import NaturalDistances, Naturalness, Percentiles
from physteer.concepts.probe_controls import RandomFeatures, other_windows
from physteer.concepts.published import read_published, read_published_activations, read_published_concept
from physteer.concepts.ridge import RidgeFitter, RidgeProbes
from physteer.concepts.selection import Selection
from physteer.concepts.subspace import ConceptSubspace

__all__ = [
    "CausalBasis",
    "ClassFitter",
    "ClassProbe",
    "Concept",
    "ConceptSubspace",
    "Covariance",
    "CrossMoments",
    "DifferenceOfMeans",
    "Distances",
    "FixedSubspace",
    "LabelPermutations",
    "LeaceEraser",
    "LeaceFitter",
    "NaturalDistances",
    "NaturalSpace",
    "Naturalness",
    "Percentiles",
    "RandomFeatures",
    "RidgeFitter",
    "RidgeProbes",
    "Selection",
    "ShuffledDifferences",
    "frame_sums",
    "other_windows",
    "random_directions",
    "read_fixed_subspaces",
    "read_published",
    "read_published_activations",
    "read_published_concept",
    "standardized",
]
