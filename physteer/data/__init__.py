"""Data sets in The Well's format: read as windows with an address, written, and simulated.

* `WellDataModule` (Lightning) and `WindowDataset` read windows of any data set of The Well, local or remote, as
  `Sample` and `Batch`: fields by the network's names, with grid, boundaries, parameters and the address (`Window`).
* `CounterfactualDataModule` yields pairs of windows whose counterfactual is known: simulated, stored or read off.
* `TransferDataModule` yields windows of simple flows to learn from, and of full simulations to test on.
* `WellWriter` writes files in the same format; `write_rollout` writes a rollout that way, `write_stats` a data set's
  normalisation constants.
* `simulate` is the built-in solver for shear flow; `generate_shear_flow` makes whole data sets with it
  (``physteer data shear-flow``).

Names are imported on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physteer.data.batch import Batch, Channels, Grid, Sample, SplitMetadata, Window, collate
    from physteer.data.dataset import WindowDataset, WindowSpec
    from physteer.data.fields import ChannelSource
    from physteer.data.generate import ShearFlowSettings, generate_shear_flow
    from physteer.data.module import WellDataModule
    from physteer.data.pair import Pair, PairBatch
    from physteer.data.pair_module import CounterfactualDataModule
    from physteer.data.pairs import PairDataset
    from physteer.data.partners import PairRules
    from physteer.data.rollout_files import write_rollout
    from physteer.data.shear_flow import Frame, ShearFlowState, simulate
    from physteer.data.transfer_module import TransferDataModule
    from physteer.data.truths import MatchedTruth, ReadoutTruth, SolverTruth, Truth
    from physteer.data.well_format import Axis, Scalar, WellField, WellFile, WellWriter
    from physteer.data.well_stats import write_stats

__all__ = [
    "Axis",
    "Batch",
    "ChannelSource",
    "Channels",
    "CounterfactualDataModule",
    "Frame",
    "Grid",
    "MatchedTruth",
    "Pair",
    "PairBatch",
    "PairDataset",
    "PairRules",
    "ReadoutTruth",
    "Sample",
    "Scalar",
    "ShearFlowSettings",
    "ShearFlowState",
    "SolverTruth",
    "SplitMetadata",
    "TransferDataModule",
    "Truth",
    "WellDataModule",
    "WellField",
    "WellFile",
    "WellWriter",
    "Window",
    "WindowDataset",
    "WindowSpec",
    "collate",
    "generate_shear_flow",
    "simulate",
    "write_rollout",
    "write_stats",
]

_MODULES = {
    "batch": ("Batch", "Channels", "Grid", "SplitMetadata", "Sample", "Window", "collate"),
    "dataset": ("WindowDataset", "WindowSpec"),
    "fields": ("ChannelSource",),
    "generate": ("ShearFlowSettings", "generate_shear_flow"),
    "module": ("WellDataModule",),
    "pair_module": ("CounterfactualDataModule",),
    "pair": ("Pair", "PairBatch"),
    "pairs": ("PairDataset",),
    "partners": ("PairRules",),
    "rollout_files": ("write_rollout",),
    "shear_flow": ("Frame", "ShearFlowState", "simulate"),
    "transfer_module": ("TransferDataModule",),
    "truths": ("MatchedTruth", "ReadoutTruth", "SolverTruth", "Truth"),
    "well_format": ("Axis", "Scalar", "WellField", "WellFile", "WellWriter"),
    "well_stats": ("write_stats",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"physteer.data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'physteer.data' has no attribute {name!r}")
