"""The possible sources of a base: trajectories that differ from it according to rules, and in nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from physteer.data.batch import Window
from physteer.data.dataset import WindowDataset
from physteer.data.matching import InitialConditions, Trajectory
from physteer.errors import PhysteerError, did_you_mean

Others = Literal["same", "any"]


@dataclass(frozen=True)
class PairRules:
    """The rules for the sources of a base."""

    variables: tuple[str, ...]
    """The parameters that the base gets from its sources, one source each."""
    same_initial_condition: bool = True
    """Whether sources have the base's initial condition, so that tokens correspond; else they have another one."""
    other_parameters: Others = "same"
    """Whether a source differs from the base in its variable alone, or may differ in all parameters."""
    null: str | None = None
    """For null pairs: sources differ in this parameter alone, which is no variable; the answer is the base's own
    future."""

    @property
    def free(self) -> bool:
        """Whether parameters beside the variable may differ."""
        return self.other_parameters == "any" and self.null is None


class Partners:
    """The trajectories of a split that can be sources of a base.

    Args:
        windows: the split.
        initial_conditions: of its trajectories; trajectories without one are left out.
        rules: of the sources.

    Raises:
        PhysteerError: There is no such parameter, or it has one value only.
    """

    def __init__(self, windows: WindowDataset, initial_conditions: InitialConditions, rules: PairRules) -> None:
        self.rules, self.initial_condition = rules, initial_conditions.of
        self.parameters = {t: windows.parameters_of(Window(*t, 0)) for t in self.initial_condition}
        """The parameters of every trajectory, by name."""
        self._check_variables(windows.path)
        self.together: dict[int, list[Trajectory]] = defaultdict(list)
        """The trajectories of every initial condition."""
        for trajectory, number in self.initial_condition.items():
            self.together[number].append(trajectory)
        self._crossed = self._names_that_vary()
        self._sources = {name: {t: self._find(t, name) for t in self.initial_condition} for name in rules.variables}

    def sources(self, base: Trajectory, variable: str) -> list[Trajectory]:
        """Return the possible sources of a base for a variable."""
        return self._sources[variable][base]

    def counterfactuals(self, base: Trajectory, changed: Mapping[str, float]) -> Iterator[Trajectory]:
        """Yield the trajectories with the base's initial condition, and its parameters with some of them changed."""
        wanted = {**self.parameters[base], **changed}
        for trajectory in self.together[self.initial_condition[base]]:
            if all(_same(value, self.parameters[trajectory][name]) for name, value in wanted.items()):
                yield trajectory

    def report(self) -> str:
        """Return a sentence on the number of trajectories that have a source, per variable."""
        n = len(self.initial_condition)
        whose = "the same" if self.rules.same_initial_condition else "another"
        descriptions = []
        for name, sources in self._sources.items():
            counts = [len(trajectories) for trajectories in sources.values()]
            differing = self.rules.null or name
            descriptions.append(f"{differing}: {sum(c > 0 for c in counts)} of {n} have a source, {sum(counts)} pairs")
        return (
            f"{len(self.together)} initial conditions in {n} trajectories; sources from {whose} initial condition, "
            f"other parameters {'any' if self.rules.free else 'equal'}: {'; '.join(descriptions)}"
        )

    def _find(self, base: Trajectory, variable: str) -> list[Trajectory]:
        own, number, differing = self.parameters[base], self.initial_condition[base], self.rules.null or variable
        fixed = [] if self.rules.free else [name for name in self._crossed if name != differing]
        same = self.rules.same_initial_condition
        candidates = (
            self.together[number] if same else [t for t, other in self.initial_condition.items() if other != number]
        )

        def allowed(other: Mapping[str, float]) -> bool:
            return not _same(own[differing], other[differing]) and all(_same(own[n], other[n]) for n in fixed)

        return [trajectory for trajectory in candidates if allowed(self.parameters[trajectory])]

    def _names_that_vary(self) -> list[str]:
        """Return the parameters that differ within an initial condition; the others describe the initial condition."""
        groups = [[self.parameters[t] for t in trajectories] for trajectories in self.together.values()]
        names = next(iter(self.parameters.values()))
        return [
            n for n in names if any(not _same(group[0][n], parameters[n]) for group in groups for parameters in group)
        ]

    def _check_variables(self, path: str) -> None:
        known: Mapping[str, float] = next(iter(self.parameters.values()), {})
        for name in filter(None, (*self.rules.variables, self.rules.null)):
            if name not in known:
                raise PhysteerError(
                    f"{path} has no parameter {name!r} that all files share, only "
                    f"{', '.join(known) or 'none'}{did_you_mean(name, known)}"
                )
            values = sorted({parameters[name] for parameters in self.parameters.values()})
            if all(_same(values[0], value) for value in values):
                raise PhysteerError(f"{path}: {name} is {values[0]:g} everywhere; pairs need two values")


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
