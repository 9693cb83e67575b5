"""The data of a forecaster's extraction: windows, run once up to all sites, and the passes from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physteer.analyses.basis.ablation import Part
from physteer.analyses.engine import ClassReadout, Prefix, PrefixCache, continued, last_and_scale
from physteer.data.batch import SplitMetadata, Window
from physteer.data.pair import Pair, PairBatch, PairReader
from physteer.forecast import Forecaster, SampleScale
from physteer.interventions import Edit, Interchange, Locus, Site, Snapshot, join_snapshots


@dataclass(frozen=True, eq=False)
class PreparedRows:
    """Some windows of one process, run up to all sites."""

    pairs: PairBatch
    """The windows, as the bases of a batch."""
    rows: tuple[int, ...]
    """Their positions in the whole data."""
    own: list[Prefix]
    partners: list[Prefix]
    """Of the windows that resampling takes values from; empty in other modes."""


@dataclass(frozen=True, eq=False)
class ForecastTail:
    """The part of a forecaster behind a site, for some windows: from activations to what a divergence compares."""

    forecaster: Forecaster
    cache: PrefixCache
    snapshot: Snapshot
    last: Tensor
    """The last context frame, [B, 1, C, H, W, D]."""
    scale: SampleScale
    metadata: SplitMetadata
    locus: Locus
    """The frames that are ablated."""
    readout: ClassReadout | None

    def __call__(self, h: Tensor) -> Tensor:
        """Return the output for an activation in place of the site's, at the locus.

        Args:
            h: [B, t, …, d].

        Returns:
            The predicted change of every predicted field in units of r_Δ, [B, fields, H, W, D]; or the scores of the
            readout's classes, [B, K].
        """
        edit = Edit(self.snapshot.site, Interchange(h), None, self.locus)
        if self.readout is not None:
            _, seen = continued(self.cache.network, self.snapshot, [edit], [self.readout.site])
            return self.readout.scores(seen)
        y, _ = continued(self.cache.network, self.snapshot, [edit], [])
        frame = self.forecaster.next_frame(y, self.last, self.scale, self.metadata)
        change = (frame - self.last) / self.scale.differences
        return change[:, 0, self.metadata.channels.predicted]


class ForecastRows:
    """Makes the parts of any site from windows; all sites share one pass per window.

    Args:
        forecaster: frozen.
        cache: of the passes up to the sites.
        locus: the frames that are ablated; ``[-1]`` alone for a cache of last frames.
        divergence: of outputs; its `readout`, if it has one, says what the outputs are.
    """

    def __init__(self, forecaster: Forecaster, cache: PrefixCache, locus: Locus, divergence: nn.Module) -> None:
        self.forecaster, self.cache, self.locus = forecaster, cache, locus
        self.readout: ClassReadout | None = getattr(divergence, "readout", None)

    def prepare(
        self,
        reader: PairReader,
        windows: Sequence[Window],
        rows: Sequence[int],
        partners: Callable[[int], Window] | None = None,
    ) -> PreparedRows:
        """Run windows up to all sites, except for those in the cache.

        Args:
            reader: of the windows.
            windows: some of this process's.
            rows: their positions in the whole data.
            partners: returns the window that a row's values come from, in resampling modes.
        """
        own = _bases(reader, windows, self.forecaster.device)
        others: list[Prefix] = []
        if partners is not None:
            other = _bases(reader, [partners(row) for row in rows], self.forecaster.device)
            others = self.cache.run(self.forecaster, other, other.base_windows)
        return PreparedRows(own, tuple(rows), self.cache.run(self.forecaster, own, own.base_windows), others)

    def part(self, site: Site, prepared: PreparedRows) -> Part:
        """Return the windows' part at one of the sites, on the forecaster's device."""
        device = self.forecaster.device
        snapshot = join_snapshots([prefix.snapshots[site].to(device) for prefix in prepared.own])
        tail = ForecastTail(
            self.forecaster,
            self.cache,
            snapshot,
            *last_and_scale(prepared.own, device),
            prepared.pairs.metadata,
            self.locus,
            self.readout,
        )
        partner = None
        if prepared.partners:
            others = [prefix.snapshots[site].activation.to(device) for prefix in prepared.partners]
            partner = self.locus.take(torch.cat(others))
        labels = None if self.readout is None else self.readout.own(prepared.pairs)
        return Part(self.locus.take(snapshot.activation), tail, prepared.rows, labels, partner)


def _bases(reader: PairReader, windows: Sequence[Window], device: torch.device) -> PairBatch:
    """Return windows as the bases of a batch without sources."""
    return PairBatch(tuple(Pair(window, (), (), None, 0) for window in windows), reader, device)
