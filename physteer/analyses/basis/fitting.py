"""The causal basis of one site, from its parts: targets, metric, extraction, and agreement between halves of the data.

For any torch model:

    order = row_derangement(len(h), "mean", seed=0)
    parts = with_partners(parts_of(h, tail), order)  # tail: activations [rows, …, d] → outputs
    fit = fit_basis("blocks.9", parts, order, FieldDivergence(), BasisPlan())
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from physteer.analyses.basis.ablation import Mode, Part, Targets, check_mode, fitted_targets
from physteer.analyses.basis.energy import AblationData, AblationEnergy, Divergence
from physteer.analyses.basis.extraction import extract
from physteer.analyses.basis.metric import Metric, metric_of
from physteer.analyses.basis.starts import starts_of
from physteer.analyses.basis.state import ExtractionSettings, ExtractionState
from physteer.analyses.basis.unfinished import UnfinishedExtractions
from physteer.analyses.engine import merged
from physteer.concepts import CausalBasis, Covariance
from physteer.errors import PhysteerError
from physteer.metrics import largest_principal_angle

HALVES = ("first half", "second half")


@dataclass(frozen=True)
class BasisPlan:
    """What a basis is of."""

    mode: Mode = "mean"
    """What takes the place of ablated components."""
    settings: ExtractionSettings = field(default_factory=ExtractionSettings)

    def __post_init__(self) -> None:
        check_mode(self.mode)


@dataclass(frozen=True, eq=False)
class BasisFit:
    """The directions of a site, with what their evaluation needs."""

    basis: CausalBasis
    """Without held-out curves."""
    metric: Metric
    targets: Targets
    main_directions: Tensor
    """Directions of the activations' largest variances, [d, m], float64, orthonormal."""


class StoppedExtractionError(PhysteerError):
    """An extraction that cannot go on; `basis` holds the directions that were found before, if there are any."""

    def __init__(self, message: str, basis: CausalBasis | None) -> None:
        super().__init__(message)
        self.basis = basis


def fit_basis(
    site: str,
    parts: Sequence[Part],
    row_order: Tensor,
    divergence: Divergence,
    plan: BasisPlan,
    *,
    halves: Sequence[Sequence[int]] = (),
    unfinished: UnfinishedExtractions | None = None,
    report: Callable[[str, ExtractionState], None] = lambda name, state: None,
    device: torch.device | str = "cpu",
) -> BasisFit:
    """Extract the causal basis of a site; a collective over processes.

    Args:
        site: its name.
        parts: all rows of this process; with partners where the mode resamples.
        row_order: of the partners (`row_derangement`).
        divergence: of outputs.
        plan: what to extract.
        halves: positions in `parts` of two halves of the rows, whose bases are extracted too and compared; they share
            targets and metric.
        unfinished: where states are kept, to go on after a kill.
        report: called with the extraction's name and state after every search.
        device: of the exchange between processes.

    Raises:
        PhysteerError: Activations do not vary, there are too few rows for the mode or the metric, or k is too large.
        StoppedExtractionError: An energy is not finite; it holds what was found.
    """
    problem = _Problem.of(site, parts, row_order, divergence, plan, torch.device(device))
    unfinished = UnfinishedExtractions() if unfinished is None else unfinished
    states: dict[str, ExtractionState] = {}

    def run(name: str, energy: AblationEnergy) -> Tensor:
        state = states[name] = unfinished.load(name, problem.metric.rank)

        def keep(state: ExtractionState) -> None:
            unfinished.save(name, state)
            report(name, state)

        problem.run(name, energy, state, keep)
        if not state.count:
            raise PhysteerError(f"no direction's energy reaches min_energy {plan.settings.min_energy:g}")
        return problem.metric.pair(state.directions)[0]

    half_spans: list[Tensor] = []
    try:
        run(site, problem.energy)
        for name, rows in zip(HALVES, halves, strict=False):
            half_spans.append(run(f"{site} {name}", problem.energy.subset(rows)))
    except PhysteerError as error:
        state = states[site]
        raise StoppedExtractionError(
            f"site {site}: {error}", problem.basis(state, ()) if state.count else None
        ) from error
    return BasisFit(problem.basis(states[site], half_spans), problem.metric, problem.targets, problem.main_directions)


@dataclass(frozen=True, eq=False)
class _Problem:
    """A site, prepared for extractions."""

    site: str
    plan: BasisPlan
    covariance: Covariance
    metric: Metric
    targets: Targets
    energy: AblationEnergy

    @classmethod
    def of(
        cls,
        site: str,
        parts: Sequence[Part],
        row_order: Tensor,
        divergence: Divergence,
        plan: BasisPlan,
        device: torch.device,
    ) -> _Problem:
        """Measure the activations, and run the model without ablation."""
        settings = plan.settings
        try:
            own = Covariance()
            for part in parts:
                own.update(part.activation.flatten(0, -2))
            covariance = merged(own, Covariance)
            covariance.check_finite()
            metric = metric_of(settings.metric, covariance)
            settings.directions(len(metric.read_map), metric.rank)
            targets = fitted_targets(parts, plan.mode, row_order, settings.seed, device)
            energy = AblationEnergy([AblationData.of(part, targets) for part in parts], divergence, device)
        except PhysteerError as error:
            raise PhysteerError(f"site {site}: {error}") from error
        return cls(site, plan, covariance, metric, targets, energy)

    @property
    def main_directions(self) -> Tensor:
        """Directions of the largest variances, [d, m]."""
        return self.covariance.principal()[1].flip(-1).cpu()

    def run(
        self, name: str, energy: AblationEnergy, state: ExtractionState, keep: Callable[[ExtractionState], None]
    ) -> None:
        """Go on with an extraction from all rows or some."""
        settings = self.plan.settings
        if not state.finished and state.count < settings.directions(len(self.metric.read_map), self.metric.rank):
            starts = starts_of(energy, self.metric, self.covariance, name, settings.seed)
            extract(energy, self.metric, starts, settings, state, keep)

    def basis(self, state: ExtractionState, half_spans: Sequence[Tensor]) -> CausalBasis:
        """Return the file of a state."""
        read, write = self.metric.pair(state.directions)
        return CausalBasis(
            read=read,
            write=write,
            mean=self.targets.mean,
            energies=torch.tensor(state.energies, dtype=torch.float64),
            site=self.site,
            row_order=self.targets.row_order,
            token_order=self.targets.token_order,
            half_angles=_half_angles(half_spans, state.count),
            restarts=tuple(state.restarts[: state.count]),
            rises=tuple(state.rises),
            evaluations=tuple(state.evaluations[: state.count]),
            rows=self.energy.rows,
            mode=self.plan.mode,
            metric=self.plan.settings.metric,
            divergence=type(self.energy.divergence).__name__,
            units=getattr(self.energy.divergence, "units", ""),
            seed=self.plan.settings.seed,
        )


def _half_angles(spans: Sequence[Tensor], count: int) -> Tensor:
    """Return the largest principal angles between the first 1 … k columns of two spans [d, j], NaN beyond either."""
    if not spans:
        return torch.empty(0, dtype=torch.float64)
    first, second = spans
    known = min(count, first.shape[1], second.shape[1])
    angles = [largest_principal_angle(first[:, : k + 1], second[:, : k + 1]) for k in range(known)]
    return torch.tensor(angles + [math.nan] * (count - known), dtype=torch.float64)
