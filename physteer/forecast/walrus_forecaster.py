"""Walrus as a forecaster."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from physteer.data.batch import Batch, Boundaries, SplitMetadata
from physteer.forecast.forecaster import NetworkInputs
from physteer.forecast.meta_shapes import selected_shapes
from physteer.forecast.rollout import SampleScale, advanced, jitter_generator, sample_scale
from physteer.interventions import Site
from physteer.metrics import TokenAxis, TokenGrid
from physteer.walrus import Shifts, Walrus, model_id, output_shapes, save
from physteer.walrus.grid import plan
from physteer.walrus.vocabulary import FLAGS


class WalrusInputs(NamedTuple):
    """The arguments of `Walrus.forward` and `Walrus.encode`."""

    fields: Tensor
    """[N, T, C, H, W, D], normalised."""
    labels: tuple[int, ...]
    boundaries: Boundaries
    shifts: Shifts | None

    def rows(self, index: Sequence[int]) -> WalrusInputs:
        """Return some of the windows."""
        shifts = None
        if self.shifts is not None:
            shifts = Shifts(self.shifts.pixels[list(index)], self.shifts.tokens[list(index)])
        return self._replace(fields=self.fields[list(index)], shifts=shifts)


class WalrusForecaster:
    """A Walrus with its normalisation and its jitter; `Forecaster` documents the members.

    Args:
        network: the weights.
        jitter_seed: None for no jitter. A number draws the random shifts of the published protocol from (seed,
            trajectory, step), so that compared runs share their draws.
    """

    def __init__(self, network: Walrus, jitter_seed: int | None = None) -> None:
        self.network = network
        self.jitter_seed = jitter_seed

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return self.network.dtype

    @property
    def causal_in_time(self) -> bool:
        """Whether attention in time sees earlier frames only."""
        return self.network.config.causal_in_time

    @property
    def identity(self) -> str:
        """A hash of the weights and the architecture (`physteer.walrus.model_id`)."""
        return model_id(self.network)

    @property
    def source_version(self) -> str:
        """A hash of the source code of the network and of this file."""
        return _source_version(type(self.network).__module__.rpartition(".")[0])

    @property
    def fields(self) -> tuple[str, ...]:
        """The vocabulary, without the flags of boundaries."""
        return tuple(name for name in self.network.config.fields if name not in FLAGS)

    def inputs(self, window: Tensor, batch: Batch, step: int = 0) -> tuple[WalrusInputs, SampleScale]:
        """Normalise a window by its own scales and draw its jitter, one draw per window and rollout step."""
        scale = sample_scale(window, self.network.config.eps)
        labels = self.network.config.labels(batch.channels.names)
        shifts = None
        if self.jitter_seed is not None:
            repeats = len(window) // len(batch)
            generators = [jitter_generator(self.jitter_seed, str(w), step) for w in batch.windows * repeats]
            shifts = self.network.draw_shifts(batch.grid.shape, batch.grid.boundaries, generators)
        return WalrusInputs(window / scale.fields, labels, batch.grid.boundaries, shifts), scale

    def run(self, inputs: NetworkInputs, *, last_frame_only: bool = False) -> Tensor:
        """Return the predicted differences in units of r_Δ, [N, T or 1, C, H, W, D]."""
        y: Tensor = self.network(*inputs, last_frame_only=last_frame_only)
        return y

    def next_frame(self, y: Tensor, last: Tensor, scale: SampleScale, batch: Batch | SplitMetadata) -> Tensor:
        """Return u + y r_Δ (`rollout.advanced`)."""
        return advanced(last, y, scale, batch.channels)

    def predict_next(self, window: Tensor, batch: Batch, step: int = 0, *, all_frames: bool = False) -> Tensor:
        """Return the frame after a window, [N, 1, C, H, W, D], in the data set's units."""
        inputs, scale = self.inputs(window, batch, step)
        y = self.run(inputs, last_frame_only=self.causal_in_time and not all_frames)
        return self.next_frame(y[:, -1:], window[:, -1:], scale, batch)

    def computes_last_frame_only(self, site: Site) -> bool:
        """Return whether a site is in the last block or after it, where a prediction needs the last frame alone."""
        stage, _, rest = site.module.partition(".")
        last = str(len(self.network.blocks) - 1)
        return self.causal_in_time and (rest.split(".")[0] == last if stage == "blocks" else stage == "decoder")

    def layout(self, site: Site) -> str | None:
        """Return what the network declares (`Walrus.site_layout`)."""
        return self.network.site_layout(site.module)

    def output_shapes(self, modules: Sequence[str], metadata: SplitMetadata, n_frames: int) -> dict[str, torch.Size]:
        """Return the shape of modules' outputs for one window; nothing is computed."""
        names, grid, jitter = metadata.channels.names, metadata.grid, self.jitter_seed is not None
        unique = dict.fromkeys(modules)
        return output_shapes(self.network.config, unique, n_frames, names, grid.shape, grid.boundaries, jitter)

    def site_shapes(self, sites: Sequence[Site], metadata: SplitMetadata, n_frames: int) -> dict[Site, torch.Size]:
        """Return the shape of activations for one window; nothing is computed."""
        return selected_shapes(self, sites, metadata, n_frames)

    def token_grid(self, site: Site, metadata: SplitMetadata, n_frames: int) -> TokenGrid:
        """Return the cells of every token, without jitter; all sites have the same."""
        axes = plan(self.network.config, metadata.grid.shape, metadata.grid.boundaries, jitter=False).axes
        h, w, d = (TokenAxis(axis.tokens, axis.cells, axis.first_cell) for axis in axes)
        return h, w, d

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
        """Write the weights (`physteer.walrus.save`)."""
        save(self.network, Path(path), metadata)


@cache
def _source_version(package: str) -> str:
    """Hash the source files of a network's package, and this file."""
    folder = Path(sys.modules[package].__file__ or "").parent
    digest = hashlib.sha256()
    for path in [*sorted(folder.glob("*.py")), Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
