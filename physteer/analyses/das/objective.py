"""What ``fit`` minimises when it trains interventions on a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from physteer.analyses.das.class_loss import ClassLoss, ClassReadout
from physteer.analyses.das.variants import InterventionVariant
from physteer.analyses.engine import Outcome, Suffix
from physteer.errors import PhysteerError
from physteer.interventions import Locus, Site, check_gradient


class InterchangeObjective(nn.Module):
    """The sum over trained variants of the loss of their edited predictions, plus λβ for each boundless rotation.

    The variants share nothing, so each one's gradient is what it would be alone. Only what follows a site is run.
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
    ) -> None:
        """Put together an objective.

        Args:
            variants: trained and others; they belong to ``ForecastModule.interventions``.
            suffix: how the model is run on a batch, up to the variants' sites and from there.
            loss: called with an `Outcome` and its batch; it gets the activations of its ``sites``, if it has any.
            locus: which frames (or tokens) are exchanged.
            spatial_mean_only: exchange spatial means alone.
            boundary_penalty: λ.
        """
        super().__init__()
        self.loss = loss
        self.read: tuple[Site, ...] = tuple(getattr(loss, "sites", ()))
        self.readouts: tuple[ClassReadout, ...] = loss.readouts if isinstance(loss, ClassLoss) else ()
        self.locus, self.spatial_mean_only, self.boundary_penalty = locus, spatial_mean_only, boundary_penalty
        self.variants, self.suffix = tuple(variants), suffix  # a tuple: their parameters are not this module's

    def forward(self, model: Any, batch: Any, step: int) -> Tensor:
        """Return the loss of a batch.

        Args:
            model: what the suffix runs: a forecaster.
            batch: of (base, source) pairs.
            step: of the optimiser, from 0.

        Raises:
            PhysteerError: the loss is not finite; or, at the first step, a rotation has no gradient.
        """
        trained = [variant for variant in self.variants if variant.trained]
        mismatched = any(variant.kind == "shuffled" for variant in trained) and not self.readouts
        prepared = self.suffix.prepare(model, batch, mismatched=mismatched)
        losses = []
        for site in dict.fromkeys(variant.site for variant in trained):
            activations = self.suffix.at(model, site, prepared)
            for variant in (v for v in trained if v.site == site):
                sources, asked = self._question(variant, activations, batch)
                with self._edits(variant, sources) as edits:
                    loss: Tensor = self.loss(self.suffix.outcome(model, batch, activations, edits, self.read), asked)
                    if step == 0 and variant.kind == "learned":
                        check_gradient(edits, loss)
                    for rotation in variant.boundless:
                        loss = loss + self.boundary_penalty * rotation.share
                    losses.append(_without_graph(loss, [p for p in variant.parameters() if p.requires_grad]))
        total = torch.stack(losses).sum()
        if not bool(total.isfinite()):
            raise PhysteerError(
                f"the loss is {float(total)} at step {step}: a number in the data is not finite, or the rotations "
                f"diverged; the batch holds {batch}"
            )
        return total

    def edited(self, model: Any, batch: Any, variant: InterventionVariant, activations: Any) -> Outcome:
        """Return the outcome of the bases under a variant."""
        with self._edits(variant, activations.sources) as edits:
            return self.suffix.outcome(model, batch, activations, edits, self.read)

    def unedited(self, model: Any, batch: Any, activations: Any) -> Outcome:
        """Return the outcome of the bases as they are, by the same suffix."""
        return self.suffix.outcome(model, batch, activations, [], self.read)

    def _edits(self, variant: InterventionVariant, sources: Sequence[Tensor]) -> Any:
        return variant.edits(sources, self.locus, spatial_mean_only=self.spatial_mean_only)

    def _question(self, variant: InterventionVariant, activations: Any, batch: Any) -> tuple[Sequence[Tensor], Any]:
        """Return the sources of a variant, and the batch whose answers it should reach; shuffled: those of others."""
        if variant.kind == "learned":
            return activations.sources, batch
        if self.readouts:
            # The other way round would be no control: the own class is never the base's, and tells what must not stay.
            return activations.sources, batch.with_mismatched_sources()
        return activations.mismatched, batch


def _without_graph(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return a scalar of the loss's value and gradient that holds on to no activation.

    Differentiated at once, one variant's graph is gone before the next one's is built.
    """
    if not torch.is_grad_enabled():
        return loss
    gradients = torch.autograd.grad(loss, parameters)
    value = loss.detach()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        value = value + ((parameter - parameter.detach()) * gradient).sum()
    return value
