"""Steering of rollouts along concepts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from physteer.callbacks.base import ConditionCallback, forecast_module
from physteer.callbacks.windows import window_shapes
from physteer.concepts import CausalBasis, Concept
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.interventions import Condition, Edit, Locus, Site, SteerMode, fit_to_grid
from physteer.interventions import Steer as AlongDirection
from physteer.tensor_files import numbered_direction

T = TypeVar("T")


class Steer(ConditionCallback):
    """Add a concept to an activation at every step of the rollouts of ``predict``: h' = h + α v ‖h‖/‖v‖.

    All modes and strengths run side by side from the same windows, with the unsteered model beside them. Several
    ``Steer`` callbacks in one run add up their conditions; several concepts in one ``Steer`` are added together, each
    at its own site, in every condition.

    Args:
        concept: a concept file, or a list of them, of different sites; ``Capture`` writes them. Of a causal basis,
            ``PATH#3`` is the third direction, ``PATH`` the first: what its ablation removes, of either sign, since a
            direction of a causal basis has none.
        strengths: values of α; a negative one steers away from the concept.
        mode: how the concept is fitted to the token grid: ``drop`` (its mean over space), ``pad``, ``interpolate``,
            ``none``; or a list, for conditions in each.
        site: where to add it; the site it was measured at when null. Null for a list of concepts.
        rollout_steps: steps of the rollout at which to steer, from 0; null for all.
        frames: frames of the context at which to steer, such as ``[-1]`` for the last alone; null for all.
    """

    def __init__(
        self,
        concept: str | list[str],
        strengths: list[float],
        mode: SteerMode | list[SteerMode] = "drop",
        site: str | None = None,
        rollout_steps: list[int] | None = None,
        frames: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.concepts = _distinct("concept", [concept] if isinstance(concept, str) else concept)
        self.modes: list[SteerMode] = _distinct("mode", [mode] if isinstance(mode, str) else mode)
        if not strengths or not all(math.isfinite(strength) for strength in strengths):
            raise PhysteerError(f"Steer.strengths must be one or more finite numbers; found {strengths}")
        self.strengths = _distinct("strengths", strengths)
        if site is not None and len(self.concepts) > 1:
            raise PhysteerError(
                f"Steer.site must be null for several concepts, each of which is added at its own site; found {site!r}"
            )
        self.site = site
        if rollout_steps is not None and (not rollout_steps or min(rollout_steps) < 0):
            raise PhysteerError(f"Steer.rollout_steps must be steps from 0, or null for all; found {rollout_steps}")
        if frames is not None:
            _distinct("frames", frames)
        self.rollout_steps, self.frames = rollout_steps, frames

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the concepts, check that they fit, and give the module one condition per mode and strength.

        Not before: with ``--ckpt_path`` the weights, and so the model's id, are known only now.
        """
        module = forecast_module(pl_module, "Steer")
        concepts = [read_concept(path, module.forecaster) for path in self.concepts]
        sites = [Site.parse(self.site or concept.site) for concept in concepts]
        if len(set(sites)) < len(sites):
            twice = next(site for site in sites if sites.count(site) > 1)
            raise PhysteerError(f"Steer.concept has two concepts of the site {twice}: give each a Steer of its own")
        shapes = window_shapes(trainer, module.forecaster, sites)  # each [1, T, h, w, δ, d]
        for path, concept, site in zip(self.concepts, concepts, sites, strict=True):
            if len(shapes[site]) != 6:
                raise PhysteerError(
                    f"site {site} has the shape {list(shapes[site])}; steering needs [B, T, h, w, δ, d]"
                )
            concept.check_width(shapes[site][-1], str(site))
            context = shapes[site][1]
            if self.frames is not None and not all(-context <= frame < context for frame in self.frames):
                raise PhysteerError(f"Steer.frames {self.frames}: the context has {context} frames")
            for mode in self.modes:
                fit_to_grid(concept.direction, shapes[site][2:5], mode)
            if str(site) != concept.site:
                rank_zero_warn(f"concept {path} was measured at {concept.site}; Steer adds it at {site}")
        spatial = [mode for mode in self.modes if mode != "drop"]
        jitter_seed = module.forecaster.jitter_seed
        if jitter_seed is not None and spatial:
            rank_zero_warn(
                f"model.jitter_seed is {jitter_seed}, so fields are shifted by fractions of a token, which "
                f"blurs a concept in mode {spatial[0]!r}; mode 'drop' or jitter_seed null avoids it"
            )
        edited = list(zip(sites, concepts, strict=True))
        self.add(module, [self._condition(edited, mode, alpha) for mode in self.modes for alpha in self.strengths])

    def _condition(self, edited: Sequence[tuple[Site, Concept]], mode: SteerMode, strength: float) -> Condition:
        locus = Locus(frames=self.frames, steps=self.rollout_steps)
        edits = tuple(Edit(site, AlongDirection(one.direction, strength, mode), locus=locus) for site, one in edited)
        direction = " + ".join(map(_name, self.concepts))
        loci = (("frames", self.frames), ("steps", self.rollout_steps))
        how = " ".join([mode, *(f"{what} {' '.join(map(str, chosen))}" for what, chosen in loci if chosen is not None)])
        name = f"{direction} {how} {strength:+.12g}"
        if self.site is not None and str(edited[0][0]) != edited[0][1].site:
            name += f" at {edited[0][0]}"
        return Condition(name, edits, direction, strength, how, role="concept")


def read_concept(path: str, forecaster: Forecaster) -> Concept:
    """Read a concept that is to steer a model, or a direction of a causal basis: ``PATH#3`` is the third.

    Raises:
        PhysteerError: there is no such file or direction, it is no concept, or it was measured on another model.
    """
    concept, model = load_concept(path), forecaster.identity
    if concept.model and concept.model != model:
        raise PhysteerError(
            f"concept {path} was measured on model {concept.model}; this model is {model}: capture it again, or steer "
            "the model it is from"
        )
    return concept


def load_concept(path: str) -> Concept:
    """Read a concept, or a direction of a causal basis, the first where ``PATH`` has no number.

    Raises:
        PhysteerError: there is no such file or direction, or it is no concept.
    """
    file, number = numbered_direction(path)
    if number is not None or CausalBasis.is_kind_of(file):
        return CausalBasis.load(file).concept(1 if number is None else number)
    return Concept.load(file)


def _name(path: str) -> str:
    """Return what conditions call a direction: the file's stem, with the number of a causal basis's direction."""
    file, number = numbered_direction(path)
    return Path(file).stem + ("" if number is None else f"#{number}")


def _distinct(name: str, given: list[T]) -> list[T]:
    if not given or len(set(given)) < len(given):
        raise PhysteerError(f"Steer.{name} must be one or more, all different; found {given}")
    return given
