"""Any network from the frames of a window to the next one, as a forecaster."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from physteer.data.batch import Batch, Channels, SplitMetadata
from physteer.errors import PhysteerError
from physteer.forecast.emulator_weights import save_weights
from physteer.forecast.forecaster import NetworkInputs
from physteer.forecast.meta_shapes import output_shapes, selected_shapes
from physteer.forecast.network_identity import network_identity, source_version
from physteer.forecast.rollout import SampleScale, advanced, sample_scale
from physteer.interventions import Site, with_layout
from physteer.metrics import TokenAxis, TokenGrid


@dataclass(frozen=True, eq=False)
class FrameInputs:
    """The argument of a network's forward, and what its output is completed with (`NetworkInputs`)."""

    fields: Tensor
    """[N, T, F, H, W, D], as the network takes them, in its own order."""
    last: Tensor
    """The last frame of these fields, [N, 1, F, H, W, D], in the data set's units."""
    scale: SampleScale
    """The scales of these fields, [N, 1, F, 1, 1, 1]."""
    order: tuple[int, ...]
    """The position of each of these fields among the data set's channels."""
    channels: int
    """C, the number of the data set's channels."""

    def rows(self, index: Sequence[int]) -> FrameInputs:
        """Return some of the windows."""
        rows = list(index)
        scale = SampleScale(self.scale.fields[rows], self.scale.differences[rows])
        return dataclasses.replace(self, fields=self.fields[rows], last=self.last[rows], scale=scale)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the argument."""
        yield self.fields


class FrameForecaster:
    """A network that maps the frames of a window to the change of the last one; `Forecaster` documents the members.

    The network takes fields [N, T, F, H, W, D], each divided by its RMS over the window, and returns their change to
    the next frame [N, 1, F, H, W, D], in units of the RMS change between the window's frames (the normalisation of
    Walrus); of windows of one frame, in units of the field's own RMS. For a network that was trained on other numbers,
    override `normalised` and `change` in a subclass.

    Sites are the network's modules. Their layouts are those that it declares (`DeclaresLayouts`), or unknown. A network
    that runs in stages (`physteer.interventions.StagedModel`) can be used in all analyses.

    Args:
        network: of such inputs and outputs. If it has an attribute ``frames``, windows must have that many; if it has
            ``n_fields``, there must be as many fields.
        fields: names of the network's fields, in its order. Data may have them in another order, and other channels
            beside them that do not evolve.
    """

    jitter_seed: int | None = None
    """Inputs are not shifted at random."""
    causal_in_time = False
    """The frames of a window are not told apart."""
    smallest_scale = 1e-7
    """The least RMS that fields and changes are divided by, in the data set's units."""

    def __init__(self, network: nn.Module, fields: Sequence[str]) -> None:
        self.network, self.fields = network, tuple(fields)
        self._shapes: dict[tuple[Any, ...], dict[str, torch.Size]] = {}
        if not self.fields or len(set(self.fields)) < len(self.fields):
            raise PhysteerError(f"fields must name the network's fields, each once; found {list(fields)}")
        n_fields = getattr(network, "n_fields", len(self.fields))
        if n_fields != len(self.fields):
            raise PhysteerError(
                f"{type(network).__name__} takes {n_fields} fields, and fields names {len(self.fields)}: "
                f"{', '.join(self.fields)}"
            )

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return next(p.dtype for p in self.network.parameters() if p.is_floating_point())

    @property
    def identity(self) -> str:
        """A hash of the network's weights, structure and class, and of the fields."""
        return network_identity(self.network, self.fields)

    @property
    def source_version(self) -> str:
        """A hash of the source files of the network's classes, and of this forecaster's."""
        return source_version(type(self), *map(type, self.network.modules()))

    def inputs(self, window: Tensor, batch: Batch, step: int = 0) -> tuple[FrameInputs, SampleScale]:
        """Return the network's fields, divided by the window's own scales, and the scales [N, 1, C, 1, 1, 1].

        Raises:
            PhysteerError: The data lack a field, have an evolving one that the network does not know, or windows of
                another length.
        """
        frames = getattr(self.network, "frames", None)
        if frames is not None and window.shape[1] != frames:
            raise PhysteerError(
                f"{type(self.network).__name__} takes windows of {frames} frames, found {window.shape[1]}: set "
                f"data.n_steps_input to {frames}"
            )
        order, scale = self._order(batch.channels), self._scale(window)
        fields, own = window[:, :, list(order)], _some_fields(scale, order)
        normalised = self.normalised(fields, own).to(self.dtype)
        return FrameInputs(normalised, fields[:, -1:], own, order, window.shape[2]), scale

    def normalised(self, fields: Tensor, scale: SampleScale) -> Tensor:
        """Return what the network takes of a window's fields: here u / r.

        Args:
            fields: [N, T, F, H, W, D], in the data set's units.
            scale: of each field, [N, 1, F, 1, 1, 1].
        """
        return fields / scale.fields

    def change(self, y: Tensor, last: Tensor, scale: SampleScale) -> Tensor:
        """Return the change of the last frame in units of r_Δ from what the network returns: here itself.

        Args:
            y: of the network, here [N, 1, F, H, W, D].
            last: the last frame, [N, 1, F, H, W, D], in the data set's units.
            scale: of each field.
        """
        return y

    def run(self, inputs: NetworkInputs, *, last_frame_only: bool = False) -> Tensor:
        """Return the change of the last frame in units of r_Δ, [N, 1, C, H, W, D]; 0 in channels of no field."""
        assert isinstance(inputs, FrameInputs)
        change = self.change(self.network(*inputs), inputs.last, inputs.scale)
        return self._placed(change, inputs.order, inputs.channels)

    def next_frame(self, y: Tensor, last: Tensor, scale: SampleScale, batch: Batch | SplitMetadata) -> Tensor:
        """Return u + y r_Δ from the network's output (`change`, `rollout.advanced`)."""
        order = self._order(batch.channels)
        change = self.change(y, last[:, :, list(order)], _some_fields(scale, order))
        return advanced(last, self._placed(change, order, last.shape[2]), scale, batch.channels)

    def predict_next(self, window: Tensor, batch: Batch, step: int = 0, *, all_frames: bool = False) -> Tensor:
        """Return the frame after a window, [N, 1, C, H, W, D], in the data set's units."""
        inputs, scale = self.inputs(window, batch, step)
        return self.next_frame(self.network(*inputs), window[:, -1:], scale, batch)

    def computes_last_frame_only(self, site: Site) -> bool:
        """Return False: every prediction computes all of every site."""
        return False

    def layout(self, site: Site) -> str | None:
        """Return the layout that the network, or a module of it, declares."""
        return with_layout(self.network, site).layout

    def output_shapes(self, modules: Sequence[str], metadata: SplitMetadata, n_frames: int) -> dict[str, torch.Size]:
        """Return the shape of modules' outputs for one window; nothing is computed."""
        shape = (1, n_frames, len(self.fields), *metadata.grid.shape)
        key = (shape, *modules)
        if key not in self._shapes:
            fields = torch.empty(shape, dtype=self.dtype, device="meta")
            self._shapes[key] = output_shapes(self.network, modules, fields)
        return self._shapes[key]

    def site_shapes(self, sites: Sequence[Site], metadata: SplitMetadata, n_frames: int) -> dict[Site, torch.Size]:
        """Return the shape of activations for one window; nothing is computed."""
        return selected_shapes(self, sites, metadata, n_frames)

    def token_grid(self, site: Site, metadata: SplitMetadata, n_frames: int) -> TokenGrid:
        """Return the cells of every token, where the tokens of a site share out the cells of every axis evenly.

        Raises:
            PhysteerError: They do not.
        """
        tokens = self.site_shapes([site], metadata, n_frames)[site][2:5]
        axes = zip(tokens, metadata.grid.shape, strict=True)
        if any(cells % n for n, cells in axes):
            raise PhysteerError(
                f"site {site}: which cells its {list(tokens)} tokens see of a grid of {list(metadata.grid.shape)} is "
                f"not known: override token_grid in a subclass of {type(self).__name__}"
            )
        h, w, d = (TokenAxis(n, cells // n) for n, cells in zip(tokens, metadata.grid.shape, strict=True))
        return h, w, d

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
        """Write the weights (`physteer.forecast.emulator_weights`)."""
        save_weights(self.network, path, {**metadata, "fields": ", ".join(self.fields)})

    def _scale(self, window: Tensor) -> SampleScale:
        if window.shape[1] > 1:
            return sample_scale(window, self.smallest_scale)
        fields = sample_scale(window.expand(-1, 2, -1, -1, -1, -1), self.smallest_scale).fields
        return SampleScale(fields, fields)

    def _order(self, channels: Channels) -> tuple[int, ...]:
        unknown = [name for i, name in enumerate(channels.names) if i in channels.predicted and name not in self.fields]
        missing = [name for name in self.fields if name not in channels.names]
        if missing or unknown:
            raise PhysteerError(
                f"{type(self.network).__name__} takes the fields {', '.join(self.fields)}; the data have "
                f"{', '.join(channels.names)}: name them alike with data.fields, or set the model's fields"
            )
        return tuple(map(channels.index, self.fields))

    def _placed(self, y: Tensor, order: Sequence[int], channels: int) -> Tensor:
        """Return a change of the network's fields with a channel for each of the data set's."""
        if y.ndim != 6 or y.shape[1:3] != (1, len(self.fields)):
            raise PhysteerError(
                f"{type(self.network).__name__} must return the change of the last frame, [N, 1, {len(self.fields)}, "
                f"H, W, D]; it returned {list(y.shape)}"
            )
        if [*order] == [*range(channels)]:
            return y
        placed = y.new_zeros(len(y), 1, channels, *y.shape[3:])
        placed[:, :, list(order)] = y
        return placed


def _some_fields(scale: SampleScale, order: Sequence[int]) -> SampleScale:
    return SampleScale(scale.fields[:, :, list(order)], scale.differences[:, :, list(order)])
