"""Steering of rollouts along a concept."""

from __future__ import annotations

import math
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from physteer.callbacks.base import ConditionCallback
from physteer.callbacks.windows import window_shapes
from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.interventions import Condition, Edit, Locus, Site, SteerMode, fit_to_grid
from physteer.interventions import Steer as AlongDirection
from physteer.module import WalrusModule
from physteer.walrus import model_id


class Steer(ConditionCallback):
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
        super().__init__()
        if not strengths or not all(math.isfinite(strength) for strength in strengths):
            raise PhysteerError(f"Steer.strengths must be one or more finite numbers; found {strengths}")
        if len(set(strengths)) < len(strengths):
            raise PhysteerError(f"Steer.strengths names a strength twice: {strengths}")
        if rollout_steps is not None and (not rollout_steps or min(rollout_steps) < 0):
            raise PhysteerError(f"Steer.rollout_steps must be steps from 0, or null for all; found {rollout_steps}")
        self.concept, self.strengths, self.mode, self.site = concept, strengths, mode, site
        self.rollout_steps = rollout_steps

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot be steered."""
        if not isinstance(pl_module, WalrusModule) or stage != "predict":
            raise PhysteerError("Steer acts on the rollouts of `physteer predict` alone")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the concept, check that it fits, and give the module one condition per strength.

        Not before: with ``--ckpt_path`` the weights, and so the model's id, are known only now.
        """
        assert isinstance(pl_module, WalrusModule)
        concept = Concept.load(self.concept)
        if concept.model and concept.model != model_id(pl_module.network):
            raise PhysteerError(
                f"concept {self.concept} was measured on model {concept.model}; this model is "
                f"{model_id(pl_module.network)}: capture it again, or steer the model it is from"
            )
        site = Site.parse(self.site or concept.site)
        shape = window_shapes(trainer, pl_module, [site])[site]  # [1, T, h, w, δ, d]
        if len(shape) != 6:
            raise PhysteerError(f"site {site} has the shape {list(shape)}; steering needs [B, T, h, w, δ, d]")
        concept.check_width(shape[-1], str(site))
        fit_to_grid(concept.direction, shape[2:5], self.mode)
        if pl_module.jitter_seed is not None and self.mode != "drop":
            rank_zero_warn(
                f"model.jitter_seed is {pl_module.jitter_seed}, so fields are shifted by fractions of a token, which "
                f"blurs a concept in mode {self.mode!r}; mode 'drop' or jitter_seed null avoids it"
            )
        self.add(pl_module, [self._condition(concept, site, strength) for strength in self.strengths])

    def _condition(self, concept: Concept, site: Site, strength: float) -> Condition:
        direction = Path(self.concept).stem
        name = f"{direction} {self.mode} {strength:+.12g}"
        if str(site) != concept.site:
            name += f" at {site}"
        if self.rollout_steps is not None:
            name += f" steps {' '.join(map(str, self.rollout_steps))}"
        edit = Edit(site, AlongDirection(concept.direction, strength, self.mode), locus=Locus(steps=self.rollout_steps))
        return Condition(name, (edit,), direction, strength, self.mode, role="concept")
