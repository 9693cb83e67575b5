"""Callbacks that look at the activations of every window, before any edit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import lightning as L
import torch
from torch import Tensor

from physteer.analyses.engine import ActivationReader
from physteer.callbacks.base import check_predict, forecast_module
from physteer.callbacks.windows import window_shapes
from physteer.data.batch import Batch
from physteer.errors import PhysteerError
from physteer.forecast.module import ForecastModule
from physteer.interventions import Site


class WindowObserver(L.Callback):
    """A callback that gets activations of every window of ``predict``, of the unsteered model.

    Where other callbacks need rollouts, the first forward of each is observed; steered rows and later steps, which see
    predicted frames, are left out. Where none does, ``predict`` does not roll out: all observers of a run share one
    pass per batch, which stops at the deepest of their sites.

    Args:
        sites: where to look.
        all_frames: whether frames before the last are needed in the last block too, which computes the last one alone
            unless asked.
    """

    def __init__(self, sites: list[str], all_frames: bool) -> None:
        name = type(self).__name__
        if not sites or len(set(map(Site.parse, sites))) < len(sites):
            raise PhysteerError(f"{name}.sites must name one or more different sites; found {sites}")
        self.sites = [Site.parse(site) for site in sites]
        self.shapes: dict[Site, torch.Size] = {}
        """Of one window's activations, [1, T, h, w, δ, d]; from `on_predict_start` on."""
        self.all_frames = all_frames
        self._batch: Batch | None = None

    @abstractmethod
    def look_at(self, site: Site, h: Tensor, batch: Batch) -> None:
        """Look at the activations [B, T, h, w, δ, d] of a batch's windows: the live tensor, not to be changed."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse other commands and other modules."""
        check_predict(type(self).__name__, trainer, pl_module, stage)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask for the sites' activations."""
        module = forecast_module(pl_module, type(self).__name__)
        self.shapes = window_shapes(trainer, module.forecaster, self.sites)
        for site, shape in self.shapes.items():
            if len(shape) != 6:
                raise PhysteerError(
                    f"{type(self).__name__} needs activations [B, T, h, w, δ, d]; site {site} has the shape "
                    f"{list(shape)}"
                )
        module.observers.append(self)
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        module.rolls_out = any(getattr(c, "needs_rollouts", hasattr(c, "on_rollout_end")) for c in callbacks)

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen to the next forward; where none will come, read the windows for all observers."""
        module = forecast_module(pl_module, type(self).__name__)
        if module.conditions[0].edits:
            raise PhysteerError(f"{type(self).__name__} needs the unsteered model first among the conditions")
        self._batch = batch
        observers = [observer for observer in module.observers if isinstance(observer, WindowObserver)]
        if not module.rolls_out and self is observers[-1]:
            _read(module, batch, observers)

    def on_rollout_step(self, trainer: L.Trainer, pl_module: ForecastModule, step: int, n_steps: int) -> None:
        """Stop listening: the forwards after the first are of predicted frames, or steered."""
        self._batch = None

    def sites_at(self, step: int) -> Sequence[Site]:
        """Return the sites while the first forward from stored windows runs."""
        return self.sites if self._batch is not None else ()

    def observe(self, site: Site, h: Tensor) -> None:
        """Look at the unsteered rows, which are always first."""
        if self._batch is not None:
            self.look_at(site, h[: len(self._batch)], self._batch)

    def keep(self, trainer: L.Trainer) -> Mapping[str, Tensor]:
        """Return what this process has seen since it started (`RolloutCallback.keep`)."""
        return {}

    def restore(self, trainer: L.Trainer, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Take what earlier starts of this run have seen (`RolloutCallback.restore`)."""

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop looking."""
        self._stop(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop looking."""
        self._stop(pl_module)

    def _stop(self, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, ForecastModule):
            pl_module.observers = [observer for observer in pl_module.observers if observer is not self]
            pl_module.rolls_out = True
        self._batch = None


def _read(module: ForecastModule, batch: Batch, observers: Sequence[WindowObserver]) -> None:
    """Run one pass for all observers, up to the deepest of their sites."""
    sites = list(dict.fromkeys(site for observer in observers for site in observer.sites))

    def use(site: Site, h: Tensor) -> None:
        for observer in observers:
            if site in observer.sites:
                observer.observe(site, h)

    all_frames = any(observer.all_frames for observer in observers)
    ActivationReader(module.forecaster, sites, all_frames=all_frames).read(batch, use)
