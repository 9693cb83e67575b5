"""The protocol of forecasters: models from windows of physical fields to the next frame, without Lightning."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from physteer.data.batch import Batch, SplitMetadata
from physteer.errors import PhysteerError
from physteer.forecast.rollout import SampleScale
from physteer.interventions import KeepsPast, Site, StagedModel
from physteer.metrics import TokenGrid


class NetworkInputs(Protocol):
    """The arguments of a network's forward for N windows; the first of them are the normalised fields."""

    @property
    def fields(self) -> Tensor:
        """The normalised windows, [N, T, C, H, W, D]."""
        ...

    def rows(self, index: Sequence[int]) -> NetworkInputs:
        """Return the inputs of some of the windows."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Yield the arguments, for ``network(*inputs)``."""
        ...


class Forecaster(Protocol):
    """A network that predicts the next frame of windows of fields, with its normalisation and its description.

    Rollouts, objectives, evaluations and analyses take a forecaster. `WalrusForecaster` is one implementation. To use
    another emulator, take `FrameForecaster`, or write a class with these members and pass it to
    `physteer.ForecastModule`.
    """

    jitter_seed: int | None
    """Seed of the random shifts of inputs; None where inputs are not shifted."""

    @property
    def network(self) -> nn.Module:
        """The network; its modules are the sites that are captured and edited."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        ...

    @property
    def causal_in_time(self) -> bool:
        """Whether a frame's activations never depend on later frames, so that the last frame can be run alone."""
        ...

    @property
    def identity(self) -> str:
        """A hash of the weights and the architecture."""
        ...

    @property
    def source_version(self) -> str:
        """A hash of the source code that computes activations; caches of other code are not used."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that the network takes."""
        ...

    def inputs(self, window: Tensor, batch: Batch, step: int = 0) -> tuple[NetworkInputs, SampleScale]:
        """Return the network's inputs for a window, and the scales of the normalisation.

        Args:
            window: [N, T, C, H, W, D] in the data set's units; N is a multiple of the batch's windows (conditions × B).
            batch: the windows' channels, grid and addresses.
            step: of the rollout, for the draws of random shifts.
        """
        ...

    def run(self, inputs: NetworkInputs, *, last_frame_only: bool = False) -> Tensor:
        """Run the network.

        Returns:
            The predicted differences to the next frame in units of r_Δ, [N, T, C, H, W, D] in the data set's channels;
            those after the last frame alone, [N, 1, C, H, W, D], with `last_frame_only` and from networks that predict
            no others.
        """
        ...

    def next_frame(self, y: Tensor, last: Tensor, scale: SampleScale, batch: Batch | SplitMetadata) -> Tensor:
        """Return the next frame, in the data set's units, from the network's output for the last frame.

        Args:
            y: what the network itself returns, or its decoder, for the last frame: [N, 1, C, H, W, D].
            last: the last frame, the same shape.
            scale: of the window.
            batch: for the channels.
        """
        ...

    def predict_next(self, window: Tensor, batch: Batch, step: int = 0, *, all_frames: bool = False) -> Tensor:
        """Return the frame after a window, [N, 1, C, H, W, D], in the data set's units.

        Args:
            window: as for `inputs`.
            batch: as for `inputs`.
            step: as for `inputs`.
            all_frames: whether to compute the activations of all frames in the last block; the prediction needs only
                the last frame.
        """
        ...

    def computes_last_frame_only(self, site: Site) -> bool:
        """Return whether `predict_next` computes a site for the last frame alone, unless ``all_frames`` is set."""
        ...

    def layout(self, site: Site) -> str | None:
        """Return the axes of the output of a site's module, such as ``b t h w δ d`` or ``b c h w`` (`Layout`).

        Edits, captures and observers find channels, heads, frames and space by it. None where it is unknown: what needs
        one of these axes is then refused.
        """
        ...

    def output_shapes(self, modules: Sequence[str], metadata: SplitMetadata, n_frames: int) -> dict[str, torch.Size]:
        """Return the shape of modules' outputs for one window, heads apart; nothing is computed.

        Args:
            modules: paths in the network; all of them exist.
            metadata: channels and grid of the window.
            n_frames: T of the window.

        Returns:
            Shapes by path; modules that the forward does not call are missing.
        """
        ...

    def site_shapes(self, sites: Sequence[Site], metadata: SplitMetadata, n_frames: int) -> dict[Site, torch.Size]:
        """Return the shape of activations for one window, [1, T, h, w, δ, d]; nothing is computed.

        Axes that a site's layout has not are of size 1, as for `RolloutObserver`.

        Args:
            sites: of the activations.
            metadata: channels and grid of the window.
            n_frames: T of the window.

        Raises:
            PhysteerError: A site is unknown, or has no activation.
        """
        ...

    def token_grid(self, site: Site, metadata: SplitMetadata, n_frames: int) -> TokenGrid:
        """Return the cells of every token of a site; arguments as for `site_shapes`."""
        ...

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
        """Write the network's weights as safetensors, whole or not at all.

        Args:
            path: ends in ``.safetensors``.
            metadata: where they come from; stored beside what is needed to load them.
        """
        ...


def staged(forecaster: Forecaster, needed_by: str) -> StagedModel:
    """Return a forecaster's network as a model that can be stopped at a block and continued from there.

    Raises:
        PhysteerError: The network lacks a method of the staged protocol. The message names `needed_by` and the method.
    """
    _check_parts(forecaster, ("encode", "run_blocks", "decode", "pack_context", "unpack_context"), needed_by)
    return cast(StagedModel, forecaster.network)


def keeps_past(forecaster: Forecaster, needed_by: str) -> KeepsPast:
    """Return a forecaster's network as a model whose last frame can be run alone; raises as `staged`."""
    staged(forecaster, needed_by)
    _check_parts(forecaster, ("keep_past", "run_next_frame"), needed_by)
    return cast(KeepsPast, forecaster.network)


def _check_parts(forecaster: Forecaster, names: Sequence[str], needed_by: str) -> None:
    for name in names:
        if not callable(getattr(forecaster.network, name, None)):
            raise PhysteerError(
                f"{needed_by} needs a network that runs in stages; {type(forecaster.network).__name__} has no method "
                f"{name!r} (physteer.interventions.StagedModel)"
            )
