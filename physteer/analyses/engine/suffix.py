"""Suffix passes: what a frozen model makes of edited activations, from their site to its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from physteer.analyses.engine.prefix_cache import PairActivations, PrefixCache, PreparedPairs
from physteer.data.pair import PairBatch
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster, SampleScale, staged
from physteer.interventions import Edit, Site, Snapshot, StagedModel, observed, replayed, take_snapshots

M = TypeVar("M", contravariant=True)
B = TypeVar("B", contravariant=True)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The output of an edited pass, with gradients to the edits."""

    prediction: Tensor
    """Of a forecaster the edited next frame ŷ', [B, 1, C, H, W, D] in the data set's units; else the model's output."""
    scale: SampleScale | None
    """Of the base windows; None for a model without one."""
    activations: Mapping[Site, Tensor]
    """Of the sites that were asked for, after the edits: [B, T, …, d]; T = 1 where only the last frame was run."""


class SiteActivations(Protocol):
    """The activations of one site in a batch of (base, sources)."""

    @property
    def base(self) -> Snapshot:
        """From where the pass of the bases continues."""
        ...

    @property
    def sources(self) -> Sequence[Tensor]:
        """Per variable, [B, T, …, d]."""
        ...

    @property
    def mismatched(self) -> Sequence[Tensor]:
        """The same of other pairs' sources; empty where they were not asked for."""
        ...


class Suffix(Protocol[M, B]):
    """How a model M is run on batches B of (base, sources), up to a site once and from there under any edits."""

    def prepare(self, model: M, batch: B, *, mismatched: bool = False) -> Any:
        """Run bases and sources up to all sites; on request the sources of other pairs too."""
        ...

    def at(self, model: M, site: Site, prepared: Any) -> Any:
        """Return the activations of one of the sites (`SiteActivations`)."""
        ...

    def outcome(
        self, model: M, batch: B, activations: Any, edits: Sequence[Edit], read: Sequence[Site] = ()
    ) -> Outcome:
        """Continue the pass of the bases under edits.

        Args:
            model: the one that was prepared.
            batch: likewise.
            activations: of the edited site.
            edits: there or later.
            read: sites whose activations are wanted.

        Raises:
            PhysteerError: one of `read` is not computed after the edited site.
        """
        ...


class ForecastSuffix:
    """Suffix passes of a forecaster over pairs of windows (`Suffix`).

    Args:
        cache: of the snapshots.
    """

    def __init__(self, cache: PrefixCache) -> None:
        self.cache = cache

    def prepare(self, model: Forecaster, batch: PairBatch, *, mismatched: bool = False) -> PreparedPairs:
        """Run bases and sources up to all sites, where the cache lacks them."""
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
        y, seen = continued(staged(model, "DAS"), activations.base, edits, read)
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
    """Suffix passes of any staged model over plain batches of inputs (`Suffix`); nothing is kept between batches.

    Args:
        sites: where.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)

    def prepare(
        self, model: StagedModel, batch: PlainPairs, *, mismatched: bool = False
    ) -> tuple[dict[Site, Snapshot], list[dict[Site, Snapshot]]]:
        """Run bases and sources up to all sites.

        Raises:
            PhysteerError: sources of other pairs are asked for.
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
        PhysteerError: one of the sites is not computed after the snapshot.
    """
    seen: dict[Site, Tensor] = {}
    with observed(model, read, seen.__setitem__):  # type: ignore[arg-type]
        y = replayed(model, base, edits, last_frame_only=True)
    for site in read:
        if site not in seen:
            raise PhysteerError(f"the loss reads {site}, which is not computed after the edited site {base.site}")
    return y, seen
