"""torch's own transformer: rows on either axis, and its fused kernels, which run no hooks on what lies inside."""

import pytest
import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions import Edit, Interchange, Locus, Scale, Site, Span, Steer, Zero, attached, captured

B, T, D, HEADS = 3, 5, 8, 2
PADDED = torch.arange(T) >= torch.tensor([[5], [3], [2]])


def encoder(batch_first: bool, nested: bool = False) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(D, HEADS, 16, 0.0, batch_first=batch_first)
    net = nn.TransformerEncoder(layer, 3, enable_nested_tensor=nested)
    for parameter in net.parameters():  # copies of a layer start from the same weights
        nn.init.normal_(parameter)
    return net.eval().requires_grad_(False)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers_by_hand(net, h: Tensor, change, layer: int = 1) -> Tensor:
    """Return the output with a layer's output [B, T, d] changed, run layer by layer."""
    flip = (lambda x: x) if net.layers[0].self_attn.batch_first else (lambda x: x.transpose(0, 1))
    h = flip(h)
    for i, module in enumerate(net.layers):
        h = module(h)
        if i == layer:
            h = flip(change(flip(h).clone()))
    return flip(h)


@pytest.fixture(params=[True, False], ids=["batch first", "batch second"])
def net(request):
    return encoder(request.param)


def run(net, h: Tensor, *edits: Edit, **arguments) -> Tensor:
    """Return the output [B, T, d] under edits."""
    batch_first = net.layers[0].self_attn.batch_first
    with attached(net, edits):
        y = net(h if batch_first else h.transpose(0, 1), **arguments)
    return y if batch_first else y.transpose(0, 1)


def at(net, module: str) -> Site:
    return Site(module, layout="b t d" if net.layers[0].self_attn.batch_first else "t b d")


@torch.no_grad()
def test_steering_a_subspace_and_an_interchange(net):
    x, along, basis = drawn(B, T, D), drawn(D, seed=1), torch.linalg.qr(drawn(D, 4, seed=2))[0]
    site, source = at(net, "layers.1"), drawn(B, 1, D, seed=3)

    def steered(h):
        h[:, 2] += 0.5 * h[:, 2].norm(dim=-1, keepdim=True) * along / along.norm()
        return h

    def swapped(h):
        h[1, [3]] += (source[1] - h[1, [3]]) @ basis @ basis.mT
        return h

    def exchanged(h):
        h[:, [-1]] = source
        return h

    for edit, change in (
        (Edit(site, Steer(along, 0.5), locus=Locus(frames=[2])), steered),
        (Edit(site, Interchange(source[[1]]), Span(basis), Locus(frames=[3], rows=[1])), swapped),
        (Edit(site, Interchange(source), locus=Locus(frames=[-1])), exchanged),
    ):
        found = run(net, x, edit)
        torch.testing.assert_close(found, layers_by_hand(net, x, change), rtol=1e-5, atol=1e-5)
        assert (found - run(net, x)).abs().max() > 1e-3


INSIDE = ("self_attn", "self_attn.input", "linear1", "linear2.input", "norm1", "dropout2")


@pytest.mark.parametrize("mask", [False, True])
def test_no_fused_kernel_leaves_an_edit_out(net, mask):
    """Without gradients torch fuses a layer; the same edit on the unfused one is the truth."""
    x = drawn(B, T, D)
    masks = {"src_key_padding_mask": PADDED} if mask else {}
    kept = ~PADDED if mask else torch.ones(B, T, dtype=torch.bool)
    for i in range(len(net.layers)):
        for inside in INSIDE:
            edit = Edit(f"layers.{i}.{inside}", Scale(3.0))
            with torch.no_grad():
                fused = run(net, x, edit, **masks)
            unfused = run(net, x.clone().requires_grad_(), edit, **masks).detach()
            torch.testing.assert_close(fused[kept], unfused[kept], rtol=1e-4, atol=1e-5)
            assert (fused - run(net, x, **masks))[kept].abs().max() > 1e-4, edit.site
    with torch.no_grad(), pytest.raises(PhysteerError, match=r"'layers.0.self_attn.out_proj.input' has no activation"):
        run(net, x, Edit("layers.0.self_attn.out_proj.input", Zero()), **masks)  # a weight that attention reads


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@torch.no_grad()
def test_nested_tensors_are_refused():
    net = encoder(True, nested=True)
    for site in ("layers.1 as b t d", "layers.0.linear1", "layers.2.input"):
        for use in (lambda site=site: attached(net, [Edit(site, Zero())]), lambda site=site: captured(net, [site])):
            with pytest.raises(PhysteerError, match=r"is a nested tensor, .* enable_nested_tensor=False"), use():
                net(drawn(B, T, D), src_key_padding_mask=PADDED)
    assert run(net, drawn(B, T, D), Edit("layers.2", Zero())).abs().max() == 0
