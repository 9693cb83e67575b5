"""The loss of a class readout: frozen probes should read the sources' classes off an edited pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from physteer.analyses.engine import ActivationReader, Outcome
from physteer.concepts import ClassProbe
from physteer.data.batch import Window
from physteer.data.pair import PairBatch
from physteer.data.pairs import PairDataset
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.interventions import Site, site_names


@dataclass(frozen=True, eq=False)
class ClassReadout:
    """A frozen probe, and the file it is from."""

    path: str
    probe: ClassProbe

    @classmethod
    def load(cls, path: str) -> ClassReadout:
        """Read a class probe.

        Raises:
            PhysteerError: the file is none, or holds several penalties.
        """
        probe = ClassProbe.load(path)
        if len(probe.alphas) != 1:
            raise PhysteerError(f"probe {path} holds {len(probe.alphas)} penalties; a loss reads a chosen one")
        return cls(path, probe)

    @property
    def parameter(self) -> str:
        """Whose values the classes are."""
        return self.probe.parameter

    @property
    def site(self) -> Site:
        """What it reads."""
        return Site.parse(self.probe.site)

    def scores(self, activations: Mapping[Site, Tensor]) -> Tensor:
        """Return the classes' scores [B, K], of the last frame's mean over tokens.

        Args:
            activations: of its site at least, [B, T, …, d].
        """
        last = activations[self.site][:, -1].flatten(1, -2)  # [B, tokens, d]
        return self.probe.scores(last.float().mean(1))[0]

    def source(self, pairs: PairBatch) -> tuple[Window, ...]:
        """Return the addresses of the sources that give its parameter."""
        variables = [name for name, _ in pairs.pairs[0].changed]
        return pairs.source_windows[variables.index(self.parameter)]

    def wanted(self, pairs: PairBatch) -> Tensor:
        """Return the indices of the sources' values among the classes, [B].

        Raises:
            PhysteerError: one is no class.
        """
        return self.probe.labels(pairs.parameters(self.source(pairs), self.parameter)).to(pairs.device)


def read(readouts: Sequence[ClassReadout], activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
    """Return by parameter the indices of the classes that are read, [B]."""
    return {readout.parameter: readout.scores(activations).argmax(-1) for readout in readouts}


def read_sources(readouts: Sequence[ClassReadout], forecaster: Forecaster, pairs: PairBatch) -> dict[str, Tensor]:
    """Return what is read off the sources' own passes, as `read`; the sources take their base's jitter."""
    classes: dict[str, Tensor] = {}
    for readout in readouts:

        def look(site: Site, h: Tensor, readout: ClassReadout = readout) -> None:
            classes.update(read([readout], {site: h}))

        source = pairs.read(readout.source(pairs))
        reader = ActivationReader(forecaster, [readout.site], all_frames=False)
        reader.read(source, look, jitter_of=pairs.base_windows)
    return classes


class ClassLoss(nn.Module):
    """Cross-entropy of frozen probes of the edited activation, against the classes of the sources' values.

    With several variables, each has a probe, and their cross-entropies are averaged.

    Args:
        probes: files ``probes/<site>_<parameter>_classes.safetensors``, one for each of ``data.variables``, at sites
            that are computed after all that are edited.
    """

    def __init__(self, probes: list[str]) -> None:
        super().__init__()
        self.readouts = tuple(ClassReadout.load(path) for path in probes)

    @property
    def sites(self) -> tuple[Site, ...]:
        """What the probes read."""
        return tuple(dict.fromkeys(one.site for one in self.readouts))

    def forward(self, outcome: Outcome, pairs: PairBatch) -> Tensor:
        """Return the loss, in nats.

        Args:
            outcome: of the edited pass.
            pairs: whose sources have the classes that should be read.

        Raises:
            PhysteerError: a source's value is no class of its probe.
        """
        losses = [cross_entropy(r.scores(outcome.activations), r.wanted(pairs)) for r in self.readouts]
        return torch.stack(losses).mean()

    def check(
        self, forecaster: Forecaster, edited: Sequence[Site], variables: Sequence[str], splits: Sequence[PairDataset]
    ) -> None:
        """Check that the probes fit a search.

        Args:
            forecaster: whose network they read.
            edited: the sites of the search.
            variables: of its pairs.
            splits: pairs whose values must be classes; windows are shaped like those of the first.

        Raises:
            PhysteerError: there is not one probe for each variable; or a probe is of another model or width, is not
                behind an edited site, or does not have all values of its variable as classes.
        """
        if sorted(one.parameter for one in self.readouts) != sorted(variables):
            found = ", ".join(f"{one.parameter} ({one.path})" for one in self.readouts) or "none"
            raise PhysteerError(
                f"ClassLoss needs one probe for each of data.variables, {', '.join(variables)}; found {found}"
            )
        first, model = splits[0].windows, forecaster.identity
        shapes = forecaster.site_shapes(self.sites, first.metadata, first.spec.n_input)
        widths = {site: shape[-1] for site, shape in shapes.items()}
        order = site_names(forecaster.network)
        for one in self.readouts:
            if one.probe.model and one.probe.model != model:
                raise PhysteerError(f"probe {one.path} was fitted to model {one.probe.model}; this model is {model}")
            width = one.probe.weights.shape[1]
            if width != widths[one.site]:
                raise PhysteerError(f"probe {one.path} has width {width}; site {one.site} has width {widths[one.site]}")
            for site in edited:
                if not _comes_after(one.site, site, order):
                    raise PhysteerError(
                        f"probe {one.path} reads {one.site}, which is not computed after the edited site {site}: give "
                        "a probe of a later site, or take this one out of DAS.sites"
                    )
            for pairs in splits:
                values = {pairs.windows.parameters_of(window)[one.parameter] for window in pairs.windows.windows}
                if not values <= set(one.probe.classes):
                    raise PhysteerError(
                        f"{pairs.windows.path} has {one.parameter} {_listed(values)}; "
                        f"probe {one.path} has the classes {_listed(one.probe.classes)}"
                    )


def _comes_after(site: Site, edited: Site, order: Sequence[str]) -> bool:
    """Return whether a site is computed after another; `order` lists the modules as they are computed."""
    for one in (site, edited):
        if one.module not in order:
            raise PhysteerError(f"ClassLoss knows the order of the sites that 'physteer sites' lists; {one} is none")
    return order.index(site.module) > order.index(edited.module)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))
