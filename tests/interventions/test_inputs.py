"""The input of a module is a site: edited before the module runs, observed as it comes in."""

import pytest
import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions import (
    Edit,
    Interchange,
    Locus,
    Scale,
    Site,
    Span,
    Zero,
    attached,
    captured,
    find_module,
    stopped_after,
    with_layout,
)

B, T, D, HEADS = 2, 5, 8, 2


class Block(nn.Module):
    """Calls its parts by position and by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.projection = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D)

    def forward(self, scale: float, x: Tensor) -> Tensor:
        return scale * self.projection(self.norm(self.inner(flag=True, x=x)))


class Inner(nn.Module):
    def forward(self, flag: bool, x: Tensor) -> Tensor:
        return x.sin() if flag else x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, D)
        self.block = Block()
        self.mix = nn.MultiheadAttention(D, HEADS, batch_first=True)
        self.lift = nn.Conv1d(D, 3, 1)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.block(2.0, x=self.embed(ids))
        return self.lift(self.mix(h, h, h)[0].mT)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().requires_grad_(False).double()


@pytest.fixture(scope="module")
def ids():
    return torch.arange(B * T).view(B, T) % 7


def basis(k: int) -> Tensor:
    return torch.linalg.qr(torch.randn(D, k, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]


def seen(net, ids, *sites):
    with captured(net, sites) as activations:
        net(ids)
    return activations


def test_an_input_is_what_comes_in_by_position_or_by_keyword(net, ids):
    found = seen(net, ids, "block.inner.input", "block.norm.input", "block.inner", "embed", "embed.input", "input")
    assert torch.equal(found["block.inner.input"], found["embed"])
    assert torch.equal(found["block.norm.input"], found["block.inner"])
    assert torch.equal(found["embed.input"], ids) and torch.equal(found["input"], ids)


@pytest.mark.parametrize("locus", [Locus(), Locus(frames=[-1]), Locus(rows=[1], frames=[0, 3])])
@pytest.mark.parametrize("subspace", [None, Span(basis(3))])
def test_an_edit_of_an_input_equals_that_of_the_output_it_is(net, ids, locus, subspace):
    for before, after in (("embed", "block.inner.input"), ("block.inner", "block.norm.input")):
        sites = [Site(name, layout="b t d") for name in (before, after)]
        outputs = []
        for site in sites:
            edit = Edit(site, Scale(0.5), subspace, locus)
            with attached(net, [edit]), captured(net, [after]) as found:
                outputs.append((net(ids), found[after]))
        assert all(torch.equal(*pair) for pair in zip(*outputs, strict=True))
        assert not torch.equal(outputs[0][0], net(ids))


def test_a_head_before_its_projection(net, ids):
    site = Site.parse("block.projection.input[1] as b t (n=2 hd)")
    before = seen(net, ids, "block.norm", "block.projection")
    assert torch.equal(seen(net, ids, site)[str(site)], before["block.norm"][..., D // HEADS :])
    with attached(net, [Edit(site, Zero())]):
        found = seen(net, ids, "block.projection", "block.norm")
    kept = before["block.norm"].clone()
    kept[..., D // HEADS :] = 0
    assert torch.equal(found["block.projection"], net.block.projection(kept))
    assert torch.equal(found["block.norm"], before["block.norm"])  # never in place


def test_edits_of_an_input_and_an_output_compose(net, ids):
    h = seen(net, ids, "block.norm")["block.norm"]
    edits = [Edit("block.projection", Scale(3.0)), Edit("block.projection.input", Scale(2.0))]
    with attached(net, edits):
        found = seen(net, ids, "block.projection", "block.projection.input")
    assert torch.equal(found["block.projection.input"], 2 * h)
    assert torch.equal(found["block.projection"], 3 * net.block.projection(2 * h))
    assert not net.block.projection._forward_pre_hooks and not net.block.projection._forward_hooks


def test_gradients_reach_an_input(net, ids):
    source = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    with attached(net, [Edit("block.norm.input", Interchange(source))]):
        net(ids).square().sum().backward()
    assert source.grad.abs().min() > 0


def test_a_pass_ends_at_an_input(net, ids):
    looked = []
    with stopped_after(net, ["block.norm.input"], lambda site, h: looked.append(h)):
        net(ids)
        raise AssertionError
    assert torch.equal(looked[0], net.embed(ids).sin())


def test_a_child_of_that_name_comes_first_and_layouts_are_declared():
    class Declares(nn.Sequential):
        def site_layout(self, module: str) -> str | None:
            return "b s d" if module == "last.input" else None

    inner = nn.ModuleDict({"input": nn.Linear(D, D)})
    assert find_module(inner, Site("input")) is inner["input"]
    assert find_module(inner, Site("input.input")) is inner["input"]
    declares = nn.ModuleDict({"net": Declares()})
    declares["net"].add_module("last", nn.Identity())
    assert with_layout(declares, Site("net.last.input")).layout == "b s d"
    assert with_layout(declares, Site("net.last")).layout is None
    assert seen(declares["net"], torch.ones(B, T, D), "last.input")["last.input"].shape == (B, 1, T, D)


def test_what_an_input_cannot_do_is_told(net, ids):
    for site, layout in (("embed.input", None), ("embed.input", "b d"), ("input", None)):
        with (
            pytest.raises(PhysteerError, match=rf"site {site}: an activation of torch.int64 holds indices or a mask"),
            attached(net, [Edit(Site(site, layout=layout), Zero(), Span(basis(2)))]),
        ):
            net(ids)
    with (
        pytest.raises(PhysteerError, match=r"site block.input is a float; .* or its first input"),
        captured(net, ["block.input"]),
    ):
        net(ids)
    square = torch.arange(D * D).view(D, D) % 7
    with attached(net, [Edit("block.projection.input", Zero(), Span(basis(2)))]):
        net(square)  # as many tokens as channels: a linear layer has its channels last
    for site in ("lift.input", "mix.input"):
        with (
            pytest.raises(PhysteerError, match=rf"site {site}: Span.* which axis .* as b t d'"),
            attached(net, [Edit(site, Zero(), Span(basis(2)))]),
        ):
            net(ids if site == "lift.input" else square)
    with pytest.raises(PhysteerError, match=r"mix.input\[0\] asks for a head, but .* no axis of either is heads"):
        find_module(net, Site("mix.input", 0))
    with pytest.raises(
        PhysteerError, match=r"'block.projektion.input' not found; did you mean 'block.projection.input'"
    ):
        find_module(net, Site("block.projektion.input"))
    with pytest.raises(PhysteerError, match=r"'block.input.norm' not found; did you mean .*'block.norm'"):
        find_module(net, Site("block.input.norm"))
    with (
        pytest.raises(PhysteerError, match=r"site 'mix.out_proj.input' has no activation: the forward does not call"),
        attached(net, [Edit("mix.out_proj.input", Zero())]),
    ):
        net(ids)


def test_the_input_of_a_compiled_module_is_outside_of_its_graph(ids):
    net = Net().requires_grad_(False).double()
    wanted = seen(net, ids, "block.norm.input")["block.norm.input"]
    net.block.norm = torch.compile(net.block.norm, backend="eager")
    assert torch.equal(seen(net, ids, "block.norm.input")["block.norm.input"], wanted)
    net.block.forward = torch.compile(net.block.forward, backend="eager")
    with pytest.raises(PhysteerError, match="lies inside the compiled 'block'"):
        find_module(net, Site("block.norm.input"))
