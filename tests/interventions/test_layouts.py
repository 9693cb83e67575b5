"""Sites have layouts: edits act on the axes they name, and what is ambiguous is refused."""

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions import (
    Complement,
    Edit,
    Erase,
    Interchange,
    InterchangeMean,
    Locus,
    LowRankRotation,
    Mean,
    Resample,
    Scale,
    Site,
    Span,
    Steer,
    Zero,
    apply_edits,
    attached,
    captured,
    observed,
    parse_layout,
    with_layout,
)

B, T, H, W, C, HEADS = 3, 5, 6, 4, 8, 2


class Conv(nn.Module):
    """Channels first, [B, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, C, 1)
        self.block = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.GELU())
        self.out = nn.Conv2d(C, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(self.lift(x))
        return self.out(h.view(h.shape))  # a view, as networks take them of contiguous activations


class Spy(nn.Module):
    """Its only module returns what comes in."""

    def __init__(self, layout: str | None = None) -> None:
        super().__init__()
        self.tap = nn.Identity()
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        return self.tap(x)

    def site_layout(self, module: str) -> str | None:
        return self.layout


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def basis(width: int, k: int) -> Tensor:
    return torch.linalg.qr(drawn(width, k))[0]


def edited(h: Tensor, layout: str | None, *edits: Edit) -> Tensor:
    """Return the output of a module that declares a layout, under edits."""
    spy = Spy(layout)
    with attached(spy, edits):
        return spy(h)


def seen(h: Tensor, site: Site) -> Tensor:
    spy = Spy()
    with captured(spy, [site]) as activations:
        spy(h)
    return activations[str(site)]


# layout, the shape of an output, the order that edits see
LAYOUTS = [
    ("b c h w", (B, C, H, W), "b c h w -> b 1 h w c"),
    ("b c h w δ", (B, C, H, W, 2), "b c h w z -> b 1 h w z c"),
    ("b c w h", (B, C, W, H), "b c w h -> b 1 h w c"),
    ("b t d", (B, T, C), "b t d -> b t d"),
    ("t b d", (T, B, C), "t b d -> b t d"),
    ("b s c", (B, T, C), "b s c -> b 1 s c"),
    ("b t c h w", (B, T, C, H, W), "b t c h w -> b t h w c"),
    ("(b t=5) c h w", (B * T, C, H, W), "(b t) c h w -> b t h w c"),
    ("b (h=6 w) d", (B, H * W, C), "b (h w) d -> b 1 h w d"),
    ("b c ...", (B, C, H, W), "b c h w -> b 1 h w c"),
    ("b t n hd", (B, T, HEADS, C // HEADS), "b t n hd -> b t (n hd)"),
    ("b n t hd", (B, HEADS, T, C // HEADS), "b n t hd -> b t (n hd)"),
    ("b t (n=2 hd)", (B, T, C), "b t d -> b t d"),
    ("b d", (B, C), "b d -> b 1 d"),
]


@pytest.mark.parametrize(("layout", "shape", "order"), LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edits_act_on_rows_frames_and_channels_wherever_these_are(layout, shape, order, dtype):
    sizes = {"t": T} if "(b t)" in order else {"h": H} if "(h w)" in order else {}
    h, site = drawn(*shape).to(dtype), Site("tap", layout=layout)
    plain = rearrange(h, order, **sizes)
    assert torch.equal(seen(h, site), plain)
    n_frames = plain.shape[1]
    for locus in (Locus(), Locus(rows=[0, 2]), Locus(frames=[-1]), Locus(rows=[1], frames=[0])):
        for subspace in (None, Span(basis(C, 2)), Complement(basis(C, 3)), LowRankRotation(C, 3)):
            source = drawn(*plain.shape, seed=1).to(dtype)
            edit = Edit(site, Interchange(locus.take(source)), subspace, locus)
            truth = apply_edits(plain, [Edit("a", edit.replacement, subspace, locus)])
            with torch.no_grad():
                found = edited(h, None, edit)
            assert found.shape == h.shape and found.dtype == dtype and found.is_contiguous()
            torch.testing.assert_close(rearrange(found, order, **sizes), truth)
            assert not torch.equal(found, h)
    with pytest.raises(PhysteerError, match=f"frame {n_frames}: the activation has {n_frames}"):
        edited(h, layout, Edit("tap", Zero(), locus=Locus(frames=[n_frames])))


@pytest.mark.parametrize(("layout", "shape", "order"), LAYOUTS)
def test_what_changes_nothing_leaves_every_bit(layout, shape, order):
    h, site = drawn(*shape), Site("tap", layout=layout)
    h.view(-1)[0], h.view(-1)[1] = -0.0, torch.nan
    own = seen(h, site)
    direction = drawn(*own.shape[2:-1], *[1] * (6 - own.ndim), C)
    for strength in (0.0, -0.0):
        assert edited(h, layout, Edit("tap", Steer(direction, strength, "none"))) is h
    h = drawn(*shape)
    own = seen(h, site)
    for subspace in (None, Span(basis(C, 2))):
        for locus in (Locus(), Locus(rows=[1]), Locus(frames=[0])):
            assert torch.equal(edited(h, layout, Edit("tap", Interchange(locus.take(own)), subspace, locus)), h)


@pytest.mark.parametrize(("layout", "shape", "order"), [case for case in LAYOUTS if "hd" in case[0]])
def test_a_head_is_found_by_the_layout(layout, shape, order):
    h = drawn(*shape)
    whole = seen(h, Site("tap", layout=layout))
    width = C // HEADS
    assert torch.equal(seen(h, Site("tap", 1, layout)), whole[..., width:])
    zeroed = seen(edited(h, layout, Edit("tap[1]", Zero())), Site("tap", layout=layout))
    assert torch.equal(zeroed, torch.cat([whole[..., :width], torch.zeros_like(whole[..., width:])], -1))
    part = Edit("tap[0]", Zero(), Span(basis(width, 1)))
    change = (seen(edited(h, layout, part), Site("tap", layout=layout)) - whole).reshape(-1, C)
    assert int(torch.linalg.matrix_rank(change, tol=1e-5)) == 1 and not change[:, width:].any()
    with pytest.raises(PhysteerError, match=r"site tap\[2\]: head 2 is asked for, but the activation has 2 heads"):
        edited(h, layout, Edit("tap[2]", Zero()))


# ---------------------------------------------------------------- channels first


@pytest.mark.parametrize("cells", [(16, 16), (C, C), (12, C)])
def test_erasing_two_channel_directions_changes_a_space_of_rank_two(cells):
    net, x = Conv().requires_grad_(False), drawn(2, 3, *cells)
    site = Site("block", layout="b c h w")
    with captured(net, [site]) as before:
        net(x)
    with attached(net, [Edit(site, Zero(), Span(basis(C, 2)))]), captured(net, [site]) as after:
        net(x)
    change = (after["block"] - before["block"]).reshape(-1, C)
    assert after["block"].shape == (2, 1, *cells, C)
    assert int(torch.linalg.matrix_rank(change, tol=1e-4)) == 2
    for name in ("block", "block.0"):  # nobody says where the channels are
        with (
            pytest.raises(PhysteerError, match=rf"site {name}: .* give the layout, such as '{name} as b c h w'"),
            attached(net, [Edit(name, Zero(), Span(basis(C, 2)))]),
        ):
            net(x)


def test_steering_takes_norms_over_space_and_channels():
    net, x = Conv().requires_grad_(False), drawn(2, 3, H, W)
    site, direction = Site.parse("block as b c h w"), drawn(H, W, 1, C)
    with captured(net, [site]) as before:
        net(x)
    for mode in ("drop", "pad", "none"):
        with attached(net, [Edit(site, Steer(direction, 0.4, mode))]), captured(net, [site]) as after:
            net(x)
        moved = (after["block"] - before["block"]).flatten(1).norm(dim=1)
        torch.testing.assert_close(moved, 0.4 * before["block"].flatten(1).norm(dim=1))
    unit = direction[:, :, 0] / direction.norm()
    torch.testing.assert_close((after["block"] - before["block"])[1, 0] / moved[1], unit)


def test_regions_means_and_erasers_by_the_layout():
    h = drawn(B, C, H, W)
    region = torch.zeros(H, W, 1, dtype=torch.bool)
    region[2:, 1] = True
    for mask in (region, region[..., 0]):
        found = edited(h, "b c h w", Edit("tap", Zero(), locus=Locus(region=mask)))
        assert torch.equal(found, torch.where(region[..., 0], 0.0, h))
    found = edited(h, "b c h w", Edit("tap", Mean(torch.arange(8.0))))
    assert torch.equal(found, torch.arange(8.0)[:, None, None].expand_as(h))
    other = drawn(B, 1, 2, 3, C, seed=3)
    found = edited(h, "b c h w", Edit("tap", InterchangeMean(other)))
    torch.testing.assert_close(found.mean((2, 3)), other.mean((1, 2, 3)))
    read = basis(C, 2)
    found = edited(h, "b c h w", Edit("tap", Erase(torch.zeros(C), read, read)))
    assert (torch.einsum("bchw,ck->bkhw", found, read)).abs().max() < 1e-5
    assert torch.equal(edited(h.transpose(0, 1), "c b h w", Edit("tap", Resample(3))).transpose(0, 1), Resample(3)(h))


# ---------------------------------------------------------------- transformers


def transformer(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(C, HEADS, 16, 0.0, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval().requires_grad_(False)


@torch.no_grad()
def test_heads_of_a_transformer_are_never_guessed():
    net, x = transformer(True), drawn(B, T, C)
    for site in ("layers.0.self_attn[2]", Site("layers.0.self_attn", 0, "b t (n=2 hd)")):
        with (
            pytest.raises(PhysteerError, match=r"self_attn\[.\] asks for a head, but .* mixes its heads"),
            attached(net, [Edit(site, Zero())]),
        ):
            net(x)
    for use in (lambda: attached(net, [Edit("layers.0.linear1[2]", Zero())]), lambda: captured(net, ["layers.1[2]"])):
        with pytest.raises(PhysteerError, match=r"\[2\]: a head must know which axis .* as b t \(n=8 hd\)'"), use():
            net(x)
    with (
        pytest.raises(PhysteerError, match=r"layers.1\[2\]: head 2 is asked for, but the layout 'b t d' has no axis"),
        captured(net, ["layers.1[2] as b t d"]),
    ):
        net(x)


@torch.no_grad()
def test_rows_of_a_transformer_with_its_batch_on_axis_one():
    net, x = transformer(False), drawn(T, B, C)
    for edit in (Edit("layers.0", Zero(), locus=Locus(rows=[1])), Edit("layers.0", Resample())):
        with pytest.raises(PhysteerError, match="batch_first=False; give the layout"), attached(net, [edit]):
            net(x)
    rows = Locus(rows=[1])
    with attached(net, [Edit("layers.0 as t b d", Zero(), locus=rows)]), captured(net, ["layers.0"]) as h:
        net(x)
    assert not h["layers.0"][:, 1].any() and h["layers.0"][:, 0].all()


@torch.no_grad()
def test_tokens_of_a_module_that_declares_nothing():
    net, x = transformer(True), drawn(B, T, C)
    U = basis(C, 2)
    with captured(net, ["layers.0"]) as before:
        net(x)
    with attached(net, [Edit("layers.0", Zero(), Span(U))]), captured(net, ["layers.0"]) as after:
        net(x)
    change = (after["layers.0"] - before["layers.0"]).reshape(-1, C)
    assert int(torch.linalg.matrix_rank(change, tol=1e-4)) == 2
    for length in (C, T):  # as many tokens as channels: no longer certain
        message = "Span, which acts on channels, must know which axis" if length == C else "some frames must know"
        locus = Locus() if length == C else Locus(frames=[-1])
        with (
            pytest.raises(PhysteerError, match=message),
            attached(net, [Edit("layers.0", Zero(), Span(U), locus)]),
        ):
            net(drawn(B, length, C))
    with attached(net, [Edit("layers.0.linear1", Mean(torch.zeros(16)))]):
        net(drawn(B, 16, C))  # a linear layer has its channels last


def test_whole_outputs_are_edited_whatever_their_shape():
    for shape in ((4,), (B, C), (C, C, C), (2, 2, 2, 2, 2, 2, 2)):
        h = drawn(*shape)
        assert torch.equal(edited(h, None, Edit("tap", Scale(2.0))), 2 * h)
        assert torch.equal(edited(h, None, Edit("tap", Interchange(h.flip(0)))), h.flip(0))
        assert torch.equal(edited(h, None, Edit("tap", Zero(), locus=Locus(rows=[1])))[1], torch.zeros(shape[1:]))


@pytest.mark.parametrize(
    ("replacement", "locus"),
    [
        (Steer(torch.ones(1, 1, 1, C), 0.1), Locus()),
        (InterchangeMean(torch.zeros(1, 1, 1, C)), Locus()),
        (Zero(), Locus(frames=[0])),
        (Zero(), Locus(region=torch.ones(H, 1, dtype=torch.bool))),
        (Mean(torch.zeros(C)), Locus()),
        (Interchange(torch.zeros(C)), Locus()),
        (Erase(torch.zeros(C), basis(C, 1), basis(C, 1)), Locus()),
    ],
)
def test_what_tells_axes_apart_needs_a_layout(replacement, locus):
    with pytest.raises(PhysteerError, match=r"site tap: .* must know which axis of the activation \[8, 8, 8, 8\]"):
        edited(drawn(C, C, C, C), None, Edit("tap", replacement, locus=locus))


# ---------------------------------------------------------------- declaring


def test_a_layout_is_read_from_the_site_then_the_model_then_the_part_that_holds_it():
    outer = nn.ModuleDict({"net": Spy("b c h w"), "plain": nn.Identity()})
    assert with_layout(outer, Site("net.tap")).layout == "b c h w"
    assert with_layout(outer, Site.parse("net.tap as b h w c")).layout == "b h w c"
    assert with_layout(outer, Site("plain")).layout is None
    looked = []
    with observed(outer["net"], ["tap"], lambda site, h: looked.append((site.layout, h.shape))):
        outer["net"](drawn(B, C, H, W))
    assert looked == [("b c h w", (B, 1, H, W, C))]


def test_a_layout_is_no_part_of_an_address():
    plain, said = Site("blocks.3", 1), Site.parse("blocks.3[1] as b t (n=8 hd)")
    assert said.layout == "b t (n=8 hd)" and str(said) == str(plain) == "blocks.3[1]"
    assert plain == said and hash(plain) == hash(said) and sorted([said, Site("a", 0)])[0].module == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b c h w; d", "is no layout"),
        ("", "is no layout"),
        ("b (n 8) d", "is no layout"),
        ("b q h w", "axis 'q' is unknown"),
        ("b h w", "one axis holds the channels"),
        ("b c h w d", "one axis holds the channels.* depth is δ or z"),
        ("b t n d", "one axis holds the channels"),
        ("b b c", "names an axis twice"),
        ("b t (n hd)", r"all but one need a size, as in \(n=8 hd\)"),
        ("b c x y z s", "at most three axes of space"),
    ],
)
def test_what_is_no_layout_is_refused(text, message):
    with pytest.raises(PhysteerError, match=message):
        parse_layout(text)
    with pytest.raises(PhysteerError, match=f"site blocks.3: .*{message}"):
        Site("blocks.3", layout=text)


def test_a_layout_that_does_not_fit_is_refused():
    for layout, message in (("b c h w", "expected 4 dims. Received 3-dim"), ("b t (n=3 hd)", "can't divide axis")):
        with pytest.raises(PhysteerError, match=rf"site tap: the layout .* \[{B}, {T}, {C}\]: .*{message}"):
            edited(drawn(B, T, C), layout, Edit("tap", Zero()))


def test_gradients_pass_through_a_layout():
    h = drawn(B, C, 2, 1).double().requires_grad_()
    rotation, site = LowRankRotation(C, 2).double(), Site("tap", layout="b c h w")
    edits = [
        Edit(site, Interchange(drawn(B, 1, 2, 1, C, seed=2).double()), rotation),
        Edit(site, Scale(2.0), locus=Locus(rows=[0])),
    ]
    edited(h, None, *edits).sin().sum().backward()
    assert h.grad.abs().sum() > 0 and rotation.rotation.raw.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda x: edited(x, None, *edits), [h])
