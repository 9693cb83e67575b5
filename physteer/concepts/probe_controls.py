"""Controls of probes: the truths of other windows, and random features.

A third control is the raw patch (`physteer.metrics.patches`): it tests whether a layer adds anything to its input.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.interventions.seeds import digest, generator_of

Key = TypeVar("Key", bound=Hashable)


def other_windows(initial_conditions: Mapping[Key, str], seed: int = 0) -> dict[Key, Key]:
    """Permute windows so that each gets the truth of another initial condition, which a probe cannot know.

    Windows are sorted by initial condition; initial conditions, and the windows of each, are in random order. This list
    is rotated by the largest number of windows that one initial condition has.

    Args:
        initial_conditions: of each window of one split.
        seed: the permutation depends on the seed and the windows alone, not on their order or on processes.

    Returns:
        For each window, the window whose truth it gets.

    Raises:
        PhysteerError: More than half of the windows share an initial condition.
    """
    groups: dict[str, list[Key]] = {}
    for window, name in initial_conditions.items():
        groups.setdefault(name, []).append(window)
    most = max(map(len, groups.values()), default=0)
    if 2 * most > len(initial_conditions):
        raise PhysteerError(
            f"{most} of {len(initial_conditions)} windows share an initial condition: shuffled targets need every one "
            "to be that of half of the windows at most"
        )
    line = [
        window
        for name in sorted(groups, key=lambda name: digest("initial condition", seed, name))
        for window in sorted(groups[name], key=lambda window: digest("window", seed, str(window)))
    ]
    return {window: line[(place + most) % len(line)] for place, window in enumerate(line)}


class RandomFeatures:
    """Features tanh(x̂ A + b) of raw patches x̂, as many as a layer has channels; none is learned.

    A is normal with variance 1/inputs, b with variance 1; both depend on the seed and the sizes alone.
    """

    def __init__(self, inputs: int, width: int, seed: int = 0) -> None:
        """Draw the features.

        Args:
            inputs: number of values in a patch.
            width: number of features.
            seed: of A and b.
        """
        generator = generator_of("features", seed, inputs, width)
        self._weights = torch.randn(inputs, width, generator=generator) / math.sqrt(inputs)
        self._bias = torch.randn(width, generator=generator)

    def __call__(self, patch: Tensor) -> Tensor:
        """Return the features [..., width] of patches [..., inputs], float32.

        Raises:
            PhysteerError: Patches have another number of values.
        """
        if patch.shape[-1] != len(self._weights):
            raise PhysteerError(f"random features of {len(self._weights)} numbers cannot take {patch.shape[-1]}")
        weights, bias = self._weights.to(patch.device), self._bias.to(patch.device)
        return (patch.to(weights) @ weights + bias).tanh()
