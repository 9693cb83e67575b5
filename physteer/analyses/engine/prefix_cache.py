"""The prefix cache: the part of a frozen forecaster before some sites is computed once per window of a pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physteer.analyses.engine.snapshot_cache import Prefix, SnapshotCache
from physteer.data.batch import Window
from physteer.data.pair import PairBatch
from physteer.forecast import Forecaster, SampleScale, keeps_past, staged
from physteer.forecast.steered_rollout import with_forecaster_layout
from physteer.interventions import (
    LastFrameSnapshot,
    Site,
    Snapshot,
    StagedModel,
    join_snapshots,
    take_last_frame_snapshots,
    take_snapshots,
)


@dataclass(frozen=True, eq=False)
class PreparedPairs:
    """A batch of pairs, run up to all sites. Holding this keeps uncached snapshots alive."""

    base: list[Prefix]
    """The prefix of each base, as in the cache."""
    sources: list[list[Prefix]]
    """The prefix of each source, per variable."""
    mismatched: list[list[Prefix]]
    """The prefix of each mismatched source, per variable; empty unless asked for."""


@dataclass(frozen=True, eq=False)
class PairActivations:
    """One site of a batch of pairs."""

    base: Snapshot
    """The snapshot from which the pass of the bases continues."""
    sources: list[Tensor]
    """The site's activation of each variable's sources, [B, T, …, d]; T = 1 where only last frames are edited."""
    mismatched: list[Tensor]
    """The same for mismatched sources, those of other pairs."""
    last: Tensor
    """The last context frame of the bases, [B, 1, C, H, W, D]."""
    scale: SampleScale
    """The scales of the bases."""


class PrefixCache:
    """Snapshots of windows at some sites. A window is run once for all sites, and then kept in a `SnapshotCache`.

    A window that is in the cache is not read from disk.

    Args:
        forecaster: its network must not change any more.
        sites: of the snapshots.
        last_frame: whether only the last frame will be edited; then only that frame is run after the sites.
        max_bytes: largest size of the cache, in memory or in the folder.
        folder: of the cache; None to keep it in memory.
        needed_by: the name of the analysis, for the error about a network that does not run in stages.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        sites: Sequence[Site],
        *,
        last_frame: bool,
        max_bytes: int,
        folder: Path | None,
        needed_by: str = "DAS",
    ) -> None:
        self.sites = tuple(with_forecaster_layout(forecaster, site) for site in sites)
        self.network: StagedModel = (keeps_past if last_frame else staged)(forecaster, needed_by)
        """The forecaster's, which runs in stages."""
        self._take: Callable[..., Mapping[Site, Snapshot]]
        self._take, kind = (take_last_frame_snapshots, LastFrameSnapshot) if last_frame else (take_snapshots, Snapshot)
        model_key = f"{forecaster.identity} {forecaster.source_version}"
        self._cache = SnapshotCache(self.sites, model_key, max_bytes, folder, kind)

    def prepare(self, forecaster: Forecaster, pairs: PairBatch, *, mismatched: bool = False) -> PreparedPairs:
        """Run a batch up to the sites, except for windows in the cache.

        Sources get the jitter of their base, so that tokens correspond.

        Args:
            forecaster: the forecaster of the cache.
            pairs: B pairs.
            mismatched: whether to run the mismatched sources too.
        """

        def run(windows: Sequence[Window]) -> list[Prefix]:
            return self.run(forecaster, pairs, windows)

        others = pairs.mismatched_windows if mismatched else []
        return PreparedPairs(run(pairs.base_windows), [*map(run, pairs.source_windows)], [*map(run, others)])

    def at(self, forecaster: Forecaster, site: Site, prepared: PreparedPairs) -> PairActivations:
        """Return the activations of one of the sites, on the forecaster's device."""
        device = forecaster.device

        def activation(rows: Sequence[Prefix]) -> Tensor:
            return torch.cat([prefix.snapshots[site].activation.to(device) for prefix in rows])

        last, scale = last_and_scale(prepared.base, device)
        return PairActivations(
            base=join_snapshots([prefix.snapshots[site].to(device) for prefix in prepared.base]),
            sources=[activation(rows) for rows in prepared.sources],
            mismatched=[activation(rows) for rows in prepared.mismatched],
            last=last,
            scale=scale,
        )

    def run(self, forecaster: Forecaster, pairs: PairBatch, windows: Sequence[Window]) -> list[Prefix]:
        """Run windows up to the sites, except for those in the cache.

        Args:
            forecaster: the forecaster of the cache.
            pairs: a batch of the windows' split; window i gets the jitter of base i.
            windows: one per pair.
        """
        draws = pairs.base_windows

        def make(rows: list[int]) -> Prefix:
            batch = pairs.read([windows[row] for row in rows])
            shifted = dataclasses.replace(batch, windows=tuple(draws[row] for row in rows))
            inputs, scale = forecaster.inputs(batch.context, shifted)
            with torch.no_grad():
                snapshots = self._take(self.network, self.sites, *inputs)
            last = batch.context[:, -1:]
            return Prefix(snapshots, {"last": last, "fields": scale.fields, "differences": scale.differences})

        keys = [_key(forecaster, pairs, *both) for both in zip(windows, draws, strict=True)]
        return self._cache.get(keys, make)


def only_last_frame(frames: Sequence[int] | None, n_frames: int, forecaster: Forecaster) -> bool:
    """Return whether edits of some frames are of the last one alone, so that it can be run alone.

    Args:
        frames: of the context that are edited; None for all.
        n_frames: of the context.
        forecaster: must be causal in time.
    """
    return frames is not None and [*frames] in ([-1], [n_frames - 1]) and forecaster.causal_in_time


def last_and_scale(prefixes: Sequence[Prefix], device: torch.device) -> tuple[Tensor, SampleScale]:
    """Return the last context frame of windows, [B, 1, C, H, W, D], and their scales."""

    def joined(name: str) -> Tensor:
        return torch.cat([prefix.beside[name].to(device) for prefix in prefixes])

    return joined("last"), SampleScale(joined("fields"), joined("differences"))


def _key(forecaster: Forecaster, pairs: PairBatch, window: Window, draws: Window) -> str:
    """Return a text of everything that determines a network's inputs: data, fields, boundaries, precision, jitter."""
    dataset = pairs.reader.dataset
    jitter: Any = None if forecaster.jitter_seed is None else (forecaster.jitter_seed, str(draws))
    channels, boundaries = dataset.metadata.channels.sources, dataset.metadata.grid.boundaries
    address = f"{dataset.version(window.file)} {window} {dataset.spec.n_input}"
    return f"{address} {channels} {boundaries} {forecaster.dtype} {jitter}"
