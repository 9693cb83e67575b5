"""Scores of every intervention variant on held-out pairs: how close interchanges come to the counterfactual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from physteer.analyses.das.class_loss import read, read_sources
from physteer.analyses.das.controls import above_shuffled, angle, p_values
from physteer.analyses.das.directions import Shifts, SourceShift
from physteer.analyses.das.objective import InterchangeObjective
from physteer.analyses.das.scores import ClassAccuracy, VariantScores, score_row
from physteer.analyses.das.table import MODEL, UNEDITED, InterchangeScore
from physteer.analyses.das.variants import InterventionVariant
from physteer.analyses.engine import PairActivations
from physteer.data.pair import PairBatch
from physteer.data.pairs import PairDataset
from physteer.data.readouts import readouts
from physteer.data.truths import ReadoutTruth
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.forecast.evaluation import Stage
from physteer.interventions import Site
from physteer.metrics import Movement

PAIRS, NULLS = 0, 1
"""The data loaders of validation and test: counterfactual pairs, and null pairs, whose answer is the base's future."""


class InterchangeEvaluation(nn.Module):
    """Scores of the variants over counterfactual pairs (first loader) and, if there is one, null pairs (second).

    * recovery, of the change: 1 − Σ‖(ŷ' − ŷ_b) − (y* − y_b)‖² / Σ‖y* − y_b‖², per field and their mean, y_b the base's
      own true future. Fields that the variables do not change have none, and are left out of the mean.
    * nearness: 1 − Σ‖ŷ' − y*‖² / Σ‖ŷ_b − y*‖², likewise. The model's own ceiling is the same with ŷ_b − y_b, the error
      of the unedited prediction of the base's own future, in place of ŷ' − y*: an edit cannot be expected to predict
      better than the model. Recovery has no such ceiling: that error cancels.

      Where the answer is a readout, all four are: ŷ are readouts of predictions, y* the source's, y_b that of the
      base's own next frame. A `ClassLoss` changes neither: pairs have true frames, whatever rotations are trained for.
    * interchange accuracy: share of pairs whose edited prediction is nearer to the counterfactual future than to the
      base's own, in units of r_Δ over all fields.
    * class accuracy, where the loss is a `ClassLoss`: share of pairs for which the frozen probe predicts the source's
      class from the edited activation. For comparison, its accuracy in the sources' own passes and in the unedited
      bases.
    * learned − shuffled, of recovery and class accuracy, with paired intervals, and p values: the rank of a learned
      rotation among the random ones of its rank. Principal angles between what is learned from several starts.
    * movement: how far edits move fields, in units of r_Δ; on null pairs it must be 0 in the fields of the exact null.
    * null shares: movement on null pairs over that on pairs, per field, over all, and over those of the exact null.

    Random rotations are not scored on null pairs. Validation during ``fit`` scores trained variants on counterfactual
    pairs only: the others do not change.
    """

    def __init__(
        self,
        variants: Sequence[InterventionVariant],
        objective: InterchangeObjective,
        variables: Sequence[str],
        null_fields: Sequence[str] = (),
    ) -> None:
        """Make an evaluation.

        Args:
            variants: that are scored.
            objective: by which they are trained.
            variables: of the pairs.
            null_fields: the predicted fields that null pairs must not move (`exact_null_fields`).
        """
        super().__init__()
        self.variants, self.objective = tuple(variants), (objective,)  # tuples: their parameters are not this module's
        self.variables, self.null_fields = tuple(variables), tuple(null_fields)
        self.readouts = objective.readouts
        self.scores, self.moves = nn.ModuleDict(), nn.ModuleDict()
        self.read_off = nn.ModuleDict()
        """Class accuracies of passes without edits."""
        self.rows: list[InterchangeScore] = []
        """The table, after `results`."""
        self._scored = self.variants
        self._fitting, self._data = False, ""
        self._readout: str | None = None

    def begin(self, forecaster: Forecaster, loaders: Any, stage: Stage) -> None:
        """Start new scores.

        Raises:
            PhysteerError: The data module yields no pairs.
        """
        datasets = [loader.dataset for loader in (loaders if isinstance(loaders, list) else [loaders])]
        if not all(isinstance(dataset, PairDataset) for dataset in datasets):
            raise PhysteerError("DAS needs pairs: set data.class_path to physteer.CounterfactualDataModule")
        self._fitting = stage == "fit"
        self._scored = tuple(variant for variant in self.variants if variant.trained or not self._fitting)
        self.rows = []
        pairs = datasets[PAIRS]
        for variant in self._scored:
            variant.to(forecaster.device)  # untrained ones are no part of the trainer's module
        self._data = pairs.windows.metadata.path
        self._readout = pairs.truth.readout if isinstance(pairs.truth, ReadoutTruth) else None
        channels = pairs.windows.metadata.channels
        fields = [channels.names[i] for i in channels.predicted]
        judged = fields if self._readout is None else [self._readout]
        names, nulls = datasets[PAIRS].initial_conditions, None
        if len(datasets) > NULLS and not self._fitting:
            nulls = datasets[NULLS].initial_conditions
        parameters = [readout.parameter for readout in self.readouts]
        self.scores = nn.ModuleDict(
            {
                variant.key: VariantScores(
                    judged, fields, parameters, names, None if variant.kind == "random" else nulls, self.null_fields
                )
                for variant in self._scored
            }
        )
        self.moves = nn.ModuleDict(
            {
                _shift_name(variant.site, i): SourceShift(variant.width)
                for variant in self._scored
                for i in range(len(self.variables))
            }
        )
        kinds = () if self._fitting or not self.readouts else (MODEL, UNEDITED)
        self.read_off = nn.ModuleDict({kind: ClassAccuracy(parameters, names) for kind in kinds})
        self.to(forecaster.device)

    def score(self, forecaster: Forecaster, batch: PairBatch, loader: int) -> None:
        """Predict with every variant and add the errors."""
        if loader == NULLS and self._fitting:
            return
        objective = self.objective[0]
        names = [str(pair.initial_condition) for pair in batch.pairs]
        scored = batch.metadata.channels.predicted
        prepared = objective.suffix.prepare(forecaster, batch)
        wanted = {readout.parameter: readout.wanted(batch) for readout in self.readouts}
        for number, site in enumerate(dict.fromkeys(variant.site for variant in self._scored)):
            activations = objective.suffix.at(forecaster, site, prepared)
            scale = activations.scale.differences[:, 0, scored]  # [B, C, 1, 1, 1]
            unedited_outcome = objective.unedited(forecaster, batch, activations)
            unedited = unedited_outcome.prediction  # [B, 1, C, H, W, D]
            if loader == PAIRS:
                self._add_shifts(site, batch, activations)
                base, own_future = self._judged(batch, unedited), self._judged(batch, batch.base.targets[:, :1])
                truth = self._judged(batch, batch.truth[:, :1]) if self._readout is None else batch.truth.view_as(base)
                if self.read_off and number == 0:
                    sources = read_sources(self.readouts, forecaster, batch)
                    self._part(MODEL).update(sources, wanted, names)
                    self._part(UNEDITED).update(read(self.readouts, unedited_outcome.activations), wanted, names)
            for variant in (v for v in self._scored if v.site == site):
                scores = self._of(variant)
                if loader == NULLS and scores.null_movement is None:
                    continue
                outcome = objective.edited(forecaster, batch, variant, activations)
                frame = outcome.prediction
                moved = frame[:, 0, scored], unedited[:, 0, scored], scale[..., 0, 0, 0], names
                if loader == NULLS:
                    cast(Movement, scores.null_movement).update(*moved)
                    continue
                scores.movement.update(*moved)
                edited = self._judged(batch, frame)
                scores.recovery.update(edited, base, truth, own_future, names)
                scores.nearness.update(edited, base, truth, own_future, names)
                unit = scale if self._readout is None else 1.0
                scores.add_nearer(_distance(edited, truth, unit) < _distance(edited, own_future, unit), names)
                scores.classes.update(read(self.readouts, outcome.activations), wanted, names)

    def shifts(self) -> Shifts:
        """Return the mean shift towards larger values of the variables, at every site; a collective over processes."""
        sites = dict.fromkeys(variant.site for variant in self._scored)
        keys = [(site, i) for site in sites for i in range(len(self.variables))]
        means_and_counts = {key: cast(SourceShift, self.moves[_shift_name(*key)]).compute() for key in keys}
        moved = self._of(self._scored[0]).movement.compute()  # [initial conditions, fields + 1]
        (pairs, *_) = {count for _, count in means_and_counts.values()}
        shifts = {key: mean.cpu() for key, (mean, _) in means_and_counts.items()}
        return Shifts(shifts, self._data, pairs, int((moved[:, -1] > 0).sum()))

    def results(self, stage: str) -> dict[str, float]:
        """Compute the table; a collective over the processes.

        Returns:
            Values for the logger, by name: recovery and nearness of every variant, its class accuracy where the loss is
            a `ClassLoss` (the mean over variables), and the best of each among the learned variants.
        """
        ceiling = self._of(self._scored[0]).nearness.nearness().ceiling
        self.rows = [score_row(("", MODEL, 0, ""), "nearness", "", ceiling)]
        for kind, part in self.read_off.items():
            self.rows += cast(ClassAccuracy, part).rows(("", kind, 0, ""))
        shuffled = {(v.site, v.rank, v.name): v for v in self._scored if v.kind == "shuffled"}
        learned = {(v.site, v.rank): v for v in self._scored if v.kind == "learned"}
        logged, best = {}, dict[str, float]()
        for variant in self._scored:
            rank = variant.boundless[0].rank if variant.boundless else variant.rank
            identity = str(variant.site), variant.kind, rank, variant.name
            rows = self._of(variant).rows(identity)
            self.rows += rows
            if (control := shuffled.get((variant.site, variant.rank, variant.name))) and variant.kind == "learned":
                self.rows += above_shuffled(identity, self._of(variant), self._of(control))
            if variant.kind == "reseeded":
                self.rows.append(angle(identity, learned[variant.site, variant.rank], variant))
            values = {
                "recovery": [row.value for row in rows if (row.metric, row.field) == ("recovery", "")],
                "nearness": [row.value for row in rows if (row.metric, row.field) == ("nearness", "")],
                "class_accuracy": [row.value for row in rows if row.metric == "class_accuracy"],
            }
            for metric, metric_values in values.items():
                if metric_values:
                    mean = sum(metric_values) / len(metric_values)
                    logged[f"{stage}/{metric}/{variant.label.replace(' ', '_')}"] = mean
                    if variant.kind == "learned":
                        best[f"{stage}/{metric}"] = max(mean, best.get(f"{stage}/{metric}", mean))
        self.rows += [*p_values(self.rows)]
        return logged | best

    def _of(self, variant: InterventionVariant) -> VariantScores:
        return cast(VariantScores, self.scores[variant.key])

    def _part(self, kind: str) -> ClassAccuracy:
        return cast(ClassAccuracy, self.read_off[kind])

    def _judged(self, batch: PairBatch, frame: Tensor) -> Tensor:
        """Return what the truth has of a frame [B, 1, C, H, W, D]: its fields [B, C, H, W, D], or a readout."""
        if self._readout is None:
            return frame[:, 0, batch.metadata.channels.predicted]
        value = readouts(batch.frames(frame), [self._readout])[self._readout]
        return value[:, None, None, None, None]

    def _add_shifts(self, site: Site, batch: PairBatch, activations: PairActivations) -> None:
        locus = self.objective[0].locus
        base = locus.take(activations.base.activation)
        for i, (variable, sources) in enumerate(zip(self.variables, batch.source_windows, strict=True)):
            values = [torch.tensor(batch.parameters(w, variable)) for w in (sources, batch.base_windows)]
            shift = cast(SourceShift, self.moves[_shift_name(site, i)])
            shift.update(base, locus.take(activations.sources[i]), (values[0] - values[1]).sign())


def _shift_name(site: Site, variable: int) -> str:
    return f"{site}/{variable}/shift".replace(".", "_")


def _distance(frame: Tensor, other: Tensor, scale: Tensor | float) -> Tensor:
    """Return the mean squared distance [B] of frames [B, C, H, W, D], each field in units of its scale."""
    return ((frame - other) / scale).square().mean(dim=(1, 2, 3, 4))
