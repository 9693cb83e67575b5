"""The engine of all analyses: reading activations, the prefix cache, suffix passes, and sums over processes."""

from physteer.analyses.engine.activation_reader import ActivationReader
from physteer.analyses.engine.class_readout import ClassReadout
from physteer.analyses.engine.distributed import from_everyone, merged, summed
from physteer.analyses.engine.prefix_cache import PairActivations, PrefixCache, last_and_scale, only_last_frame
from physteer.analyses.engine.snapshot_cache import Prefix, SnapshotCache
from physteer.analyses.engine.suffix import ForecastSuffix, Outcome, PlainActivations, PlainSuffix, Suffix, continued

__all__ = [
    "ActivationReader",
    "ClassReadout",
    "ForecastSuffix",
    "Outcome",
    "PairActivations",
    "PlainActivations",
    "PlainSuffix",
    "Prefix",
    "PrefixCache",
    "SnapshotCache",
    "Suffix",
    "continued",
    "from_everyone",
    "last_and_scale",
    "merged",
    "only_last_frame",
    "summed",
]
