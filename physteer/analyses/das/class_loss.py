"""The class loss: frozen probes of an edited pass should predict the sources' classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from physteer.analyses.engine import ActivationReader, ClassReadout, Outcome
from physteer.data.pair import PairBatch
from physteer.data.pairs import PairDataset
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.interventions import Site, site_names


def read(readouts: Sequence[ClassReadout], activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
    """Return the indices of the predicted classes, [B], by parameter."""
    return {readout.parameter: readout.scores(activations).argmax(-1) for readout in readouts}


def read_sources(readouts: Sequence[ClassReadout], forecaster: Forecaster, pairs: PairBatch) -> dict[str, Tensor]:
    """Return the classes predicted from the sources' own passes, as `read`; sources get the jitter of their base."""
    classes: dict[str, Tensor] = {}
    for readout in readouts:

        def read_classes(site: Site, h: Tensor, readout: ClassReadout = readout) -> None:
            classes.update(read([readout], {site: h}))

        source = pairs.read(readout.source(pairs))
        reader = ActivationReader(forecaster, [readout.site], all_frames=False)
        reader.read(source, read_classes, jitter_of=pairs.base_windows)
    return classes


class ClassLoss(nn.Module):
    """Cross-entropy of frozen probes of the edited activation, against the classes of the sources' values.

    With several variables, each has a probe, and their cross-entropies are averaged.

    Args:
        probes: files ``probes/<site>_<parameter>_classes.safetensors``, one for each of ``data.variables``, at sites
            that are computed after all edited sites.
    """

    def __init__(self, probes: list[str]) -> None:
        super().__init__()
        self.readouts = tuple(ClassReadout.load(path) for path in probes)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Sites of the activations that the probes read."""
        return tuple(dict.fromkeys(readout.site for readout in self.readouts))

    def forward(self, outcome: Outcome, pairs: PairBatch) -> Tensor:
        """Return the loss, in nats.

        Args:
            outcome: of the edited pass.
            pairs: whose sources have the classes that the probes should predict.

        Raises:
            PhysteerError: A source's value is no class of its probe.
        """
        losses = [cross_entropy(r.scores(outcome.activations), r.wanted(pairs)) for r in self.readouts]
        return torch.stack(losses).mean()

    def check(
        self, forecaster: Forecaster, edited: Sequence[Site], variables: Sequence[str], splits: Sequence[PairDataset]
    ) -> None:
        """Check that the probes fit a search.

        Args:
            forecaster: whose activations they read.
            edited: the sites of the search.
            variables: of its pairs.
            splits: pairs whose values must be classes; all windows have the shape of the first split's.

        Raises:
            PhysteerError: A variable has no probe or several; or a probe is of another model or width, is not after an
                edited site, or lacks a value of its variable among its classes.
        """
        if sorted(readout.parameter for readout in self.readouts) != sorted(variables):
            probes = ", ".join(f"{readout.parameter} ({readout.path})" for readout in self.readouts) or "none"
            raise PhysteerError(
                f"ClassLoss needs one probe for each of data.variables, {', '.join(variables)}; found {probes}"
            )
        first, model = splits[0].windows, forecaster.identity
        shapes = forecaster.site_shapes(self.sites, first.metadata, first.spec.n_input)
        widths = {site: shape[-1] for site, shape in shapes.items()}
        module_order = site_names(forecaster.network)
        for readout in self.readouts:
            if readout.probe.model and readout.probe.model != model:
                raise PhysteerError(
                    f"probe {readout.path} was fitted to model {readout.probe.model}; this model is {model}"
                )
            width = readout.probe.weights.shape[1]
            if width != widths[readout.site]:
                raise PhysteerError(
                    f"probe {readout.path} has width {width}; site {readout.site} has width {widths[readout.site]}"
                )
            for site in edited:
                if not _comes_after(readout.site, site, module_order):
                    raise PhysteerError(
                        f"probe {readout.path} reads {readout.site}, which is not computed after the edited site {site}"
                        ": give a probe of a later site, or take this one out of DAS.sites"
                    )
            for pairs in splits:
                values = {pairs.windows.parameters_of(window)[readout.parameter] for window in pairs.windows.windows}
                if not values <= set(readout.probe.classes):
                    raise PhysteerError(
                        f"{pairs.windows.path} has {readout.parameter} {_listed(values)}; "
                        f"probe {readout.path} has the classes {_listed(readout.probe.classes)}"
                    )


def _comes_after(site: Site, edited: Site, module_order: Sequence[str]) -> bool:
    """Return whether a site is computed after another; `module_order` lists modules in the order of computation."""
    for compared in (site, edited):
        if compared.module not in module_order:
            raise PhysteerError(
                f"ClassLoss knows the order of the sites that 'physteer sites' lists; {compared} is none"
            )
    return module_order.index(site.module) > module_order.index(edited.module)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))
