"""What a frozen network computes before a site, once per window."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from physteer.data.batch import Batch
from physteer.data.pairs import PairBatch
from physteer.interventions import (
    LastFrameSnapshot,
    Site,
    Snapshot,
    SnapshotCache,
    input_keys,
    take_last_frame_snapshot,
    take_snapshot,
)
from physteer.module import WalrusModule
from physteer.step import NetworkInputs
from physteer.walrus import model_id


@dataclass(frozen=True, eq=False)
class KeyedInputs:
    """Windows as the network gets them."""

    inputs: NetworkInputs
    keys: list[str]
    """What tells the rows apart in a cache."""


@dataclass(frozen=True, eq=False)
class KeyedPairs:
    """A batch of pairs as the network gets it, the same for every site."""

    base: KeyedInputs
    sources: tuple[KeyedInputs, ...]
    strangers: tuple[KeyedInputs, ...]


@dataclass(frozen=True, eq=False)
class PairActivations:
    """One site of a batch of pairs."""

    base: Snapshot
    sources: list[Tensor]
    """Per variable, [B, T, …, d]; T = 1 where only last frames are edited, as in the base."""
    strangers: list[Tensor]
    """The same of the sources of other pairs."""


class Prefixes:
    """Snapshots of windows at some sites, from a cache.

    Args:
        module: its network is frozen from now on.
        sites: where.
        last_frame: only the last frame will be edited, so that only it is run through the suffix.
        max_bytes: of what is kept in memory, for each site; or of the folder, for all.
        folder: where snapshots are kept; none: in memory.
    """

    def __init__(
        self, module: WalrusModule, sites: Sequence[Site], *, last_frame: bool, max_bytes: int, folder: Path | None
    ) -> None:
        self._take = take_last_frame_snapshot if last_frame else take_snapshot
        kind = LastFrameSnapshot if last_frame else Snapshot
        model = model_id(module.network)
        self._caches = {site: SnapshotCache(site, model, max_bytes, folder, kind) for site in sites}

    def keyed(self, module: WalrusModule, pairs: PairBatch) -> KeyedPairs:
        """Make the network's inputs of a batch on its device; sources take their base's jitter, so tokens correspond.

        Args:
            module: the one the caches were made for.
            pairs: without strangers where they are not needed.
        """
        return KeyedPairs(
            _keyed(module, pairs.base, pairs.base),
            tuple(_keyed(module, source, pairs.base) for source in pairs.sources),
            tuple(_keyed(module, stranger, pairs.base) for stranger in pairs.strangers),
        )

    def at(self, module: WalrusModule, site: Site, pairs: KeyedPairs) -> PairActivations:
        """Return the activations of one of the sites."""
        cache = self._caches[site]

        def taking(windows: KeyedInputs) -> Callable[[list[int]], Snapshot]:
            return lambda rows: self._take(module.network, site, *windows.inputs.rows(rows))

        def activations(some: Sequence[KeyedInputs]) -> list[Tensor]:
            return [cache.get_activations(one.keys, taking(one), one.inputs.fields.device) for one in some]

        base = cache.get(pairs.base.keys, taking(pairs.base), pairs.base.inputs.fields.device)
        return PairActivations(base, activations(pairs.sources), activations(pairs.strangers))


def _keyed(module: WalrusModule, batch: Batch, draws: Batch) -> KeyedInputs:
    inputs, _ = module.inputs(batch.context, dataclasses.replace(batch, windows=draws.windows))
    shifts = [] if inputs.shifts is None else [inputs.shifts.pixels, inputs.shifts.tokens]
    shared = f"{inputs.labels} {inputs.boundaries} {module.network.dtype}"
    return KeyedInputs(inputs, input_keys([inputs.fields, *shifts], shared))
