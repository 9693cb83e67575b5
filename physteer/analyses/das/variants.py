"""The intervention variants that a run trains or compares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from physteer.concepts import FixedSubspace
from physteer.errors import PhysteerError
from physteer.interventions import (
    BoundlessRotation,
    Edit,
    Interchange,
    InterchangeMean,
    Locus,
    LowRankRotation,
    Site,
    Span,
    Subspace,
    evaluated_once,
)

Kind = Literal["learned", "reseeded", "shuffled", "random", "direction", "full"]
"""Learned from pairs; learned likewise from another start; learned with mismatched sources; a random rotation; a fixed
direction; the full activation."""

_OTHER_STARTS = 500
"""Added to the seed of other starts; random rotations take those from 1."""


class InterventionVariant(nn.Module):
    """An interchange at one site: the part of the base's activation in some subspaces is taken from the sources."""

    def __init__(
        self,
        site: Site,
        width: int,
        kind: Kind,
        subspaces: Sequence[Subspace | None],
        rank: int,
        name: str = "",
    ) -> None:
        """Make a variant.

        Args:
            site: of the interchange.
            width: number of channels at the site.
            kind: of the subspaces.
            subspaces: for each variable the part that is taken from its source; None for everything.
            rank: dimensions per variable; 0 where they are learned.
            name: of a fixed direction, or the number of a random one or of another start.
        """
        super().__init__()
        self.site, self.width, self.kind, self.rank, self.name = site, width, kind, rank, name
        self.subspaces = nn.ModuleList(nn.Identity() if subspace is None else subspace for subspace in subspaces)

    @property
    def label(self) -> str:
        """Its name in logs, unique within a run."""
        rank = f"rank {self.rank}" if self.kind not in ("direction", "full") and self.rank else ""
        return " ".join(filter(None, (str(self.site), self.kind, rank, self.name)))

    @property
    def key(self) -> str:
        """The label as a name in a `ModuleDict`, which allows no dots."""
        return _as_key(self.label)

    @property
    def trained(self) -> bool:
        """Whether ``fit`` trains it."""
        return self.kind in ("learned", "reseeded", "shuffled")

    @property
    def boundless(self) -> list[BoundlessRotation]:
        """Its subspaces that also learn their number of dimensions."""
        return [subspace for subspace in self.subspaces if isinstance(subspace, BoundlessRotation)]

    @contextmanager
    def edits(self, sources: Sequence[Tensor], locus: Locus, *, spatial_mean_only: bool) -> Iterator[list[Edit]]:
        """Yield the edits of one forward and backward pass; rotations are evaluated once while the context is open.

        Args:
            sources: the site's activation in each variable's sources, row by row.
            locus: the frames that are exchanged.
            spatial_mean_only: whether to exchange the spatial mean only, for sources of other initial conditions.
        """
        replacement = InterchangeMean if spatial_mean_only else Interchange
        with evaluated_once(self):
            yield [
                Edit(self.site, replacement(locus.take(source)), space if isinstance(space, Subspace) else None, locus)
                for space, source in zip(self.subspaces, sources, strict=True)
            ]


@dataclass(frozen=True)
class VariantPlan:
    """The variants of a run at each of its sites."""

    ranks: tuple[int, ...]
    """Ranks of learned rotations, per variable."""
    boundless: bool = False
    """Whether to also learn a boundless rotation."""
    shuffled: bool = True
    """Whether to train, for each learned rotation, a control with mismatched sources."""
    random: int = 19
    """Number of random rotations of each rank."""
    seed: int = 0
    """Seed of the rotations' initial values."""
    seeds: int = 1
    """Number of starts from which rotations of each rank are learned."""


def make_variants(
    widths: Mapping[Site, int], n_variables: int, plan: VariantPlan, fixed: Sequence[FixedSubspace]
) -> list[InterventionVariant]:
    """Make the variants of every site.

    With a single variable they include the full interchange and the fixed subspaces.

    Args:
        widths: number of channels at each site.
        n_variables: each has its own source, and its own columns in every rotation.
        plan: the variants to make.
        fixed: subspaces to compare with.

    Raises:
        PhysteerError: A rank is below 1 or, times the variables, above a width; a fixed subspace is at another site or
            of another width; or there are several variables where only one is possible.
    """
    if n_variables > 1 and (plan.boundless or fixed):
        raise PhysteerError(
            f"a boundless rotation and fixed directions are for one variable; data.variables has {n_variables}"
        )
    for subspace in fixed:
        if widths.get(subspace.site) != len(subspace.basis):
            known = ", ".join(f"{site} of width {width}" for site, width in widths.items())
            raise PhysteerError(
                f"direction {subspace.name} is at {subspace.site} and has width {len(subspace.basis)}; DAS.sites are "
                f"{known}"
            )
    variants: list[InterventionVariant] = []
    for number, (site, width) in enumerate(widths.items()):
        seed = plan.seed + 1000 * number  # else sites of equal width would have equal rotations

        def add(
            kind: Kind,
            subspaces: Sequence[Subspace | None],
            rank: int,
            name: str = "",
            site: Site = site,
            width: int = width,
        ) -> None:
            variants.append(InterventionVariant(site, width, kind, subspaces, rank, name))

        for rank in plan.ranks:
            total = rank * n_variables
            if not 1 <= total <= width:
                raise PhysteerError(
                    f"rank {rank} for {n_variables} variable(s) at {site}: its {width} channels allow 1 to "
                    f"{width // n_variables}"
                )
            trained: tuple[Kind, ...] = ("learned", "shuffled") if plan.shuffled else ("learned",)
            for kind in trained:
                add(kind, _groups(LowRankRotation(width, total, seed), rank, n_variables), rank)
            for i in range(1, plan.seeds):
                start = LowRankRotation(width, total, seed + _OTHER_STARTS + i)
                add("reseeded", _groups(start, rank, n_variables), rank, str(i + 1))
            for i in range(plan.random):
                drawn = _groups(LowRankRotation(width, total, seed + 1 + i), rank, n_variables)
                add("random", drawn, rank, str(i + 1))
        if plan.boundless:
            add("learned", [BoundlessRotation(width, seed)], 0, "boundless")
        for subspace in fixed:
            if subspace.site == site:
                add("direction", [Span(subspace.basis)], subspace.basis.shape[1], subspace.name)
        if n_variables == 1:
            add("full", [None], width)
    for variant in variants:
        if not variant.trained:
            variant.requires_grad_(False)
    return variants


def untrained_keys(sites: Iterable[Site]) -> tuple[str, ...]:
    """Return the beginnings of the keys of all variants at some sites that are made and not trained."""
    return tuple(f"{_as_key(f'{site} {kind}')}_" for site in sites for kind in ("random", "direction"))


def _as_key(label: str) -> str:
    return re.sub(r"\W+", "_", label)


def _groups(rotation: LowRankRotation, rank: int, n_variables: int) -> Sequence[Subspace]:
    return [rotation] if n_variables == 1 else rotation.split([rank] * n_variables)
