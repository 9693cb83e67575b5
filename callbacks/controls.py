"""Control directions beside what is steered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
from torch import Tensor

from physteer.callbacks.base import ConditionCallback
from physteer.concepts import Concept, random_directions
from physteer.errors import PhysteerError
from physteer.interventions import Condition, Edit, Role, Steer
from physteer.module import WalrusModule


class Controls(ConditionCallback):
    """Steer along other directions too, in the same run, from the same windows and with the same jitter.

    For every concept that a ``Steer`` listed before steers along, and every size of strength, this adds random
    directions, which have the concept's norm by construction (steering scales by the activation's norm), and concepts
    made with shuffled labels. An effect that random directions have as well is not the concept's.

    Args:
        random: number of random directions; 19 are the fewest with which p ≤ 0.05 is possible.
        shuffled: concept files to compare with, at the same site: made with shuffled labels, say.
        strengths: sizes of strength to control; null for all that are steered with.
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
        self.random, self.shuffled, self.strengths, self.seed = random, shuffled, strengths, seed

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the controls to the module's conditions."""
        assert isinstance(pl_module, WalrusModule)
        steered = [condition for condition in pl_module.conditions if condition.role == "concept"]
        if not steered:
            raise PhysteerError("Controls found nothing to control: list it after the Steer callbacks")
        self.add(pl_module, list(self._controls(steered)))

    def _controls(self, steered: Sequence[Condition]) -> Iterator[Condition]:
        """Yield the controls of each concept, site, mode and size of strength once."""
        seen = set()
        concepts = [(Path(path).stem, Concept.load(path)) for path in self.shuffled]
        for condition in steered:
            size = abs(condition.strength)
            wanted = self.strengths is None or any(abs(size - abs(s)) < 1e-9 for s in self.strengths)
            where = (condition.direction, condition.mode, str(condition.edits[0].site), size)
            if not wanted or not size or where in seen:
                continue
            seen.add(where)
            edit = condition.edits[0]
            assert isinstance(edit.replacement, Steer)
            drawn = random_directions(edit.replacement.direction, self.random, self.seed)
            named: list[tuple[str, Tensor, Role]] = [(f"random {i + 1}", v, "random") for i, v in enumerate(drawn)]
            named += [(name, c.direction, "shuffled") for name, c in concepts if c.site == str(edit.site)]
            for name, direction, role in named:
                replacement = Steer(direction, size, edit.replacement.mode)
                yield replace(
                    condition,
                    name=f"{name} for {condition.direction} {condition.mode} {size:+.12g} at {edit.site}",
                    edits=(Edit(edit.site, replacement, edit.subspace, edit.locus),),
                    direction=name,
                    strength=size,
                    role=role,
                )
