"""Inputs of probes for a batch: activations at sites, and features of the raw input; and the targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from physteer.analyses.engine import ActivationReader
from physteer.analyses.probing.table import Control
from physteer.concepts import RandomFeatures
from physteer.data.batch import Batch
from physteer.data.normalised import normalised_flow
from physteer.errors import PhysteerError, did_you_mean
from physteer.forecast import Forecaster, SampleScale
from physteer.interventions import Site
from physteer.metrics import TARGETS, TokenGrid, patches, pooled_targets, token_targets

Resolution = Literal["token", "pooled"]
RESOLUTIONS: tuple[Resolution, ...] = ("token", "pooled")
RAW_PATCH, RANDOM_FEATURES = "raw patch", "random features"
"""Places that read the input, as controls: the cells of each token, and random tanh features of them, as many as the
network has channels."""
INPUTS: dict[str, Control] = {RAW_PATCH: "raw_patch", RANDOM_FEATURES: "random_features"}
"""These places, and the name of each control in tables."""
TOKENS = (2, 3, 4)
"""Axes h, w, δ of activations."""


@dataclass(frozen=True, eq=False)
class Truths:
    """Targets of a batch, in the units of the network's inputs."""

    token: Tensor
    """[B, T, h, w, δ, m]; T = 1, the last frame, where sites do not tell frames apart."""
    pooled: Tensor
    """[B, T, m]."""

    def samples(self, resolution: Resolution) -> Tensor:
        """Return the targets as samples of each window, [B, n, m]."""
        return self.token.flatten(1, 4) if resolution == "token" else self.pooled


class ProbeReader:
    """Reads sites and the raw input of windows, and computes the targets.

    Args:
        sites: outputs of the encoder, of blocks, and of modules in them; all on one grid of tokens.
        targets: names in `physteer.metrics.TARGETS`; may be empty.
        seed: of the random features.

    Raises:
        PhysteerError: There is no such target.
    """

    def __init__(self, sites: Sequence[Site], targets: Sequence[str], seed: int) -> None:
        for name in targets:
            if name not in TARGETS:
                raise PhysteerError(f"no probe target {name!r}, only {', '.join(TARGETS)}{did_you_mean(name, TARGETS)}")
        self.sites, self.targets, self.seed = tuple(sites), tuple(targets), seed
        self.places = (*map(str, self.sites), RAW_PATCH, RANDOM_FEATURES)
        """Names of the sites, then of the controls."""
        self._random: dict[int, RandomFeatures] = {}  # by the size of a patch

    @torch.no_grad()
    def read(self, forecaster: Forecaster, batch: Batch, use: Callable[[str, Tensor], None]) -> None:
        """Run the network on a batch's contexts, and call a function with the features of every place.

        Args:
            forecaster: whose network is run.
            batch: B windows.
            use: called with a place and its features [B, T, h, w, δ, d], which must not be kept or changed.
        """
        width = 0

        def observe(site: Site, h: Tensor) -> None:
            nonlocal width
            width = max(width, h.shape[-1])
            use(str(site), h)

        ActivationReader(forecaster, self.sites).read(batch, observe)
        inputs, _ = forecaster.inputs(batch.context, batch)
        raw = patches(inputs.fields, self._tokens(forecaster, batch), batch.grid.periodic)
        if self._frames(forecaster, batch) < raw.shape[1]:  # the network's features are of all frames too
            raw = rearrange(raw, "b t h w δ p -> b 1 h w δ (t p)")
        use(RAW_PATCH, raw)
        if raw.shape[-1] not in self._random:
            self._random[raw.shape[-1]] = RandomFeatures(raw.shape[-1], width, self.seed)
        use(RANDOM_FEATURES, self._random[raw.shape[-1]](raw))

    def truths(self, forecaster: Forecaster, batch: Batch, scale: SampleScale) -> Truths:
        """Compute the targets of a batch.

        Args:
            forecaster: for the tokens' cells.
            batch: B windows.
            scale: by which the fields are divided in the network's inputs.

        Raises:
            PhysteerError: The data lack a field of a target, or a target is not finite.
        """
        flow, frames = normalised_flow(batch, scale.fields), self._frames(forecaster, batch)
        token = token_targets(self.targets, flow, self._tokens(forecaster, batch))[:, -frames:]
        finite = token.flatten(1, -2).isfinite().all(1)  # [B, m]
        for window, row in zip(batch.windows, finite.tolist(), strict=True):
            if not all(row):
                name = self.targets[row.index(False)]
                raise PhysteerError(f"target {name!r} has values that are not finite in {window}")
        return Truths(token, pooled_targets(self.targets, flow)[:, -frames:])

    def _tokens(self, forecaster: Forecaster, batch: Batch) -> TokenGrid:
        return forecaster.token_grid(self.sites[0], batch.metadata, batch.n_input)

    def _frames(self, forecaster: Forecaster, batch: Batch) -> int:
        """Return T of the sites: that of the context, or 1 where a network does not tell frames apart."""
        return forecaster.site_shapes(self.sites[:1], batch.metadata, batch.n_input)[self.sites[0]][1]


def samples(features: Tensor, resolution: Resolution) -> Tensor:
    """Return features [B, T, h, w, δ, d] as samples of each window: every token, or means over a frame's tokens.

    Returns:
        [B, n, d].
    """
    return features.flatten(1, 4) if resolution == "token" else features.float().mean(TOKENS)
