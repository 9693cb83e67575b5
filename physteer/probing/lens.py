"""Decoder lens over a data set: how good the prediction would be if the blocks from there on did nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from physteer.data.batch import Batch
from physteer.metrics import bootstrap_mean, vrmse
from physteer.module import WalrusModule
from physteer.reports.probe_table import PERSISTENCE, LensScore
from physteer.walrus.lens import decoder_lens


class LensErrors:
    """VRMSE of the next frame that each depth's activation is decoded to, per field, by initial condition."""

    def __init__(self) -> None:
        self._fields: list[str] = []
        self._found: dict[str, list[tuple[str, Tensor]]] = {}  # by depth: initial condition and errors [C]

    @torch.no_grad()
    def add(self, module: WalrusModule, batch: Batch, initial_conditions: Sequence[str]) -> None:
        """Decode every depth's activation for a batch whose windows have one frame after the context."""
        inputs, scale = module.inputs(batch.context, batch)
        scored = batch.channels.predicted
        self._fields = [batch.channels.names[i] for i in scored]
        last = batch.context[:, -1:]
        names = ["encoder", *(f"blocks.{i}" for i in range(len(module.network.blocks)))]
        frames = {PERSISTENCE: last}
        for name, y in zip(names, decoder_lens(module.network, *inputs), strict=True):
            frames[name] = module.next_frame(y, last, scale, batch)
        for name, frame in frames.items():
            errors = vrmse(frame[:, 0, scored].float(), batch.targets[:, 0, scored]).cpu()  # [B, C]
            self._found.setdefault(name, []).extend(zip(initial_conditions, errors, strict=True))

    def merge(self, from_everyone: Callable[[Any], list[Any]]) -> None:
        """Add what the other processes have seen; a collective."""
        everyone = from_everyone((self._fields, self._found))
        self._fields = next((fields for fields, _ in everyone if fields), [])
        depths = list(dict.fromkeys(name for _, found in everyone for name in found))
        # in an order that does not depend on who saw what
        self._found = {
            name: sorted((one for _, found in everyone for one in found.get(name, ())), key=_place) for name in depths
        }

    def table(self) -> list[LensScore]:
        """Return the errors with intervals over initial conditions, per field and (field empty) their mean."""
        rows = []
        for depth, found in self._found.items():
            names = [name for name, _ in found]
            errors = torch.stack([errors for _, errors in found])  # [windows, C]
            columns = [("", errors.mean(1)), *zip(self._fields, errors.unbind(1), strict=True)]
            for field, values in columns:
                interval = bootstrap_mean(values.numpy(), names)
                rows.append(
                    LensScore(depth, field, interval.value, interval.low, interval.high, interval.initial_conditions)
                )
        return rows


def _place(one: tuple[str, Tensor]) -> tuple[Any, ...]:
    return (one[0], *one[1].tolist())
