"""The rollouts of one condition, as `RolloutWriter` wrote them: a data set with who they are."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from physteer.analyses.steering.table import TRUTH, ConditionKey
from physteer.data.batch import Sample, Window
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.data.finite import kept
from physteer.errors import PhysteerError


class WrittenRollouts(WindowDataset):
    """The files of ``rollouts/<condition>/data/<split>``, one rollout each; closed again after every read.

    Frames after a blow-up are read as they are.

    Args:
        folder: of the files.

    Raises:
        PhysteerError: a file is broken, or it is not a rollout.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), WindowSpec(n_input=1, n_output=0, every=None), non_finite=kept)
        self.folder, self.split = folder, folder.name
        self._sources: dict[str, Window] = {}
        (n_context,) = self._attributes(self.files[0], "n_context")
        self.spec = WindowSpec(n_input=int(n_context), n_output=0, every=None)

    @cached_property
    def key(self) -> ConditionKey:
        """Who the rollouts are."""
        condition, strength_text = self._attributes(self.files[0], "condition", "strength")
        strength = float(strength_text)
        with self:
            told = {name: self.attribute(self.files[0], name) or "" for name in ("role", "direction", "site", "mode")}
        told["role"] = told["role"] or ("concept" if strength else "unsteered")
        if condition == TRUTH:  # written as a condition without edits
            told["role"] = "truth"
        return ConditionKey(**told, strength=strength, condition=condition)

    @property
    def n_context(self) -> int:
        """The first frames are given to the model; the others are predicted or, in the truth, simulated."""
        return self.spec.n_input

    def n_frames(self, name: str) -> int:
        """Return how many frames a file holds, those of the context included."""
        return self.well.records[self._number(Window(name, 0, 0))].n_steps

    def source(self, name: str) -> Window:
        """Return the window that a file's rollout starts from; it is read once."""
        if name not in self._sources:
            parts = ("source_file", "source_trajectory", "source_start", "source_stride")
            file, *numbers = self._attributes(name, *parts)
            self._sources[name] = Window(file, *map(int, numbers))
        return self._sources[name]

    def sample(self, name: str, n_frames: int, start: int = 0) -> Sample:
        """Read frames of a file, as a window of the data that it was rolled out from."""
        source = self.source(name)
        with self:
            return replace(self.read(Window(name, 0, start), n_frames), window=source)

    def predicted(self, name: str, n_frames: int) -> Tensor:
        """Read the predicted ones among the first frames of a file, [1, T, C, H, W, D]."""
        return self.sample(name, n_frames).fields[None, self.n_context :]

    def times(self, name: str) -> Tensor:
        """Read the times of all frames, [T], in the data set's unit."""
        return self.sample(name, self.n_frames(name)).times

    def _attributes(self, name: str, *attributes: str) -> list[str]:
        """Return root attributes that every rollout has."""
        with self:
            values = {attribute: self.attribute(name, attribute) for attribute in attributes}
        for attribute, value in values.items():
            if value is None:
                path = self.well.paths[self._numbers[name]]
                raise PhysteerError(f"{path} is not a readable rollout: it has no attribute {attribute!r}")
        return [str(value) for value in values.values()]
