"""The energy of directions: the mean divergence of the model's output when they are ablated, with its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.analyses.basis.ablation import Part, Targets, ablated
from physteer.analyses.engine import summed
from physteer.errors import PhysteerError

Divergence = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Outputs under an ablation, outputs without it, labels → [rows] (`physteer.analyses.basis.divergences`)."""


@dataclass(frozen=True, eq=False)
class AblationData:
    """A part, prepared for many ablations."""

    part: Part
    deviation: Tensor
    """h − t, in float32 or wider."""
    base: Tensor
    """The output without ablation."""

    @classmethod
    def of(cls, part: Part, targets: Targets) -> AblationData:
        """Run a part without ablation."""
        with torch.no_grad():
            return cls(part, targets.deviation(part), part.output(part.activation))

    @property
    def replaced(self) -> Tensor:
        """The activation t that takes the place of h where everything is ablated, in h's precision."""
        return (self.part.activation.to(self.deviation.dtype) - self.deviation).to(self.part.activation.dtype)

    def divergences(self, divergence: Divergence, edited: Tensor) -> Tensor:
        """Return the divergence of every row under another activation, [rows].

        Raises:
            PhysteerError: The divergence is not one number for every row.
        """
        part = self.part
        values = divergence(part.output(edited), self.base, part.labels)
        if values.shape != (len(part.rows),):
            raise PhysteerError(f"a divergence of {len(part.rows)} rows must be [rows]; it is {list(values.shape)}")
        return values


class AblationEnergy:
    """E(R, L): the mean over rows of the divergence under h' = h − ((h − t) R) Lᵀ, summed over parts and processes.

    Only the directions get gradients: the model behind the site should be frozen.
    """

    def __init__(self, data: Sequence[AblationData], divergence: Divergence, device: torch.device) -> None:
        """Count the rows; a collective over processes.

        Args:
            data: the parts of this process; another process may have more, or fewer.
            divergence: of outputs.
            device: of the exchange between processes.

        Raises:
            PhysteerError: No activation differs from what would take its place.
        """
        self.data, self.divergence, self.device = tuple(data), divergence, device
        own = torch.zeros(2, dtype=torch.float64)
        for each in self.data:
            own += torch.tensor([len(each.part.rows), float(each.deviation.square().sum())])
        n_rows, square = summed(own, device).tolist()
        self.rows = int(n_rows)
        if square == 0:
            raise PhysteerError("activations do not vary: no direction differs from what ablation puts in its place")

    def of(self, read: Tensor, write: Tensor) -> float:
        """Return the energy of directions that are ablated together; a collective over processes.

        Args:
            read: R [d, k].
            write: L [d, k].
        """
        return self._mean([self.per_row(each, read, write) for each in self.data])

    def of_everything(self) -> float:
        """Return the energy of replacing the whole activation; a collective over processes."""
        with torch.no_grad():
            edited = [(each, each.replaced) for each in self.data]
            return self._mean([each.divergences(self.divergence, h) for each, h in edited])

    def per_row(self, each: AblationData, read: Tensor, write: Tensor) -> Tensor:
        """Return the divergence of every row of a part under an ablation, [rows]."""
        with torch.no_grad():
            return each.divergences(self.divergence, ablated(each.part.activation, each.deviation, read, write))

    def with_gradient(self, read: Tensor, write: Tensor) -> tuple[float, Tensor, Tensor]:
        """Return the energy of a direction, and its gradients; a collective over processes.

        Args:
            read: R [d].
            write: L [d].

        Returns:
            E, ∂E/∂R [d] and ∂E/∂L [d], float64 on the CPU.
        """
        width = len(read)
        own = torch.zeros(1 + 2 * width, dtype=torch.float64)
        for each in self.data:
            h, deviation = each.part.activation, each.deviation
            with torch.enable_grad():
                leaves = [v.detach().to(h.device, deviation.dtype).requires_grad_() for v in (read, write)]
                edited = ablated(h, deviation, leaves[0][:, None], leaves[1][:, None])
                # In float64: a line search cannot tell changes below the round-off of a float32 sum.
                value = each.divergences(self.divergence, edited).cpu().double().sum()
                gradients = torch.autograd.grad(value, leaves)
            own[0] += value.detach()
            own[1:] += torch.cat(gradients).double().cpu()
        total = summed(own, self.device) / self.rows
        return float(total[0]), total[1 : 1 + width], total[1 + width :]

    def subset(self, chosen: Sequence[int]) -> AblationEnergy:
        """Return the energy over some of the parts; a collective over processes."""
        return AblationEnergy([self.data[i] for i in chosen], self.divergence, self.device)

    def _mean(self, values: Sequence[Tensor]) -> float:
        own = torch.zeros((), dtype=torch.float64)
        for rows in values:
            own += rows.cpu().double().sum()
        return summed(own, self.device).item() / self.rows
