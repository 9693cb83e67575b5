"""Decoder lens: what the prediction would be if the blocks from there on did nothing."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from physteer.walrus.grid import Boundaries, Shifts
from physteer.walrus.network import Walrus


def decoder_lens(
    network: Walrus,
    x: Tensor,
    labels: Sequence[int],
    boundaries: Boundaries,
    shifts: Shifts | None = None,
) -> Iterator[Tensor]:
    """Yield the decoded last frame after the encoder, then after each block; the last one is the network's own output.

    Blocks add to a residual stream, so the decoder reads an earlier one's output too (nostalgebraist's logit lens;
    Langedijk et al. 2023 for decoders). One activation is in memory at a time.

    Args:
        network: Walrus.
        x: normalised fields [B, T, C, H, W, D].
        labels: as for the network.
        boundaries: likewise.
        shifts: likewise.

    Yields:
        [B, 1, C, H, W, D], blocks + 1 times.
    """
    h, context = network.encode(x, labels, boundaries, shifts)
    yield network.decode(h, context, last_frame_only=True)
    for i in range(len(network.blocks)):
        h = network.run_blocks(h, context, i, i + 1)
        yield network.decode(h, context, last_frame_only=True)
