"""The planted transformer runs in stages, and tells truly how its nodes enter the residual stream."""

import pytest
import torch

from physteer.errors import PhysteerError
from physteer.interventions import Edit, Interchange, Site, attached, captured, replayed, site_names, take_snapshots
from physteer.interventions.residual import resumed, write_of
from physteer.testing.planted_transformer import PlantedTransformer

TOKENS = torch.randint(7, (2, 3, 6), generator=torch.Generator().manual_seed(0))
"""Base and source, [3, 6] each."""


@pytest.fixture(scope="module")
def network() -> PlantedTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PlantedTransformer(vocabulary=7, n_positions=6, n_outputs=5).requires_grad_(False)


def single_nodes(network) -> list[Site]:
    """Every site, heads one by one."""
    whole = [Site(name) for name in site_names(network) if not name.endswith("heads")]
    return [*whole, *(Site.parse(node) for node in network.leaf_nodes() if "heads" in node)]


def test_sites_are_listed_in_the_order_of_computation(network):
    called = []
    hooks = [m.register_forward_hook(lambda *_, n=n: called.append(n)) for n, m in network.named_modules()]
    network(TOKENS[0])
    for hook in hooks:
        hook.remove()
    assert tuple(name for name in called if name in network.site_names()) == network.site_names()
    assert len(network.leaf_nodes()) == 2 * (4 + 1)
    with captured(network, network.site_names()) as activations:
        network(TOKENS[0])
    assert activations["blocks.1.attention.heads"].shape == (3, 6, 32)  # all heads are seen as channels
    assert activations["blocks.1.attention"].shape == (3, 6, 32)


def test_no_position_sees_later_ones(network):
    changed = TOKENS[0].clone()
    changed[:, 4] = (changed[:, 4] + 1) % 7
    before, after = network(TOKENS[0]), network(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().amin((0, 2)).min() > 0
    torch.testing.assert_close(network(TOKENS[0], last_frame_only=True), before[:, -1:], atol=1e-5, rtol=0)


def test_continued_passes_equal_whole_ones(network):
    nodes = single_nodes(network)
    bases, sources = (take_snapshots(network, nodes, tokens) for tokens in TOKENS)
    unchanged = network(TOKENS[0])
    for site in nodes:
        edit = Edit(site, Interchange(sources[site].activation))
        with attached(network, [edit]):
            whole = network(TOKENS[0])
        torch.testing.assert_close(replayed(network, bases[site], [edit]), whole, atol=1e-5, rtol=0)
        assert (whole - unchanged).abs().max() > 1e-3, site
        # the same, injected into the stream behind the node
        write = write_of(network, site)
        stream = take_snapshots(network, [write.stream], TOKENS[0])[write.stream]
        h = stream.activation + write.of(sources[site].activation - bases[site].activation)
        torch.testing.assert_close(resumed(network, stream, h), whole, atol=1e-5, rtol=0)
        last = resumed(network, stream, h, last_frame_only=True)
        torch.testing.assert_close(last, whole[:, -1:], atol=1e-5, rtol=0)


def test_impossible_sizes_are_refused(network):
    with pytest.raises(PhysteerError, match="width of 30 cannot be split over 4 heads"):
        PlantedTransformer(7, 6, 5, width=30)
    with pytest.raises(PhysteerError, match="7 tokens came to a network with 6 positions"):
        network(torch.zeros(1, 7, dtype=torch.long))
