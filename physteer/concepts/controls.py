"""Control directions that a concept is compared with.

Random directions test whether a random direction has the same effect. Shuffled labels test whether a random split of
the same activations gives a direction with the same effect. Steering has the same strength along all of them, because
`Steer` divides every direction by its norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.linalg import vector_norm

from physteer.concepts.concept import Concept
from physteer.concepts.difference import FORMULA, frame_sums
from physteer.concepts.label_permutation import LabelPermutations
from physteer.errors import PhysteerError
from physteer.interventions.seeds import generator_of

_SPACE = (0, 1, 2)


def random_directions(like: Tensor, n: int, seed: int = 0) -> list[Tensor]:
    """Draw random directions with the norm and the spatial spectrum of a concept.

    At every spatial wavevector the direction is white noise in d, scaled so that the wavevector has the concept's
    energy (summed over channels). The spatial mean, the only part that the mode `drop` uses, is therefore uniform on
    the sphere of the concept's mean. In the modes that keep space, a control is as smooth as the concept; its positions
    in space are random.

    Args:
        like: the concept's direction [h, w, δ, d].
        n: number of directions.
        seed: direction i depends on the seed, i and the shape alone. Use different seeds for sites of equal shape;
            else they get the same noise.

    Returns:
        n directions [h, w, δ, d], float32 on the CPU.

    Raises:
        PhysteerError: `like` is no direction, or n is negative.
    """
    if like.ndim != 4 or n < 0:
        raise PhysteerError(f"cannot draw {n} directions like one of shape {list(like.shape)}: it is [h, w, δ, d]")
    concept = like.detach().cpu().double()
    energy = vector_norm(torch.fft.fftn(concept, dim=_SPACE), dim=-1, keepdim=True)  # [h, w, δ, 1]
    directions = []
    for i in range(n):
        noise = torch.randn(concept.shape, generator=generator_of("random", seed, i), dtype=torch.float64)
        white = torch.fft.fftn(noise, dim=_SPACE)
        # Of real noise, opposite wavevectors have conjugate spectra and equal norms: the result is real.
        shaped = torch.fft.ifftn(white * (energy / vector_norm(white, dim=-1, keepdim=True)), dim=_SPACE).real
        directions.append(shaped.float())
    return directions


class ShuffledDifferences:
    """Fits the concepts of n shuffles of the labels, in the pass that fits the concept itself.

    Each equals the result of `DifferenceOfMeans` for the shuffled labels. Every window is in one class of each shuffle,
    so n + 1 sums in float64 suffice: over the feature class of each shuffle, and over all windows.
    """

    def __init__(
        self, permutations: LabelPermutations, n: int, seed: int = 0, feature: str = "feature", control: str = "control"
    ) -> None:
        """Shuffle the labels.

        Args:
            permutations: the units, their classes and initial conditions.
            n: number of shuffles; p ≤ 0.05 needs at least 19.
            seed: of the shuffles.
            feature: name of the class that the concept points to.
            control: name of the class that it points away from.

        Raises:
            PhysteerError: A unit has another class, or there are fewer different shuffles.
        """
        others = sorted(set(permutations.labels.values()) - {feature, control})
        if others:
            raise PhysteerError(f"class {others[0]!r} is neither {feature!r} nor {control!r}")
        self.classes = (feature, control)
        self.seed = seed
        self.labels = permutations.shuffled(n, seed)
        """Of each shuffle, the class of each unit."""
        self._sums: Tensor | None = None  # [n + 1, h, w, δ, d]: feature of each shuffle, then all
        self._frames = torch.zeros(n + 1, dtype=torch.long)
        self._windows = torch.zeros(n + 1, dtype=torch.long)

    def update(self, units: Sequence[str], h: Tensor) -> None:
        """Add activations.

        Args:
            units: the unit of each row.
            h: [B, T, h, w, δ, d].

        Raises:
            PhysteerError: A unit is unknown, or the grid differs from that of earlier activations.
        """
        self.add(units, frame_sums(h), h.shape[1])

    def add(self, units: Sequence[str], sums: Tensor, n_frames: int) -> None:
        """Add activations by their sums over frames.

        Args:
            units: the unit of each row.
            sums: [B, h, w, δ, d], of `frame_sums`; with B = 0 they set the grid only.
            n_frames: T, the number of frames in each sum.

        Raises:
            PhysteerError: A unit is unknown, or the grid differs from that of earlier activations.
        """
        if len(units) != len(sums):
            raise PhysteerError(f"{len(units)} units were named for {len(sums)} windows")
        unknown = [unit for labels in self.labels[:1] for unit in units if unit not in labels]
        if unknown:
            raise PhysteerError(f"unit {unknown[0]!r} is not among those whose labels were shuffled")
        members = [[labels[unit] == self.classes[0] for unit in units] for labels in self.labels]
        weights = torch.tensor([*members, [True] * len(units)], dtype=torch.float64, device=sums.device)  # [n + 1, B]
        windows = weights.sum(1).long().cpu()
        self._add((weights @ sums.flatten(1)).view(-1, *sums.shape[1:]), windows * n_frames, windows)

    def merge(self, other: ShuffledDifferences) -> None:
        """Add the sums of another process, of the same units, labels and seed."""
        if other.labels != self.labels:
            raise PhysteerError("shuffles of different labels cannot be merged")
        if other._sums is not None:
            self._add(other._sums, other._frames, other._windows)

    def fit(
        self, *, site: str, model: str = "", data: str = "", selections: dict[str, str] | None = None
    ) -> list[Concept]:
        """Return the concept of every shuffle.

        Args:
            site: of the activations.
            model: the weights.
            data: data set and split.
            selections: the selection of each class before the shuffle.

        Raises:
            PhysteerError: A class is empty, or an activation was constant or not finite.
        """
        if self._sums is None or not int(self._windows[-1]):
            raise PhysteerError("no window was seen: there are no shuffled concepts to compute")
        feature, control = self.classes
        formula = FORMULA.format(feature=feature, control=control)
        concepts = []
        for i in range(len(self.labels)):
            frames, windows = int(self._frames[i]), int(self._windows[i])
            others, other_windows = int(self._frames[-1]) - frames, int(self._windows[-1]) - windows
            if not frames or not others:
                raise PhysteerError(f"class {(control if frames else feature)!r} is empty in shuffle {i}")
            direction = self._sums[i] / frames - (self._sums[-1] - self._sums[i]) / others
            if not bool(direction.isfinite().all()):
                raise PhysteerError("an activation is constant or not finite: there are no shuffled concepts")
            concepts.append(
                Concept(
                    direction=direction.float(),
                    site=site,
                    model=model,
                    data=data,
                    formula=f"{formula}; labels shuffled within initial conditions, seed {self.seed}, shuffle {i}",
                    classes={label: (selections or {}).get(label, "") for label in self.classes},
                    counts={feature: windows, control: other_windows},
                )
            )
        return concepts

    def state_dict(self) -> dict[str, Tensor]:
        """Return sums and counts as tensors, to be saved or added to those of other processes."""
        sums = torch.empty(0, dtype=torch.float64) if self._sums is None else self._sums
        return {"sums": sums, "frames": self._frames, "windows": self._windows}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the sums by those of `state_dict`, of the same units, number of shuffles and seed."""
        if len(state["frames"]) != len(self._frames):
            raise PhysteerError(f"sums of {len(state['frames']) - 1} shuffles were given for {len(self.labels)}")
        self._sums = None
        self._frames, self._windows = torch.zeros_like(self._frames), torch.zeros_like(self._windows)
        if int(state["frames"][-1]):
            self._add(state["sums"], state["frames"], state["windows"])

    def _add(self, sums: Tensor, frames: Tensor, windows: Tensor) -> None:
        if self._sums is None:
            self._sums = sums.clone()
        elif sums.shape != self._sums.shape:
            raise PhysteerError(
                f"activations of {list(sums.shape[1:])} cannot join those of {list(self._sums.shape[1:])}"
            )
        else:
            self._sums += sums.to(self._sums.device)
        self._frames = self._frames + frames
        self._windows = self._windows + windows
