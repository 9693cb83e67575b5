"""Scores of probes, on held-out simple flows and on full simulations."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from physteer.analyses.engine import from_everyone, merged
from physteer.analyses.probing.class_evaluation import ClassEvaluation
from physteer.analyses.probing.fitting import SHUFFLED, ProbeFit, both_truths
from physteer.analyses.probing.lens import LensErrors, lens_obstacle
from physteer.analyses.probing.maps import MapCollector, assembled
from physteer.analyses.probing.readings import INPUTS, ProbeReader, Resolution, samples
from physteer.analyses.probing.score_rows import Key, score_rows
from physteer.analyses.probing.table import ProbeScore
from physteer.analyses.probing.trajectory_maps import TrajectoryMaps
from physteer.analyses.probing.windows import ProbeWindows
from physteer.concepts import RidgeProbes
from physteer.data.batch import Batch
from physteer.forecast import Forecaster
from physteer.forecast.evaluation import Stage
from physteer.metrics import ConditionSums, ProbeScores, best_match

DATA = {1: ("held_out",), 2: ("simple", "full")}
"""Names of the data loaders of ``test``, by their number."""


class ProbeEvaluation(nn.Module):
    """Chooses the penalty of every probe on ``valid``, and scores the chosen probes on ``test`` and full simulations.

    At the start of validation, probes are fitted to the sums over ``train``. Scores are sums over tokens by initial
    condition and over processes, so that they do not depend on the distribution of windows over processes.

    Args:
        fit: the sums over ``train``.
        alphas: penalties to choose from.
        maps: number of trajectories of each data set whose predictions are kept for every token.
        seed: of the shuffles.
    """

    def __init__(self, fit: ProbeFit, alphas: Sequence[float], maps: int, seed: int) -> None:
        super().__init__()
        self.fit, self.alphas, self.n_maps, self.seed = fit, tuple(alphas), maps, seed
        self.probes: dict[Key, RidgeProbes] = {}
        """With every penalty after `begin` of validation, with the best for each target after its `results`."""
        self.maps: list[TrajectoryMaps] = []
        """Maps of the kept trajectories, after `results` of test."""
        self.lens = LensErrors()
        """Decoder-lens errors on full simulations."""
        self.classes = ClassEvaluation(fit.classes)
        """Scores of the class probes."""
        self._valid_r2: dict[Key, Tensor] = {}
        self._testing = False
        self._lens_obstacle = ""
        self._data: tuple[str, ...] = ()  # of each loader
        self._windows: list[ProbeWindows] = []
        self._scores: list[dict[Key, ProbeScores]] = []  # by loader
        self._matches: list[dict[str, ConditionSums]] = []  # by loader and place; [m, 3] each
        self._maps: list[MapCollector] = []

    @property
    def reader(self) -> ProbeReader:
        """The places and targets of the probes."""
        return self.fit.reader

    def targets(self, resolution: Resolution) -> tuple[str, ...]:
        """Return the targets that vary."""
        if not self.probes:
            return ()
        names = self.probes[self.reader.places[0], resolution].targets
        return tuple(name for name in names if not name.startswith(SHUFFLED))

    def begin(self, forecaster: Forecaster, loaders: Any, stage: Stage) -> None:
        """Start new scores; before validation, fit the probes. A collective over processes."""
        self._testing = stage == "test"
        if not self._testing:
            self.fit.merge()
            model = forecaster.identity
            self.probes = self.fit.fit(self.alphas, model)
            self.classes.learn(self.alphas, model)
        loaders = loaders if isinstance(loaders, list) else [loaders]
        self._data = DATA[len(loaders)] if self._testing else ("valid",)
        self._windows = [ProbeWindows(loader.dataset, self.seed) for loader in loaders]
        self.classes.begin(dict(zip(self._data, self._windows, strict=True)))
        centres = {key: self.fit.fitters[key].mean_y[self._columns(key[1])] for key in self.probes}
        self._scores = [
            {key: ProbeScores(probes.targets, centres[key]) for key, probes in self.probes.items()} for _ in loaders
        ]
        places = self.reader.places if self._testing and self.probes else ()
        self._matches = [{place: ConditionSums() for place in places} for _ in loaders]
        self.lens = LensErrors()
        if "full" in self._data:
            full = self._windows[-1].dataset
            self._lens_obstacle = lens_obstacle(forecaster, full.metadata, full.spec.n_input)
            if self._lens_obstacle:
                warnings.warn(f"{self._lens_obstacle}: it is left out", stacklevel=2)
        self._maps = [
            MapCollector(windows.some_trajectories(self.n_maps if self._testing and self.probes else 0))
            for windows in self._windows
        ]

    def score(self, forecaster: Forecaster, batch: Batch, loader: int) -> None:
        """Add a batch of one of the loaders."""
        windows = self._windows[loader]
        names = windows.initial_conditions(batch.windows)
        truths = {
            resolution: truth[..., self._columns(resolution)]
            for resolution, truth in both_truths(self.reader, windows, forecaster, batch).items()
        }
        n_own = {resolution: len(self.targets(resolution)) for resolution in truths}
        first = self.reader.sites[:1]
        shape = forecaster.site_shapes(first, batch.metadata, batch.n_input)[first[0]][1:5]
        self._maps[loader].begin(batch, {r: truth[..., : n_own[r]] for r, truth in truths.items()}, shape)

        def use(place: str, features: Tensor) -> None:
            self.classes.add(self._data[loader], place, features, batch)
            for resolution, truth in truths.items():
                key = (place, resolution)
                predicted = self.probes[key].predict(samples(features, resolution))  # [A, B, n, 2m]
                self._scores[loader][key].update(predicted, truth, names)
                if not self._testing:
                    continue
                own_predictions = predicted[0, ..., : n_own[resolution]]
                self._maps[loader].add(place, resolution, own_predictions)
                if resolution == "token":
                    self._match(loader, place, own_predictions, truth, names, shape[0])

        self.reader.read(forecaster, batch, use)
        if self._data[loader] == "full" and not self._lens_obstacle:
            self.lens.add(forecaster, batch, names)

    def results(self, stage: str) -> dict[str, float]:
        """Sum the scores of all processes; after validation, choose the penalties. A collective over processes."""
        for scores in self._scores:
            for key, own_scores in scores.items():
                scores[key] = merged(own_scores, partial(ProbeScores, own_scores.targets))
        logged = self.classes.results(stage)
        if stage == "val":
            [scores] = self._scores
            r2 = {key: target_scores.r2() for key, target_scores in scores.items()}
            self.probes = {key: probes.best(r2[key]) for key, probes in self.probes.items()}
            self._valid_r2 = {key: target_scores.amax(0) for key, target_scores in r2.items()}
            return logged | self._logged(self._valid_r2, "val/r2")
        for matches in self._matches:
            for place, matched in matches.items():
                matches[place] = merged(matched, ConditionSums)
        self.lens.merge(from_everyone)
        sites = tuple(map(str, self.reader.sites))
        self.maps = []
        for data, collector in zip(self._data, self._maps, strict=True):
            pieces = [piece for part in from_everyone(collector.pieces) for piece in part]
            self.maps += assembled(pieces, data, sites, self.targets("token"), self.targets("pooled"))
        for name, scores in zip(self._data, self._scores, strict=True):
            logged |= self._logged(
                {key: target_scores.r2()[0] for key, target_scores in scores.items()}, f"test/{name}/r2"
            )
        return logged

    def table(self) -> list[ProbeScore]:
        """Return every score of ``test``, with intervals; after `results`."""
        rows = []
        for loader, data in enumerate(self._data):
            for row in score_rows(data, self._scores[loader], self.probes, self._valid_r2):
                place = row.site or next(name for name, control in INPUTS.items() if control == row.control)
                if row.resolution == "token" and row.control != "shuffled":
                    column = self._scores[loader][place, "token"].targets.index(row.target)
                    own, chance = self._best_match(loader, place, column)
                    row = dataclasses.replace(row, best_match=own, best_match_shuffled=chance)
                rows.append(row)
        return rows

    def _columns(self, resolution: Resolution) -> list[int]:
        """Return the positions of the varying targets among all targets and their shuffled controls."""
        kept = self.probes[self.reader.places[0], resolution].targets
        return [self.fit.names.index(name) for name in kept]

    def _match(
        self, loader: int, place: str, predicted: Tensor, truth: Tensor, names: Sequence[str], n_frames: int
    ) -> None:
        """Add each frame's smallest error over tokens, against its own truth and against that of another window."""
        b, _, m = predicted.shape
        frames = predicted.reshape(b * n_frames, -1, m)
        pair = [best_match(frames, truths.reshape(b * n_frames, -1, m)) for truths in (truth[..., :m], truth[..., m:])]
        matched = torch.stack([*pair, torch.ones_like(pair[0])], -1).view(b, n_frames, m, 3).sum(1).cpu()
        self._matches[loader][place].add(names, matched)

    def _best_match(self, loader: int, place: str, column: int) -> tuple[float, float]:
        """Return the mean best match over frames of all windows, and that with shuffled truths."""
        own, other, count = self._matches[loader][place].total()[column].tolist()
        return own / count, other / count

    def _logged(self, r2: dict[Key, Tensor], prefix: str) -> dict[str, float]:
        return {
            f"{prefix}/{place.replace(' ', '_')}/{name}/{resolution}": float(value)
            for (place, resolution), values in r2.items()
            for name, value in zip(self.targets(resolution), values, strict=False)  # the shuffled ones come after
        }
