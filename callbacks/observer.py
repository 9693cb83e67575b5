"""Callbacks that look at what the unsteered model makes of every window."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import lightning as L
import torch
from torch import Tensor

from physteer.callbacks.windows import window_shapes
from physteer.data.batch import Batch
from physteer.errors import PhysteerError
from physteer.interventions import Site
from physteer.module import WalrusModule
from physteer.walrus import Walrus


class WindowObserver(L.Callback):
    """A callback that gets activations of the first forward from every window of ``predict``, of the unsteered model.

    Steered rows and later steps of rollouts, which start from predicted frames, are left out.

    Args:
        sites: where to look.
        every_frame: whether all frames are needed in the last block too, which computes the last one unless asked.
    """

    def __init__(self, sites: list[str], every_frame: bool) -> None:
        name = type(self).__name__
        if not sites or len(set(sites)) < len(sites):
            raise PhysteerError(f"{name}.sites must name one or more different sites; found {sites}")
        self.sites = [Site.parse(site) for site in sites]
        self.shapes: dict[Site, torch.Size] = {}
        """Of one window's activations, [1, T, h, w, δ, d]; from `on_predict_start` on."""
        self._every_frame = every_frame
        self._batch: Batch | None = None

    @abstractmethod
    def observe(self, site: Site, h: Tensor, batch: Batch) -> None:
        """Look at the activations [B, T, h, w, δ, d] of a batch's windows: the live tensor, not to be changed."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot be looked at."""
        if not isinstance(pl_module, WalrusModule) or stage != "predict":
            raise PhysteerError(f"{type(self).__name__} listens to the rollouts of `physteer predict` alone")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask for the sites' activations."""
        assert isinstance(pl_module, WalrusModule)
        self.shapes = window_shapes(trainer, pl_module, self.sites)
        for site, shape in self.shapes.items():
            if len(shape) != 6:
                raise PhysteerError(
                    f"{type(self).__name__} needs activations [B, T, h, w, δ, d]; site {site} has the shape "
                    f"{list(shape)}"
                )
        pl_module.observers[self._observe] = self.sites

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen to the next forward."""
        assert isinstance(pl_module, WalrusModule)
        if pl_module.conditions[0].edits:
            raise PhysteerError(f"{type(self).__name__} needs the unsteered model first among the conditions")
        self._batch = batch
        if self._every_frame:
            pl_module.every_frame |= any(_computed_last(pl_module.network, site) for site in self.sites)

    def on_rollout_step(self, trainer: L.Trainer, pl_module: WalrusModule, step: int, n_steps: int) -> None:
        """Stop listening: the forwards after the first are of predicted frames, or steered."""
        self._batch, pl_module.every_frame = None, False

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
        if isinstance(pl_module, WalrusModule):
            pl_module.observers.pop(self._observe, None)
            pl_module.every_frame = False

    def _observe(self, site: Site, h: Tensor) -> None:
        if self._batch is not None:
            self.observe(site, h[: len(self._batch)], self._batch)  # the unsteered rows are always first


def _computed_last(network: Walrus, site: Site) -> bool:
    """Whether a site lies where, unless asked, only the last frame is computed: the last block and what follows it."""
    stage, _, rest = site.module.partition(".")
    return rest.split(".")[0] == str(len(network.blocks) - 1) if stage == "blocks" else stage == "decoder"
