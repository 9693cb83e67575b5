"""Shapes of activations, found without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from physteer.data.batch import SplitMetadata
from physteer.forecast.forecaster import Forecaster
from physteer.interventions import (
    Site,
    check_reached,
    find_module,
    find_place,
    hooked,
    naming,
    unknown_layout,
    with_layout,
)


def output_shapes(network: nn.Module, modules: Sequence[str], *inputs: Tensor) -> dict[str, torch.Size]:
    """Return the shapes of modules' outputs, from a forward of a copy of a network on the meta device.

    Args:
        network: any; it is neither run nor changed, and its weights are not copied.
        modules: paths in it; ``blocks.3.input`` is what a module gets.
        inputs: on the meta device.

    Returns:
        By path, of the latest call; those that the forward does not call, or that are no tensor, are missing.
    """
    stand_ins: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in network.parameters()}
    stand_ins |= {id(buffer): buffer.to("meta") for buffer in network.buffers()}
    hollow = copy.deepcopy(network, stand_ins)
    for module in hollow.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    shapes: dict[str, torch.Size] = {}
    places = [(find_place(hollow, Site(path)), partial(_note, shapes, path)) for path in modules]
    with torch.no_grad(), hooked(places):
        hollow(*inputs)
    return shapes


def selected_shapes(
    forecaster: Forecaster, sites: Sequence[Site], metadata: SplitMetadata, n_frames: int
) -> dict[Site, torch.Size]:
    """Return the shapes [1, T, h, w, δ, d] of activations as observers see them, for `Forecaster.site_shapes`.

    Raises:
        PhysteerError: A site is unknown, or has no activation, or its layout is unknown or does not fit.
    """
    for site in sites:
        find_module(forecaster.network, site)
    shapes = forecaster.output_shapes([site.module for site in sites], metadata, n_frames)
    check_reached(sites, shapes)
    selected: dict[Site, torch.Size] = {}
    for site in sites:
        with naming(site):
            known = with_layout(forecaster.network, site)
            if known.layout is None:
                raise unknown_layout(site, shapes[site.module], "what acts on channels and space")
            *outer, width = known.select(torch.empty(shapes[site.module], device="meta")).shape
            selected[site] = torch.Size([*outer, *[1] * (5 - len(outer)), width])
    return selected


def _note(shapes: dict[str, torch.Size], path: str, module: nn.Module, args: Any, output: Any) -> None:
    first = output[0] if isinstance(output, tuple) and output else output
    if isinstance(first, Tensor):
        shapes[path] = first.shape
