"""The cache of snapshots: windows are run up to the site once, and what is found is never stale or half written."""

import dataclasses
import multiprocessing
import warnings
from pathlib import Path

import pytest
import torch
from helpers.experiments import CONFIG, random_walrus
from safetensors.torch import save_file

from physteer.analyses.engine.snapshot_cache import Prefix, SnapshotCache, read_prefix, write_prefix
from physteer.interventions import (
    LastFrameSnapshot,
    LowRankRotation,
    Site,
    Snapshot,
    all_tensors,
    interchanged,
    join_snapshots,
    replayed,
    take_last_frame_snapshots,
    take_snapshots,
)
from physteer.walrus import model_id

LABELS, WALLS = CONFIG.labels(["pressure", "tracer"]), ((0, 1), (2, 2), (2, 2))
WALRUS = random_walrus().eval().requires_grad_(False)
SHAPE, ROOM = (8, 32, 1), 2**24


class Windows:
    """Windows with their own jitter, and how often each was run up to the sites."""

    def __init__(self, take=take_snapshots, sites: tuple[str, ...] = ("blocks.0",)) -> None:
        self.x = torch.randn(5, 3, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
        draws = [torch.Generator().manual_seed(row) for row in range(5)]
        self.shifts = WALRUS.draw_shifts(SHAPE, WALLS, draws)
        self.keys = [f"window {row}" for row in range(5)]
        self.take, self.sites = take, [Site.parse(site) for site in sites]
        self.made: list[int] = []

    def run(self, rows: list[int]) -> dict[Site, Snapshot]:
        shifts = dataclasses.replace(self.shifts, pixels=self.shifts.pixels[rows], tokens=self.shifts.tokens[rows])
        return self.take(WALRUS, self.sites, self.x[rows], LABELS, WALLS, shifts)

    def get(self, cache: SnapshotCache, rows: list[int]) -> dict[Site, Snapshot]:
        def make(missing: list[int]) -> Prefix:
            self.made += [rows[i] for i in missing]
            here = [rows[i] for i in missing]
            return Prefix(self.run(here), {"last": self.x[here, -1]})

        prefixes = cache.get([self.keys[row] for row in rows], make)
        assert torch.equal(torch.cat([prefix.beside["last"] for prefix in prefixes]), self.x[rows, -1])
        return {site: join_snapshots([prefix.snapshots[site] for prefix in prefixes]) for site in self.sites}


def open_cache(folder: Path | None = None, **changes) -> SnapshotCache:
    settings = {"sites": ["blocks.0"], "model_key": model_id(WALRUS), "max_bytes": ROOM, "folder": folder}
    return SnapshotCache(**(settings | changes))


def n_bytes(snapshots: dict[Site, Snapshot]) -> int:
    return sum(tensor.nbytes for tensor in all_tensors(snapshots).values())


def same(found: dict[Site, Snapshot], truth: dict[Site, Snapshot]) -> bool:
    """Whether snapshots are equal; those of rows run in other batches differ by rounding."""
    named = all_tensors(truth)
    about = [[(type(one), one.site, one.start, one.shared) for one in some.values()] for some in (found, truth)]
    return (
        found.keys() == truth.keys()
        and about[0] == about[1]
        and all_tensors(found).keys() == named.keys()
        and all(torch.allclose(one, named[name], rtol=1e-4, atol=1e-5) for name, one in all_tensors(found).items())
    )


@pytest.mark.parametrize("kept", ["memory", "folder"])
@pytest.mark.parametrize(
    ("take", "sites"),
    [
        (take_snapshots, ["blocks.0"]),
        (take_snapshots, ["blocks.1", "encoder", "blocks.1.time.heads[1]"]),
        (take_last_frame_snapshots, ["blocks.0.space.ff_hidden", "encoder", "blocks.1", "blocks.0"]),
    ],
)
def test_every_window_is_run_once(tmp_path, kept, take, sites):
    windows = Windows(take, sites)
    folder = tmp_path / "new" / "cache" if kept == "folder" else None
    kind = LastFrameSnapshot if take is take_last_frame_snapshots else Snapshot
    cache = open_cache(folder, sites=sites, kind=kind)
    for rows in ([0, 1], [1, 0], [2, 2, 0], [4, 3, 2, 1, 0], [3, 3]):
        assert same(windows.get(cache, rows), windows.run(rows))
    assert windows.made == [0, 1, 2, 4, 3]
    if folder is not None:
        again = open_cache(folder, sites=sites, kind=kind)
        assert same(windows.get(again, [0, 1, 2, 3, 4]), windows.run([0, 1, 2, 3, 4]))
        assert len(windows.made) == 5 and len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("kept", ["memory", "folder"])
def test_what_sites_share_is_kept_once(tmp_path, kept):
    windows = Windows(take_last_frame_snapshots, ["encoder", "blocks.0", "blocks.1"])
    taken = windows.run([0])
    beside = windows.x[0, -1].nbytes
    once = n_bytes(taken) + beside
    each = sum(n_bytes({site: one}) for site, one in taken.items())
    assert once + 4096 < each
    folder, room = (None, 5 * once) if kept == "memory" else (tmp_path, 5 * (once + 4096))  # files have headers
    cache = open_cache(folder, sites=windows.sites, max_bytes=room, kind=LastFrameSnapshot)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        windows.get(cache, [0, 1, 2, 3, 4])
    assert len(cache.get(windows.keys, lambda rows: pytest.fail("not found"))) == 5
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= room


@pytest.mark.parametrize("take", [take_snapshots, take_last_frame_snapshots])
def test_a_file_serves_some_of_its_sites_and_gets_those_it_lacks(tmp_path, take):
    kind = LastFrameSnapshot if take is take_last_frame_snapshots else Snapshot

    def got(*sites: str) -> tuple[dict[Site, Snapshot], int]:
        windows = Windows(take, sites)
        found = windows.get(open_cache(tmp_path, sites=sites, kind=kind), [0, 1])
        assert same(found, windows.run([0, 1]))
        return found, len(windows.made)

    assert got("blocks.0", "blocks.1.time")[1] == 2
    assert got("blocks.1.time")[1] == 0
    assert got("encoder", "blocks.1.time")[1] == 2
    assert got("encoder", "blocks.0", "blocks.1.time")[1] == 0
    assert got("blocks.0")[1] == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_pairs_are_trained_from_cached_windows(tmp_path):
    windows = Windows()
    cache = open_cache(tmp_path)
    windows.get(cache, [0, 1, 2, 3, 4])
    (base,), (source,) = windows.get(cache, [0, 3]).values(), windows.get(cache, [4, 1]).values()
    rotation = LowRankRotation(CONFIG.hidden_dim, 2)
    interchanged(WALRUS, base, source.activation, rotation).square().mean().backward()
    found = rotation.rotation.raw.grad.clone()
    rotation.zero_grad()
    (base,), (source,) = windows.run([0, 3]).values(), windows.run([4, 1]).values()
    interchanged(WALRUS, base, source.activation, rotation).square().mean().backward()
    assert torch.allclose(found, rotation.rotation.raw.grad, rtol=1e-5, atol=1e-8)


def test_nothing_stale_is_found(tmp_path):
    windows = Windows()
    windows.get(open_cache(tmp_path), [0])
    other = random_walrus(seed=1)
    with torch.no_grad():
        other.load_state_dict(WALRUS.state_dict())
        next(other.parameters()).mul_(1.5)  # a trained prefix
    for changes in ({"model_key": model_id(other)}, {"sites": ["encoder"]}, {"kind": LastFrameSnapshot}):
        before = len(windows.made)
        windows.get(open_cache(tmp_path, **changes), [0])
        assert len(windows.made) == before + 1, changes
    with torch.autocast("cpu", torch.bfloat16):
        before = len(windows.made)
        windows.get(open_cache(tmp_path), [0])
        assert len(windows.made) == before + 1


def test_a_damaged_file_is_made_anew_with_a_warning(tmp_path):
    windows = Windows()
    windows.get(open_cache(tmp_path), [0])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    save_file({"state": torch.zeros(3)}, tmp_path / "other.safetensors")
    foreign = (tmp_path / "other.safetensors").read_bytes()
    (tmp_path / "other.safetensors").unlink()
    for damaged in (b"", whole[:50], whole[:-50], bytes(flipped), b"\x80\x04pickle", foreign):
        path.write_bytes(damaged)
        before = len(windows.made)
        with pytest.warns(UserWarning, match=rf"{path.name} is damaged and is made anew"):
            found = windows.get(open_cache(tmp_path), [0])
        assert same(found, windows.run([0])) and len(windows.made) == before + 1
        assert path.read_bytes() == whole


@pytest.mark.parametrize("kept", ["memory", "folder"])
def test_what_is_over_the_size_is_made_each_time(tmp_path, kept):
    windows = Windows()
    row = n_bytes(windows.run([0])) + windows.x[0, -1].nbytes
    cache = open_cache(tmp_path if kept == "folder" else None, max_bytes=int(2.5 * row) + 4096)
    with pytest.warns(UserWarning, match="stores no more windows: it holds") as told:
        for _ in range(2):
            assert same(windows.get(cache, [0, 1, 2, 3]), windows.run([0, 1, 2, 3]))
    assert windows.made == [0, 1, 2, 3, 2, 3] and len(told) == 1
    if kept == "folder":  # what is there already counts, whoever wrote it
        with pytest.warns(UserWarning, match="stores no more"):
            windows.get(open_cache(tmp_path, max_bytes=2 * row), [4])
        assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_to_is_no_reason_to_stop(tmp_path):
    (tmp_path / "file").touch()
    windows = Windows()
    with pytest.warns(UserWarning, match="stores no more windows: cannot write") as told:
        assert same(windows.get(open_cache(tmp_path / "file" / "cache"), [0, 1]), windows.run([0, 1]))
    assert len(told) == 1


def fill_and_rewrite(folder: Path, order: list[int], ready) -> None:
    """One of several processes that fill a folder at once, then write its files over and over and read them."""
    torch.set_num_threads(1)
    windows = Windows()
    cache = open_cache(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready.wait()
        rows = {row: windows.get(cache, [row]) for row in order}
        ready.wait()
        paths = [*folder.glob("*.safetensors")]
        assert len(paths) == len(order)
        for _ in range(30):
            for path in paths:
                write_prefix(read_prefix(path), path)
            for row in order:
                assert same(windows.get(open_cache(folder), [row]), rows[row])
    assert set(windows.made) <= set(order) and len(windows.made) <= len(order)


def test_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(2)
    others = [
        context.Process(target=fill_and_rewrite, args=(tmp_path, order, ready)) for order in ([0, 1, 2], [2, 1, 0])
    ]
    for process in others:
        process.start()
    for process in others:
        process.join(60)
    assert [process.exitcode for process in others] == [0, 0]
    assert all(path.suffix == ".safetensors" for path in tmp_path.iterdir())


@torch.no_grad()
def test_a_bfloat16_network_is_cached_in_its_own_precision(tmp_path):
    low = random_walrus().bfloat16().eval()
    x = Windows().x
    (made,) = SnapshotCache(["blocks.0"], model_id(low), ROOM, tmp_path).get(
        ["window"], lambda rows: Prefix(take_snapshots(low, ["blocks.0"], x[rows], LABELS, WALLS), {})
    )
    (found,) = SnapshotCache(["blocks.0"], model_id(low), ROOM, tmp_path).get(
        ["window"], lambda rows: pytest.fail("not found")
    )
    (made,), (found,) = made.snapshots.values(), found.snapshots.values()
    assert found.state.dtype == torch.bfloat16 and torch.equal(found.state, made.state)
    assert torch.equal(replayed(low, found), replayed(low, made))


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_activation_that_was_seen_in_another_layout_is_computed_again(tmp_path, on_disk):
    site, cache = "blocks.0.time.update", open_cache(tmp_path if on_disk else None)
    windows = Windows()
    for layout, made in (("b t h w δ d", 1), ("b t h w δ d", 1), ("b t w h δ d", 2)):
        windows.sites = [Site.parse(f"{site} as {layout}")]
        cache.sites = frozenset(windows.sites)
        (found,) = windows.get(cache, [0]).values()
        assert len(windows.made) == made and found.site.layout == layout
