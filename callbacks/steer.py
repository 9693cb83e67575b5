"""Steering of rollouts along a concept."""

from __future__ import annotations

import math
from pathlib import Path

import lightning as L

from physteer.callbacks.base import RolloutCallback
from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.interventions import UNSTEERED, Condition, Edit, Locus, Site, SteerMode, find_module
from physteer.interventions import Steer as AlongDirection
from physteer.module import WalrusModule
from physteer.walrus import model_id


class Steer(RolloutCallback):
    """Add a concept to an activation at every step of the rollouts of ``predict``: h' = h + α v ‖h‖/‖v‖.

    All strengths run side by side from the same windows, with the unsteered model beside them. Several ``Steer``
    callbacks in one run add up their conditions.

    Args:
        concept: a concept file; ``Capture`` writes them.
        strengths: values of α; a negative one steers away from the concept.
        mode: how the concept is fitted to the token grid: ``drop`` (its mean over space), ``pad``, ``interpolate``,
            ``none``.
        site: where to add it; the site it was measured at when null.
        rollout_steps: steps of the rollout at which to steer, from 0; null for all.
    """

    def __init__(
        self,
        concept: str,
        strengths: list[float],
        mode: SteerMode = "drop",
        site: str | None = None,
        rollout_steps: list[int] | None = None,
    ) -> None:
        if not strengths or not all(math.isfinite(strength) for strength in strengths):
            raise PhysteerError(f"Steer.strengths must be one or more finite numbers; found {strengths}")
        if len(set(strengths)) < len(strengths):
            raise PhysteerError(f"Steer.strengths names a strength twice: {strengths}")
        self.concept, self.strengths, self.mode, self.site = concept, strengths, mode, site
        self.rollout_steps = rollout_steps

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the concept and give the module one condition per strength."""
        if not isinstance(pl_module, WalrusModule) or stage != "predict":
            raise PhysteerError(f"Steer acts on the rollouts of a WalrusModule in `predict`; this is {stage!r}")
        concept = Concept.load(self.concept)
        site = self.site or concept.site
        find_module(pl_module.network, Site.parse(site))  # an unknown site is an error before anything runs
        concept.check_width(pl_module.network.config.hidden_dim, site)
        if concept.model and concept.model != model_id(pl_module.network):
            raise PhysteerError(
                f"concept {self.concept} was measured on model {concept.model}; this model is "
                f"{model_id(pl_module.network)}: capture it again, or steer the model it is from"
            )
        name = Path(self.concept).stem
        locus = Locus(steps=self.rollout_steps)
        steered = [
            Condition(
                name=f"{name} {self.mode} {strength:+g}",
                edits=(Edit(site, AlongDirection(concept.direction, strength, self.mode), locus=locus),),
                direction=name,
                strength=strength,
                mode=self.mode,
            )
            for strength in self.strengths
        ]
        pl_module.conditions = [*(pl_module.conditions or (UNSTEERED,)), *steered]
