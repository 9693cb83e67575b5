"""Suffix passes: a frozen model is run on edited activations, from their site to its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from physteer.analyses.engine.prefix_cache import PairActivations, PrefixCache, PreparedPairs
from physteer.data.pair import PairBatch
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster, SampleScale
from physteer.interventions import Edit, Site, Snapshot, StagedModel, observed, replayed, take_snapshots

M = TypeVar("M", contravariant=True)
B = TypeVar("B", contravariant=True)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The output of an edited pass, with gradients to the edits."""

    prediction: Tensor
    """The edited next frame ŷ' of a forecaster, [B, 1, C, H, W, D] in the data set's units; else the model's output."""
    scale: SampleScale | None
    """The scales of the base windows; None for a model without scales."""
    activations: Mapping[Site, Tensor]
    """Activations of the sites to read, after the edits: [B, T, …, d]; T = 1 where only the last frame was run."""


class SiteActivations(Protocol):
    """The activations of one site in a batch of (base, sources)."""

    @property
    def base(self) -> Snapshot:
        """The snapshot from which the pass of the bases continues."""
        ...

    @property
    def sources(self) -> Sequence[Tensor]:
        """Activation of each variable's sources, [B, T, …, d]."""
        ...

    @property
    def mismatched(self) -> Sequence[Tensor]:
        """The same for mismatched sources; empty where they were not asked for."""
        ...


class Suffix(Protocol[M, B]):
    """Runs a model M on batches B of (base, sources): once up to a site, and from there under any edits."""

    def prepare(self, model: M, batch: B, *, mismatched: bool = False) -> Any:
        """Run bases and sources up to all sites; on request the mismatched sources too."""
        ...

    def at(self, model: M, site: Site, prepared: Any) -> Any:
        """Return the activations of one of the sites (`SiteActivations`)."""
        ...

    def outcome(
        self, model: M, batch: B, activations: Any, edits: Sequence[Edit], read: Sequence[Site] = ()
    ) -> Outcome:
        """Continue the pass of the bases under edits.

        Args:
            model: as in `prepare`.
            batch: as in `prepare`.
            activations: of the edited site.
            edits: at this site or later ones.
            read: sites whose activations are returned.

        Raises:
            PhysteerError: A site of `read` is not computed after the edited site.
        """
        ...


class ForecastSuffix:
    """Suffix passes of a forecaster over pairs of windows (`Suffix`).

    Args:
        cache: of the prefixes.
    """

    def __init__(self, cache: PrefixCache) -> None:
        self.cache = cache

    def prepare(self, model: Forecaster, batch: PairBatch, *, mismatched: bool = False) -> PreparedPairs:
        """Run bases and sources up to all sites, except for windows in the cache."""
        return self.cache.prepare(model, batch, mismatched=mismatched)

    def at(self, model: Forecaster, site: Site, prepared: PreparedPairs) -> PairActivations:
        """Return the activations of one of the sites."""
        return self.cache.at(model, site, prepared)

    def outcome(
        self,
        model: Forecaster,
        batch: PairBatch,
        activations: PairActivations,
        edits: Sequence[Edit],
        read: Sequence[Site] = (),
    ) -> Outcome:
        """Predict the frame after the bases under edits."""
        y, seen = continued(self.cache.network, activations.base, edits, read)
        frame = model.next_frame(y, activations.last, activations.scale, batch.metadata)
        return Outcome(frame, activations.scale, seen)


class PlainPairs(Protocol):
    """A batch of (base, source) inputs of any staged model, row by row."""

    @property
    def base_inputs(self) -> tuple[Any, ...]:
        """Arguments of `StagedModel.encode`."""
        ...

    @property
    def source_inputs(self) -> Sequence[tuple[Any, ...]]:
        """The same per variable."""
        ...


@dataclass(frozen=True, eq=False)
class PlainActivations:
    """One site of a plain batch (`SiteActivations`)."""

    base: Snapshot
    sources: Sequence[Tensor]
    mismatched: Sequence[Tensor] = ()


class PlainSuffix:
    """Suffix passes of any staged model over plain batches of inputs (`Suffix`), without a cache.

    Args:
        sites: of the edits.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)

    def prepare(
        self, model: StagedModel, batch: PlainPairs, *, mismatched: bool = False
    ) -> tuple[dict[Site, Snapshot], list[dict[Site, Snapshot]]]:
        """Run bases and sources up to all sites.

        Raises:
            PhysteerError: Mismatched sources are asked for.
        """
        if mismatched:
            raise PhysteerError("a plain batch has no sources of other pairs, which shuffled variants are trained on")
        sources = [take_snapshots(model, self.sites, *inputs) for inputs in batch.source_inputs]
        return take_snapshots(model, self.sites, *batch.base_inputs), sources

    def at(self, model: StagedModel, site: Site, prepared: Any) -> PlainActivations:
        """Return the activations of one of the sites."""
        base, sources = prepared
        return PlainActivations(base[site], [snapshots[site].activation for snapshots in sources])

    def outcome(
        self,
        model: StagedModel,
        batch: PlainPairs,
        activations: PlainActivations,
        edits: Sequence[Edit],
        read: Sequence[Site] = (),
    ) -> Outcome:
        """Return the model's output for the bases under edits, that of the last frame (or token) alone."""
        y, seen = continued(model, activations.base, edits, read)
        return Outcome(y, None, seen)


def continued(
    model: StagedModel, base: Snapshot, edits: Sequence[Edit], read: Sequence[Site]
) -> tuple[Tensor, dict[Site, Tensor]]:
    """Continue a pass under edits; return the output for the last frame, and the activations of some sites.

    Raises:
        PhysteerError: A site is not computed after the snapshot.
    """
    seen: dict[Site, Tensor] = {}
    with observed(model, read, seen.__setitem__):  # type: ignore[arg-type]
        y = replayed(model, base, edits, last_frame_only=True)
    for site in read:
        if site not in seen:
            raise PhysteerError(f"the loss reads {site}, which is not computed after the edited site {base.site}")
    return y, seen
