"""The extraction of a forecaster's causal bases: the windows of every process, and the bases of all sites."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from physteer import __version__
from physteer.analyses.basis.ablation import row_derangement
from physteer.analyses.basis.fitting import BasisFit, BasisPlan, StoppedExtractionError, fit_basis
from physteer.analyses.basis.forecasts import ForecastRows, PreparedRows
from physteer.analyses.basis.state import ExtractionState
from physteer.analyses.basis.unfinished import UnfinishedExtractions
from physteer.concepts import CausalBasis
from physteer.data.batch import Window
from physteer.data.pairs import PairDataset
from physteer.errors import PhysteerError
from physteer.files import file_digest
from physteer.forecast import Forecaster
from physteer.interventions import Site


class ForecastExtraction:
    """Extracts the causal bases of a forecaster from the base windows of pairs.

    Every window counts once. Their order is that of their addresses, and process r of n has rows r, r + n, …: the
    directions do not depend on the number of processes. Halves of the data have different initial conditions where
    there are several.

    Args:
        pairs: whose bases are the rows.
        rows: makes parts of windows.
        divergence: of outputs.
        plan: what to extract.
        batch_size: rows per pass.
        halves: whether to extract the bases of two halves too.
        process: rank of this process.
        processes: their number.

    Raises:
        PhysteerError: There are too few windows for the mode, the halves or the processes.
    """

    def __init__(
        self,
        pairs: PairDataset,
        rows: ForecastRows,
        divergence: nn.Module,
        plan: BasisPlan,
        *,
        batch_size: int,
        halves: bool,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        initial_conditions = {pair.base: pair.initial_condition for pair in (pairs.pair(i) for i in range(len(pairs)))}
        self.pairs, self.rows, self.divergence, self.plan = pairs, rows, divergence, plan
        self.windows = sorted(initial_conditions)
        """The rows of all processes, in order."""
        n = len(self.windows)
        least = max(processes, 2 if halves else 1)
        if n < least:
            raise PhysteerError(
                f"{n} base window(s) of train are too few for {processes} process(es)"
                f"{' and two halves of the data (CausalBasis.halves)' if halves else ''}: raise data.train_pairs"
            )
        self.row_order = row_derangement(n, plan.mode, plan.settings.seed)
        known = sorted(set(initial_conditions.values()))
        half_of = [
            (known.index(initial_conditions[window]) if len(known) > 1 else row) % 2
            for row, window in enumerate(self.windows)
        ]
        own = range(process, n, processes)
        self.batches: list[list[int]] = []
        """The rows of every part of this process."""
        self.halves: list[list[int]] = []
        """The parts of each half; empty without halves."""
        for chosen in ([0], [1]) if halves else ([0, 1],):
            members = [row for row in own if half_of[row] in chosen]
            batches = [members[first : first + batch_size] for first in range(0, len(members), batch_size)]
            if halves:
                self.halves.append(list(range(len(self.batches), len(self.batches) + len(batches))))
            self.batches += batches

    def prepare(self) -> list[PreparedRows]:
        """Run the windows of this process up to all sites, and those that their values come from."""
        partner: Callable[[int], Window] | None = None
        if len(self.row_order):
            partner = lambda row: self.windows[self.row_order[row]]  # noqa: E731
        return [
            self.rows.prepare(self.pairs.reader, [self.windows[row] for row in batch], batch, partner)
            for batch in self.batches
        ]

    def fit(
        self,
        site: Site,
        prepared: Sequence[PreparedRows],
        unfinished: UnfinishedExtractions,
        report: Callable[[str, ExtractionState], None],
    ) -> BasisFit:
        """Extract the basis of a site; a collective over processes. Arguments as for `fit_basis`.

        Raises:
            StoppedExtractionError: An energy is not finite; it holds what was found.
        """
        parts = [self.rows.part(site, batch) for batch in prepared]
        try:
            fit = fit_basis(
                str(site),
                parts,
                self.row_order,
                self.divergence,
                self.plan,
                halves=self.halves,
                unfinished=unfinished,
                report=report,
                device=self.rows.forecaster.device,
            )
        except StoppedExtractionError as error:
            found = None if error.basis is None else self._described(error.basis)
            raise StoppedExtractionError(str(error), found) from error
        return dataclasses.replace(fit, basis=self._described(fit.basis))

    def digest(self, *further: object) -> str:
        """Return a hash of everything that decides the directions, but for the number of processes.

        Args:
            *further: what only the caller knows, such as the precision.
        """
        dataset, forecaster = self.pairs.windows, self.rows.forecaster
        parts = [
            __version__,
            *_model(forecaster),
            _described(self.divergence),
            json.dumps(dataclasses.asdict(self.plan), sort_keys=True),
            str(self.rows.locus.frames),
            str(self.halves != []),
            str(dataset.spec.n_input),
            *(f"{dataset.version(file)}" for file in sorted({window.file for window in self.windows})),
            *map(str, self.windows),
            *map(str, further),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def _described(self, basis: CausalBasis) -> CausalBasis:
        frames = self.rows.locus.frames
        assert not isinstance(frames, slice)
        return dataclasses.replace(
            basis,
            frames=None if frames is None else tuple(frames),
            model=self.rows.forecaster.identity,
            data=self.pairs.windows.path,
        )


def _model(forecaster: Forecaster) -> list[str]:
    return [forecaster.identity, forecaster.source_version, str(forecaster.dtype), str(forecaster.jitter_seed)]


def _described(divergence: nn.Module) -> str:
    """Return the class of a divergence with its settings and its tensors."""
    settings: dict[str, Any] = {}
    for name, value in sorted(vars(divergence).items()):
        if isinstance(value, str | int | float | bool | list | tuple | None):
            settings[name] = value
        elif path := getattr(value, "path", None):
            settings[name] = file_digest(path)
    tensors = {name: hashlib.sha256(_bytes(value)).hexdigest() for name, value in divergence.state_dict().items()}
    kind = type(divergence)
    return f"{kind.__module__}.{kind.__qualname__} {settings} {tensors}"


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
