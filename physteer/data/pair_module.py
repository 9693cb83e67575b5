"""The Lightning data module that yields counterfactual pairs."""

from __future__ import annotations

import dataclasses
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from physteer.data.dataset import WindowDataset
from physteer.data.matching import InitialConditions, match_initial_conditions
from physteer.data.module import Split, WellDataModule
from physteer.data.pairs import PairDataset
from physteer.data.partners import Others, PairRules
from physteer.data.samplers import OnceInOrder, TrainingOrder, run_seed
from physteer.data.truths import SolverTruth, Truth
from physteer.data.well_index import EmptySplitError
from physteer.errors import PhysteerError


class CounterfactualDataModule(WellDataModule):
    """Pairs of windows, (base, sources), of a data set whose parameters are crossed with initial conditions.

    ``fit`` trains on pairs of ``train``, validates on pairs of ``valid``; ``test`` takes pairs of ``test``. With
    ``null_parameter``, validation and test have a second set of pairs, whose sources differ from their bases in that
    parameter alone: the prediction must not change. ``predict`` yields windows, as in ``WellDataModule``.

    Batches hold addresses. A window is read at its first use, in the main process; windows whose activations are in a
    cache are not read. ``num_workers`` therefore matters for ``predict`` only.

    Trajectories with the same initial condition are found by the content of frame 0, within each split. Initial
    conditions of ``train`` are left out of the other splits.

    Args:
        variables: parameters that the base gets from its sources, one source each.
        truth: of the counterfactuals: ``SolverTruth``, ``MatchedTruth`` or ``ReadoutTruth``.
        null_parameter: a parameter outside ``variables``, for null pairs, whose answer is the base's own future.
        same_initial_condition: whether sources have the base's initial condition, so that tokens correspond.
        other_parameters: ``same``: a source differs from its base in its variable alone; ``any``: in others too.
        train_pairs: number of pairs in an epoch of ``fit``; they are drawn once.
        evaluation_pairs: number of pairs of validation and of test.
        pair_every: frames between the starts of windows.
        horizon: number of frames of the answer.
        match_fields: fields of frame 0 that must agree. If empty: velocity or momentum; for a fluid at rest the
            buoyancy; else all evolving fields.
        match_tolerance: largest difference of these fields, in units of their RMS.
        well: arguments of ``WellDataModule``.
    """

    def __init__(
        self,
        path: str,
        variables: list[str],
        truth: Truth | None = None,
        null_parameter: str | None = None,
        same_initial_condition: bool = True,
        other_parameters: Others = "same",
        train_pairs: int = 1024,
        evaluation_pairs: int = 128,
        pair_every: int = 1,
        horizon: int = 1,
        match_fields: list[str] = [],  # noqa: B006  jsonargparse shows it; never changed
        match_tolerance: float = 1e-3,
        **well: Any,
    ) -> None:
        super().__init__(path, **well)
        for name, value in (
            ("evaluation_pairs", evaluation_pairs),
            ("pair_every", pair_every),
            ("horizon", horizon),
        ):
            if value < 1:
                raise PhysteerError(f"data.{name} must be at least 1, found {value}")
        if train_pairs < 2:  # a control takes the sources of other pairs
            raise PhysteerError(f"data.train_pairs must be at least 2, found {train_pairs}")
        if not match_tolerance >= 0:
            raise PhysteerError(f"data.match_tolerance must be at least 0, found {match_tolerance}")
        if not variables or len(set(variables)) < len(variables):
            raise PhysteerError(f"data.variables must name one or more different parameters; found {variables}")
        if null_parameter in variables:
            raise PhysteerError(f"data.null_parameter {null_parameter!r} is among data.variables, {variables}")
        self.rules = PairRules(tuple(variables), same_initial_condition, other_parameters)
        self.truth: Truth = SolverTruth() if truth is None else truth
        self.null_parameter, self.train_pairs, self.evaluation_pairs = null_parameter, train_pairs, evaluation_pairs
        self.pair_every, self.horizon = pair_every, horizon
        self.match_fields, self.match_tolerance = match_fields, match_tolerance
        self._matched: dict[str, InitialConditions] = {}  # by split

    def train_dataloader(self) -> DataLoader[Any]:
        """Pairs of ``train``, in an order that depends on the seed and the epoch only."""
        pairs = self.pairs("train", self.rules, self.train_pairs, mismatched=True)
        world, rank = self._place()
        sampler = TrainingOrder(pairs, world, rank, self._read * self.batch_size)
        return self._load(pairs, sampler, pairs.collate, num_workers=0)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Pairs of ``valid``, and its null pairs."""
        return self._evaluated("valid")

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Pairs of ``test``, and its null pairs."""
        return self._evaluated("test")

    def pairs(self, split: Split, rules: PairRules, n_pairs: int, *, mismatched: bool = False) -> PairDataset:
        """Draw pairs of a split; arguments as for `PairDataset`.

        Raises:
            PhysteerError: No pairs match, or every initial condition of the split is also in ``train``.
        """
        windows, initial_conditions = self.pair_windows(split), self._held_out(split)
        seed = run_seed()
        return PairDataset(windows, initial_conditions, rules, self.truth, n_pairs, seed=seed, mismatched=mismatched)

    def pair_windows(self, split: Split) -> WindowDataset:
        """Open the windows of the pairs of a split."""
        return self.dataset(split, self._selected(self.horizon, self.pair_every))

    def _evaluated(self, split: Split) -> list[DataLoader[Any]]:
        rules = [self.rules]
        if self.null_parameter is not None:
            rules.append(dataclasses.replace(self.rules, null=self.null_parameter))
        world, rank = self._place()
        loaders = []
        for rule in rules:
            pairs = self.pairs(split, rule, self.evaluation_pairs)
            loaders.append(self._load(pairs, OnceInOrder(pairs, world, rank), pairs.collate, num_workers=0))
        return loaders

    def _held_out(self, split: Split) -> InitialConditions:
        """Return a split's initial conditions; for other splits than ``train`` without those of ``train``."""
        matched = self._match(split)
        if split == "train":
            return matched
        try:
            shared = matched.shared_with(self._match("train"))
        except EmptySplitError:  # nothing to hold out from
            return matched
        if len(shared) == len(matched.frames):
            raise PhysteerError(
                f"{self.path}: every initial condition of {split!r} is in 'train' too: none is held out"
            )
        if shared:
            rank_zero_warn(
                f"{self.path}: {len(shared)} of {len(matched.frames)} initial conditions of {split!r} are in 'train' "
                "too; they are left out"
            )
        return matched.without(shared)

    def _match(self, split: Split) -> InitialConditions:
        if split not in self._matched:
            windows = self.pair_windows(split)
            self._matched[split] = match_initial_conditions(windows, self.match_fields, self.match_tolerance)
        return self._matched[split]
