"""Subspaces that a search compares its own with: concepts, probes, main directions, and what other searches learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from physteer.concepts import ClassProbe, Concept, ConceptSubspace, Naturalness, RidgeProbes
from physteer.errors import PhysteerError
from physteer.interventions import Site
from physteer.tensor_files import tensor_kind


@dataclass(frozen=True, eq=False)
class FixedSubspace:
    """A subspace at a site, not to be trained."""

    name: str
    site: Site
    basis: Tensor
    """[d, k], float32, orthonormal columns."""


@dataclass(frozen=True)
class _Found:
    site: str
    model: str
    bases: Mapping[str, Tensor]
    """[d, k] by what is said behind the file's name; columns that span the subspace."""


def read_fixed_subspaces(paths: Sequence[str], model: str, ranks: Sequence[int]) -> list[FixedSubspace]:
    """Read subspaces to compare with.

    Args:
        paths: of a concept: the direction of its mean over space; of what a search learned; of ridge probes: the
            direction that each target is read along; of a class probe: what the classes' scores differ by; of a
            natural space: its main directions (principal components), the first k of them for every rank k.
        model: which weights they must be of.
        ranks: of the natural spaces' parts.

    Raises:
        PhysteerError: a file is nothing of these, or of another model; two files have one name; a direction is zero; a
            natural space has fewer directions than a rank.
    """
    found: list[FixedSubspace] = []
    stems = [Path(path).stem for path in paths]
    for path, stem in zip(paths, stems, strict=True):
        kind = tensor_kind(path)
        reader = _READERS.get(kind or "concept")
        if reader is None:
            raise PhysteerError(f"direction {path} is of the kind {kind.replace('_', ' ')}, not {_ALLOWED}")
        one = reader(path, ranks)
        if one.model and one.model != model:
            raise PhysteerError(f"direction {path} was measured on model {one.model}; this model is {model}")
        # Runs write files of one name into folders of their own; those tell them apart.
        own = stem if stems.count(stem) == 1 else f"{Path(path).parent.name}/{stem}"
        for what, basis in one.bases.items():
            found.append(FixedSubspace(f"{own} {what}".strip(), Site.parse(one.site), _orthonormal(basis, path)))
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise PhysteerError(f"DAS.directions has two files called {name}: rename one")
    return found


def _concept(path: str, ranks: Sequence[int]) -> _Found:
    one = Concept.load(path)
    return _Found(one.site, one.model, {"": one.direction.double().mean(dim=(0, 1, 2))[:, None]})


def _subspace(path: str, ranks: Sequence[int]) -> _Found:
    one = ConceptSubspace.load(path)
    return _Found(one.site, one.model, {"": one.basis})


def _probes(path: str, ranks: Sequence[int]) -> _Found:
    one = RidgeProbes.load(path)
    return _Found(one.site, one.model, {name: one.weights[0, :, [i]] for i, name in enumerate(one.targets)})


def _class_probe(path: str, ranks: Sequence[int]) -> _Found:
    one = ClassProbe.load(path)
    return _Found(one.site, one.model, {one.parameter: one.weights[0, :, 1:] - one.weights[0, :, :1]})


def _main_directions(path: str, ranks: Sequence[int]) -> _Found:
    one = Naturalness.load(path)
    directions = one.space.directions
    for rank in ranks:
        if rank > directions.shape[1]:
            raise PhysteerError(
                f"direction {path} has {directions.shape[1]} main directions; DAS.ranks asks for {rank}"
            )
    return _Found(one.site, one.model, {f"main {rank}": directions[:, :rank] for rank in ranks})


_READERS: dict[str, Callable[[str, Sequence[int]], _Found]] = {
    "concept": _concept,
    "subspace": _subspace,
    "probe": _probes,
    "class_probe": _class_probe,
    "natural_space": _main_directions,
}
_ALLOWED = ", ".join(kind.replace("_", " ") for kind in _READERS)


def _orthonormal(basis: Tensor, path: str) -> Tensor:
    """Return an orthonormal basis [d, k] of the span of columns."""
    norms = basis.double().norm(dim=0)
    if not bool((norms > 0).all()):
        raise PhysteerError(f"direction {path} is zero: it spans nothing")
    columns: Tensor = torch.linalg.qr(basis.double() / norms)[0]
    return columns.float()
