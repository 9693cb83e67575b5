"""Divergences: how far an ablation moves a model's output, per row of the data.

A divergence of your own is a module that is called with the output under an ablation, the output without it and the
labels of a `Part`, and returns a number for each row; give its class path as ``CausalBasis.divergence``. For a
forecaster the output is the predicted change of every predicted field in units of r_Δ, [rows, fields, H, W, D]; or, if
the divergence has an attribute `readout`, the class scores of that `ClassReadout`, [rows, K].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from physteer.analyses.engine import ClassReadout
from physteer.errors import PhysteerError


class FieldDivergence(nn.Module):
    """Σ_fields ‖δŷ‖² / cells, the mean square over cells of the change of the output, summed over fields.

    A forecaster's fields are in units of r_Δ.
    """

    units = "r_Δ²"

    def forward(self, ablated: Tensor, base: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the divergence of every row.

        Args:
            ablated: outputs under the ablation, [rows, fields] or [rows, fields, *cells].
            base: outputs without it, of the same shape.
            labels: not used.

        Returns:
            [rows].
        """
        square = (_wide(ablated) - _wide(base)).square()
        if square.ndim > 2:
            square = square.flatten(2).mean(2)
        return square.flatten(1).sum(1)


class KLDivergence(nn.Module):
    """KL(base ‖ ablated) of class probabilities, in nats, averaged over positions where there are several per row.

    Args:
        probe: a class probe's file, ``probes/<site>_<parameter>_classes.safetensors``, whose scores are compared;
            null for a model whose outputs are scores of classes themselves.
    """

    units = "nats"

    def __init__(self, probe: str | None = None) -> None:
        super().__init__()
        self.readout = None if probe is None else ClassReadout.load(probe)

    def forward(self, ablated: Tensor, base: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the divergence of every row, [rows].

        Args:
            ablated: scores (logits) under the ablation, [rows, …, K].
            base: scores without it, of the same shape.
            labels: not used.
        """
        log_ablated, log_base = (_wide(scores).log_softmax(-1) for scores in (ablated, base))
        return _mean_over_positions(kl_div(log_ablated, log_base, reduction="none", log_target=True).sum(-1))


class CrossEntropyIncrease(nn.Module):
    """Cross-entropy with the labels under the ablation minus that without it, in nats; averaged over positions.

    Args:
        probe: a class probe's file whose scores are judged; the label of a window is the class of its own value of the
            probe's parameter. Null for a model whose outputs are scores of classes themselves.
    """

    units = "nats"

    def __init__(self, probe: str | None = None) -> None:
        super().__init__()
        self.readout = None if probe is None else ClassReadout.load(probe)

    def forward(self, ablated: Tensor, base: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the divergence of every row, [rows]; it may be negative.

        Args:
            ablated: scores (logits) under the ablation, [rows, …, K].
            base: scores without it, of the same shape.
            labels: indices of the right classes, [rows, …].

        Raises:
            PhysteerError: There are no labels, or not one for every position.
        """
        if labels is None:
            raise PhysteerError("CrossEntropyIncrease needs labels: give every part its own")
        if labels.shape != base.shape[:-1]:
            raise PhysteerError(f"labels {list(labels.shape)} do not fit scores {list(base.shape)} of their classes")
        losses = [cross_entropy(_wide(scores).movedim(-1, 1), labels, reduction="none") for scores in (ablated, base)]
        return _mean_over_positions(losses[0] - losses[1])


def check_divergence(divergence: nn.Module, model: str) -> None:
    """Check that a divergence can compare forecasts.

    Args:
        divergence: any.
        model: the weights of the forecaster.

    Raises:
        PhysteerError: It compares scores of classes and names no probe, or one of another model.
    """
    readout = getattr(divergence, "readout", None)
    if hasattr(divergence, "readout") and readout is None:
        raise PhysteerError(
            f"{type(divergence).__name__} compares scores of classes, and a forecast has none: give the file of a "
            "class probe as its probe"
        )
    if readout is not None and readout.probe.model not in ("", model):
        raise PhysteerError(f"probe {readout.path} was fitted to model {readout.probe.model}; this model is {model}")


def _mean_over_positions(values: Tensor) -> Tensor:
    """Return [rows] from [rows, …]."""
    return values.reshape(len(values), -1).mean(1)


def _wide(output: Tensor) -> Tensor:
    return output.to(torch.promote_types(output.dtype, torch.float32))
