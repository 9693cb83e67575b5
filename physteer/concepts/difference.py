"""Difference of means: the concept vector of Fear et al. (arXiv 2511.20798), streaming and mergeable."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from physteer.concepts.concept import Concept
from physteer.concepts.widened import widened
from physteer.errors import PhysteerError

FORMULA = (
    "mean over windows and frames of (a − mean)/std (over space and channels, unbiased std), {feature} minus {control}"
)


def standardized(h: Tensor) -> Tensor:
    """Return z = (a − mean)/std of every row and frame, over space and channels, unbiased std.

    Args:
        h: [B, T, h, w, δ, d].

    Returns:
        The same shape, float32 or wider; not finite where an activation is constant or not finite.

    Raises:
        PhysteerError: The shape is another one.
    """
    if h.ndim != 6:
        raise PhysteerError(f"a concept is made of activations [B, T, h, w, δ, d]; this has shape {list(h.shape)}")
    a = widened(h)
    if a.numel() == 0:
        return a
    centred = a - a.mean(dim=(2, 3, 4, 5), keepdim=True)
    # Over channels, then over tokens: in one go, float32 sums of a million squares are off by 1e-4.
    norm = vector_norm(vector_norm(centred, dim=-1).flatten(2), dim=-1)  # [B, T]
    std = norm / math.sqrt(max(centred[0, 0].numel() - 1, 1))
    return centred.div_(std[..., None, None, None, None])


def frame_sums(h: Tensor) -> Tensor:
    """Return Σ_t z of every row, for one or several fitters: [B, T, h, w, δ, d] → [B, h, w, δ, d] in float64."""
    return standardized(h).sum(1).double()


class DifferenceOfMeans:
    """Fits Δ = mean of z over the feature class − mean of z over the control class, [h, w, δ, d].

    z = (a − mean)/std standardises each frame of each window a over space and channels (unbiased std). Two sums in
    float64 are kept, whatever the number of windows; they are mergeable over processes.
    """

    def __init__(self, feature: str = "feature", control: str = "control") -> None:
        """Start with no windows.

        Args:
            feature: name of the class that the direction points to.
            control: name of the class that it points away from.
        """
        if feature == control:
            raise PhysteerError(f"feature and control are both called {feature!r}")
        self.classes = (feature, control)
        self._sums: dict[str, Tensor] = {}
        self._frames = dict.fromkeys(self.classes, 0)
        self._windows = dict.fromkeys(self.classes, 0)

    def update(self, label: str, h: Tensor) -> None:
        """Add activations of one class.

        Args:
            label: name of the class.
            h: [B, T, h, w, δ, d] of B windows; with B = 0 it sets the grid only.

        Raises:
            PhysteerError: There is no such class, or the grid differs from that of earlier activations.
        """
        self.add(label, frame_sums(h), h.shape[1])

    def add(self, label: str, sums: Tensor, n_frames: int) -> None:
        """Add activations of one class by their sums over frames.

        Args:
            label: name of the class.
            sums: [B, h, w, δ, d], of `frame_sums`.
            n_frames: T, the number of frames in each sum.

        Raises:
            PhysteerError: There is no such class, or the grid differs from that of earlier activations.
        """
        self._known(label)
        self._add(label, sums.sum(0), frames=len(sums) * n_frames, windows=len(sums))

    def merge(self, other: DifferenceOfMeans) -> None:
        """Add the sums of another process, of classes of the same names."""
        for label, total in other._sums.items():
            self._known(label)
            self._add(label, total, frames=other._frames[label], windows=other._windows[label])

    def fit(self, *, site: str, model: str = "", data: str = "", selections: dict[str, str] | None = None) -> Concept:
        """Return the concept.

        Args:
            site: of the activations.
            model: the weights.
            data: data set and split.
            selections: the selection of each class.

        Raises:
            PhysteerError: A class is empty, or an activation was constant or not finite.
        """
        feature, control = (self._mean(label) for label in self.classes)
        named = dict(zip(("feature", "control"), self.classes, strict=True))
        return Concept(
            direction=(feature - control).float(),
            site=site,
            model=model,
            data=data,
            formula=FORMULA.format(**named),
            classes={label: (selections or {}).get(label, "") for label in self.classes},
            counts=dict(self._windows),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return sums and counts as tensors, to be saved or added to those of other processes."""
        state = {}
        for label in self.classes:
            state[f"{label}/sum"] = self._sums.get(label, torch.empty(0, dtype=torch.float64))
            state[f"{label}/counts"] = torch.tensor([self._frames[label], self._windows[label]])
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the sums by those of `state_dict`."""
        self._sums.clear()
        for label in self.classes:
            self._frames[label] = self._windows[label] = 0
            frames, windows = state[f"{label}/counts"].tolist()
            if frames:
                self._add(label, state[f"{label}/sum"], frames=frames, windows=windows)

    def _mean(self, label: str) -> Tensor:
        if not self._frames[label]:
            raise PhysteerError(f"class {label!r} is empty: none of the windows belongs to it")
        mean = self._sums[label] / self._frames[label]
        if not bool(torch.isfinite(mean).all()):
            raise PhysteerError(f"class {label!r} has an activation that is constant or not finite")
        return mean

    def _known(self, label: str) -> None:
        if label not in self.classes:
            raise PhysteerError(f"class {label!r} is neither {self.classes[0]!r} nor {self.classes[1]!r}")

    def _add(self, label: str, total: Tensor, *, frames: int, windows: int) -> None:
        shapes = [list(known.shape) for known in self._sums.values() if known.shape != total.shape]
        if shapes:
            raise PhysteerError(f"activations of {list(total.shape)} cannot join those of {shapes[0]}")
        if label in self._sums:
            self._sums[label] += total.to(self._sums[label].device)
        else:
            self._sums[label] = total.clone()
        self._frames[label] += frames
        self._windows[label] += windows
