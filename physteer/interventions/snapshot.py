"""Snapshots: the state of a pass at a site, from which the pass can continue (`replayed`).

Snapshots of one pass at several sites share tensors: the input of a block that follows two sites, and the keys and
values of the blocks after both. Tensors of the same name (`Snapshot.tensors`) are the same tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Self, TypeVar

import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.interventions.sites import Site
from physteer.interventions.stages import border_before


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A pass stopped before some block, off the autograd tape."""

    site: Site
    """Where the activation was taken."""
    start: int
    """Index of the next block to run; the number of blocks if only the decoder is left."""
    state: Tensor
    """[B, T, …], the input of that block."""
    inner: Tensor | None
    """The activation of a site inside that block; None where the site is the border before the block."""
    rows: tuple[Tensor, ...]
    """The part of the context that differs between rows, each [B, …] on the CPU: for Walrus the random shifts."""
    shared: str
    """The part of the context that all rows share: for Walrus the fields' labels, the boundary codes and the grid."""
    skips: Mapping[int, Tensor] = field(default_factory=dict, kw_only=True)
    """Activations [B, T, …] of earlier borders that later blocks read (`physteer.interventions.CarriesSkips`)."""

    @property
    def activation(self) -> Tensor:
        """The site's activation as an edit sees it (`Site.select`), [B, T, …, d]."""
        return self.site.select(self.state) if self.inner is None else self.inner

    @property
    def at_border(self) -> Self:
        """The same pass stopped at the border before the block."""
        return dataclasses.replace(self, site=Site(border_before(self.start)), inner=None)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; the first axis of each is the batch."""
        named = {f"state.{border}": tensor for border, tensor in self.skips.items()}
        named[f"state.{self.start}"] = self.state
        if self.inner is not None:
            named[f"inner.{self.site}"] = self.inner
        return named | {f"rows.{i}": tensor for i, tensor in enumerate(self.rows)}

    def with_tensors(self, named: Mapping[str, Tensor]) -> Self:
        """Return the snapshot with other tensors, by the names of `tensors`; names of other sites are ignored."""
        state, inner = named[f"state.{self.start}"], named.get(f"inner.{self.site}")
        skips = {border: named[f"state.{border}"] for border in self.skips}
        return dataclasses.replace(self, state=state, inner=inner, rows=_listed(named, "rows", 0), skips=skips)

    def to(self, device: torch.device | str) -> Self:
        """Return the snapshot with its activations on a device."""
        return self.with_tensors({n: t if n.startswith("rows.") else t.to(device) for n, t in self.tensors().items()})


@dataclass(frozen=True, eq=False)
class LastFrameSnapshot(Snapshot):
    """A pass stopped before some block, to be continued for the last frame alone; all its activations have T = 1.

    It keeps the keys and values of the earlier frames, for all blocks that are still to run: for Walrus
    2 (T − 1) h w δ d numbers per row and block. For the published 2D size (T = 6, 32 × 32 tokens, d = 1408) that is
    58 MB per block in float32 and 29 MB in bfloat16, times 20 from the middle of 40 blocks.
    """

    kv_cache: tuple[Tensor, ...]
    """Per block from `start` on, [B, …]: keys and values of earlier frames (`KeepsPast.keep_past`)."""
    n_frames: int
    """T of the pass."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; the first axis of each is the batch."""
        return super().tensors() | {f"kv_cache.{i}": tensor for i, tensor in enumerate(self.kv_cache, self.start)}

    def with_tensors(self, named: Mapping[str, Tensor]) -> Self:
        """Return the snapshot with other tensors, by the names of `tensors`; names of other sites are ignored."""
        return dataclasses.replace(super().with_tensors(named), kv_cache=_listed(named, "kv_cache", self.start))


S = TypeVar("S", bound=Snapshot)


def all_tensors(snapshots: Mapping[Site, Snapshot]) -> dict[str, Tensor]:
    """Return the tensors of one pass at several sites by name; shared tensors appear once."""
    return {name: tensor for snapshot in snapshots.values() for name, tensor in snapshot.tensors().items()}


def select_rows(snapshots: Mapping[Site, S], rows: Sequence[int]) -> dict[Site, S]:
    """Return some rows of one pass, in this order, copied; shared tensors stay shared. A row may appear repeatedly."""
    index = torch.tensor(rows, dtype=torch.long, device="cpu")
    named = {name: t.index_select(0, index.to(t.device)) for name, t in all_tensors(snapshots).items()}
    return {site: snapshot.with_tensors(named) for site, snapshot in snapshots.items()}


def join_snapshots(snapshots: Sequence[S]) -> S:
    """Join the rows of snapshots, in this order.

    Raises:
        PhysteerError: There are no snapshots, or they differ in site, grid, fields or boundaries.
    """
    if not snapshots:
        raise PhysteerError("there are no snapshots to join")
    first = snapshots[0]
    for other in snapshots[1:]:
        _check_same(first, other)
    named = [snapshot.tensors() for snapshot in snapshots]
    return first.with_tensors({name: torch.cat([each[name] for each in named]) for name in named[0]})


def join_passes(passes: Sequence[Mapping[Site, S]]) -> dict[Site, S]:
    """Join the rows of passes at the same sites, in this order; tensors that sites share are joined once.

    Raises:
        PhysteerError: There are no passes, or they differ in sites, grid, fields or boundaries.
    """
    if not passes:
        raise PhysteerError("there are no snapshots to join")
    first = passes[0]
    for other in passes[1:]:
        if other.keys() != first.keys():
            raise PhysteerError(f"snapshots of different sites cannot be joined: {[*first]} and {[*other]}")
        for site, snapshot in other.items():
            _check_same(first[site], snapshot)
    named = [all_tensors(one) for one in passes]
    joined = {name: torch.cat([each[name] for each in named]) for name in named[0]}
    return {site: snapshot.with_tensors(joined) for site, snapshot in first.items()}


def _check_same(first: Snapshot, other: Snapshot) -> None:
    for kind, first_value, other_value in (
        ("kinds", type(first).__name__, type(other).__name__),
        ("sites", first.site, other.site),
        ("fields, boundaries or grids", first.shared, other.shared),
        ("shapes", _row_shapes(first), _row_shapes(other)),
    ):
        if first_value != other_value:
            raise PhysteerError(f"snapshots of different {kind} cannot be joined: {first_value} and {other_value}")


def _listed(named: Mapping[str, Tensor], prefix: str, first: int) -> tuple[Tensor, ...]:
    names = takewhile(named.__contains__, (f"{prefix}.{i}" for i in count(first)))
    return tuple(named[name] for name in names)


def _row_shapes(snapshot: Snapshot) -> dict[str, list[int]]:
    return {name: list(tensor.shape[1:]) for name, tensor in snapshot.tensors().items()}
