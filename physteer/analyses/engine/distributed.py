"""Sums over the processes of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import torch.distributed
from torch import Tensor

T = TypeVar("T")


class Sums(Protocol):
    """Running sums that can be sent to another process and added to the sums there."""

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, on the CPU."""

    def load_state_dict(self, state: Any) -> None:
        """Replace the sums by those of `state_dict`."""

    def merge(self, other: Self) -> None:
        """Add the sums of another process."""


S = TypeVar("S", bound=Sums)


def from_everyone(own: T) -> list[T]:
    """Return every process's object, by rank; a collective. Tensors inside must be on the CPU."""
    if not _several():
        return [own]
    objects: list[T | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(objects, own)
    return objects  # type: ignore[return-value]


def summed(own: Tensor, device: torch.device) -> Tensor:
    """Return the sum over processes of a tensor of one shape, on the CPU; a collective.

    Args:
        own: the tensor of this process.
        device: of the exchange between processes.
    """
    if not _several():
        return own.cpu()
    total = own.to(device, copy=True)
    torch.distributed.all_reduce(total)
    return total.cpu()


def merged(own: S, empty: Callable[[], S]) -> S:
    """Return the sums of all processes; a collective.

    Args:
        own: the sums of this process.
        empty: makes sums of the same kind, without samples.
    """
    total = empty()
    for state in from_everyone(own.state_dict()):
        other = empty()
        other.load_state_dict(state)
        total.merge(other)
    return total


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
