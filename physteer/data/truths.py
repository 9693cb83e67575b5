"""Truths of counterfactual questions: simulated, stored, or a readout of the source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict

import torch
from torch import Tensor

from physteer.data.batch import Window
from physteer.data.counterfactual import solver_truth
from physteer.data.dataset import WindowDataset
from physteer.data.pair import Pair, PairBatch
from physteer.data.readouts import READOUTS, readouts
from physteer.errors import PhysteerError, did_you_mean


class Truth(ABC):
    """Returns the answers to counterfactual questions; set one of your own by its class path as ``data.truth``."""

    @abstractmethod
    def known(self, dataset: WindowDataset, pair: Pair) -> bool:
        """Return whether the answer to a pair is known."""

    @abstractmethod
    def of(self, dataset: WindowDataset, pairs: PairBatch) -> Tensor:
        """Return y*: [B, T_out, C, H, W, D] in the data set's units, or a readout [B]."""


class SolverTruth(Truth):
    """Restart the built-in simulator from the base's last context frame, at the counterfactual's parameters.

    Args:
        remembered: number of latest answers that are kept in memory; one simulation takes about ten milliseconds.
        memory: mebibytes that they may take; the oldest are forgotten first. An answer on The Well's 256 × 512 cells
            takes 2.5.
    """

    def __init__(self, remembered: int = 2048, memory: int = 256) -> None:
        for name, value in (("remembered", remembered), ("memory", memory)):
            if value < 0:
                raise PhysteerError(f"SolverTruth.{name} must be at least 0; found {value}")
        self.remembered, self.memory = remembered, memory
        self._answers: OrderedDict[tuple[str, Window, object], Tensor] = OrderedDict()

    def known(self, dataset: WindowDataset, pair: Pair) -> bool:
        """Return True: the solver answers every question, or refuses the data set."""
        return True

    def of(self, dataset: WindowDataset, pairs: PairBatch) -> Tensor:
        """Simulate all answers that are not remembered, in one batch."""
        keys = [(dataset.path, pair.base, pair.changed) for pair in pairs.pairs]
        new = [row for row, key in enumerate(keys) if key not in self._answers]
        answers = {key: self._answers[key] for key in keys if key in self._answers}
        if new:
            base = pairs.read([pairs.pairs[row].base for row in new])
            names = dict.fromkeys(name for pair in pairs.pairs for name, _ in pair.changed)
            values = {name: torch.tensor([dict(pairs.pairs[row].changed)[name] for row in new]) for name in names}
            simulated = solver_truth(base, base.targets.shape[1], values)
            # copies: a row of the batch would keep all rows alive
            answers |= {keys[row]: answer.clone() for row, answer in zip(new, simulated.cpu(), strict=True)}
        for key in keys:
            self._answers[key] = answers[key]
            self._answers.move_to_end(key)
        self._forget()
        return torch.stack([answers[key] for key in keys])

    def _forget(self) -> None:
        """Drop the oldest answers until the others are within the limits."""
        size = sum(answer.nbytes for answer in self._answers.values())
        while len(self._answers) > self.remembered or size > self.memory * 2**20:
            size -= self._answers.popitem(last=False)[1].nbytes

    def __str__(self) -> str:
        return "the solver's answer"


class MatchedTruth(Truth):
    """Read the stored trajectory with the counterfactual's parameters and the base's initial condition.

    Trajectories with different parameters drift apart. The stored one is the answer only while both agree in the last
    context frame; other pairs are dropped.

    Args:
        agreement: largest RMS difference between the last context frames, in units of the base's RMS, over all fields.
    """

    def __init__(self, agreement: float = 0.05) -> None:
        if not agreement > 0:
            raise PhysteerError(f"MatchedTruth.agreement must be positive; found {agreement}")
        self.agreement = agreement
        self._agree: dict[tuple[str, Window, Window], bool] = {}

    def known(self, dataset: WindowDataset, pair: Pair) -> bool:
        """Return whether the trajectory is stored and agrees with the base at the last context frame."""
        if pair.counterfactual is None:
            return False
        key = (dataset.path, pair.base, pair.counterfactual)
        if key not in self._agree:
            last, predicted = dataset.spec.n_input - 1, dataset.metadata.channels.predicted
            both = (dataset.read(window).fields[last, predicted] for window in (pair.base, pair.counterfactual))
            own, other = (fields.double() for fields in both)
            difference = (own - other).square().mean((1, 2, 3)).sqrt()
            scale = own.square().mean((1, 2, 3)).sqrt().clamp_min(1e-12)
            self._agree[key] = bool((difference / scale).max() <= self.agreement)
        return self._agree[key]

    def of(self, dataset: WindowDataset, pairs: PairBatch) -> Tensor:
        """Read the frames after the context from the stored trajectories."""
        stored = [dataset.read(pair.counterfactual) for pair in pairs.pairs if pair.counterfactual is not None]
        return torch.stack([sample.fields[pairs.n_input :] for sample in stored])

    def __str__(self) -> str:
        return f"a stored trajectory that agrees within {self.agreement:g}"


class ReadoutTruth(Truth):
    """Use a readout of the source as the target of the base's readout.

    Args:
        readout: ``enstrophy``, ``vortex_area``, ``kinetic_energy`` or ``tracer_variance`` of the last context frame.
        variable: index of the source's variable.
    """

    def __init__(self, readout: str, variable: int = 0) -> None:
        if readout not in READOUTS:
            raise PhysteerError(f"no readout {readout!r}, only {', '.join(READOUTS)}{did_you_mean(readout, READOUTS)}")
        self.readout, self.variable = readout, variable

    def known(self, dataset: WindowDataset, pair: Pair) -> bool:
        """Return True: every window has the readout."""
        return True

    def of(self, dataset: WindowDataset, pairs: PairBatch) -> Tensor:
        """Return the sources' readouts, [B]."""
        return readouts(pairs.sources[self.variable], [self.readout])[self.readout].float()

    def __str__(self) -> str:
        return f"the source's {self.readout}"
