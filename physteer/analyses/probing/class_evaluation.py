"""Accuracy of class probes, on held-out windows and on full simulations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from physteer.analyses.engine import merged
from physteer.analyses.probing.class_fitting import UNKNOWN, ClassFit, ClassTask
from physteer.analyses.probing.class_table import ClassScore
from physteer.analyses.probing.readings import INPUTS, samples
from physteer.analyses.probing.windows import ProbeWindows
from physteer.concepts import ClassProbe
from physteer.data.batch import Batch
from physteer.metrics import ConditionSums, Interval, bootstrap, pooled_ratio

HITS, ENTROPY, SEEN = 0, 1, 2
"""Columns of the sums: number of correct samples, cross-entropy in nats, and the number of samples of each class."""


class ClassScores(ConditionSums):
    """Accuracy and cross-entropy of a class probe's A penalties in one pass; terms are [A, 2 + K], float64."""

    def update(self, scores: Tensor, labels: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add samples.

        Args:
            scores: [A, B, n, K] of n samples of each of B windows, as of `ClassProbe.scores`.
            labels: index of each window's class, [B]; windows with `UNKNOWN` are left out.
            initial_conditions: of each window, by name.
        """
        known = labels != UNKNOWN
        labels, scores = labels[known], scores[:, known.to(scores.device)].detach().cpu().double()
        names = [name for name, is_known in zip(initial_conditions, known.tolist(), strict=True) if is_known]
        a, b, n, k = scores.shape
        truth = labels[None, :, None].expand(a, b, n)
        entropy = -scores.log_softmax(-1).gather(-1, truth[..., None])[..., 0]  # [A, B, n]
        terms = torch.stack([(scores.argmax(-1) == truth).double(), entropy], -1).sum(2)  # [A, B, 2]
        seen = n * torch.nn.functional.one_hot(labels, k).double().expand(a, b, k)
        self.add(names, torch.cat([terms, seen], -1).movedim(1, 0))

    def accuracy(self) -> Tensor:
        """Return the share of correct samples, [A]."""
        total = self.total()
        return total[:, HITS] / total[:, SEEN:].sum(1)

    def cross_entropy(self) -> Tensor:
        """Return the mean of −log p(class | x) over samples, in nats, [A]."""
        total = self.total()
        return total[:, ENTROPY] / total[:, SEEN:].sum(1)

    def chance(self) -> float:
        """Return the share of the most frequent class: the accuracy of a constant prediction."""
        seen = self.total()[0, SEEN:]
        return float(seen.max() / seen.sum())

    def interval(self) -> Interval:
        """Return the accuracy of the first penalty, with its interval over initial conditions."""
        by_name = self.terms()
        terms = torch.stack(list(by_name.values()))[:, 0]  # [initial conditions, 2 + K]
        hits_and_samples = torch.stack([terms[:, HITS], terms[:, SEEN:].sum(1)], 1)
        return bootstrap(hits_and_samples.numpy(), list(by_name), pooled_ratio)


class ClassEvaluation:
    """Chooses the penalty of every class probe on ``valid``, by cross-entropy, and scores the chosen probes.

    Args:
        fit: the sums over ``train``.
    """

    def __init__(self, fit: ClassFit) -> None:
        self.fit = fit
        self.probes: dict[ClassTask, ClassProbe] = {}
        """With every penalty after `learn`, with the best penalty after the `results` of validation."""
        self._windows: Mapping[str, ProbeWindows] = {}
        self._scores: dict[tuple[str, ClassTask], ClassScores] = {}  # by data set and probe

    def learn(self, alphas: Sequence[float], model: str) -> None:
        """Fit the probes to the sums of all processes."""
        self.probes = self.fit.fit(alphas, model)

    def begin(self, windows: Mapping[str, ProbeWindows]) -> None:
        """Start new scores for data sets, by name."""
        self._windows = windows
        self._scores = {(data, task): ClassScores() for data in windows for task in self.probes}

    def add(self, data: str, place: str, features: Tensor, batch: Batch) -> None:
        """Add the features of a batch of a data set at a place, [B, T, h, w, δ, d]."""
        tasks = [task for task in self.probes if task.place == place]
        if not tasks:
            return
        windows, pooled = self._windows[data], samples(features, "pooled")  # [B, T, d]
        names = windows.initial_conditions(batch.windows)
        for task in tasks:
            labels = self.fit.labels(task, windows, batch)
            self._scores[data, task].update(self.probes[task].scores(pooled), labels, names)

    def results(self, stage: str) -> dict[str, float]:
        """Sum the scores of all processes; after validation, choose the penalties. A collective over processes.

        Returns:
            The accuracy of every probe with its own labels.
        """
        self._scores = {key: merged(scores, ClassScores) for key, scores in self._scores.items()}
        logged = {}
        for (data, task), scores in self._scores.items():
            accuracies, best = scores.accuracy(), 0
            if stage == "val":
                probe = self.probes[task]
                losses = zip(scores.cross_entropy().tolist(), (-probe.alphas).tolist(), strict=True)
                _, best = min((loss, index) for index, loss in enumerate(losses))  # of equal losses the largest penalty
                self.probes[task] = probe.chosen(best, {"valid": float(accuracies[best])})
            if not task.shuffled:
                prefix = "val" if stage == "val" else f"test/{data}"
                logged[f"{prefix}/accuracy/{task.place.replace(' ', '_')}/{task.parameter}"] = float(accuracies[best])
        return logged

    def table(self) -> list[ClassScore]:
        """Return every accuracy of ``test``, with intervals; after `results`."""
        rows = []
        for (data, task), scores in self._scores.items():
            interval = scores.interval()
            rows.append(
                ClassScore(
                    site="" if task.place in INPUTS else task.place,
                    parameter=task.parameter,
                    data=data,
                    control="shuffled" if task.shuffled else INPUTS.get(task.place, "probe"),
                    alpha=float(self.probes[task].alphas[0]),
                    accuracy=interval.value,
                    low=interval.low,
                    high=interval.high,
                    chance=scores.chance(),
                    initial_conditions=interval.initial_conditions,
                )
            )
        return rows
