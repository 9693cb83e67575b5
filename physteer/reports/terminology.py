"""What reports call the two ways to intervene: steering along a direction, and erasing what an eraser takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from physteer.analyses.steering.table import ERASED, TRUTH, UNSTEERED
from physteer.reports.style import strength_label


@dataclass(frozen=True)
class Words:
    """What is said of the conditions of one kind."""

    act: str
    """What they do, at the beginning of a sentence."""
    done: str
    """What a rollout is afterwards."""
    reference: str
    """The rollout of the model as it is, which they are compared with."""
    doses: bool
    """Whether strengths are told apart, and responses to them drawn."""
    setting: str
    """One of the conditions to be judged."""
    control: str
    """One of the random ones beside it."""
    alike: str
    """What these have in common with it."""
    adds_controls: str
    """What to set for more of them."""

    def condition(self, name: str, strength: float) -> str:
        """Return what a legend calls a condition of a figure about one of these, by its name and α."""
        if name in (TRUTH, UNSTEERED):
            return TRUTH if name == TRUTH else self.reference
        return strength_label(strength) if self.doses else self.done


STEERING = Words(
    act="Steering",
    done="steered",
    reference=UNSTEERED,
    doses=True,
    setting="setting",
    control="random direction",
    alike="of equal norm at the same site, mode and α",
    adds_controls="callback Controls",
)
ERASING = Words(
    act="Erasing",
    done=ERASED,
    reference="intact",
    doses=False,
    setting="eraser",
    control="random eraser",
    alike="of one direction each at the same site",
    adds_controls="Erase.random",
)


def words_of(modes: Iterable[str]) -> Words:
    """Return the words for what is about conditions of some modes: those of steering, unless all erase."""
    return ERASING if set(modes) == {ERASED} else STEERING
