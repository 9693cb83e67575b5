"""Concepts from activations captured while the model predicts."""

from __future__ import annotations

import re
from pathlib import Path

import lightning as L
from torch import Tensor

from physteer.callbacks.base import RolloutCallback
from physteer.callbacks.processes import gather
from physteer.callbacks.rollout_writer import slug
from physteer.callbacks.windows import window_shapes
from physteer.concepts import DifferenceOfMeans, Selection
from physteer.data.batch import Batch
from physteer.data.readouts import READOUTS, readouts
from physteer.errors import PhysteerError
from physteer.interventions import Site
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
        if not re.fullmatch(r"[\w.+-]+", name):
            raise PhysteerError(f"Capture.name becomes a file's name: letters, digits and _ . + -; found {name!r}")
        if not sites or len(set(sites)) < len(sites):
            raise PhysteerError(f"Capture.sites must name one or more different sites; found {sites}")
        self.name, self.sites = name, [Site.parse(site) for site in sites]
        self.classes = {"feature": Selection(feature), "control": Selection(control)}
        self._sums: dict[Site, DifferenceOfMeans] = {}
        self._rows: dict[str, list[int]] = {}
        self._data = ""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot be captured."""
        if not isinstance(pl_module, WalrusModule) or stage != "predict":
            raise PhysteerError("Capture listens to the rollouts of `physteer predict` alone")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask for the sites' activations."""
        assert isinstance(pl_module, WalrusModule)
        for site, shape in window_shapes(trainer, pl_module, self.sites).items():
            if len(shape) != 6:
                raise PhysteerError(f"site {site} has the shape {list(shape)}; a concept needs [B, T, h, w, δ, d]")
        self._sums, self._rows = {site: DifferenceOfMeans() for site in self.sites}, {}
        pl_module.observers.append((self.sites, self._observe))

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Sort the batch's windows into the classes, and listen to the next forward."""
        assert isinstance(pl_module, WalrusModule)
        if pl_module.conditions[0].edits:
            raise PhysteerError("Capture needs the unsteered model first among the conditions")
        rows: dict[str, list[int]] = {label: [] for label in self.classes}
        wanted = {name for select in self.classes.values() for name in select.names}
        measured = readouts(batch, wanted & READOUTS.keys())
        for row, window in enumerate(batch.windows):
            values = {name: float(value[row]) for name, value in measured.items()}
            sample = {**batch.parameters_of(row), **vars(window), **values}
            member = [label for label, select in self.classes.items() if select(sample)]
            if len(member) == 2:
                raise PhysteerError(f"{window} is in both classes: {self._described()}")
            for label in member:
                rows[label].append(row)
        self._rows, self._data = rows, batch.origin.path
        pl_module.every_frame |= any(_computed_last(pl_module, site) for site in self.sites)

    def on_rollout_step(self, trainer: L.Trainer, pl_module: WalrusModule, step: int, n_steps: int) -> None:
        """Stop listening: the forwards after the first are of predicted frames, or steered."""
        self._rows, pl_module.every_frame = {}, False

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up the processes' sums and write the concepts."""
        assert isinstance(pl_module, WalrusModule)
        model, data = model_id(pl_module.network), next(filter(None, gather(trainer, self._data)), "")
        selections = {label: select.expression for label, select in self.classes.items()}
        concepts = {}
        for site, sums in self._sums.items():
            total = DifferenceOfMeans()
            for state in gather(trainer, {name: value.cpu() for name, value in sums.state_dict().items()}):
                part = DifferenceOfMeans()
                part.load_state_dict(state)
                total.merge(part)
            try:  # on every process, so that none waits for one that failed
                concepts[site] = total.fit(site=str(site), model=model, data=data, selections=selections)
            except PhysteerError as error:
                raise PhysteerError(f"concept {self.name!r} at {site}: {error} ({self._described()})") from error
        if trainer.is_global_zero:
            for site, concept in concepts.items():
                concept.save(Path(trainer.default_root_dir) / "concepts" / f"{self.name}_{slug(str(site))}.safetensors")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop looking."""
        self._stop(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop looking."""
        self._stop(pl_module)

    def _stop(self, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, WalrusModule):
            pl_module.observers = [one for one in pl_module.observers if one[1] != self._observe]
            pl_module.every_frame = False

    def _described(self) -> str:
        return ", ".join(f"{label}: {select.expression!r}" for label, select in self.classes.items())

    def _observe(self, site: Site, h: Tensor) -> None:
        for label, rows in self._rows.items():  # of the first condition: the unsteered one is always first
            if rows:
                self._sums[site].update(label, h[rows])


def _computed_last(pl_module: WalrusModule, site: Site) -> bool:
    """Whether a site lies where, unless asked, only the last frame is computed: the last block and what follows it."""
    stage, _, rest = site.module.partition(".")
    last = str(len(pl_module.network.blocks) - 1)
    return rest.split(".")[0] == last if stage == "blocks" else stage == "decoder"
