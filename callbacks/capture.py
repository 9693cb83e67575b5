"""Concepts from activations captured while the model predicts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from physteer.analyses.engine import summed
from physteer.analyses.steering.classes import label_permutations, sort_windows, units_of
from physteer.callbacks.base import forecast_module
from physteer.callbacks.observer import WindowObserver
from physteer.callbacks.windows import predict_dataset
from physteer.concepts import DifferenceOfMeans, LabelPermutations, Selection, ShuffledDifferences, frame_sums
from physteer.data.batch import Batch, Window
from physteer.data.dataset import WindowDataset
from physteer.data.matching import initial_conditions
from physteer.errors import PhysteerError
from physteer.files import file_name
from physteer.interventions import Site


class Capture(WindowObserver):
    """Measure a concept: the difference of mean activations between two classes of windows.

    In ``predict``, activations of every window, as stored, are added to running sums per class and site, so memory does
    not grow with the data. Nothing behind the deepest site is computed, unless other callbacks need rollouts. One
    concept per site is written to ``concepts/<name>_<site>.safetensors`` in the run folder.

    Beside the concept, in the same pass, the concepts of shuffled labels: what the same difference of means gives where
    there is nothing to find. Labels change places within initial conditions, between whole trajectories where a
    trajectory is in one class, and go to ``concepts/shuffled/<name>_<site>_<number>.safetensors``. Memory per site: 2
    sums of h·w·δ·d numbers in float64, and n + 1 more for n shuffles.

    Args:
        name: of the concept, for its file.
        sites: where, such as ``blocks.3``; ``physteer sites`` lists them.
        feature: which windows show the concept: an expression over the simulation's parameters (``Reynolds >= 2000``),
            ``file``, ``trajectory``, ``start``, ``stride``, and readouts of the last context frame (``enstrophy``,
            ``vortex_area``, ``kinetic_energy``, ``tracer_variance``).
        control: which windows do not; windows in neither class are left out.
        shuffles: number of concepts of shuffled labels; 19 are the fewest with which p ≤ 0.05 is possible.
        match_initial_conditions: leave out initial conditions, known by their content, that lack one of the classes.
            The rest cancel in the difference, entirely where all have the classes in the same proportion. False mixes
            initial conditions with the concept, as the published protocol does.
        seed: of the shuffles.
        frames: frames of the context to average over, such as ``[-1]`` for the last alone; null for all. All frames of
            a site in the last block cost up to a third of a forward more: a forecast needs the last alone.
    """

    def __init__(
        self,
        name: str,
        sites: list[str],
        feature: str,
        control: str,
        shuffles: int = 0,
        match_initial_conditions: bool = True,
        seed: int = 0,
        frames: list[int] | None = None,
    ) -> None:
        super().__init__(sites, all_frames=frames is None or any(frame != -1 for frame in frames))
        if not re.fullmatch(r"[\w.+-]+", name):
            raise PhysteerError(f"Capture.name becomes a file's name: letters, digits and _ . + -; found {name!r}")
        if shuffles < 0:
            raise PhysteerError(f"Capture.shuffles must be at least 0; found {shuffles}")
        if frames is not None and not frames:
            raise PhysteerError("Capture.frames must name frames of the context, or be null for all; found []")
        self.name, self.shuffles, self.seed, self.frames = name, shuffles, seed, frames
        self.classes = {"feature": Selection(feature), "control": Selection(control)}
        self.match_initial_conditions = match_initial_conditions
        self._labels: dict[Window, str] = {}
        self._units: dict[Window, str] = {}
        self._groups: dict[Window, int] = {}
        self._seen = torch.empty(0)
        self._concepts: dict[Site, DifferenceOfMeans] = {}
        self._shuffled: dict[Site, ShuffledDifferences] = {}
        self._earlier: list[Mapping[str, Tensor]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sort all windows into the classes, in every process alike, and ask for the sites' activations."""
        super().on_predict_start(trainer, pl_module)
        dataset = predict_dataset(trainer)
        context = dataset.spec.n_input
        frames = [frame % context for frame in self.frames or [] if -context <= frame < context]
        if len(set(frames)) < len(self.frames or []):
            raise PhysteerError(f"Capture.frames {self.frames}: the context has {context} frames, and each counts once")
        try:
            permutations = self._sort(sort_windows(dataset, self.classes), dataset)
            self._concepts = {site: DifferenceOfMeans() for site in self.sites}
            self._shuffled = {
                site: ShuffledDifferences(permutations, self.shuffles, self.seed)
                for site in self.sites
                if self.shuffles
            }
        except PhysteerError as error:
            raise PhysteerError(f"concept {self.name!r}: {error}") from error
        self._earlier = []
        device = torch.device("cpu") if pl_module.device.type == "mps" else pl_module.device  # it has no float64
        for site, shape in self.shapes.items():  # so that sums have a shape in a process without windows too
            none = torch.zeros(0, *shape[2:], dtype=torch.float64, device=device)
            for label in self.classes:
                self._concepts[site].add(label, none, shape[1])
            if self.shuffles:
                self._shuffled[site].add([], none, shape[1])

    def look_at(self, site: Site, h: Tensor, batch: Batch) -> None:
        """Add the activations of a batch to the sums of their classes."""
        rows = [row for row, window in enumerate(batch.windows) if window in self._labels]
        windows = [batch.windows[row] for row in rows]
        h = h if self.frames is None else h[:, self.frames]
        sums, n_frames = frame_sums(h if len(rows) == len(h) else h[rows]), h.shape[1]
        self._check_finite(site, sums, windows)
        for label in self.classes:
            members = [row for row, window in enumerate(windows) if self._labels[window] == label]
            self._concepts[site].add(label, sums[members], n_frames)
        if self.shuffles:
            self._shuffled[site].add([self._units[window] for window in windows], sums, n_frames)
        if site == self.sites[0]:
            self._seen[[self._groups[window] for window in windows]] += 1

    def keep(self, trainer: L.Trainer) -> Mapping[str, Tensor]:
        """Return the sums."""
        return self._state()

    def restore(self, trainer: L.Trainer, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Take the sums of earlier starts."""
        self._earlier = list(parts)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up the processes' sums and write the concepts."""
        forecaster = forecast_module(pl_module, "Capture").forecaster
        mine = self._state()
        # One tensor at a time: with many shuffles the sums of all processes would not fit into memory.
        total = {
            name: summed(sum((part[name].to(value.device) for part in self._earlier), value), pl_module.device)
            for name, value in mine.items()
        }
        described = {"model": forecaster.identity, "data": predict_dataset(trainer).metadata.path}
        selections = {label: select.expression for label, select in self.classes.items()}
        folder, n_seen = Path(trainer.default_root_dir) / "concepts", int((total["initial_conditions"] > 0).sum())
        for site in self.sites:
            fitter = DifferenceOfMeans()
            fitter.load_state_dict(_under(f"{site}/concept/", total))
            try:  # on every process, so that none waits for one that failed
                concepts = [fitter.fit(site=str(site), selections=selections, **described)]
                if self.shuffles:
                    self._shuffled[site].load_state_dict(_under(f"{site}/shuffled/", total))
                    concepts += self._shuffled[site].fit(site=str(site), selections=selections, **described)
            except PhysteerError as error:
                raise PhysteerError(f"concept {self.name!r} at {site}: {error}") from error
            if trainer.is_global_zero:
                file = f"{self.name}_{file_name(str(site))}"
                names = [f"{file}.safetensors", *(f"shuffled/{file}_{i:02d}.safetensors" for i in range(self.shuffles))]
                for path, concept in zip(names, concepts, strict=True):
                    formula = concept.formula + self._how()
                    replace(concept, formula=formula, initial_conditions=n_seen).save(folder / path)

    def _sort(self, labels: dict[Window, str], dataset: WindowDataset) -> LabelPermutations:
        """Keep the windows to capture, with their classes, units and initial conditions."""
        matched = initial_conditions(dataset)
        groups = {window: matched.name(window) for window in labels}
        units = units_of(labels)
        permutations = label_permutations(labels, units, groups)
        if self.match_initial_conditions:
            n_all, permutations = len(set(permutations.groups.values())), permutations.matched()
            n_matched = len(set(permutations.groups.values()))
            if not n_matched:
                raise PhysteerError(
                    f"none of the {n_all} initial conditions in {dataset.path} has windows of both classes; "
                    "match_initial_conditions: false compares different ones"
                )
            if n_matched < n_all:
                rank_zero_warn(
                    f"concept {self.name!r}: {n_all - n_matched} of {n_all} initial conditions lack one of the classes "
                    "and are left out; match_initial_conditions: false keeps them"
                )
        self._labels = {window: label for window, label in labels.items() if units[window] in permutations.labels}
        self._units = {window: units[window] for window in self._labels}
        numbers = {name: number for number, name in enumerate(sorted(set(groups.values())))}
        self._groups = {window: numbers[groups[window]] for window in self._labels}
        self._seen = torch.zeros(len(numbers), dtype=torch.long)
        return permutations

    def _how(self) -> str:
        """Return what the formula of the fitter does not tell."""
        frames = "" if self.frames is None else f"; frames {', '.join(map(str, self.frames))} of the context"
        return frames + ("; matched initial conditions" if self.match_initial_conditions else "")

    def _check_finite(self, site: Site, sums: Tensor, windows: Sequence[Window]) -> None:
        finite = sums.flatten(1).sum(1).isfinite().tolist()
        for window, fine in zip(windows, finite, strict=True):
            if not fine:
                raise PhysteerError(
                    f"concept {self.name!r}: the activation at {site} for {window} is constant or not finite"
                )

    def _state(self) -> dict[str, Tensor]:
        """Return all sums by name; those of other processes and starts add up with them."""
        state = {"initial_conditions": self._seen}
        for site in self.sites:
            state |= {f"{site}/concept/{name}": value for name, value in self._concepts[site].state_dict().items()}
            if self.shuffles:
                state |= {f"{site}/shuffled/{name}": v for name, v in self._shuffled[site].state_dict().items()}
        return state


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
