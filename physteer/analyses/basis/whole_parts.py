"""Parts of a model that does not run in stages: every evaluation is a whole forward under an edit.

parts = whole_parts(model, Site.parse("transformer.h.1 as b t d"), lambda ids: model(ids).logits[:, -1], batches)
fit = fit_basis("transformer.h.1", parts, row_derangement(n_rows, "mean", 0), KLDivergence(), BasisPlan())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from physteer.analyses.basis.ablation import Part
from physteer.interventions import (
    EVERYWHERE,
    Edit,
    Interchange,
    Locus,
    Site,
    attached,
    captured,
    naming,
    unknown_layout,
    with_layout,
)


def whole_parts(
    model: nn.Module,
    site: Site | str,
    run: Callable[[Any], Tensor],
    batches: Sequence[Any],
    labels: Sequence[Tensor] | None = None,
    locus: Locus = EVERYWHERE,
) -> list[Part]:
    """Run any module on some batches, and return a part for each.

    A forecaster or another model in stages starts behind the site instead (`parts_of`), which costs less.

    Args:
        model: frozen.
        site: path of a module, with its layout where the model declares none.
        run: calls the model on a batch and returns the output that a divergence compares, [rows, …].
        batches: inputs, one or more; what is in them is up to `run`.
        labels: for divergences that ask for them: of each batch, [rows, …].
        locus: the frames or tokens of time whose activations are ablated, such as `Locus(frames=[-1])`.

    Raises:
        PhysteerError: Neither the site nor the model tells the layout, or the forward does not call the site.
    """
    site = with_layout(model, Site.parse(site))
    parts: list[Part] = []
    n_rows = 0
    for i, batch in enumerate(batches):
        with torch.no_grad(), captured(model, [site]) as seen:
            run(batch)
        activation = seen[str(site)]
        if site.layout is None:
            with naming(site):
                raise unknown_layout(site, activation.shape, "the ablation of directions of its channels")
        h = locus.take(activation)
        rows = tuple(range(n_rows, n_rows + len(h)))
        parts.append(Part(h, _Rerun(model, site, run, batch, locus), rows, None if labels is None else labels[i]))
        n_rows += len(h)
    return parts


class _Rerun:
    """From an activation of a batch to the model's output."""

    def __init__(self, model: nn.Module, site: Site, run: Callable[[Any], Tensor], batch: Any, locus: Locus) -> None:
        self.model, self.site, self.run, self.batch, self.locus = model, site, run, batch, locus

    def __call__(self, h: Tensor) -> Tensor:
        with attached(self.model, [Edit(self.site, Interchange(h), locus=self.locus)]):
            return self.run(self.batch)
