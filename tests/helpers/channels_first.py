"""A forecaster whose activations are [B, C, H, W]: another emulator than Walrus, as the protocol takes it."""

import torch
from einops import rearrange
from torch import Tensor, nn

from physteer.forecast.rollout import SampleScale
from physteer.interventions import Site
from physteer.metrics import TokenAxis

WIDTH = 16
N_FRAMES = 3


class Fields:
    """The normalised frames, as the network takes them."""

    def __init__(self, fields: Tensor) -> None:
        self.fields = fields

    def __iter__(self):
        yield rearrange(self.fields, "n t c h w 1 -> n (t c) h w")


class Convolutions(nn.Module):
    """Maps the frames of a window [N, T·C, H, W] to the change of the last, [N, C, H, W]."""

    def __init__(self, n_fields: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(N_FRAMES * n_fields, WIDTH, 1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GELU()) for _ in range(2))
        self.out = nn.Conv2d(WIDTH, n_fields, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        for block in self.blocks:
            h = h + block(h)
        return self.out(h)


class ConvolutionForecaster:
    """`physteer.forecast.Forecaster` around `Convolutions`; only `layout` tells edits where the channels are."""

    jitter_seed, causal_in_time, identity, source_version = None, False, "convolutions", "1"
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, fields: tuple[str, ...]) -> None:
        torch.manual_seed(0)
        self.fields, self.network = fields, Convolutions(len(fields))

    def inputs(self, window, batch, step=0):
        return Fields(window), SampleScale(*torch.ones(2, len(window), 1, window.shape[2], 1, 1, 1))

    def run(self, inputs, *, last_frame_only=False):
        return rearrange(self.network(*inputs), "n c h w -> n 1 c h w 1")

    def next_frame(self, y, last, scale, batch):
        return last + 0.1 * y

    def predict_next(self, window, batch, step=0, *, all_frames=False):
        inputs, scale = self.inputs(window, batch, step)
        return self.next_frame(self.run(inputs), window[:, -1:], scale, batch)

    def computes_last_frame_only(self, site):
        return False

    def layout(self, site: Site) -> str | None:
        return "b c h w" if site.module.startswith("blocks.") else None

    def output_shapes(self, modules, metadata, n_frames):
        return {name: torch.Size((1, WIDTH, *metadata.grid.shape[:2])) for name in modules}

    def site_shapes(self, sites, metadata, n_frames):
        return {site: torch.Size((1, 1, *metadata.grid.shape, WIDTH)) for site in sites}

    def token_grid(self, site, metadata, n_frames):
        return tuple(TokenAxis(cells) for cells in metadata.grid.shape)
