"""What a frozen network computes before some sites, once per window."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from physteer.data.batch import Batch
from physteer.data.pairs import PairBatch
from physteer.interventions import (
    LastFrameSnapshot,
    Site,
    Snapshot,
    SnapshotCache,
    input_keys,
    join_snapshots,
    take_last_frame_snapshots,
    take_snapshots,
)
from physteer.module import WalrusModule
from physteer.rollout import SampleScale
from physteer.step import NetworkInputs
from physteer.walrus import model_id


@dataclass(frozen=True, eq=False)
class KeyedBases:
    """Windows as the network gets them, run up to the sites."""

    inputs: NetworkInputs
    scale: SampleScale
    """They are divided by."""
    snapshots: list[Mapping[Site, Snapshot]]
    """Of each window, as the cache has them."""


@dataclass(frozen=True, eq=False)
class KeyedSources:
    """The same of windows that only give their activations."""

    inputs: NetworkInputs
    activations: list[dict[Site, Tensor]]
    """Of each window, [1, T, …, d]."""

    def at(self, site: Site, device: torch.device) -> Tensor:
        """Return the activation of all windows, [B, T, …, d]."""
        return torch.cat([one[site].to(device) for one in self.activations])


@dataclass(frozen=True, eq=False)
class KeyedPairs:
    """A batch of pairs, run up to all sites. While it is there, so is what the cache had no room for."""

    base: KeyedBases
    sources: tuple[KeyedSources, ...]
    strangers: tuple[KeyedSources, ...]


@dataclass(frozen=True, eq=False)
class PairActivations:
    """One site of a batch of pairs."""

    base: Snapshot
    scale: SampleScale
    """Of the base windows."""
    sources: list[Tensor]
    """Per variable, [B, T, …, d]; T = 1 where only last frames are edited, as in the base."""
    strangers: list[Tensor]
    """The same of the sources of other pairs."""


class Prefixes:
    """Snapshots of windows at some sites, from a cache. A window is run once, and gives those of all sites.

    Args:
        module: its network is frozen from now on.
        sites: where.
        last_frame: only the last frame will be edited, so that only it is run through the suffix.
        max_bytes: of what is kept in memory, or of the folder.
        folder: where snapshots are kept; none: in memory.
    """

    def __init__(
        self, module: WalrusModule, sites: Sequence[Site], *, last_frame: bool, max_bytes: int, folder: Path | None
    ) -> None:
        self._sites = tuple(sites)
        self._take: Callable[..., Mapping[Site, Snapshot]]
        self._take, kind = (take_last_frame_snapshots, LastFrameSnapshot) if last_frame else (take_snapshots, Snapshot)
        self._cache = SnapshotCache(sites, model_id(module.network), max_bytes, folder, kind)

    def keyed(self, module: WalrusModule, pairs: PairBatch) -> KeyedPairs:
        """Run a batch up to the sites, where the cache lacks it; sources take their base's jitter: tokens correspond.

        Args:
            module: the one the cache was made for.
            pairs: without strangers where they are not needed.
        """

        def sources(batches: Sequence[Batch]) -> tuple[KeyedSources, ...]:
            return tuple(_activations(self._run(module, batch, pairs.base)) for batch in batches)

        return KeyedPairs(self._run(module, pairs.base, pairs.base), sources(pairs.sources), sources(pairs.strangers))

    def at(self, module: WalrusModule, site: Site, pairs: KeyedPairs) -> PairActivations:
        """Return the activations of one of the sites, on the module's device."""
        base = join_snapshots([one[site].to(module.device) for one in pairs.base.snapshots])
        sources, strangers = (
            [one.at(site, module.device) for one in windows] for windows in (pairs.sources, pairs.strangers)
        )
        return PairActivations(base, pairs.base.scale, sources, strangers)

    def _run(self, module: WalrusModule, batch: Batch, draws: Batch) -> KeyedBases:
        """Run windows up to the sites with the jitter of others."""
        inputs, scale = module.inputs(batch.context, dataclasses.replace(batch, windows=draws.windows))
        shifts = [] if inputs.shifts is None else [inputs.shifts.pixels, inputs.shifts.tokens]
        shared = f"{inputs.labels} {inputs.boundaries} {module.network.dtype}"

        def take(rows: list[int]) -> Mapping[Site, Snapshot]:
            return self._take(module.network, self._sites, *inputs.rows(rows))

        return KeyedBases(inputs, scale, self._cache.get(input_keys([inputs.fields, *shifts], shared), take))


def _activations(windows: KeyedBases) -> KeyedSources:
    """Keep of windows what an interchange needs of its sources."""
    taken = [{site: one.activation for site, one in snapshots.items()} for snapshots in windows.snapshots]
    return KeyedSources(windows.inputs, taken)
