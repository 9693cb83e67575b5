"""A frozen class probe that reads the activations of a pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from physteer.concepts import ClassProbe
from physteer.data.batch import Window
from physteer.data.pair import PairBatch
from physteer.errors import PhysteerError
from physteer.interventions import Site


@dataclass(frozen=True, eq=False)
class ClassReadout:
    """A frozen class probe, and its file."""

    path: str
    probe: ClassProbe

    @classmethod
    def load(cls, path: str) -> ClassReadout:
        """Read a class probe.

        Raises:
            PhysteerError: The file is no class probe, or holds several penalties.
        """
        probe = ClassProbe.load(path)
        if len(probe.alphas) != 1:
            raise PhysteerError(f"probe {path} holds {len(probe.alphas)} penalties; a loss reads a chosen one")
        return cls(path, probe)

    @property
    def parameter(self) -> str:
        """The parameter whose values are the classes."""
        return self.probe.parameter

    @property
    def site(self) -> Site:
        """Site of the activations that it reads."""
        return Site.parse(self.probe.site)

    def scores(self, activations: Mapping[Site, Tensor]) -> Tensor:
        """Return the classes' scores [B, K], from the mean over the tokens of the last frame.

        Args:
            activations: by site, [B, T, …, d]; its own site must be among them.
        """
        last = activations[self.site][:, -1].flatten(1, -2)  # [B, tokens, d]
        return self.probe.scores(last.float().mean(1))[0]

    def source(self, pairs: PairBatch) -> tuple[Window, ...]:
        """Return the addresses of the sources of its parameter."""
        variables = [name for name, _ in pairs.pairs[0].changed]
        return pairs.source_windows[variables.index(self.parameter)]

    def wanted(self, pairs: PairBatch) -> Tensor:
        """Return the indices of the sources' values among the classes, [B].

        Raises:
            PhysteerError: A value is no class.
        """
        return self.probe.labels(pairs.parameters(self.source(pairs), self.parameter)).to(pairs.device)

    def own(self, pairs: PairBatch) -> Tensor:
        """Return the indices of the bases' own values among the classes, [B].

        Raises:
            PhysteerError: A value is no class.
        """
        return self.probe.labels(pairs.parameters(pairs.base_windows, self.parameter)).to(pairs.device)
