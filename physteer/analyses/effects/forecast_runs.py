"""The passes of a forecaster over pairs of windows that effects are measured from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from physteer.analyses.effects.measures import FieldTruth
from physteer.analyses.effects.patches import Reference
from physteer.analyses.effects.runs import NodeRuns, Outputs, StagedReplay, finished, with_streams
from physteer.analyses.engine import Prefix, PrefixCache, last_and_scale, only_last_frame
from physteer.data.batch import Batch, SplitMetadata, Window, collate
from physteer.data.dataset import WindowDataset
from physteer.data.pair import PairBatch
from physteer.data.pairs import PairDataset
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster, SampleScale
from physteer.interventions import Site, Snapshot, join_passes, parse_layout, site_names
from physteer.interventions.seeds import derangement, generator_of
from physteer.metrics import okubo_weiss


class ForecastRuns:
    """Runs batches of pairs up to nodes, each window once.

    Args:
        forecaster: frozen.
        sites: of the nodes.
        last_frame: whether only the last frame is patched, and then run alone.
        partners: for each base window the one whose activations `resample` takes (`partners_of`).
        regions: parts of the flow whose share of the change is measured, of `REGIONS`.
        max_bytes: of the cache of windows, in memory.
        needed_by: the name of the analysis, for errors.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        sites: Sequence[Site],
        *,
        last_frame: bool,
        partners: Mapping[Window, Window],
        regions: Sequence[str],
        max_bytes: int,
        needed_by: str,
    ) -> None:
        self.sites, self.partners, self.last_frame = tuple(sites), partners, last_frame
        self.regions = tuple(regions)
        network = forecaster.network
        self.cache = PrefixCache(
            forecaster,
            with_streams(network, self.sites),  # type: ignore[arg-type]  # PrefixCache checks that it runs in stages
            last_frame=last_frame,
            max_bytes=max_bytes,
            folder=None,
            needed_by=needed_by,
        )

    @torch.no_grad()
    def of(self, forecaster: Forecaster, pairs: PairBatch, references: Sequence[Reference]) -> NodeRuns:
        """Run a batch.

        Sources and partners get the jitter of their base, so that tokens correspond.

        Args:
            forecaster: the one of the constructor.
            pairs: B pairs of one variable.
            references: which other passes are needed.
        """
        model, device = self.cache.network, forecaster.device
        predicted = pairs.metadata.channels.predicted
        windows: dict[Reference, Sequence[Window]] = {}
        if "source" in references:
            windows["source"] = pairs.source_windows[0]
        if "resample" in references:
            windows["resample"] = [self.partners[window] for window in pairs.base_windows]
        base_rows = self.cache.run(forecaster, pairs, pairs.base_windows)
        base_last, base_scale = last_and_scale(base_rows, device)

        def finish(y: Tensor, last: Tensor = base_last, scale: SampleScale = base_scale) -> Tensor:
            """Return the predicted change in units of the window's own r_Δ, [B, C, H, W, D]."""
            frame = forecaster.next_frame(y, last, scale, pairs.metadata)
            return ((frame - last) / scale.differences)[:, 0, predicted]

        def taken(rows: Sequence[Prefix]) -> dict[Site, Snapshot]:
            moved = [{site: row.snapshots[site].to(device) for site in self.cache.sites} for row in rows]
            return join_passes(moved)

        snapshots = taken(base_rows)
        others: dict[Reference, dict[Site, Tensor]] = {}
        outputs: dict[Reference, Tensor] = {}
        replays: dict[Reference, StagedReplay] = {}
        for name, wanted in windows.items():
            rows = self.cache.run(forecaster, pairs, wanted)
            other = taken(rows)
            last, scale = last_and_scale(rows, device)
            own = partial(finish, last=last, scale=scale)
            others[name] = {site: other[site].activation for site in self.sites}
            outputs[name] = finished(model, other, own)
            replays[name] = StagedReplay(model, other, own)
        return NodeRuns(
            base={site: snapshots[site].activation for site in self.sites},
            others=others,
            outputs=Outputs(finished(model, snapshots, finish), outputs, field_truth(pairs, base_scale, self.regions)),
            replay=StagedReplay(model, snapshots, finish),
            source_replay=replays.get("source"),
        )


PAIRS, NULLS = 0, 1
"""The data loaders of validation and test: counterfactual pairs, and null pairs, whose answer is the base's future."""
REGIONS = ("vortices", "strain", "background")
"""Where rotation prevails (Okubo–Weiss W < −0.2 σ_W), where strain does (W > 0.2 σ_W), and the rest; two dimensions."""
_VELOCITY = ("velocity_x", "velocity_y", "velocity_z")


def regions_of(metadata: SplitMetadata) -> tuple[str, ...]:
    """Return the regions that can be told apart: `REGIONS` of a flow in the x-y plane with a velocity, else none.

    A warning says where the grid alone is in the way.
    """
    shape = metadata.grid.shape
    if not set(_VELOCITY) <= set(metadata.channels.names) or shape[2] > 1 or min(shape[:2]) < 2:
        return ()
    if metadata.grid.obstacle:
        warnings.warn(
            f"{metadata.path}: effects are not told apart by regions of the flow: {metadata.grid.obstacle}",
            stacklevel=2,
        )
        return ()
    return REGIONS


def field_truth(pairs: PairBatch, scale: SampleScale, regions: Sequence[str]) -> FieldTruth:
    """Return the simulated change of a batch, and its regions in the last context frame of the bases.

    Args:
        pairs: whose truth and bases are read.
        scale: of the bases.
        regions: of `REGIONS`.

    Raises:
        PhysteerError: The answers are readouts, not frames.
    """
    if pairs.truth.ndim != 6:
        raise PhysteerError("effects are measured on frames: set data.truth to SolverTruth or MatchedTruth")
    base, predicted = pairs.base, pairs.metadata.channels.predicted
    steps = min(pairs.truth.shape[1], base.targets.shape[1])
    change = ((pairs.truth[:, :steps] - base.targets[:, :steps]) / scale.differences)[:, :, predicted]
    masks: dict[str, Tensor] = {}
    if regions:
        channels = pairs.metadata.channels
        velocity = base.context[:, -1, [channels.index(name) for name in _VELOCITY]]
        w = okubo_weiss(velocity, pairs.metadata.grid.geometry)[:, None]  # [B, 1, H, W, D]
        masks = {"vortices": w < -0.2, "strain": w > 0.2, "background": w.abs() <= 0.2}
    return FieldTruth(change, {name: masks[name] for name in regions})


def partners_of(windows: Sequence[Window], seed: int) -> dict[Window, Window]:
    """Draw a derangement of windows: each gets another one, the same in every process.

    Args:
        windows: in any order; repeated ones count once.
        seed: of the draw.

    Raises:
        PhysteerError: There are fewer than two windows.
    """
    unique = sorted(set(windows), key=str)
    if len(unique) < 2:
        raise PhysteerError(
            f"resample takes the activations of another window, and there is {len(unique)}: raise "
            "data.evaluation_pairs, or leave the variants of resample out"
        )
    order = derangement(len(unique), generator_of("partners", seed))
    return {window: unique[i] for window, i in zip(unique, order.tolist(), strict=True)}


def pair_datasets(loaders: Any, needed_by: str) -> list[PairDataset]:
    """Return the data sets of validation's or test's loaders: pairs, and perhaps null pairs.

    Raises:
        PhysteerError: They are no pairs, or of several variables.
    """
    datasets = [loader.dataset for loader in (loaders if isinstance(loaders, list) else [loaders])]
    if not all(isinstance(dataset, PairDataset) for dataset in datasets):
        raise PhysteerError(f"{needed_by} needs pairs: set data.class_path to physteer.CounterfactualDataModule")
    if len(variables := datasets[PAIRS].rules.variables) > 1:
        raise PhysteerError(f"{needed_by} is for one variable; data.variables has {', '.join(variables)}")
    if not datasets[PAIRS].rules.same_initial_condition:
        raise PhysteerError(
            f"{needed_by} exchanges activations token by token: data.same_initial_condition must be true"
        )
    return datasets


def is_last_frame(frames: Sequence[int] | None, n_frames: int, forecaster: Forecaster) -> bool:
    """Return whether only the last frame is patched, so that it alone is run.

    Raises:
        PhysteerError: The context has no such frame.
    """
    if frames is None:
        return False
    if not frames or not all(-n_frames <= frame < n_frames for frame in frames):
        raise PhysteerError(
            f"frames must be among the {n_frames} of the context, or null for all; found {list(frames)}"
        )
    return only_last_frame(frames, n_frames, forecaster)


def heads_of(forecaster: Forecaster, windows: WindowDataset) -> dict[str, int]:
    """Return the sites of a forecaster in the order of computation, with their numbers of heads; 0 for none."""
    names = site_names(forecaster.network)
    shapes = forecaster.output_shapes(names, windows.metadata, windows.spec.n_input)
    layouts = {name: forecaster.layout(Site(name)) for name in names if name in shapes}
    return {
        name: 0 if layout is None else parse_layout(layout).n_heads(shapes[name]) for name, layout in layouts.items()
    }


def own_batches(dataset: WindowDataset, windows: Sequence[Window], size: int = 8) -> Iterator[Batch]:
    """Yield this process's share of windows in batches."""
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if spread else (0, 1)
    own = windows[rank::world]
    for first in range(0, len(own), size):
        samples = [dataset.read(window) for window in own[first : first + size]]
        yield collate(samples, n_input=dataset.spec.n_input, metadata=dataset.metadata)
