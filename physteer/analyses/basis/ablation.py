"""Ablation of directions of an activation: what takes the place of the components along them.

The data of an extraction are `Part`s: some rows of activations at a site, and the function from there to the model's
output. Any torch model is such a function: the tail of a forecaster, the blocks of a language model with its own head,
or a lens of your own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from physteer.analyses.engine import summed
from physteer.errors import PhysteerError, did_you_mean
from physteer.interventions.seeds import derangement, generator_of

Mode = Literal["mean", "rows_mean", "zero", "resample", "resample_rows"]
"""The value of an ablated component: its mean over rows and tokens, or over rows at each token; zero; or its value in
another row and at another token, or in another row at the same token."""
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of the data at a site, and the model behind the site."""

    activation: Tensor
    """h [rows, …, d]; all axes between rows and channels are tokens."""
    output: Callable[[Tensor], Tensor]
    """From an activation of this shape to the model's output [rows, …], with gradients."""
    rows: tuple[int, ...]
    """Positions of the rows in the whole data, over all parts and processes."""
    labels: Tensor | None = None
    """What the output should be, for a divergence that asks for it: [rows, …]."""
    partner: Tensor | None = None
    """Activations of the rows that the resampling modes take values from, of the shape of `activation`."""


def parts_of(
    activation: Tensor, output: Callable[[Tensor], Tensor], labels: Tensor | None = None, batch: int = 1024
) -> list[Part]:
    """Divide activations of any torch model into parts.

    Args:
        activation: h [N, …, d].
        output: from some rows of it to the model's output; its weights should be frozen.
        labels: [N, …], or None.
        batch: rows per part.
    """
    return [
        Part(activation[rows].detach(), output, tuple(rows), None if labels is None else labels[rows])
        for rows in (
            list(range(first, min(first + batch, len(activation)))) for first in range(0, len(activation), batch)
        )
    ]


@dataclass(frozen=True, eq=False)
class Targets:
    """What takes the place of ablated components: t, of the shape of an activation."""

    mode: Mode
    mean: Tensor
    """float64: the mean over rows and tokens [d], over rows [..., d] in the mode `rows_mean`, zeros in the mode `zero`.
    Only the modes `mean`, `rows_mean` and `zero` put it in; an `Erase` made of the directions always does."""
    row_order: Tensor
    """int64 [N]: the row that each row's values come from; empty unless rows are resampled."""
    token_order: Tensor
    """int64 [tokens]: the token that each token's values come from; empty unless tokens are resampled."""

    def of(self, part: Part) -> Tensor:
        """Return t [rows, …, d] in float32 or wider.

        Raises:
            PhysteerError: A resampling mode, and the part has no partners.
        """
        h = part.activation
        wide = torch.promote_types(h.dtype, torch.float32)
        if not self.mode.startswith("resample"):
            return self.mean.to(h.device, wide).expand_as(h)
        if part.partner is None:
            raise PhysteerError(f"mode {self.mode!r} needs the activations of other rows, and a part has none")
        partner = part.partner.to(wide)
        if len(self.token_order):
            tokens = partner.reshape(len(h), -1, h.shape[-1])
            partner = tokens[:, self.token_order.to(h.device)].view_as(h)
        return partner

    def deviation(self, part: Part) -> Tensor:
        """Return h − t, whose components are removed, [rows, …, d] in float32 or wider.

        Subtracted before it is multiplied: a large mean would cost digits of small components.
        """
        targets = self.of(part)
        return part.activation.to(targets.dtype) - targets


def check_mode(mode: str) -> None:
    """Check that there is such a mode.

    Raises:
        PhysteerError: There is none.
    """
    if mode not in MODES:
        raise PhysteerError(f"ablation mode {mode!r} is not one of {', '.join(MODES)}{did_you_mean(mode, MODES)}")


def row_derangement(n_rows: int, mode: Mode, seed: int) -> Tensor:
    """Draw the row that each row's values come from, [n_rows]; empty where the mode resamples no rows.

    The draw depends on the seed and the number of rows over all processes alone: one for all directions of all sites.

    Raises:
        PhysteerError: There is one row only.
    """
    if not mode.startswith("resample"):
        return torch.empty(0, dtype=torch.long)
    if n_rows < 2:
        raise PhysteerError(f"mode {mode!r} takes values from other rows: it needs two or more; found {n_rows}")
    return derangement(n_rows, generator_of("causal basis rows", seed, n_rows))


def with_partners(parts: Sequence[Part], row_order: Tensor) -> list[Part]:
    """Give every part the activations of the rows that its rows' values come from, where one process has all rows."""
    if not len(row_order):
        return list(parts)
    everything = torch.cat([part.activation for part in parts])
    place = {row: i for i, row in enumerate(row for part in parts for row in part.rows)}
    return [
        dataclasses.replace(part, partner=everything[[place[int(row_order[row])] for row in part.rows]])
        for part in parts
    ]


def fitted_targets(parts: Sequence[Part], mode: Mode, row_order: Tensor, seed: int, device: torch.device) -> Targets:
    """Return the targets of an extraction; a collective over processes.

    Args:
        parts: all rows of this process, one or more.
        mode: of the ablation.
        row_order: from `row_derangement`.
        seed: of the order of tokens.
        device: of the exchange between processes.

    Raises:
        PhysteerError: Activations do not vary: there is nothing to ablate.
    """
    shape, width = parts[0].activation.shape[1:], parts[0].activation.shape[-1]
    total = torch.zeros(shape, dtype=torch.float64)
    n_rows = torch.zeros((), dtype=torch.float64)
    for part in parts:
        total += part.activation.detach().double().sum(0).cpu()
        n_rows += len(part.activation)
    mean = summed(total, device) / summed(n_rows, device)  # [..., d]
    if mode != "rows_mean":
        mean = mean.reshape(-1, width).mean(0)
    if mode == "zero":
        mean = torch.zeros(width, dtype=torch.float64)
    n_tokens = shape[:-1].numel()
    token_order = torch.empty(0, dtype=torch.long)
    if mode == "resample":
        token_order = torch.randperm(n_tokens, generator=generator_of("causal basis tokens", seed, n_tokens))
    return Targets(mode, mean, row_order, token_order)


def ablated(h: Tensor, deviation: Tensor, read: Tensor, write: Tensor) -> Tensor:
    """Return h' = h − ((h − t) R) Lᵀ, computed in float32 or wider and returned in h's precision.

    Args:
        h: [rows, …, d].
        deviation: h − t, of the same shape, in float32 or wider.
        read: R [d, k], which measures the components.
        write: L [d, k], along which they are removed; RᵀL = 1.
    """
    with torch.autocast(h.device.type, enabled=False):
        read, write = read.to(h.device, deviation.dtype), write.to(h.device, deviation.dtype)
        return (h.to(deviation.dtype) - (deviation @ read) @ write.mT).to(h.dtype)
