"""Where natural activations lie, and how far from them steering goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from physteer.callbacks.naming import slug
from physteer.callbacks.observer import WindowObserver
from physteer.callbacks.processes import gather
from physteer.callbacks.windows import initial_conditions, predict_dataset, window_shapes
from physteer.concepts.roster import digest
from physteer.data.batch import Batch, Window
from physteer.errors import PhysteerError
from physteer.interventions import Site
from physteer.metrics import NaturalDistances, Naturalness, TokenCovariance
from physteer.module import WalrusModule
from physteer.walrus import model_id


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
        super().__init__(sites, every_frame=False)
        for name, value in (("directions", directions), ("held_out", held_out)):
            if value < 1:
                raise PhysteerError(f"NaturalSpaces.{name} must be at least 1; found {value}")
        self.directions, self.held_out = directions, held_out
        self._fitted: set[Window] = set()
        self._kept: set[Window] = set()
        self._covariances: dict[Site, TokenCovariance] = {}
        self._held_out: dict[Site, list[Tensor]] = {}
        self._earlier: list[Mapping[str, Tensor]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Share out the initial conditions, in every process alike, and ask for activations."""
        super().on_predict_start(trainer, pl_module)
        dataset = predict_dataset(trainer)
        groups = initial_conditions(dataset, dataset.windows)
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
        self._covariances = {site: TokenCovariance() for site in self.sites}
        self._held_out, self._earlier = {site: [] for site in self.sites}, []

    def observe(self, site: Site, h: Tensor, batch: Batch) -> None:
        """Add a batch's windows."""
        last = h[:, -1:]
        fitted = [row for row, window in enumerate(batch.windows) if window in self._fitted]
        self._covariances[site].update(last[fitted])
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
        assert isinstance(pl_module, WalrusModule)
        described = {"model": model_id(pl_module.network), "data": predict_dataset(trainer).origin.path}
        for site in self.sites:
            # Distances need the space, which needs all sums: the activations stay where they are until it is there.
            mine = [{n: p[f"{site}/{n}"] for n in self._state(site)} for p in self._earlier] + [self._state(site)]
            total, held_out = TokenCovariance(), [state.pop("held_out") for state in mine]
            for state in (one for states in gather(trainer, mine) for one in states):
                part = TokenCovariance()
                part.load_state_dict(state)
                total.merge(part)
            try:  # on every process, so that none waits for one that failed
                space = total.fit(self.directions)
                distances = NaturalDistances(space)
                for h in held_out:
                    distances.update(h)
                everyone = NaturalDistances(space)
                for state in gather(trainer, distances.state_dict()):
                    others = NaturalDistances(space)
                    others.load_state_dict(state)
                    everyone.merge(others)
                natural = everyone.fit(site=str(site), **described)
            except PhysteerError as error:
                raise PhysteerError(f"natural space at {site}: {error}") from error
            if trainer.is_global_zero:
                natural.save(Path(trainer.default_root_dir) / "natural" / f"{slug(str(site))}.safetensors")

    def _state(self, site: Site) -> dict[str, Tensor]:
        """Return what this process has seen, on the CPU."""
        held_out = torch.cat([torch.empty(0, 1, *self.shapes[site][2:]), *self._held_out[site]])
        sums = self._covariances[site].state_dict()
        return {**{name: value.cpu() for name, value in sums.items()}, "held_out": held_out}


class NaturalMeter:
    """Tells how natural the activations of rollouts are: of every condition, at every step, in the frame that counts.

    `Diagnostics` owns one. It sees activations after edits, and keeps two numbers per condition, window and step.
    """

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

    def begin(self, trainer: L.Trainer, pl_module: WalrusModule) -> None:
        """Check that the spaces are of this model, and look at its rollouts; in `on_predict_start`.

        Raises:
            PhysteerError: they are not.
        """
        model, sites = model_id(pl_module.network), list(self._spaces)
        shapes = window_shapes(trainer, pl_module, sites)
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
        if sites:
            pl_module.observers[self._observe] = sites

    def start(self, n_conditions: int) -> None:
        """Begin a group of conditions; in `on_rollout_start`."""
        self._n_conditions = n_conditions
        self._seen = {site: [] for site in self._spaces}

    def rows(self) -> Iterator[tuple[int, int, int, str, str, float]]:
        """Yield condition, row, step from 1, site, metric and value of the group; in `on_rollout_end`."""
        for site, steps in self._seen.items():
            for step, seen in enumerate(steps, start=1):
                for name, percentiles in zip(("natural_percentile", "residual_percentile"), seen, strict=True):
                    by_condition = percentiles.view(self._n_conditions, -1).tolist()
                    for condition, values in enumerate(by_condition):
                        for row, value in enumerate(values):
                            yield condition, row, step, str(site), name, value

    def end(self, pl_module: L.LightningModule) -> None:
        """Stop looking; in `on_predict_end` and `on_exception`."""
        if isinstance(pl_module, WalrusModule):
            pl_module.observers.pop(self._observe, None)
        self._seen = {}

    def _observe(self, site: Site, h: Tensor) -> None:
        found = self._spaces[site].percentiles(h[:, -1:])  # each [K · B, 1]
        self._seen[site].append(torch.stack([found.mahalanobis[:, 0], found.residual[:, 0]]).cpu())
