"""What a search computes of its frozen network: each window up to the last site, once."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from experiments import weights

from physteer.das import Prefixes
from physteer.data import CounterfactualDataModule
from physteer.interventions import Site, observed, replayed, take_last_frame_snapshot, take_snapshot
from physteer.module import WalrusModule

SITES = [Site.parse(name) for name in ("blocks.1", "encoder", "blocks.0", "blocks.1.time.heads")]
ROOM = 2**26


@pytest.fixture(scope="module", params=[None, 0], ids=["", "jitter"])
def module(tmp_path_factory, request) -> WalrusModule:
    checkpoint = weights(tmp_path_factory.mktemp("walrus") / "walrus.safetensors")
    one = WalrusModule(str(checkpoint), jitter_seed=request.param).eval()
    one.freeze_network()
    return one


@pytest.fixture(scope="module")
def batches(tiny_well):
    """Two batches of four pairs; some windows come more than once."""
    data = CounterfactualDataModule(str(tiny_well), ["Reynolds"], n_steps_input=3, train_pairs=8, batch_size=4)
    yield list(data.train_dataloader())
    data.teardown("fit")


@contextmanager
def encoded(module: WalrusModule) -> Iterator[list[int]]:
    """Count the windows of every pass of the encoder."""
    rows: list[int] = []
    with observed(module.network, ["encoder"], lambda site, h: rows.append(len(h))):
        yield rows


def passed(prefixes: Prefixes, module: WalrusModule, batches: list) -> list[int]:
    """Ask for all sites of every batch; return the windows of each pass of the encoder."""
    with encoded(module) as rows:
        for pairs in batches:
            keyed = prefixes.keyed(module, pairs)
            for site in SITES:
                prefixes.at(module, site, keyed)
    return rows


def parts(pairs) -> list:
    """Bases, sources and others' sources."""
    return [pairs.base, *pairs.sources, *pairs.strangers]


@pytest.mark.parametrize("last_frame", [False, True])
@pytest.mark.parametrize("kept", ["memory", "folder"])
def test_each_window_is_encoded_once_for_all_sites(module, batches, tmp_path, last_frame, kept):
    folder = tmp_path / "cache" if kept == "folder" else None
    prefixes = Prefixes(module, SITES, last_frame=last_frame, max_bytes=ROOM, folder=folder)
    drawn = [
        (window, None if module.jitter_seed is None else base)  # whose jitter it takes
        for pairs in batches
        for part in parts(pairs)
        for window, base in zip(part.windows, pairs.base.windows, strict=True)
    ]
    assert sum(passed(prefixes, module, batches)) == len(set(drawn))
    assert len(set(drawn)) < len(drawn) or module.jitter_seed is not None
    assert passed(prefixes, module, batches) == []
    if folder is not None:
        later = Prefixes(module, SITES[1:2], last_frame=last_frame, max_bytes=ROOM, folder=folder)
        assert passed(later, module, batches) == []


@pytest.mark.parametrize("last_frame", [False, True])
def test_without_room_each_window_is_encoded_once_per_step(module, batches, last_frame):
    prefixes = Prefixes(module, SITES, last_frame=last_frame, max_bytes=0, folder=None)
    with pytest.warns(UserWarning, match="stores no more windows: it holds 0 of 0 MiB"):
        first = passed(prefixes, module, batches)
    assert passed(prefixes, module, batches) == first
    draws = [part.windows for pairs in batches for part in parts(pairs)]
    assert first == [len(set(windows)) if module.jitter_seed is None else len(windows) for windows in draws]


@pytest.mark.parametrize("last_frame", [False, True])
@pytest.mark.parametrize("max_bytes", [0, 2**17, ROOM])
@torch.no_grad()
def test_activations_are_those_of_a_pass_per_site(module, batches, last_frame, max_bytes):
    take = take_last_frame_snapshot if last_frame else take_snapshot
    prefixes = Prefixes(module, SITES, last_frame=last_frame, max_bytes=max_bytes, folder=None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the snapshot cache in memory stores no more")
        keyed = [prefixes.keyed(module, pairs) for pairs in batches]
    for one in keyed:
        for site in SITES:
            found = prefixes.at(module, site, one)
            base = take(module.network, site, *one.base.inputs)
            assert torch.allclose(found.base.activation, base.activation, rtol=1e-4, atol=1e-5)
            again, alone = replayed(module.network, found.base), replayed(module.network, base)
            assert torch.allclose(again, alone, rtol=1e-4, atol=1e-5)
            for given, sources in ((found.sources, one.sources), (found.strangers, one.strangers)):
                assert len(given) == len(sources)
                for activation, source in zip(given, sources, strict=True):
                    truth = take(module.network, site, *source.inputs).activation
                    assert torch.allclose(activation, truth, rtol=1e-4, atol=1e-5)
