"""A Fourier neural operator of the neuraloperator package, as it is: channels come first."""

import pytest
import torch
from torch import Tensor

from physteer.interventions import Edit, Interchange, Locus, Site, Span, Steer, Zero, attached, captured

models = pytest.importorskip("neuralop.models")

B, C, CELLS = 3, 16, (16, 12)
CONV = "fno_blocks.convs.1"


@pytest.fixture(scope="module")
def fno():
    torch.manual_seed(0)
    net = models.FNO(n_modes=(8, 8), in_channels=3, out_channels=3, hidden_channels=C, n_layers=3)
    return net.eval().requires_grad_(False)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(net, x: Tensor, change, module: str = CONV) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output with a module's output [B, C, H, W] changed by a plain hook, and it before and after."""
    seen = []

    def hook(module, args, output):
        seen.extend([output, change(output)])
        return seen[-1]

    handle = net.get_submodule(module).register_forward_hook(hook)
    try:
        return net(x), *seen
    finally:
        handle.remove()


def test_steering_a_subspace_and_an_interchange(fno):
    x, along = drawn(B, 3, *CELLS), drawn(C, seed=1)
    basis, source = torch.linalg.qr(drawn(C, 4, seed=2))[0], drawn(B, 1, *CELLS, C, seed=3)
    region = torch.zeros(*CELLS, dtype=torch.bool)
    region[4:9, 2:5] = True
    other = source[:, 0].movedim(-1, 1)  # [B, C, H, W]

    def steered(h):
        length = 0.5 * h.flatten(1).norm(dim=1) / along.norm() / region.numel() ** 0.5
        return h + length[:, None, None, None] * along[:, None, None]

    def swapped(h):
        return h + torch.einsum("bchw,ck,dk->bdhw", other - h, basis, basis) * region

    def exchanged(h):
        return torch.cat([h[:2], other[2:]])

    for edit, change in (
        (Edit("tap", Steer(along, 0.5)), steered),
        (Edit("tap", Interchange(source), Span(basis), Locus(region=region)), swapped),
        (Edit("tap", Interchange(source[2:]), locus=Locus(rows=[2])), exchanged),
    ):
        edit = edit.with_site(Site.parse(f"{CONV} as b c h w"))
        wanted, before, after = by_hand(fno, x, change)
        with attached(fno, [edit]), captured(fno, [edit.site]) as seen:
            found = fno(x)
        torch.testing.assert_close(seen[CONV], after.movedim(1, -1)[:, None], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        assert (wanted - fno(x)).abs().max() > 1e-4
    change = (after - before).movedim(1, -1)
    assert not change[:2].any()  # other rows keep every bit


def test_the_spectral_convolution_reads_what_the_skip_reads(fno):
    x = drawn(B, 3, *CELLS)
    sites = [f"{CONV}.input as b c h w", "fno_blocks.fno_skips.1.input as b c h w"]
    with captured(fno, sites) as seen:
        fno(x)
    assert torch.equal(*seen.values())
    basis = torch.linalg.qr(drawn(C, 2, seed=4))[0]
    with attached(fno, [Edit(sites[0], Zero(), Span(basis))]), captured(fno, sites) as edited:
        fno(x)
    assert (edited[f"{CONV}.input"] @ basis).abs().max() < 1e-5
    assert torch.equal(edited["fno_blocks.fno_skips.1.input"], seen["fno_blocks.fno_skips.1.input"])
