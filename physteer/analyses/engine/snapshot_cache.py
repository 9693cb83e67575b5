"""A cache of prefixes: passes of a frozen network up to some sites, kept by window."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.files import atomic_write, reason
from physteer.interventions import LastFrameSnapshot, Site, Snapshot, all_tensors, select_rows
from physteer.untrusted.json_text import json_object

HEADER = "physteer.snapshot"
"""The key of our metadata in a safetensors header."""
_DAMAGED = (SafetensorError, OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, PhysteerError)
"""What reading a file that is not as `write_prefix` left it may raise."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """The result of a pass of some windows that stops at some sites."""

    snapshots: Mapping[Site, Snapshot]
    """By site."""
    beside: Mapping[str, Tensor]
    """Further tensors of the windows by name, each [B, …], which turn outputs into frames."""

    def rows(self, index: Sequence[int]) -> Prefix:
        """Return some of the windows, copied; tensors that sites share stay shared."""
        places = torch.tensor(index, dtype=torch.long, device="cpu")
        beside = {name: tensor.index_select(0, places.to(tensor.device)) for name, tensor in self.beside.items()}
        return Prefix(select_rows(self.snapshots, index), beside)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; shared tensors appear once."""
        return all_tensors(self.snapshots) | {f"beside.{name}": tensor for name, tensor in self.beside.items()}


class SnapshotCache:
    """Prefixes of windows at some sites of one model, in memory or in a folder, up to a size.

    The key of a window is a hash of everything that determines its prefix: the weights, the precision, the kind of
    snapshot, the source code of the network, and the caller's key (the window's address and jitter). Stale prefixes are
    therefore impossible, and one folder can serve many models, sites and processes. Files are written atomically (two
    processes may write the same one), are read memory-mapped, and contain only tensors and JSON.

    A window is stored with all sites or not at all, and shared tensors are stored once. A file that lacks one of the
    sites is written again, with its earlier sites too.

    Prefixes beyond the size limit are not stored but computed each time. Nothing is evicted: every window is used once
    per epoch, so a fixed part of the windows gives more hits than the most recent ones.
    """

    def __init__(
        self,
        sites: Sequence[Site | str],
        model_key: str,
        max_bytes: int,
        folder: Path | str | None = None,
        kind: type[Snapshot] = Snapshot,
    ) -> None:
        """Open a cache; files that are already in the folder are used.

        Args:
            sites: of the snapshots.
            model_key: identifies the weights and the source code of the model (`Forecaster.identity`,
                `source_version`); the weights must not change.
            max_bytes: largest size of the tensors in memory, or of all files of the folder.
            folder: of the files, made if needed; None for memory, on the device of the snapshots.
            kind: `Snapshot` or `LastFrameSnapshot`.
        """
        self.sites = frozenset(map(Site.parse, sites))
        self.folder = None if folder is None else Path(folder)
        self.max_bytes = max_bytes
        self._identity = json.dumps([model_key, kind.__name__])
        self._kept: dict[str, Prefix] = {}
        self._checked: set[str] = set()
        self._used = 0
        self._unmeasured = max_bytes  # bytes written since the folder was last measured
        self._warned = False

    def get(self, keys: Sequence[str], make: Callable[[list[int]], Prefix]) -> list[Prefix]:
        """Return the prefixes of a batch, from the cache where possible.

        Args:
            keys: of the batch's rows: everything that determines their inputs. A window may appear twice.
            make: called with positions in `keys`, runs these rows up to the sites (`take_snapshots`); called at most
                once, for the missing rows.

        Returns:
            For each key the prefix of this row: on the CPU from a folder, else on the device of the pass. The tensors
            belong to the cache and must not be changed in place.
        """
        names = [self._name(key) for key in keys]
        rows = {name: self._load(name) for name in dict.fromkeys(names)}
        missing = [i for i, n in enumerate(names) if n not in names[:i] and not self._has_all_sites(rows[n])]
        if missing:
            made = make(missing)
            for j, i in enumerate(missing):
                row = made.rows([j])
                rows[names[i]] = Prefix({**rows[names[i]].snapshots, **row.snapshots}, row.beside)
                self._store(names[i], rows[names[i]])
        return [rows[name] for name in names]

    def _has_all_sites(self, row: Prefix) -> bool:
        """Return whether a row has every site, seen in the layout that is wanted now."""
        stored = {site: snapshot.site.layout for site, snapshot in row.snapshots.items()}
        return all(site in stored and site.layout in (None, stored[site]) for site in self.sites)

    def _name(self, key: str) -> str:
        # Autocast computes in another precision than the weights'.
        cast = [torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        return hashlib.sha256(f"{self._identity}{cast}{key}".encode()).hexdigest()[:32]

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"

    def _load(self, name: str) -> Prefix:
        nothing = Prefix({}, {})
        if self.folder is None:
            return self._kept.get(name, nothing)
        path = self._path(name)
        for last_try in (False, True):  # safetensors opens a file twice, and another process may put its own in between
            try:
                row = read_prefix(path, check=name not in self._checked)
            except (FileNotFoundError, NotADirectoryError):
                return nothing
            except _DAMAGED as error:
                if last_try:
                    warnings.warn(f"{path} is damaged and is made anew: {reason(error)}", stacklevel=4)
            else:
                self._checked.add(name)
                return row
        return nothing

    def _store(self, name: str, row: Prefix) -> None:
        size = sum(tensor.nbytes for tensor in row.tensors().values())
        if self.folder is not None and self._unmeasured > self.max_bytes // 16:  # other processes write as well
            self._used = _folder_bytes(self.folder)
            self._unmeasured = 0
        if self._used + size > self.max_bytes:
            self._stop(f"it holds {self._used / 2**20:.0f} of {self.max_bytes / 2**20:.0f} MiB")
            return
        if self.folder is None:
            self._kept[name] = row
        else:
            try:
                write_prefix(row, self._path(name))
            except PhysteerError as error:  # a full disk is no reason to end a training
                self._stop(str(error))
                return
        self._used += size
        self._unmeasured += size

    def _stop(self, why: str) -> None:
        if not self._warned:
            place = "memory" if self.folder is None else self.folder
            warnings.warn(f"the snapshot cache in {place} stores no more windows: {why}", stacklevel=5)
        self._warned = True


def write_prefix(prefix: Prefix, path: Path) -> None:
    """Write a prefix as safetensors, atomically.

    Raises:
        PhysteerError: The folder cannot be written to, or the disk is full.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in prefix.tensors().items()}
    first = next(iter(prefix.snapshots.values()))
    about = {
        "starts": {snapshot.site.with_its_layout: snapshot.start for snapshot in prefix.snapshots.values()},
        "skips": {snapshot.site.with_its_layout: [*snapshot.skips] for snapshot in prefix.snapshots.values()},
        "shared": first.shared,
        "n_frames": first.n_frames if isinstance(first, LastFrameSnapshot) else None,
        "checksum": _checksum(tensors),
    }
    with atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary, {HEADER: json.dumps(about)})
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error


def read_prefix(path: Path, check: bool = True) -> Prefix:
    """Read a prefix, memory-mapped, on the CPU.

    Args:
        path: of the file.
        check: whether to compare the checksum, which reads the whole file.

    Raises:
        FileNotFoundError: There is no such file.
        Exception: The file is incomplete, its checksum is wrong, or it holds no snapshots; one of `_DAMAGED`.
    """
    with safe_open(path, framework="pt") as file:
        header: dict[str, str] = file.metadata() or {}
        if HEADER not in header:
            raise ValueError("it holds no snapshots")
        about = json_object(header[HEADER], "its description")
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if check and _checksum(tensors) != about["checksum"]:
        raise ValueError("its checksum is wrong")
    snapshots: dict[Site, Snapshot] = {}
    for text, start in about["starts"].items():
        parts = Site.parse(text), start, tensors[f"state.{start}"], None, (), about["shared"]
        skips = {border: tensors[f"state.{border}"] for border in about["skips"][text]}
        if about["n_frames"] is None:
            bare = Snapshot(*parts, skips=skips)
        else:
            bare = LastFrameSnapshot(*parts, (), about["n_frames"])
        snapshots[bare.site] = bare.with_tensors(tensors)
    named = ((name.partition("."), tensor) for name, tensor in tensors.items())
    return Prefix(snapshots, {name: tensor for (kind, _, name), tensor in named if kind == "beside"})


def _folder_bytes(folder: Path) -> int:
    total = 0
    for file in folder.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # someone takes the cache away meanwhile
            total += file.stat().st_size
    return total


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(_bytes(tensors[name]), zlib.crc32(name.encode(), total))
    return total


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
