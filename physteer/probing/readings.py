"""What probes read of a batch: activations at sites, and the raw input beside them; and what they should find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from physteer.concepts import RandomFeatures
from physteer.data.batch import Batch
from physteer.data.normalised import normalised_flow
from physteer.errors import PhysteerError, did_you_mean
from physteer.interventions import Site, observed
from physteer.metrics import TARGETS, TokenAxis, TokenGrid, patches, pooled_targets, token_targets
from physteer.module import WalrusModule
from physteer.reports.probe_table import Control
from physteer.rollout import SampleScale
from physteer.walrus.grid import plan

Resolution = Literal["token", "pooled"]
RESOLUTIONS: tuple[Resolution, ...] = ("token", "pooled")
RAW_PATCH, RANDOM_FEATURES = "raw patch", "random features"
"""What is read instead of a site, as controls: the cells of the token, and tanh features of them, as many as the
network is wide."""
INPUTS: dict[str, Control] = {RAW_PATCH: "raw_patch", RANDOM_FEATURES: "random_features"}
"""Places that are controls."""
TOKENS = (2, 3, 4)
"""Axes h, w, δ of activations."""


@dataclass(frozen=True, eq=False)
class Truths:
    """Targets of a batch, in the units the network sees."""

    token: Tensor
    """[B, T, h, w, δ, m]."""
    pooled: Tensor
    """[B, T, m]."""

    def samples(self, resolution: Resolution) -> Tensor:
        """Return them as samples of each window, [B, n, m]."""
        return self.token.flatten(1, 4) if resolution == "token" else self.pooled


class ProbeReader:
    """Reads sites and the raw input of windows, and computes the targets.

    Args:
        sites: where; outputs of the encoder, of blocks, and of what is in them.
        targets: names in `physteer.metrics.TARGETS`; none is allowed.
        seed: of the random features.

    Raises:
        PhysteerError: there is no such target.
    """

    def __init__(self, sites: Sequence[Site], targets: Sequence[str], seed: int) -> None:
        for name in targets:
            if name not in TARGETS:
                raise PhysteerError(f"no probe target {name!r}, only {', '.join(TARGETS)}{did_you_mean(name, TARGETS)}")
        self.sites, self.targets, self.seed = tuple(sites), tuple(targets), seed
        self.places = (*map(str, self.sites), RAW_PATCH, RANDOM_FEATURES)
        """Names of what is read."""
        self._random: dict[int, RandomFeatures] = {}  # by the size of a patch

    @torch.no_grad()
    def read(self, module: WalrusModule, batch: Batch, use: Callable[[str, Tensor], None]) -> None:
        """Run the network on a batch's contexts and hand every place's features over, one at a time.

        Args:
            module: whose network.
            batch: B windows.
            use: gets a place and its features [B, T, h, w, δ, d], not to be kept or changed.
        """
        inputs, _ = module.inputs(batch.context, batch)
        network = module.network
        with observed(network, self.sites, lambda site, h: use(str(site), h)):
            h, context = network.encode(*inputs)
            network.run_blocks(h, context, 0, self._blocks)
        raw = patches(inputs.fields, token_grid(module, batch), batch.grid.periodic)
        use(RAW_PATCH, raw)
        if raw.shape[-1] not in self._random:
            self._random[raw.shape[-1]] = RandomFeatures(raw.shape[-1], network.config.hidden_dim, self.seed)
        use(RANDOM_FEATURES, self._random[raw.shape[-1]](raw))

    def truths(self, module: WalrusModule, batch: Batch, scale: SampleScale) -> Truths:
        """Compute the targets of a batch whose fields the network sees divided by a scale.

        Raises:
            PhysteerError: the data lack what a target is made of, or a target is not finite.
        """
        flow = normalised_flow(batch, scale.fields)
        token = token_targets(self.targets, flow, token_grid(module, batch))
        finite = token.flatten(1, -2).isfinite().all(1)  # [B, m]
        for window, row in zip(batch.windows, finite.tolist(), strict=True):
            if not all(row):
                name = self.targets[row.index(False)]
                raise PhysteerError(f"target {name!r} has values that are not finite in {window}")
        return Truths(token, pooled_targets(self.targets, flow))

    @property
    def _blocks(self) -> int:
        """How many blocks must be run for the last of the sites."""
        return max(int(site.module.split(".")[1]) + 1 if "." in site.module else 0 for site in self.sites)


def samples(features: Tensor, resolution: Resolution) -> Tensor:
    """Return features [B, T, h, w, δ, d] as samples of each window: every token, or means over a frame's tokens.

    Returns:
        [B, n, d].
    """
    return features.flatten(1, 4) if resolution == "token" else features.float().mean(TOKENS)


def token_grid(module: WalrusModule, batch: Batch) -> TokenGrid:
    """Return which cells belong to which token."""
    axes = plan(module.network.config, batch.grid.shape, batch.grid.boundaries, jitter=False).axes
    h, w, d = (TokenAxis(axis.tokens, axis.cells, axis.first_cell) for axis in axes)
    return h, w, d
