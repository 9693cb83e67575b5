"""How far from natural activations steering goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from physteer.concepts import Naturalness
from physteer.data.batch import SplitMetadata
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.interventions import Site


class NaturalMeter:
    """Measures how natural the activations of rollouts are: per condition and step, in the last context frame.

    `Diagnostics` owns one. It observes activations after edits (`physteer.forecast.RolloutObserver`), and keeps two
    numbers per condition, window and step.
    """

    all_frames = False
    """Only the last frame is looked at."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Read natural spaces.

        Args:
            paths: files of `NaturalSpaces`, each of another site.

        Raises:
            PhysteerError: one is not such a file, or two are of one site.
        """
        self._spaces: dict[Site, Naturalness] = {}
        for path in paths:
            natural = Naturalness.load(path)
            site = Site.parse(natural.site)
            if site in self._spaces:
                raise PhysteerError(f"{path} is of {site}, as another natural space of this run is")
            self._spaces[site] = natural
        self._n_conditions = 1
        self._seen: dict[Site, list[Tensor]] = {}  # per step [2, K · B]

    def check(self, forecaster: Forecaster, metadata: SplitMetadata, n_frames: int) -> None:
        """Check that the spaces are of this model.

        Args:
            forecaster: whose rollouts will be measured.
            metadata: channels and grid of the windows.
            n_frames: of the context.

        Raises:
            PhysteerError: they are not.
        """
        model = forecaster.identity
        shapes = forecaster.site_shapes(list(self._spaces), metadata, n_frames)
        for site, natural in self._spaces.items():
            if natural.model != model:
                raise PhysteerError(
                    f"the natural space at {site} was measured on model {natural.model}; this model is {model}: "
                    "measure it again with NaturalSpaces"
                )
            if shapes[site][-1] != len(natural.space.mean):
                raise PhysteerError(
                    f"the natural space at {site} has width {len(natural.space.mean)}, the site {shapes[site][-1]}"
                )

    def start(self, n_conditions: int) -> None:
        """Begin a group of conditions."""
        self._n_conditions = n_conditions
        self._seen = {site: [] for site in self._spaces}

    def rows(self) -> Iterator[tuple[int, int, int, str, str, float]]:
        """Yield condition, row, step from 1, site, metric and value of the group."""
        for site, steps in self._seen.items():
            for step, seen in enumerate(steps, start=1):
                for name, percentiles in zip(("natural_percentile", "residual_percentile"), seen, strict=True):
                    by_condition = percentiles.view(self._n_conditions, -1).tolist()
                    for condition, values in enumerate(by_condition):
                        for row, value in enumerate(values):
                            yield condition, row, step, str(site), name, value

    def sites_at(self, step: int) -> Sequence[Site]:
        """Return all sites, at every step."""
        return list(self._spaces)

    def observe(self, site: Site, h: Tensor) -> None:
        """Compare the last frame of activations [K · B, T, h, w, δ, d] with natural ones."""
        percentiles = self._spaces[site].percentiles(h[:, -1:])  # each [K · B, 1]
        self._seen[site].append(torch.stack([percentiles.mahalanobis[:, 0], percentiles.residual[:, 0]]).cpu())
