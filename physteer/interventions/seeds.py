"""Seeds from names and numbers: the same draws in every process, whatever the order of the data."""

from __future__ import annotations

import hashlib

import torch


def digest(*parts: str | int) -> bytes:
    """Return the SHA-256 digest of names and numbers, joined by ``/``."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


def generator_of(*parts: str | int) -> torch.Generator:
    """Return a generator on the CPU, seeded with the digest of names and numbers."""
    return torch.Generator().manual_seed(int.from_bytes(digest(*parts)[:8], "big") >> 1)


def derangement(n: int, generator: torch.Generator) -> torch.Tensor:
    """Draw a derangement of n rows, uniformly: row i gets row order[i], which is never i.

    Args:
        n: at least 2.
        generator: of the draw.

    Returns:
        [n], int64.
    """
    rows = torch.arange(n)
    while True:  # e tries on average
        order = torch.randperm(n, generator=generator)
        if not bool((order == rows).any()):
            return order
