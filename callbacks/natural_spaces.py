"""Where natural activations lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from physteer.analyses.engine import from_everyone
from physteer.callbacks.base import forecast_module
from physteer.callbacks.observer import WindowObserver
from physteer.callbacks.windows import predict_dataset
from physteer.concepts import Covariance, NaturalDistances, NaturalSpace
from physteer.data.batch import Batch, Window
from physteer.data.matching import initial_conditions
from physteer.errors import PhysteerError
from physteer.files import file_name
from physteer.interventions import Site
from physteer.interventions.seeds import digest


class NaturalSpaces(WindowObserver):
    """Measure where the activations of natural windows lie, for ``Diagnostics`` to tell how natural steered ones are.

    In ``predict``, the last context frame's activations of every second initial condition are fitted: mean and main
    directions over tokens. Distances of windows of the others, held out, tell what is usual. One file per site,
    ``natural/<site>.safetensors`` in the run folder. In memory are d × d sums in float64 per site, and until the end
    the activations of the held-out windows, tokens × d numbers each.

    Args:
        sites: where, such as ``blocks.3``: those that are steered, and after those inside a block, the block.
        directions: how many main directions at most.
        held_out: most windows to hold out; percentiles are as fine as they are many. Chosen by their addresses, so
            they are the same for any number of processes.
    """

    def __init__(self, sites: list[str], directions: int = 64, held_out: int = 64) -> None:
        super().__init__(sites, all_frames=False)
        for name, value in (("directions", directions), ("held_out", held_out)):
            if value < 1:
                raise PhysteerError(f"NaturalSpaces.{name} must be at least 1; found {value}")
        self.directions, self.held_out = directions, held_out
        self._fitted: set[Window] = set()
        self._kept: set[Window] = set()
        self._covariances: dict[Site, Covariance] = {}
        self._held_out: dict[Site, list[Tensor]] = {}
        self._earlier: list[Mapping[str, Tensor]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Share out the initial conditions, in every process alike, and ask for activations."""
        super().on_predict_start(trainer, pl_module)
        dataset = predict_dataset(trainer)
        matched = initial_conditions(dataset)
        groups = {window: matched.name(window) for window in dataset.windows}
        names = sorted(set(groups.values()))
        if len(names) < 2:
            raise PhysteerError(
                f"NaturalSpaces needs windows of two or more initial conditions; all {len(groups)} in {dataset.path} "
                "have one"
            )
        fitted = set(names[::2])
        self._fitted = {window for window, name in groups.items() if name in fitted}
        rest = sorted(groups.keys() - self._fitted, key=lambda window: digest("held out", str(window)))
        self._kept = set(rest[: self.held_out])
        self._covariances = {site: Covariance() for site in self.sites}
        self._held_out, self._earlier = {site: [] for site in self.sites}, []

    def look_at(self, site: Site, h: Tensor, batch: Batch) -> None:
        """Add a batch's windows."""
        last = h[:, -1:]
        fitted = [row for row, window in enumerate(batch.windows) if window in self._fitted]
        self._covariances[site].update(last[fitted].flatten(0, -2))
        kept = [row for row, window in enumerate(batch.windows) if window in self._kept]
        if kept:
            self._held_out[site].append(last[kept].float().cpu())

    def keep(self, trainer: L.Trainer) -> Mapping[str, Tensor]:
        """Return the sums and the held-out activations."""
        return {f"{site}/{name}": value for site in self.sites for name, value in self._state(site).items()}

    def restore(self, trainer: L.Trainer, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Take what earlier starts have seen."""
        self._earlier = list(parts)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit the spaces to what all processes have seen, and write them."""
        forecaster = forecast_module(pl_module, "NaturalSpaces").forecaster
        described = {"model": forecaster.identity, "data": predict_dataset(trainer).metadata.path}
        for site in self.sites:
            # Distances need the space, which needs all sums: the activations stay where they are until it is there.
            mine = [{n: p[f"{site}/{n}"] for n in self._state(site)} for p in self._earlier] + [self._state(site)]
            total, held_out = Covariance(), [state.pop("held_out") for state in mine]
            for state in (one for states in from_everyone(mine) for one in states):
                part = Covariance()
                part.load_state_dict(state)
                total.merge(part)
            try:  # on every process, so that none waits for one that failed
                space = NaturalSpace.of(total, self.directions)
                distances = NaturalDistances(space)
                for h in held_out:
                    distances.update(h)
                everyone = NaturalDistances(space)
                for state in from_everyone(distances.state_dict()):
                    others = NaturalDistances(space)
                    others.load_state_dict(state)
                    everyone.merge(others)
                natural = everyone.fit(site=str(site), **described)
            except PhysteerError as error:
                raise PhysteerError(f"natural space at {site}: {error}") from error
            if trainer.is_global_zero:
                natural.save(Path(trainer.default_root_dir) / "natural" / f"{file_name(str(site))}.safetensors")

    def _state(self, site: Site) -> dict[str, Tensor]:
        """Return what this process has seen, on the CPU."""
        held_out = torch.cat([torch.empty(0, 1, *self.shapes[site][2:]), *self._held_out[site]])
        sums = self._covariances[site].state_dict()
        return {**{name: value.cpu() for name, value in sums.items()}, "held_out": held_out}
