"""Decoder lens over a data set: the error of decoding the activation at every depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from physteer.analyses.probing.table import PERSISTENCE, LensScore
from physteer.data.batch import Batch, SplitMetadata
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster, NetworkInputs, staged
from physteer.interventions import StagedModel
from physteer.metrics import bootstrap_mean, vrmse


class LensErrors:
    """VRMSE of the next frame decoded from the activation at each depth, per field and initial condition."""

    def __init__(self) -> None:
        self._fields: list[str] = []
        self._errors: dict[str, list[tuple[str, Tensor]]] = {}  # by depth: initial condition and errors [C]

    @torch.no_grad()
    def add(self, forecaster: Forecaster, batch: Batch, initial_conditions: Sequence[str]) -> None:
        """Decode every depth's activation for a batch whose windows have one frame after the context."""
        inputs, scale = forecaster.inputs(batch.context, batch)
        model = staged(forecaster, "The decoder lens")
        scored = batch.channels.predicted
        self._fields = [batch.channels.names[i] for i in scored]
        last = batch.context[:, -1:]
        names = ["encoder", *(f"blocks.{i}" for i in range(len(model.blocks)))]
        frames = {PERSISTENCE: last}
        for name, y in zip(names, decoder_lens(model, inputs), strict=True):
            frames[name] = forecaster.next_frame(y, last, scale, batch)
        for name, frame in frames.items():
            errors = vrmse(frame[:, 0, scored].float(), batch.targets[:, 0, scored]).cpu()  # [B, C]
            self._errors.setdefault(name, []).extend(zip(initial_conditions, errors, strict=True))

    def merge(self, from_everyone: Callable[[Any], list[Any]]) -> None:
        """Add the errors of the other processes; a collective."""
        parts = from_everyone((self._fields, self._errors))
        self._fields = next((fields for fields, _ in parts if fields), [])
        depths = list(dict.fromkeys(name for _, errors_by_depth in parts for name in errors_by_depth))
        # sorted, so that the order does not depend on the processes
        self._errors = {
            name: sorted((row for _, errors_by_depth in parts for row in errors_by_depth.get(name, ())), key=_sort_key)
            for name in depths
        }

    def table(self) -> list[LensScore]:
        """Return the errors with intervals over initial conditions, per field and (field empty) their mean."""
        rows = []
        for depth, errors_by_window in self._errors.items():
            names = [name for name, _ in errors_by_window]
            errors = torch.stack([errors for _, errors in errors_by_window])  # [windows, C]
            columns = [("", errors.mean(1)), *zip(self._fields, errors.unbind(1), strict=True)]
            for field, values in columns:
                interval = bootstrap_mean(values.numpy(), names)
                rows.append(
                    LensScore(depth, field, interval.value, interval.low, interval.high, interval.initial_conditions)
                )
        return rows


def lens_obstacle(forecaster: Forecaster, metadata: SplitMetadata, n_frames: int) -> str:
    """Return why a forecaster's decoder cannot read every depth, as a sentence; empty where it can.

    Args:
        forecaster: any.
        metadata: channels and grid of the windows.
        n_frames: of the context.
    """
    try:
        model = staged(forecaster, "The decoder lens")
    except PhysteerError as error:
        return str(error)
    depths = ["encoder", *(f"blocks.{i}" for i in range(len(model.blocks)))]
    shapes = forecaster.output_shapes(depths, metadata, n_frames)
    if hasattr(model, "skip_borders") or len(set(shapes.values())) > 1:
        return (
            "The decoder lens needs blocks that add to one residual stream; those of "
            f"{type(model).__name__} change its shape, or read outputs of earlier ones"
        )
    return ""


def decoder_lens(model: StagedModel, inputs: NetworkInputs) -> Iterator[Tensor]:
    """Yield the decoded last frame after the encoder, then after each block; the last one is the network's own output.

    Blocks add to a residual stream, so the decoder can be applied to the output of an earlier block (nostalgebraist's
    logit lens; Langedijk et al. 2023 for decoders). One activation is in memory at a time.

    Yields:
        [B, 1, C, H, W, D], blocks + 1 times.
    """
    h, context = model.encode(*inputs)
    yield model.decode(h, context, last_frame_only=True)
    for i in range(len(model.blocks)):
        h = model.run_blocks(h, context, i, i + 1)
        yield model.decode(h, context, last_frame_only=True)


def _sort_key(row: tuple[str, Tensor]) -> tuple[Any, ...]:
    return (row[0], *row[1].tolist())
