"""Which windows of ``predict`` belong to which class, known before the model sees the first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping

from physteer.concepts import LabelPermutations, Selection
from physteer.data.batch import Window, collate
from physteer.data.dataset import WindowDataset
from physteer.data.progress import with_progress
from physteer.data.readouts import READOUTS, readouts
from physteer.errors import PhysteerError


def sort_windows(dataset: WindowDataset, classes: Mapping[str, Selection]) -> dict[Window, str]:
    """Return the class of every window that has one.

    Where a selection needs readouts, the last context frame of every window is read and measured, by every process.

    Raises:
        PhysteerError: a window is in two classes, a class has none, or a selection does not fit the data.
    """
    measured = {name for select in classes.values() for name in select.names} & READOUTS.keys()
    described = ", ".join(f"{label}: {select.expression!r}" for label, select in classes.items())
    labels: dict[Window, str] = {}
    for window in with_progress(dataset.windows, "Sorting windows") if measured else dataset.windows:
        sample = {**dataset.parameters_of(window), **vars(window), **_readouts(dataset, window, measured)}
        member = [label for label, select in classes.items() if select(sample)]
        if len(member) > 1:
            raise PhysteerError(f"{window} is in both classes: {described}")
        if member:
            labels[window] = member[0]
    for label in classes:
        if label not in labels.values():
            raise PhysteerError(
                f"class {label!r} is empty: none of the {len(dataset)} windows in {dataset.path} belongs to it "
                f"({described})"
            )
    return labels


def units_of(labels: Mapping[Window, str]) -> dict[Window, str]:
    """Return which unit each window belongs to: what carries a label as a whole, so that windows are not counted twice.

    A unit is a trajectory; where one trajectory has both classes, its windows of one stride; or else each window.
    """
    kinds: list[Callable[[Window], tuple[Hashable, ...]]] = [
        lambda window: (window.file, window.trajectory),
        lambda window: (window.file, window.trajectory, window.stride),
    ]
    for kind in kinds:
        classes: dict[tuple[Hashable, ...], set[str]] = defaultdict(set)
        for window, label in labels.items():
            classes[kind(window)].add(label)
        if all(len(members) == 1 for members in classes.values()):
            return {window: "/".join(map(str, kind(window))) for window in labels}
    return {window: str(window) for window in labels}


def label_permutations(
    labels: Mapping[Window, str], units: Mapping[Window, str], groups: Mapping[Window, str]
) -> LabelPermutations:
    """Return how the units' labels may be exchanged, by the windows' classes and initial conditions."""
    return LabelPermutations(
        {units[window]: label for window, label in labels.items()}, {units[window]: groups[window] for window in labels}
    )


def _readouts(dataset: WindowDataset, window: Window, names: set[str]) -> dict[str, float]:
    if not names:
        return {}
    last = window.start + window.stride * (dataset.spec.n_input - 1)
    sample = dataset.read(Window(window.file, window.trajectory, last), n_frames=1)
    batch = collate([sample], n_input=1, metadata=dataset.metadata)
    return {name: float(value) for name, value in readouts(batch, names).items()}
