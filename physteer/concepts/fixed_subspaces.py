"""Fixed subspaces, with which others are compared: concepts, probes, main directions, causal bases, learned ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from physteer.concepts.causal_basis import CausalBasis
from physteer.concepts.class_probe import ClassProbe
from physteer.concepts.concept import Concept
from physteer.concepts.naturalness import Naturalness
from physteer.concepts.ridge import RidgeProbes
from physteer.concepts.subspace import ConceptSubspace
from physteer.errors import PhysteerError
from physteer.interventions import Site
from physteer.tensor_files import tensor_kind


@dataclass(frozen=True, eq=False)
class FixedSubspace:
    """A subspace at a site that is not trained."""

    name: str
    site: Site
    basis: Tensor
    """[d, k], float32, orthonormal columns."""


@dataclass(frozen=True)
class _SubspaceFile:
    site: str
    model: str
    bases: Mapping[str, Tensor]
    """Columns [d, k] that span a subspace, by the text that is added to the file's name."""


def read_fixed_subspaces(paths: Sequence[str], model: str, ranks: Sequence[int]) -> list[FixedSubspace]:
    """Read fixed subspaces.

    Args:
        paths: files of any kind:
            a concept gives the direction of its mean over space;
            a learned subspace gives itself;
            ridge probes give the weights of each target;
            a class probe gives the span of the differences of the classes' weights;
            a natural space gives, for every rank k, the first k main directions (principal components);
            a causal basis gives, for every rank k, what its first k directions measure.
        model: the weights that they must be of.
        ranks: of the parts of natural spaces and causal bases.

    Raises:
        PhysteerError: A file is of another kind, or of another model; two files have one name; a direction is zero; or
            a natural space or a causal basis has fewer directions than a rank.
    """
    fixed_subspaces: list[FixedSubspace] = []
    stems = [Path(path).stem for path in paths]
    for path, stem in zip(paths, stems, strict=True):
        kind = tensor_kind(path)
        reader = _READERS.get(kind or "concept")
        if reader is None:
            raise PhysteerError(f"direction {path} is of the kind {kind.replace('_', ' ')}, not {_ALLOWED}")
        subspace_file = reader(path, ranks)
        if subspace_file.model and subspace_file.model != model:
            raise PhysteerError(f"direction {path} was measured on model {subspace_file.model}; this model is {model}")
        # Several runs write files of one name, each into its own folder: add the folder's name.
        name = stem if stems.count(stem) == 1 else f"{Path(path).parent.name}/{stem}"
        for detail, basis in subspace_file.bases.items():
            fixed_subspaces.append(
                FixedSubspace(f"{name} {detail}".strip(), Site.parse(subspace_file.site), _orthonormal(basis, path))
            )
    names = [subspace.name for subspace in fixed_subspaces]
    for name in names:
        if names.count(name) > 1:
            raise PhysteerError(f"two files of directions are called {name}: rename one")
    return fixed_subspaces


def _concept(path: str, ranks: Sequence[int]) -> _SubspaceFile:
    concept = Concept.load(path)
    return _SubspaceFile(concept.site, concept.model, {"": concept.direction.double().mean(dim=(0, 1, 2))[:, None]})


def _subspace(path: str, ranks: Sequence[int]) -> _SubspaceFile:
    subspace = ConceptSubspace.load(path)
    return _SubspaceFile(subspace.site, subspace.model, {"": subspace.basis})


def _probes(path: str, ranks: Sequence[int]) -> _SubspaceFile:
    probes = RidgeProbes.load(path)
    return _SubspaceFile(
        probes.site, probes.model, {name: probes.weights[0, :, [i]] for i, name in enumerate(probes.targets)}
    )


def _class_probe(path: str, ranks: Sequence[int]) -> _SubspaceFile:
    probe = ClassProbe.load(path)
    return _SubspaceFile(probe.site, probe.model, {probe.parameter: probe.weights[0, :, 1:] - probe.weights[0, :, :1]})


def _main_directions(path: str, ranks: Sequence[int]) -> _SubspaceFile:
    natural = Naturalness.load(path)
    directions = natural.space.directions
    for rank in ranks:
        if rank > directions.shape[1]:
            raise PhysteerError(
                f"direction {path} has {directions.shape[1]} main directions; rank {rank} was asked for"
            )
    return _SubspaceFile(natural.site, natural.model, {f"main {rank}": directions[:, :rank] for rank in ranks})


def _causal_basis(path: str, ranks: Sequence[int]) -> _SubspaceFile:
    basis = CausalBasis.load(path)
    try:
        return _SubspaceFile(basis.site, basis.model, {f"first {rank}": basis.span(rank) for rank in ranks})
    except PhysteerError as error:
        raise PhysteerError(f"direction {path}: {error}") from error


_READERS: dict[str, Callable[[str, Sequence[int]], _SubspaceFile]] = {
    "concept": _concept,
    "subspace": _subspace,
    "probe": _probes,
    "class_probe": _class_probe,
    "natural_space": _main_directions,
    "causal_basis": _causal_basis,
}
_ALLOWED = ", ".join(kind.replace("_", " ") for kind in _READERS)


def _orthonormal(basis: Tensor, path: str) -> Tensor:
    """Return an orthonormal basis [d, k] of the span of columns."""
    norms = basis.double().norm(dim=0)
    if not bool((norms > 0).all()):
        raise PhysteerError(f"direction {path} is zero: it spans nothing")
    columns: Tensor = torch.linalg.qr(basis.double() / norms)[0]
    return columns.float()
