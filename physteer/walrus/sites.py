"""Shapes of activations, without computing any."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from physteer.walrus.config import WalrusConfig
from physteer.walrus.grid import Boundaries, Shifts
from physteer.walrus.network import Walrus


def output_shapes(
    config: WalrusConfig,
    modules: Iterable[str],
    n_frames: int,
    names: Sequence[str],
    shape: Sequence[int],
    boundaries: Boundaries,
    jitter: bool = False,
) -> dict[str, torch.Size]:
    """Return the shape of modules' outputs for one window.

    The network is built and run on the meta device: neither weights nor activations take memory, whatever the size.

    Args:
        config: of the network.
        modules: paths such as `blocks.3`; all of them must exist. `blocks.3.input` is what the module gets.
        n_frames: T of the window.
        names: of the C fields, from the vocabulary.
        shape: (H, W, D) of the fields.
        boundaries: codes per axis and end.
        jitter: whether passes are shifted at random: then open axes and walls have a token more.

    Returns:
        Shapes by path; modules that the forward does not call, or that return no tensor, are missing.
    """
    ends = tuple((low, high) for low, high in boundaries)
    return dict(_output_shapes(config, tuple(modules), n_frames, tuple(names), tuple(shape), ends, jitter))


@lru_cache(maxsize=64)
def _output_shapes(
    config: WalrusConfig,
    modules: tuple[str, ...],
    n_frames: int,
    names: tuple[str, ...],
    shape: tuple[int, ...],
    boundaries: Boundaries,
    jitter: bool,
) -> dict[str, torch.Size]:
    shifts = None
    if jitter:
        shifts = Shifts(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, config.n_blocks, 3, dtype=torch.long))
    with torch.device("meta"):
        walrus = Walrus(config).eval()
        x = torch.empty(1, n_frames, len(names), *shape)
    shapes: dict[str, torch.Size] = {}
    for name in modules:

        def note(first: object, name: str = name) -> None:
            first = first[0] if isinstance(first, tuple) and first else first
            if isinstance(first, Tensor):
                shapes[name] = first.shape

        path, _, last = name.rpartition(".")
        if last == "input":
            walrus.get_submodule(path).register_forward_pre_hook(
                lambda module, args, kwargs, note=note: note((*args, *kwargs.values())), with_kwargs=True
            )
        else:
            walrus.get_submodule(name).register_forward_hook(lambda module, args, output, note=note: note(output))
    with torch.no_grad():
        walrus(x, config.labels(names), boundaries, shifts)
    return shapes
