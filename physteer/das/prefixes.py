"""What a frozen network computes before a site, once per window."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from physteer.data.batch import Batch
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
from physteer.walrus import model_id


class Prefixes:
    """Snapshots of windows at some sites, from a cache.

    Args:
        module: its network is frozen from now on.
        sites: where.
        last_frame: only the last frame will be edited, so that only it is run through the suffix.
        max_bytes: of each site's cache.
        folder: where the caches are kept; none: in memory.
    """

    def __init__(
        self, module: WalrusModule, sites: Sequence[Site], *, last_frame: bool, max_bytes: int, folder: Path | None
    ) -> None:
        self._take = take_last_frame_snapshot if last_frame else take_snapshot
        kind = LastFrameSnapshot if last_frame else Snapshot
        self._model = model_id(module.network)
        self._caches = {site: SnapshotCache(site, self._model, max_bytes, folder, kind) for site in sites}

    def __call__(self, module: WalrusModule, batch: Batch, site: Site, draws: Batch | None = None) -> Snapshot:
        """Return the snapshot of a batch's contexts.

        Args:
            module: the one the caches were made for.
            batch: windows on the network's device.
            site: one of the sites.
            draws: whose jitter draws to use, row by row; the batch's own where None. A source takes its base's, so that
                tokens correspond.
        """
        drawn = batch if draws is None else dataclasses.replace(batch, windows=draws.windows)
        inputs, _ = module.inputs(batch.context, drawn)
        shifts = [] if inputs.shifts is None else [inputs.shifts.pixels, inputs.shifts.tokens]
        shared = f"{inputs.labels} {inputs.boundaries} {module.network.dtype}"
        network = module.network

        def take(rows: list[int]) -> Snapshot:
            some = inputs.rows(rows)
            return self._take(network, site, *some)

        keys = input_keys([inputs.fields, *shifts], shared)
        return self._caches[site].get(keys, take, inputs.fields.device)
