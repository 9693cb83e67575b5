"""Control directions beside what is steered."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
from torch import Tensor

from physteer.callbacks.base import ConditionCallback, forecast_module
from physteer.callbacks.steer import read_concept
from physteer.concepts import Concept, random_directions
from physteer.errors import PhysteerError
from physteer.files import matching_files
from physteer.interventions import Condition, Edit, Role, Steer
from physteer.interventions.seeds import digest


class Controls(ConditionCallback):
    """Steer along other directions too, in the same run, from the same windows and with the same jitter.

    For every setting of the ``Steer`` callbacks listed before (sites, mode, steps, signed strength) this adds random
    directions and concepts made with shuffled labels, at the same sites. All have the concept's norm by construction:
    steering scales by the activation's norm. A direction is the same at every strength, so that responses to strength
    can be compared too. An effect that random directions have as well is not the concept's.

    Args:
        random: number of random directions; 19 are the fewest with which p ≤ 0.05 is possible.
        shuffled: concept files made with shuffled labels, or patterns such as ``RUN/concepts/shuffled/*.safetensors``;
            each is used where a concept is steered at its site. Of several sites steered at once, those of one name
            and number, ``<name>_<site>_<number>``, are used together.
        strengths: which α, signed, to control; null for all that are steered with. Every one of them adds ``random``
            and the number of shuffled concepts to the batch.
        seed: of the random directions.
    """

    def __init__(
        self,
        random: int = 19,
        shuffled: list[str] = [],  # noqa: B006  jsonargparse shows it; never changed
        strengths: list[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if random < 0:
            raise PhysteerError(f"Controls.random must be at least 0; found {random}")
        if strengths is not None and not strengths:
            raise PhysteerError("Controls.strengths must be one or more values of α, or null for all; found []")
        self.random, self.shuffled, self.strengths, self.seed = random, shuffled, strengths, seed

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the controls to the module's conditions."""
        module = forecast_module(pl_module, "Controls")
        steered = [one for one in module.conditions if one.role == "concept" and one.strength and _steers(one)]
        if not steered:
            raise PhysteerError("Controls found nothing to control: list it after the Steer callbacks")
        chosen = self._chosen(steered)
        shuffles = _shuffles(
            {path: read_concept(path, module.forecaster) for path in matching_files("Controls.shuffled", self.shuffled)}
        )
        controls = [*self._random(chosen), *_shuffled(chosen, shuffles)]
        if shuffles and not any(control.role == "shuffled" for control in controls):
            theirs = sorted({site for shuffle in shuffles for site in shuffle})
            raise PhysteerError(
                f"Controls.shuffled has concepts of {', '.join(theirs)} only; what is steered is at "
                f"{' and at '.join(dict.fromkeys(condition.site for condition in chosen))}"
            )
        self.add(module, controls)

    def _chosen(self, steered: Sequence[Condition]) -> list[Condition]:
        """Return the conditions to control."""
        if self.strengths is None:
            return list(steered)
        there = {one.strength for one in steered}
        for strength in self.strengths:
            if not any(_equal(strength, other) for other in there):
                known = ", ".join(f"{other:+.12g}" for other in sorted(there))
                raise PhysteerError(f"Controls.strengths has α = {strength:+.12g}; what is steered has {known}")
        return [one for one in steered if any(_equal(one.strength, strength) for strength in self.strengths)]

    def _random(self, chosen: Sequence[Condition]) -> Iterator[Condition]:
        """Yield random directions.

        Of a direction in mode ``drop`` only a vector of equal norm is used, so all concepts steered at a site share
        these; in the other modes controls are as smooth in space as the concept is, and belong to it.
        """
        drawn: dict[tuple[str, str], list[Tensor]] = {}
        seen = set()
        for condition in chosen:
            steers = _steers(condition)
            like = "" if steers[0].mode == "drop" else condition.direction
            setting = (condition.site, condition.mode, condition.strength, like)
            if setting in seen:
                continue
            seen.add(setting)
            sites = [str(edit.site) for edit in condition.edits]
            for site, steer in zip(sites, steers, strict=True):
                if (site, like) not in drawn:
                    seed = int.from_bytes(digest(self.seed, site, like)[:6], "big")
                    drawn[site, like] = random_directions(steer.direction, self.random, seed)
            for i in range(self.random):
                name = f"random {i + 1} like {like}" if like else f"random {i + 1}"
                yield _along(condition, name, [drawn[site, like][i] for site in sites], "random")


def _shuffled(
    chosen: Sequence[Condition], shuffles: Sequence[Mapping[str, tuple[str, Concept]]]
) -> Iterator[Condition]:
    """Yield the shuffles that have a concept for each of a condition's sites, once per setting."""
    seen = set()
    for condition in chosen:
        for shuffle in shuffles:
            found = [shuffle[site] for edit in condition.edits if (site := str(edit.site)) in shuffle]
            if len(found) < len(condition.edits):
                continue
            for (stem, concept), steer in zip(found, _steers(condition), strict=True):
                concept.check_width(steer.direction.shape[-1], f"{concept.site} (Controls.shuffled, {stem})")
            control = _along(
                condition, " + ".join(stem for stem, _ in found), [c.direction for _, c in found], "shuffled"
            )
            if control.name not in seen:
                seen.add(control.name)
                yield control


def _along(condition: Condition, name: str, directions: Sequence[Tensor], role: Role) -> Condition:
    """Return a condition with other directions, one per edit."""
    edits = tuple(
        Edit(edit.site, Steer(direction, steer.strength, steer.mode), edit.subspace, edit.locus)
        for edit, steer, direction in zip(condition.edits, _steers(condition), directions, strict=True)
    )
    called = f"{name} {condition.mode} {condition.strength:+.12g} at {condition.site}"
    return replace(condition, name=called, edits=edits, direction=name, role=role)


def _steers(condition: Condition) -> list[Steer]:
    """Return what is steered along at each site; nothing for a condition that does something else."""
    steers = [edit.replacement for edit in condition.edits if isinstance(edit.replacement, Steer)]
    return steers if len(steers) == len(condition.edits) else []


def _shuffles(concepts: Mapping[str, Concept]) -> list[dict[str, tuple[str, Concept]]]:
    """Sort concepts by shuffle: for each, stem and concept by site. Files of other names are a shuffle each."""
    shuffles: dict[tuple[str, str], dict[str, tuple[str, Concept]]] = {}
    for path, concept in concepts.items():
        stem = Path(path).stem
        named = re.fullmatch(rf"(.*)_{re.escape(concept.site)}_(\d+)", stem)
        key = (named[1], named[2]) if named else (path, "")
        shuffles.setdefault(key, {})[concept.site] = (stem, concept)
    return list(shuffles.values())


def _equal(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9)
