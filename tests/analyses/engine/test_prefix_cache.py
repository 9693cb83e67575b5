"""What a search computes of its frozen network: each window up to the last site, once, and read from disk once."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import pytest
import torch
from helpers.experiments import weights

from physteer import WalrusModule
from physteer.analyses.engine import PrefixCache
from physteer.analyses.engine.prefix_cache import _key
from physteer.data import CounterfactualDataModule
from physteer.interventions import Site, observed, replayed, take_last_frame_snapshot, take_snapshot

SITES = [Site.parse(name) for name in ("blocks.1", "encoder", "blocks.0", "blocks.1.time.heads")]
ROOM = 2**26


@pytest.fixture(scope="module", params=[None, 0], ids=["", "jitter"])
def forecaster(tmp_path_factory, request):
    checkpoint = weights(tmp_path_factory.mktemp("walrus") / "walrus.safetensors")
    module = WalrusModule(str(checkpoint), jitter_seed=request.param).eval()
    module.freeze_network()
    return module.forecaster


@pytest.fixture
def batches(tiny_well):
    """Two batches of four pairs, not read yet; some windows come more than once."""
    data = CounterfactualDataModule(str(tiny_well), ["Reynolds"], n_steps_input=3, train_pairs=8, batch_size=4)
    yield list(data.train_dataloader())
    data.teardown("fit")


@contextmanager
def encoded(forecaster) -> Iterator[list[int]]:
    """Count the windows of every pass of the encoder."""
    rows: list[int] = []
    with observed(forecaster.network, ["encoder"], lambda site, h: rows.append(len(h))):
        yield rows


def passed(cache: PrefixCache, forecaster, batches: list) -> list[int]:
    """Ask for all sites of every batch; return the windows of each pass of the encoder."""
    with encoded(forecaster) as rows:
        for pairs in batches:
            prepared = cache.prepare(forecaster, pairs, mismatched=True)
            for site in SITES:
                cache.at(forecaster, site, prepared)
    return rows


def parts(pairs) -> list:
    """Addresses of bases, sources and others' sources."""
    return [pairs.base_windows, *pairs.source_windows, *pairs.mismatched_windows]


@pytest.mark.parametrize("last_frame", [False, True])
@pytest.mark.parametrize("kept", ["memory", "folder"])
def test_each_window_is_encoded_once_for_all_sites(forecaster, batches, tmp_path, last_frame, kept):
    folder = tmp_path / "cache" if kept == "folder" else None
    cache = PrefixCache(forecaster, SITES, last_frame=last_frame, max_bytes=ROOM, folder=folder)
    drawn = [
        (window, None if forecaster.jitter_seed is None else base)  # whose jitter it takes
        for pairs in batches
        for windows in parts(pairs)
        for window, base in zip(windows, pairs.base_windows, strict=True)
    ]
    assert sum(passed(cache, forecaster, batches)) == len(set(drawn))
    assert len(set(drawn)) < len(drawn) or forecaster.jitter_seed is not None
    assert passed(cache, forecaster, batches) == []
    if folder is not None:
        later = PrefixCache(forecaster, SITES[1:2], last_frame=last_frame, max_bytes=ROOM, folder=folder)
        assert passed(later, forecaster, batches) == []


@pytest.mark.parametrize("last_frame", [False, True])
def test_without_room_each_window_is_encoded_once_per_step(forecaster, batches, last_frame):
    cache = PrefixCache(forecaster, SITES, last_frame=last_frame, max_bytes=0, folder=None)
    with pytest.warns(UserWarning, match="stores no more windows: it holds 0 of 0 MiB"):
        first = passed(cache, forecaster, batches)
    assert passed(cache, forecaster, batches) == first
    draws = [windows for pairs in batches for windows in parts(pairs)]
    assert first == [len(set(windows)) if forecaster.jitter_seed is None else len(windows) for windows in draws]


@pytest.mark.parametrize("last_frame", [False, True])
@pytest.mark.parametrize("max_bytes", [0, 2**17, ROOM])
@torch.no_grad()
def test_activations_are_those_of_a_pass_per_site(forecaster, batches, last_frame, max_bytes):
    take = take_last_frame_snapshot if last_frame else take_snapshot
    network = forecaster.network
    cache = PrefixCache(forecaster, SITES, last_frame=last_frame, max_bytes=max_bytes, folder=None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the snapshot cache in memory stores no more")
        every = [cache.prepare(forecaster, pairs, mismatched=True) for pairs in batches]
    for pairs, prepared in zip(batches, every, strict=True):
        inputs, scale = forecaster.inputs(pairs.base.context, pairs.base)
        for site in SITES:
            found = cache.at(forecaster, site, prepared)
            base = take(network, site, *inputs)
            assert torch.allclose(found.base.activation, base.activation, rtol=1e-4, atol=1e-5)
            again, alone = replayed(network, found.base), replayed(network, base)
            assert torch.allclose(again, alone, rtol=1e-4, atol=1e-5)
            assert torch.equal(found.last, pairs.base.context[:, -1:])
            assert torch.allclose(found.scale.differences, scale.differences)
            for activations, sources in ((found.sources, pairs.sources), (found.mismatched, pairs.mismatched)):
                assert len(activations) == len(sources)
                for activation, source in zip(activations, sources, strict=True):
                    truth = take(network, site, *forecaster.inputs(source.context, pairs.base)[0]).activation
                    assert torch.allclose(activation, truth, rtol=1e-4, atol=1e-5)


def test_what_is_cached_is_not_read_from_disk(forecaster, tiny_well):
    """Not at the first step either, where a folder has it: a batch is addresses until something asks for its fields."""
    data = CounterfactualDataModule(str(tiny_well), ["Reynolds"], n_steps_input=3, train_pairs=8, batch_size=4)
    cache = PrefixCache(forecaster, SITES, last_frame=True, max_bytes=ROOM, folder=None)
    for epoch in range(2):
        for pairs in data.train_dataloader():
            cache.prepare(forecaster, pairs, mismatched=True)
            assert bool(pairs.samples) == (epoch == 0)
            assert pairs.truth.shape[0] == 4
            assert bool(pairs.samples) == (epoch == 0)  # the answers are remembered too
    data.teardown("fit")


def test_a_key_tells_all_apart_that_decides_the_inputs(forecaster, tiny_well, tmp_path):
    shutil.copytree(tiny_well, tmp_path / "well")
    data = CounterfactualDataModule(str(tmp_path / "well"), ["Reynolds"], n_steps_input=3, batch_size=4)
    longer = CounterfactualDataModule(str(tmp_path / "well"), ["Reynolds"], n_steps_input=4, batch_size=4)
    pairs, other = (next(iter(module.train_dataloader())) for module in (data, longer))
    base, source = pairs.pairs[0].base, pairs.pairs[0].sources[0]
    keys = {_key(forecaster, pairs, base, base), _key(forecaster, pairs, source, source)}
    keys.add(_key(forecaster, other, base, base))
    assert len(keys) == 3
    shifted = _key(forecaster, pairs, base, source)
    assert (shifted in keys) == (forecaster.jitter_seed is None)
    data.teardown("fit")
    longer.teardown("fit")
    with h5py.File(next((tmp_path / "well/data/train").glob(f"{base.file}.*")), "r+") as file:
        file["t0_fields/tracer"][0, 0] += 1  # in place: neither the size nor most of the content is another
    edited = CounterfactualDataModule(str(tmp_path / "well"), ["Reynolds"], n_steps_input=3, batch_size=4)
    again = next(iter(edited.train_dataloader()))
    assert _key(forecaster, again, base, base) not in keys
    edited.teardown("fit")
