"""The objective of ``fit`` that trains interventions on a frozen network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from physteer.analyses.das.class_loss import ClassLoss
from physteer.analyses.das.nulls import NullActivations, NullPenalty
from physteer.analyses.das.variants import InterventionVariant
from physteer.analyses.engine import ClassReadout, Outcome, Suffix
from physteer.errors import PhysteerError
from physteer.interventions import Locus, Site, check_gradient


class InterchangeObjective(nn.Module):
    """The sum over trained variants of the loss of their edited predictions, plus penalties.

    These are λβ for each boundless rotation and, where it is asked for, the `NullPenalty` of every variant.

    The variants share no parameters, so each has the gradient of its own loss. Only the blocks after a site are run.
    """

    def __init__(
        self,
        variants: Sequence[InterventionVariant],
        suffix: Suffix[Any, Any],
        loss: nn.Module,
        locus: Locus,
        *,
        spatial_mean_only: bool = False,
        boundary_penalty: float = 1.0,
        null_penalty: NullPenalty | None = None,
    ) -> None:
        """Make an objective.

        Args:
            variants: trained and others; the trained ones are modules of ``ForecastModule.interventions``.
            suffix: runs the model on a batch, up to the variants' sites and from there.
            loss: called with an `Outcome` and its batch; the outcome has the activations of the loss's ``sites``.
            locus: the frames (or tokens) that are exchanged.
            spatial_mean_only: whether to exchange spatial means only.
            boundary_penalty: λ.
            null_penalty: of moving what null pairs must not move; None for none.
        """
        super().__init__()
        self.loss = loss
        self.read: tuple[Site, ...] = tuple(getattr(loss, "sites", ()))
        self.readouts: tuple[ClassReadout, ...] = loss.readouts if isinstance(loss, ClassLoss) else ()
        self.locus, self.spatial_mean_only, self.boundary_penalty = locus, spatial_mean_only, boundary_penalty
        self.null_penalty = null_penalty
        self.variants, self.suffix = tuple(variants), suffix  # a tuple: their parameters are not this module's

    def forward(self, model: Any, batch: Any, step: int) -> Tensor:
        """Return the loss of a batch.

        Args:
            model: a forecaster, or whatever model the suffix runs.
            batch: of (base, source) pairs.
            step: of the optimiser, from 0.

        Raises:
            PhysteerError: The loss is not finite; or, at the first step, a rotation has no gradient.
        """
        trained = [variant for variant in self.variants if variant.trained]
        mismatched = any(variant.kind == "shuffled" for variant in trained) and not self.readouts
        prepared = self.suffix.prepare(model, batch, mismatched=mismatched)
        sites = list(dict.fromkeys(variant.site for variant in trained))
        nulls: Mapping[Site, NullActivations] = {}
        if self.null_penalty is not None:
            nulls = self.null_penalty.prepare(self.suffix, model, batch, sites, self.unedited)
        losses: dict[str, Tensor] = {}
        for site in sites:
            activations = self.suffix.at(model, site, prepared)
            for variant in (v for v in trained if v.site == site):
                sources, answers = self._sources_and_answers(variant, activations, batch)
                with self._edits(variant, sources) as edits:
                    loss: Tensor = self.loss(self.suffix.outcome(model, batch, activations, edits, self.read), answers)
                    if step == 0 and variant.kind == "learned":
                        check_gradient(edits, loss)
                    for rotation in variant.boundless:
                        loss = loss + self.boundary_penalty * rotation.share
                    parameters = [p for p in variant.parameters() if p.requires_grad]
                    losses[variant.label] = _without_graph(loss, parameters)
                if self.null_penalty is not None and site in nulls:
                    penalty = self.null_penalty.of(
                        self.edited(model, nulls[site].batch, variant, nulls[site].activations), nulls[site], len(batch)
                    )
                    losses[variant.label] = losses[variant.label] + _without_graph(penalty, parameters)
        total = torch.stack(list(losses.values())).sum()
        if not bool(total.isfinite()):
            label = next((label for label, loss in losses.items() if not bool(loss.isfinite())), "all together")
            raise PhysteerError(
                f"the loss of {label} is not finite at step {step}: a number in the data is not finite, or the "
                f"rotation diverged; the batch holds {batch}"
            )
        return total

    def edited(self, model: Any, batch: Any, variant: InterventionVariant, activations: Any) -> Outcome:
        """Return the outcome of the bases under a variant."""
        with self._edits(variant, activations.sources) as edits:
            return self.suffix.outcome(model, batch, activations, edits, self.read)

    def unedited(self, model: Any, batch: Any, activations: Any) -> Outcome:
        """Return the outcome of the bases without edits, by the same suffix."""
        return self.suffix.outcome(model, batch, activations, [], self.read)

    def _edits(self, variant: InterventionVariant, sources: Sequence[Tensor]) -> Any:
        return variant.edits(sources, self.locus, spatial_mean_only=self.spatial_mean_only)

    def _sources_and_answers(
        self, variant: InterventionVariant, activations: Any, batch: Any
    ) -> tuple[Sequence[Tensor], Any]:
        """Return the sources of a variant and the batch of its answers; for shuffled variants the two do not match."""
        if variant.kind != "shuffled":
            return activations.sources, batch
        if self.readouts:
            # Mismatched sources with the pair's own class would be no control: that class is never the base's, so the
            # pair's answer still tells which class must not remain.
            return activations.sources, batch.with_mismatched_sources()
        return activations.mismatched, batch


def _without_graph(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return a scalar with the loss's value and gradient that keeps no activation alive.

    The loss is differentiated at once, so that the graph of a variant is freed before the next one is built.
    """
    if not torch.is_grad_enabled():
        return loss
    gradients = torch.autograd.grad(loss, parameters)
    value = loss.detach()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        value = value + ((parameter - parameter.detach()) * gradient).sum()
    return value
