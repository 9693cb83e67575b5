"""The cache of snapshots: windows are run up to the site once, and what is found is never stale or half written."""

import dataclasses
import multiprocessing
import warnings
from pathlib import Path

import pytest
import torch
from experiments import CONFIG, random_walrus
from safetensors.torch import save_file

from physteer.interventions import (
    LastFrameSnapshot,
    LowRankRotation,
    Snapshot,
    SnapshotCache,
    input_keys,
    interchanged,
    replayed,
    take_last_frame_snapshot,
    take_snapshot,
)
from physteer.interventions.snapshot_cache import read_snapshot, write_snapshot
from physteer.walrus import model_id

LABELS, WALLS = CONFIG.labels(["pressure", "tracer"]), ((0, 1), (2, 2), (2, 2))
WALRUS = random_walrus().eval().requires_grad_(False)
SHAPE, ROOM = (8, 32, 1), 2**24


class Windows:
    """Windows with their own jitter, and how often each was run up to the site."""

    def __init__(self, take=take_snapshot, site: str = "blocks.0") -> None:
        self.x = torch.randn(5, 3, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
        draws = [torch.Generator().manual_seed(row) for row in range(5)]
        self.shifts = WALRUS.draw_shifts(SHAPE, WALLS, draws)
        self.keys = input_keys([self.x, self.shifts.pixels, self.shifts.tokens], f"{LABELS}{WALLS}")
        self.take, self.site = take, site
        self.made: list[int] = []

    def run(self, rows: list[int]) -> Snapshot:
        shifts = dataclasses.replace(self.shifts, pixels=self.shifts.pixels[rows], tokens=self.shifts.tokens[rows])
        return self.take(WALRUS, self.site, self.x[rows], LABELS, WALLS, shifts)

    def get(self, cache: SnapshotCache, rows: list[int]) -> Snapshot:
        def make(missing: list[int]) -> Snapshot:
            self.made += [rows[i] for i in missing]
            return self.run([rows[i] for i in missing])

        return cache.get([self.keys[row] for row in rows], make)


def open_cache(folder: Path | None = None, **changes) -> SnapshotCache:
    settings = {"site": "blocks.0", "model_key": model_id(WALRUS), "max_bytes": ROOM, "folder": folder}
    return SnapshotCache(**(settings | changes))


def same(found: Snapshot, truth: Snapshot) -> bool:
    """Whether two snapshots are equal; those of rows run in other batches differ by rounding."""
    pairs = zip(found.tensors().items(), truth.tensors().items(), strict=True)
    return (type(found), found.site, found.start, found.shared) == (
        type(truth),
        truth.site,
        truth.start,
        truth.shared,
    ) and all(one == two and torch.allclose(a, b, rtol=1e-4, atol=1e-5) for (one, a), (two, b) in pairs)


@pytest.mark.parametrize("kept", ["memory", "folder"])
@pytest.mark.parametrize(
    ("take", "site"),
    [(take_snapshot, "blocks.0"), (take_snapshot, "blocks.1.time.heads[1]"), (take_last_frame_snapshot, "blocks.0")],
)
def test_every_window_is_run_once(tmp_path, kept, take, site):
    windows = Windows(take, site)
    folder = tmp_path / "new" / "cache" if kept == "folder" else None
    kind = LastFrameSnapshot if take is take_last_frame_snapshot else Snapshot
    cache = open_cache(folder, site=site, kind=kind)
    for rows in ([0, 1], [1, 0], [2, 2, 0], [4, 3, 2, 1, 0], [3, 3]):
        assert same(windows.get(cache, rows), windows.run(rows))
    assert windows.made == [0, 1, 2, 4, 3]
    if folder is not None:
        again = open_cache(folder, site=site, kind=kind)
        windows.get(again, [0, 1, 2, 3, 4])
        activations = again.get_activations([windows.keys[row] for row in (3, 1)], windows.run)
        assert torch.equal(activations, windows.get(again, [3, 1]).activation)
        assert len(windows.made) == 5 and len(list(folder.iterdir())) == 5


def test_pairs_are_trained_from_cached_windows(tmp_path):
    windows = Windows()
    cache = open_cache(tmp_path)
    windows.get(cache, [0, 1, 2, 3, 4])
    base, source = windows.get(cache, [0, 3]), windows.get(cache, [4, 1])
    rotation = LowRankRotation(CONFIG.hidden_dim, 2)
    interchanged(WALRUS, base, source.activation, rotation).square().mean().backward()
    found = rotation.rotation.raw.grad.clone()
    rotation.zero_grad()
    direct = windows.run([4, 1]).activation
    interchanged(WALRUS, windows.run([0, 3]), direct, rotation).square().mean().backward()
    assert torch.allclose(found, rotation.rotation.raw.grad, rtol=1e-5, atol=1e-8)


def test_nothing_stale_is_found(tmp_path):
    windows = Windows()
    windows.get(open_cache(tmp_path), [0])
    other = random_walrus(seed=1)
    with torch.no_grad():
        other.load_state_dict(WALRUS.state_dict())
        next(other.parameters()).mul_(1.5)  # a trained prefix
    for changes in ({"model_key": model_id(other)}, {"site": "encoder"}, {"kind": LastFrameSnapshot}):
        before = len(windows.made)
        windows.get(open_cache(tmp_path, **changes), [0])
        assert len(windows.made) == before + 1, changes
    with torch.autocast("cpu", torch.bfloat16):
        before = len(windows.made)
        windows.get(open_cache(tmp_path), [0])
        assert len(windows.made) == before + 1


def test_any_input_makes_another_key():
    x, pixels = torch.randn(2, 3), torch.zeros(2, 3, dtype=torch.long)
    one, two = input_keys([x, pixels], "labels")
    assert one != two and input_keys([x.clone(), pixels], "labels") == [one, two]
    assert input_keys([x[1:], pixels[:1]], "labels") == [two]  # whatever the batch
    shifted, moved = pixels.clone(), x.clone()
    shifted[0, 1] = 1
    moved[0, 0] = torch.nextafter(x[0, 0], torch.tensor(9.0))
    others = [([x, shifted], "labels"), ([moved, pixels], "labels"), ([x, pixels], "other"), ([x], "labels")]
    others += [([x.double(), pixels], "labels"), ([x.bfloat16(), pixels], "labels")]
    assert len({one, *(input_keys(*other)[0] for other in others)}) == 7


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
    row = windows.run([0]).n_bytes
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
                write_snapshot(read_snapshot(path), path)
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
    keys = input_keys([x], f"{LABELS}{WALLS}{low.dtype}")
    cache = SnapshotCache("blocks.0", model_id(low), ROOM, tmp_path)
    taken = cache.get(keys, lambda rows: take_snapshot(low, "blocks.0", x[rows], LABELS, WALLS))
    found = SnapshotCache("blocks.0", model_id(low), ROOM, tmp_path).get(keys, lambda rows: pytest.fail("not found"))
    assert found.state.dtype == torch.bfloat16 and torch.equal(found.state, taken.state)
    assert torch.equal(replayed(low, found), replayed(low, taken))
