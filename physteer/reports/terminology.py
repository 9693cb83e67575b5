"""What reports call the two ways to intervene: steering along a direction, and erasing what an eraser takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from physteer.analyses.steering.table import ERASED, TRUTH, UNSTEERED, Setting
from physteer.reports.style import strength_label


@dataclass(frozen=True)
class Terminology:
    """The nouns and verbs for settings of one kind."""

    act: str
    """What is done, at the beginning of a sentence."""
    done: str
    """What a rollout is afterwards."""
    reference: str
    """The rollout of the model as it is, which they are compared with."""
    has_strengths: bool
    """Whether strengths are told apart, and responses to them drawn."""
    setting: str
    """One of the settings to be judged."""
    control: str
    """One of the random ones beside it."""
    common: str
    """What these have in common with it."""
    adds_controls: str
    """What to set for more of them."""

    def label(self, setting: Setting) -> str:
        """Return what a legend calls a setting."""
        if setting.role == "truth":
            return TRUTH
        if setting.role == "unsteered":
            return self.reference
        return strength_label(setting.strength) if self.has_strengths else self.done


STEERING = Terminology(
    act="Steering",
    done="steered",
    reference=UNSTEERED,
    has_strengths=True,
    setting="setting",
    control="random direction",
    common="of equal norm at the same site, mode and α",
    adds_controls="callback Controls",
)
ERASING = Terminology(
    act="Erasing",
    done=ERASED,
    reference="intact",
    has_strengths=False,
    setting="eraser",
    control="random eraser",
    common="of one direction each at the same site",
    adds_controls="Erase.random",
)


def terminology_of(modes: Iterable[str]) -> Terminology:
    """Return the terms for settings of some modes: those of steering, unless all erase."""
    return ERASING if set(modes) == {ERASED} else STEERING
