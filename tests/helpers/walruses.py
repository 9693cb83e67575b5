"""Small random Walruses of both variants, and fields for them."""

import torch

from physteer.walrus import Walrus, WalrusConfig

PERIODIC = ((2, 2), (2, 2), (2, 2))


MIXED = ((0, 1), (2, 2), (2, 2))


SIZES = {"hidden_dim": 32, "intermediate_dim": 8, "projection_dim": 6, "n_blocks": 3, "n_heads": 2, "tokens_2d": 4}


VARIANTS = [("released", MIXED), ("released", PERIODIC), ("preview", MIXED)]


def make(variant="released", **changes):
    torch.manual_seed(0)
    return Walrus(WalrusConfig(variant=variant, tokens_3d=4, **(SIZES | changes))).eval()


def fields(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def randomize(walrus):
    """Make every parameter matter: biases and norms start at 0 and 1."""
    with torch.no_grad():
        for parameter in walrus.parameters():
            parameter += 0.1 * torch.randn(parameter.shape) * parameter.std().nan_to_num(1).clamp(min=0.1)
    return walrus
