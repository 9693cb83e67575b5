"""Fixed subspaces that a search is compared with: every kind of file, what it spans, and what is refused."""

import pytest
import torch

from physteer.concepts import (
    CausalBasis,
    ClassFitter,
    Concept,
    ConceptSubspace,
    Covariance,
    LeaceFitter,
    NaturalDistances,
    NaturalSpace,
    RidgeFitter,
    read_fixed_subspaces,
)
from physteer.errors import PhysteerError
from physteer.metrics import largest_principal_angle

D, MODEL = 8, "weights"


def activations(n=200, seed=0):
    """Samples [n, d] whose variance falls from channel to channel."""
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * torch.logspace(0, -1, D)


@pytest.fixture
def files(tmp_path):
    """One file of every kind, all at blocks.1."""
    x = activations()
    made = {name: tmp_path / name / "blocks.1.safetensors" for name in ("concept", "subspace", "probe", "natural")}
    made["classes"] = tmp_path / "Reynolds_classes.safetensors"
    direction = torch.arange(D * 2.0).view(1, 1, 2, D)
    counts = {"a": 1, "b": 1}
    Concept(direction, "blocks.1", MODEL, "data", "a − b", counts=counts).save(made["concept"])
    ConceptSubspace(torch.eye(D)[:, 2:4], "blocks.1", "Reynolds", MODEL).save(made["subspace"])
    ridge = RidgeFitter(["first", "second"])
    ridge.update(x, x[:, :2] @ torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    ridge.fit([1e-6], site="blocks.1", model=MODEL).save(made["probe"])
    classes = ClassFitter("Reynolds", [1, 2, 3])
    labels = torch.arange(len(x)) % 3
    classes.update_classes(x + 5 * torch.eye(D)[labels], labels)
    classes.fit([1e-6], site="blocks.1", model=MODEL).save(made["classes"])
    natural = Covariance()
    natural.update(x)
    distances = NaturalDistances(NaturalSpace.of(natural))
    distances.update(x.view(2, 1, 10, 10, 1, D))
    distances.fit(site="blocks.1", model=MODEL).save(made["natural"])
    made["causal"] = tmp_path / "causal/blocks.1.safetensors"
    read = torch.eye(D, dtype=torch.float64)[:, :3] * 2
    write = torch.linalg.pinv(read).mT + torch.eye(D, dtype=torch.float64)[:, 5:]  # oblique: dual, but not parallel
    CausalBasis(read, write, torch.zeros(D).double(), torch.ones(3).double(), "blocks.1", model=MODEL).save(
        made["causal"]
    )
    return {name: str(path) for name, path in made.items()}


def angle(one, columns):
    return largest_principal_angle(one.basis, columns)


def test_every_kind_spans_what_it_says(files):
    found = {one.name: one for one in read_fixed_subspaces(list(files.values()), MODEL, [1, 3])}
    unit = torch.eye(D)
    assert set(found) == {
        "concept/blocks.1",
        "subspace/blocks.1",
        "probe/blocks.1 first",
        "probe/blocks.1 second",
        "natural/blocks.1 main 1",
        "natural/blocks.1 main 3",
        "causal/blocks.1 first 1",
        "causal/blocks.1 first 3",
        "Reynolds_classes Reynolds",
    }
    assert angle(found["concept/blocks.1"], torch.arange(D * 2.0).view(2, D).mean(0)[:, None]) < 1e-3
    assert angle(found["subspace/blocks.1"], unit[:, 2:4]) < 1e-3
    assert angle(found["probe/blocks.1 first"], unit[:, :1]) < 1e-2
    assert angle(found["probe/blocks.1 second"], unit[:, 1:2]) < 1e-2
    _, _, principal = torch.pca_lowrank(activations(), q=D)
    assert angle(found["natural/blocks.1 main 3"], principal[:, :3]) < 0.1
    assert angle(found["causal/blocks.1 first 3"], unit[:, :3]) < 1e-3  # what it measures, not what it removes
    assert found["Reynolds_classes Reynolds"].basis.shape == (D, 2)
    for one in found.values():
        torch.testing.assert_close(one.basis.mT @ one.basis, torch.eye(one.basis.shape[1]))
        assert str(one.site) == "blocks.1"


def test_what_cannot_be_compared(files, tmp_path):
    with pytest.raises(PhysteerError, match="was measured on model weights; this model is others"):
        read_fixed_subspaces([files["probe"]], "others", [1])
    with pytest.raises(PhysteerError, match="8 main directions; rank 9 was"):
        read_fixed_subspaces([files["natural"]], MODEL, [1, 9])
    with pytest.raises(
        PhysteerError, match=r"causal/blocks\.1\.safetensors: .* has 3 directions; rank 4 was asked for"
    ):
        read_fixed_subspaces([files["causal"]], MODEL, [4])
    with pytest.raises(PhysteerError, match="two files of directions are called"):
        read_fixed_subspaces([files["concept"], files["concept"]], MODEL, [1])
    with pytest.raises(PhysteerError, match="no concept file nowhere"):
        read_fixed_subspaces(["nowhere.safetensors"], MODEL, [1])
    x = activations()
    eraser = LeaceFitter(["y"])
    eraser.update(x, x[:, :1])
    eraser.fit().save(tmp_path / "eraser.safetensors")
    with pytest.raises(PhysteerError, match="the kind eraser, not concept, subspace, probe"):
        read_fixed_subspaces([str(tmp_path / "eraser.safetensors")], MODEL, [1])
