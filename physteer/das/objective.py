"""What ``fit`` minimises when it trains interventions on a frozen network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from physteer.das.arms import Arm
from physteer.das.class_loss import ClassLoss, ClassReadout
from physteer.das.losses import Outcome
from physteer.das.prefixes import PairActivations, Prefixes
from physteer.data.pairs import PairBatch
from physteer.errors import PhysteerError
from physteer.interventions import Edit, Locus, Site, check_gradient, observed, replayed
from physteer.module import WalrusModule


class InterchangeObjective(nn.Module):
    """The sum over trained arms of the loss of their edited predictions, plus λβ for each boundless rotation.

    The arms share nothing, so each one's gradient is what it would be alone. Only what follows a site is run.
    """

    def __init__(
        self, arms: Sequence[Arm], prefixes: Prefixes, loss: nn.Module, locus: Locus, *, by_mean: bool, price: float
    ) -> None:
        """Put together an objective.

        Args:
            arms: trained and others; they belong to ``WalrusModule.interventions``.
            prefixes: of the arms' sites.
            loss: called with an `Outcome` and its pairs; it gets the activations of its ``sites``, if it has any.
            locus: which frames are exchanged.
            by_mean: exchange spatial means alone.
            price: λ.
        """
        super().__init__()
        self.loss = loss
        self.read: tuple[Site, ...] = tuple(getattr(loss, "sites", ()))
        self.readouts: tuple[ClassReadout, ...] = loss.readouts if isinstance(loss, ClassLoss) else ()
        self.locus, self.by_mean, self.price = locus, by_mean, price
        self.arms, self.prefixes = tuple(arms), prefixes  # a tuple: their parameters are not this module's

    def forward(self, module: WalrusModule, pairs: PairBatch) -> Tensor:
        """Return the loss of a batch.

        Raises:
            PhysteerError: the loss is not finite; or, at the first step, an arm's rotation has no gradient.
        """
        total = torch.zeros((), device=module.device)
        trained = [arm for arm in self.arms if arm.trained]
        strangers = any(arm.kind == "shuffled" for arm in trained) and not self.readouts
        needed = pairs if strangers else dataclasses.replace(pairs, strangers=())
        keyed = self.prefixes.keyed(module, needed)
        for site in dict.fromkeys(arm.site for arm in trained):
            found = self.prefixes.at(module, site, keyed)
            for arm in (one for one in trained if one.site == site):
                given, asked = self._question(arm, found, pairs)
                with arm.edits(given, self.locus, by_mean=self.by_mean) as edits:
                    loss: Tensor = self.loss(self._outcome(module, pairs, found, edits), asked)
                    if module.global_step == 0 and arm.kind == "learned":
                        check_gradient(edits, loss)
                    for rotation in arm.boundless:
                        loss = loss + self.price * rotation.share
                    total = total + _without_graph(loss, [p for p in arm.parameters() if p.requires_grad])
        if not bool(total.isfinite()):
            raise PhysteerError(
                f"the loss is {float(total)} at step {module.global_step}: a number in the data is not finite, or the "
                f"rotations were thrown off; the bases are {', '.join(str(pair.base) for pair in pairs.pairs)}"
            )
        return total

    def _question(self, arm: Arm, found: PairActivations, pairs: PairBatch) -> tuple[list[Tensor], PairBatch]:
        """Return the activations an arm is given, and the pairs whose answers it should reach; shuffled: of others."""
        if arm.kind == "learned":
            return found.sources, pairs
        if self.readouts:
            # The other way round would be no control: the own class is never the base's, and tells what must not stay.
            return found.sources, dataclasses.replace(pairs, sources=pairs.strangers)
        return found.strangers, pairs

    def edited(self, module: WalrusModule, pairs: PairBatch, arm: Arm, found: PairActivations) -> Outcome:
        """Return what an arm makes of the base windows."""
        with arm.edits(found.sources, self.locus, by_mean=self.by_mean) as edits:
            return self._outcome(module, pairs, found, edits)

    def unedited(self, module: WalrusModule, pairs: PairBatch, found: PairActivations) -> Outcome:
        """Return what the same suffix makes of the base windows as they are."""
        return self._outcome(module, pairs, found, [])

    def _outcome(
        self, module: WalrusModule, pairs: PairBatch, found: PairActivations, edits: Sequence[Edit]
    ) -> Outcome:
        activations: dict[Site, Tensor] = {}
        with observed(module.network, self.read, activations.__setitem__):
            y = replayed(module.network, found.base, edits, last_frame_only=True)
        for site in self.read:
            if site not in activations:
                raise PhysteerError(
                    f"DAS.loss reads {site}, which is not computed after the edited site {found.base.site}"
                )
        frame = module.next_frame(y, pairs.base.context[:, -1:], found.scale, pairs.base)
        return Outcome(frame, found.scale, activations)


def _without_graph(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return a scalar of the loss's value and gradient that holds on to no activation.

    Differentiated at once, one arm's graph is gone before the next one's is built.
    """
    if not torch.is_grad_enabled():
        return loss
    gradients = torch.autograd.grad(loss, parameters)
    value = loss.detach()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        value = value + ((parameter - parameter.detach()) * gradient).sum()
    return value
