"""How well interchanges give the counterfactual: recovery, accuracy and selectivity of every arm, on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from physteer.das.arms import Arm
from physteer.das.objective import InterchangeObjective
from physteer.data.pairs import PairBatch
from physteer.errors import PhysteerError
from physteer.metrics import CounterfactualRecovery, InterchangeAccuracy, Interval, Movement
from physteer.module import WalrusModule
from physteer.reports.interchange_table import MODEL, InterchangeScore
from physteer.rollout import sample_scale

PAIRS, NULLS = 0, 1
"""The data loaders of validation and test: counterfactual pairs, and pairs whose answer is the base's own future."""


class InterchangeEvaluation(nn.Module):
    """Scores of all arms over counterfactual pairs (first loader) and, if there is one, null pairs (second).

    * recovery: 1 − Σ‖ŷ' − y*‖² / Σ‖ŷ_b − y*‖², per field and their mean; beside it the model's own ceiling.
    * interchange accuracy: share of pairs whose edited prediction is nearer to the counterfactual future than to the
      base's, in units of r_Δ over all fields: whether it is of the source's class.
    * movement: how far fields move, in units of r_Δ; on null pairs they must not.
    """

    def __init__(self, arms: Sequence[Arm], objective: InterchangeObjective) -> None:
        super().__init__()
        self.arms, self.objective = tuple(arms), (objective,)  # tuples: their parameters are not this module's
        self.scores = nn.ModuleDict()
        self._with_ceiling = True

    def begin(self, module: WalrusModule, loaders: Any) -> None:
        """Make empty scores.

        Raises:
            PhysteerError: the data module yields no pairs.
        """
        datasets = [loader.dataset for loader in (loaders if isinstance(loaders, list) else [loaders])]
        if not all(hasattr(dataset, "pair") for dataset in datasets):
            raise PhysteerError("DAS needs pairs: set data.class_path to physteer.CounterfactualDataModule")
        channels = datasets[PAIRS].windows.origin.channels
        fields = [channels.names[i] for i in channels.predicted]
        names = [dataset.initial_conditions for dataset in datasets]
        scores: dict[str, nn.Module] = {}
        for arm in self.arms:
            scores[f"{arm.key}/recovery"] = CounterfactualRecovery(fields, names[PAIRS])
            scores[f"{arm.key}/accuracy"] = InterchangeAccuracy(names[PAIRS])
            scores[f"{arm.key}/movement"] = Movement(fields, names[PAIRS])
            if len(datasets) > NULLS:
                scores[f"{arm.key}/null_movement"] = Movement(fields, names[NULLS])
        self.scores = nn.ModuleDict({name.replace(".", "_"): score.to(module.device) for name, score in scores.items()})
        self._with_ceiling = True

    def score(self, module: WalrusModule, batch: PairBatch, loader: int) -> None:
        """Predict with every arm and add the errors."""
        objective = self.objective[0]
        names = [str(pair.initial_condition) for pair in batch.pairs]
        scored = batch.base.channels.predicted
        scale = sample_scale(batch.base.context, module.network.config.eps).differences[:, 0, scored]  # [B, C, 1, 1, 1]
        ceiling = None
        if loader == PAIRS and batch.twin is not None:
            ceiling = module.predict_next(batch.twin.context, batch.twin)[:, 0, scored]
        self._with_ceiling &= ceiling is not None or loader == NULLS
        for site in dict.fromkeys(arm.site for arm in self.arms):
            base, sources = objective.snapshots(module, batch, site)
            unedited = objective.unedited(module, batch, base)[:, 0, scored]  # [B, C, H, W, D]
            for arm in (one for one in self.arms if one.site == site):
                edited = objective.predicted(module, batch, arm, base, sources)[:, 0, scored]
                if loader == NULLS:
                    self._score(arm, "null_movement").update(edited, unedited, scale[..., 0, 0, 0], names)
                    continue
                self._score(arm, "movement").update(edited, unedited, scale[..., 0, 0, 0], names)
                if batch.truth.ndim == 6:
                    truth, own = batch.truth[:, 0, scored], batch.base.targets[:, 0, scored]
                    best = unedited if ceiling is None else ceiling
                    self._score(arm, "recovery").update(edited, unedited, truth, best, names)
                    nearer = _distance(edited, truth, scale) < _distance(edited, own, scale)
                    self._score(arm, "accuracy").update(nearer.long(), torch.ones_like(nearer, dtype=torch.long), names)

    def table(self) -> list[InterchangeScore]:
        """Compute every score; a collective over the processes."""
        rows: list[InterchangeScore] = []
        for arm in self.arms:
            rank = arm.boundless[0].rank if arm.boundless else arm.rank
            who = (str(arm.site), arm.kind, rank, arm.name)
            recovery = self._score(arm, "recovery")
            if bool(recovery.compute().any()):
                found = recovery.recovery()
                rows.append(_row(who, "recovery", "", found.mean))
                rows += [_row(who, "recovery", field, interval) for field, interval in found.per_field.items()]
                rows.append(_row(who, "interchange_accuracy", "", self._score(arm, "accuracy").accuracy()))
                if arm is self.arms[0] and self._with_ceiling:
                    rows.append(_row(("", MODEL, 0, ""), "recovery", "", found.ceiling))
            for metric in ("movement", "null_movement"):
                if f"{arm.key}/{metric}".replace(".", "_") in self.scores:
                    moved = self._score(arm, metric).movement()
                    rows += [_row(who, metric, field, interval) for field, interval in moved.items()]
        return rows

    def results(self, stage: str) -> dict[str, float]:
        """Name what goes to the logger: the recovery of every arm, and of the learned ones the best."""
        logged = {}
        for row in self.table():
            if (row.metric, row.field) == ("recovery", "") and row.kind != MODEL:
                which = "_".join(filter(None, (row.kind, f"rank_{row.rank}", row.name)))
                logged[f"{stage}/recovery/{row.site}/{which}"] = row.value
        learned = [value for name, value in logged.items() if "/learned_" in name]
        if learned:
            logged[f"{stage}/recovery"] = max(learned)
        return logged

    def _score(self, arm: Arm, metric: str) -> Any:
        return self.scores[f"{arm.key}/{metric}".replace(".", "_")]


def _distance(frame: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """[B]: squared distance of frames [B, C, H, W, D], each field in units of its scale."""
    return ((frame - other) / scale).square().mean(dim=(1, 2, 3, 4))


def _row(who: tuple[str, str, int, str], metric: str, field: str, interval: Interval) -> InterchangeScore:
    return InterchangeScore(
        *who, metric, field, interval.value, interval.low, interval.high, interval.initial_conditions
    )
