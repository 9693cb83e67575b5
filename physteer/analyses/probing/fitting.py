"""The sums over training windows from which probes and erasers are fitted."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from physteer.analyses.engine import merged
from physteer.analyses.probing.class_fitting import ClassFit
from physteer.analyses.probing.readings import RESOLUTIONS, ProbeReader, Resolution, samples
from physteer.analyses.probing.windows import ProbeWindows
from physteer.concepts import RidgeFitter, RidgeProbes
from physteer.data.batch import Batch
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.metrics import TARGETS

SHUFFLED = "shuffled "
"""Prefix of the names of targets whose truths are those of other windows."""
_ROUND_OFF = 1e-5
"""Share of the tokens' spread; means over frames with a smaller spread vary by float32 round-off only."""


class ProbeFit(nn.Module):
    """An objective without optimiser steps: it collects the sums that ridge regression needs.

    Every place has probes of every target, and of the same targets of other windows, per token and pooled. It needs d²
    float64 numbers per place and resolution, whatever the number of tokens. `ClassFit` collects those of class probes.
    """

    def __init__(self, reader: ProbeReader, windows: ProbeWindows, classes: Sequence[str] = ()) -> None:
        """Start with no samples.

        Args:
            reader: the places and targets of the probes.
            windows: of ``train``.
            classes: parameters whose values are the classes of class probes.

        Raises:
            PhysteerError: There is no such parameter, or it has one value only.
        """
        super().__init__()
        self.reader, self.windows = reader, windows
        self.names = (*reader.targets, *(SHUFFLED + name for name in reader.targets))
        self.fitters: dict[tuple[str, Resolution], RidgeFitter] = {
            (place, resolution): RidgeFitter(self.names)
            for place in reader.places
            for resolution in RESOLUTIONS
            if reader.targets
        }
        self.classes = ClassFit(classes, reader, windows)

    def forward(self, forecaster: Forecaster, batch: Batch, step: int = 0) -> None:
        """Add a batch of windows.

        Raises:
            PhysteerError: An activation or a target is not finite.
        """
        truths = both_truths(self.reader, self.windows, forecaster, batch)

        def add(place: str, features: Tensor) -> None:
            try:
                for resolution, truth in truths.items():
                    self.fitters[place, resolution].update(samples(features, resolution).flatten(0, 1), truth)
                self.classes.add(place, features, batch)
            except PhysteerError as error:
                raise PhysteerError(f"probes at {place}, windows from {batch.windows[0]} on: {error}") from error

        truths = {resolution: truth.flatten(0, 1) for resolution, truth in truths.items()}
        self.reader.read(forecaster, batch, add)

    def merge(self) -> None:
        """Sum over all processes; a collective."""
        for key in self.fitters:
            self.fitters[key] = merged(self.fitters[key], partial(RidgeFitter, self.names))
        self.classes.merge()

    def fit(self, alphas: Sequence[float], model: str) -> dict[tuple[str, Resolution], RidgeProbes]:
        """Return the ridge probes of every place and resolution; targets that do not vary are left out, with a warning.

        The mean over a frame may be 0 by a theorem, such as the mean vorticity of a periodic flow. Its variation is
        round-off, and it is left out too.

        Args:
            alphas: penalties to choose from.
            model: the weights.

        Raises:
            PhysteerError: No target varies, per token or pooled.
        """
        if not self.fitters:
            return {}
        token, pooled = (self.fitters[self.reader.places[0], resolution] for resolution in RESOLUTIONS)
        kept = {"token": token.varying}
        kept["pooled"] = [
            i
            for i in pooled.varying
            if pooled.scatter_yy[i] / pooled.count > _ROUND_OFF**2 * token.scatter_yy[i] / token.count
        ]
        for resolution, columns in kept.items():
            constant = [name for i, name in enumerate(self.reader.targets) if i not in columns]
            if not columns:
                raise PhysteerError(
                    f"none of the probe targets {', '.join(constant)} varies in {self.windows.dataset.path}, "
                    f"{resolution}: add one that does, such as speed_squared"
                )
            if constant:
                warnings.warn(
                    f"probe targets that are constant in {self.windows.dataset.path}, {resolution}, are skipped: "
                    f"{', '.join(constant)}",
                    stacklevel=2,
                )
        units = {name: TARGETS[name.removeprefix(SHUFFLED)].units for name in self.names}
        described = {"model": model, "data": self.windows.dataset.path}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said above, once
            return {
                (place, resolution): selected(
                    fitter.fit(alphas, site=place, units=units, **described), [self.names[i] for i in kept[resolution]]
                )
                for (place, resolution), fitter in self.fitters.items()
            }


def selected(probes: RidgeProbes, targets: Sequence[str]) -> RidgeProbes:
    """Return the probes of some targets."""
    columns = [probes.targets.index(name) for name in targets]
    return dataclasses.replace(
        probes,
        weights=probes.weights[..., columns],
        bias=probes.bias[:, columns],
        alphas=probes.alphas[:, columns],
        targets=tuple(targets),
        units={name: probes.units[name] for name in targets},
    )


def both_truths(
    reader: ProbeReader, windows: ProbeWindows, forecaster: Forecaster, batch: Batch
) -> dict[Resolution, Tensor]:
    """Return the truths of a batch, then those of other windows, [B, n, 2m], by resolution; empty without targets."""
    if not reader.targets:
        return {}
    both = (batch, windows.others(batch))
    pair = [reader.truths(forecaster, b, forecaster.inputs(b.context, b)[1]) for b in both]
    return {resolution: torch.cat([truths.samples(resolution) for truths in pair], -1) for resolution in RESOLUTIONS}
