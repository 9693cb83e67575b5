"""How large a network would be, known before it is built."""

from __future__ import annotations

import math
import os

import torch

from physteer.errors import PhysteerError
from physteer.walrus.config import WalrusConfig
from physteer.walrus.published import published_shapes


def parameter_count(config: WalrusConfig) -> int:
    """Return the number of parameters, gains that are folded into others included; it takes no memory and no time."""

    def count(n_blocks: int) -> int:
        return sum(map(math.prod, published_shapes(config, n_blocks).values()))

    return count(0) + config.n_blocks * (count(1) - count(0))


def check_fits(config: WalrusConfig) -> None:
    """Check that a new network fits into the machine's memory, before it is built.

    Raises:
        PhysteerError: Its parameters alone need more than there is.
    """
    needed = parameter_count(config) * torch.get_default_dtype().itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise PhysteerError(
            f"a network of {config.n_blocks} blocks of width {config.hidden_dim} has {parameter_count(config):.3g} "
            f"parameters, {needed / 2**30:.3g} GiB, and this machine has {memory / 2**30:.3g} GiB of memory; "
            "choose smaller sizes in model.network"
        )
