"""Concepts from activations captured while the model predicts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import lightning as L
from torch import Tensor

from physteer.callbacks.base import RolloutCallback
from physteer.callbacks.processes import gather
from physteer.concepts import DifferenceOfMeans, Selection
from physteer.data.batch import Batch
from physteer.data.readouts import READOUTS, readouts
from physteer.errors import PhysteerError
from physteer.interventions import Site, observed
from physteer.module import WalrusModule
from physteer.walrus import model_id


class Capture(RolloutCallback):
    """Measure a concept: the difference of mean activations between two classes of windows.

    In ``predict``, the first forward from every window is captured; activations are added to running sums per class
    and site, so memory does not grow with the data. One concept per site is written to
    ``concepts/<name>_<site>.safetensors`` in the run folder. Set ``data.rollout_steps: 1`` when nothing else needs
    longer rollouts.

    Args:
        name: of the concept, for its file.
        sites: where, such as ``blocks.3``; ``physteer sites`` lists them.
        feature: which windows show the concept: an expression over the simulation's parameters (``Reynolds >= 2000``),
            ``file``, ``trajectory``, ``start``, ``stride``, and readouts of the last context frame (``enstrophy``,
            ``vortex_area``, ``kinetic_energy``, ``tracer_variance``).
        control: which windows do not; windows in neither class are left out.
    """

    def __init__(self, name: str, sites: list[str], feature: str, control: str) -> None:
        if not sites:
            raise PhysteerError("Capture.sites names no site; `physteer sites` lists them")
        self.name, self.sites = name, [Site.parse(site) for site in sites]
        self.feature, self.control = Selection(feature), Selection(control)
        self._sums: dict[Site, DifferenceOfMeans] = {}
        self._rows: dict[str, list[int]] = {}
        self._hooks = ExitStack()
        self._data = ""

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put hooks on the sites."""
        if not isinstance(pl_module, WalrusModule):
            raise PhysteerError(f"Capture needs a WalrusModule; this is a {type(pl_module).__name__}")
        if pl_module.conditions[0].edits:
            raise PhysteerError("Capture needs the unsteered model first among the conditions")
        self._sums = {site: DifferenceOfMeans() for site in self.sites}
        self._module = pl_module
        last = f"blocks.{len(pl_module.network.blocks) - 1}"
        pl_module.every_frame = any(site.module.startswith(last) for site in self.sites)
        self._hooks.enter_context(observed(pl_module.network, self.sites, self._observe))

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Sort the batch's windows into the classes."""
        self._rows, self._data = {"feature": [], "control": []}, batch.origin.path
        measured = readouts(batch, (self.feature.names | self.control.names) & READOUTS.keys())
        for row, window in enumerate(batch.windows):
            values = {name: float(value[row]) for name, value in measured.items()}
            sample = {**batch.parameters_of(row), **vars(window), **values}
            member = [label for label, select in self._classes() if select(sample)]
            if len(member) == 2:
                raise PhysteerError(
                    f"{window} is in both classes: feature {self.feature.expression!r}, "
                    f"control {self.control.expression!r}"
                )
            for label in member:
                self._rows[label].append(row)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up the processes' sums and write the concepts."""
        for site, sums in self._sums.items():
            everyone = gather(trainer, {name: value.cpu() for name, value in sums.state_dict().items()})
            if trainer.is_global_zero:
                total = DifferenceOfMeans()
                for state in everyone:
                    part = DifferenceOfMeans()
                    part.load_state_dict(state)
                    total.merge(part)
                concept = total.fit(
                    site=str(site),
                    model=model_id(self._module.network),
                    data=self._data,
                    selections={"feature": self.feature.expression, "control": self.control.expression},
                )
                concept.save(Path(trainer.default_root_dir) / "concepts" / f"{self.name}_{site}.safetensors")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the hooks off."""
        self._hooks.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Take the hooks off."""
        self._hooks.close()

    def _classes(self) -> list[tuple[str, Selection]]:
        return [("feature", self.feature), ("control", self.control)]

    def _observe(self, site: Site, h: Tensor) -> None:
        if self._module.clock.step == 0:  # of a rollout, the first forward: its context is data
            for label, rows in self._rows.items():
                if rows:
                    self._sums[site].update(label, h[rows])
