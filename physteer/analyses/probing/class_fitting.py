"""The sums over training windows from which class probes are fitted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from physteer.analyses.engine import merged
from physteer.analyses.probing.readings import INPUTS, ProbeReader, samples
from physteer.analyses.probing.windows import ProbeWindows
from physteer.concepts import ClassFitter, ClassProbe
from physteer.data.batch import Batch
from physteer.data.dataset import WindowDataset
from physteer.errors import PhysteerError, did_you_mean

UNKNOWN = -1
"""The label of a value that is no class."""


@dataclass(frozen=True)
class ClassTask:
    """One class probe: the place of its activations, and the parameter whose values it classifies."""

    place: str
    parameter: str
    shuffled: bool
    """Whether its labels are those of other windows, as a control."""


class ClassFit:
    """Sums of class probes over training windows; samples are the means over the tokens of every context frame.

    The probes of every place are fitted to the windows' own values. The probes of sites are also fitted to the values
    of other windows, as a control; places that read the input are controls themselves.
    """

    def __init__(self, parameters: Sequence[str], reader: ProbeReader, windows: ProbeWindows) -> None:
        """Start with no samples.

        Args:
            parameters: of the data, whose values are the classes; may be empty.
            reader: whose places have probes.
            windows: of ``train``.

        Raises:
            PhysteerError: There is no such parameter, or it has one value only.
        """
        self.windows = windows
        self.classes: dict[str, tuple[float, ...]] = {}
        """The values of each parameter in ``train``, smallest first."""
        for name in parameters:
            try:
                self.classes[name] = ClassFitter(name, _values(windows.dataset, name)).classes
            except PhysteerError as error:
                raise PhysteerError(f"Probe.classes: {windows.dataset.path}: {error}") from error
        self.fitters = {
            task: self._empty(task)
            for name in parameters
            for place in reader.places
            for task in (ClassTask(place, name, False), ClassTask(place, name, True))
            if not (task.shuffled and place in INPUTS)
        }

    def check(self, dataset: WindowDataset) -> None:
        """Check windows that will be scored; those whose value is no class are left out, with a warning.

        Raises:
            PhysteerError: The data lack a parameter, or none of its values is a class.
        """
        for name, classes in self.classes.items():
            try:
                values = _values(dataset, name)
            except PhysteerError as error:
                raise PhysteerError(f"Probe.classes: {dataset.path}: {error}") from error
            unknown = sorted(set(values) - set(classes))
            if not unknown:
                continue
            count = sum(value in unknown for value in values)
            message = f"{dataset.path}: {name} {_listed(unknown)} is not in {self.windows.dataset.path}, which has"
            if count == len(values):
                raise PhysteerError(f"Probe.classes: {message} {_listed(classes)} only: no window can be scored")
            left_out = f"{count} of {len(values)} windows are left out of accuracies"
            warnings.warn(f"{message} {_listed(classes)}: {left_out}", stacklevel=2)

    def labels(self, task: ClassTask, windows: ProbeWindows, batch: Batch) -> Tensor:
        """Return the indices of the windows' values among the classes, [B]; `UNKNOWN` where a value is no class."""
        classes = self.classes[task.parameter]
        windows_of_labels = map(windows.other, batch.windows) if task.shuffled else batch.windows
        values = [windows.dataset.parameters_of(window)[task.parameter] for window in windows_of_labels]
        return torch.tensor([classes.index(value) if value in classes else UNKNOWN for value in values])

    def add(self, place: str, features: Tensor, batch: Batch) -> None:
        """Add the features of a batch of ``train`` at a place, [B, T, h, w, δ, d].

        Raises:
            PhysteerError: An activation is not finite.
        """
        tasks = [task for task in self.fitters if task.place == place]
        if not tasks:
            return
        pooled = samples(features, "pooled")  # [B, T, d]
        for task in tasks:
            labels = self.labels(task, self.windows, batch).repeat_interleave(pooled.shape[1])
            self.fitters[task].update_classes(pooled.flatten(0, 1), labels)

    def merge(self) -> None:
        """Sum over all processes; a collective."""
        for task in self.fitters:
            self.fitters[task] = merged(self.fitters[task], partial(self._empty, task))

    def fit(self, alphas: Sequence[float], model: str) -> dict[ClassTask, ClassProbe]:
        """Return the probes, with every penalty.

        Args:
            alphas: penalties to choose from.
            model: the weights.
        """
        data = self.windows.dataset.path
        return {
            task: fitter.fit(alphas, site=task.place, model=model, data=data) for task, fitter in self.fitters.items()
        }

    def _empty(self, task: ClassTask) -> ClassFitter:
        return ClassFitter(task.parameter, self.classes[task.parameter])


def _values(dataset: WindowDataset, name: str) -> list[float]:
    """Return the value of a parameter in every window."""
    parameters = [dataset.parameters_of(window) for window in dataset.windows]
    if name not in parameters[0]:
        known = ", ".join(parameters[0]) or "none"
        raise PhysteerError(f"there is no parameter {name!r}, only {known}{did_you_mean(name, parameters[0])}")
    return [values[name] for values in parameters]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
