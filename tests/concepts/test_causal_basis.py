"""Files of causal bases: what they hold, what other analyses get from them, and what is refused."""

import dataclasses

import pytest
import torch

from physteer.concepts import CausalBasis, Concept
from physteer.errors import PhysteerError
from physteer.metrics import largest_principal_angle
from physteer.tensor_files import numbered_direction

D, K = 6, 3


@pytest.fixture
def basis():
    generator = torch.Generator().manual_seed(0)
    read = torch.randn(D, K, generator=generator, dtype=torch.float64)
    write = torch.linalg.pinv(read).mT
    outside = torch.linalg.qr(read, mode="complete")[0][:, K:]
    write = write + outside @ torch.randn(D - K, K, generator=generator, dtype=torch.float64)  # oblique
    return CausalBasis(
        read,
        write,
        torch.randn(2, 4, D, generator=generator, dtype=torch.float64),
        torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64),
        "blocks.1",
        row_order=torch.tensor([1, 0]),
        half_angles=torch.tensor([5.0, 4.0, float("nan")], dtype=torch.float64),
        restarts=(0, 1, 0),
        rises=(0.0, 0.0, 0.25),
        frames=(-1,),
        mode="rows_mean",
        metric="whitened",
        model="weights",
        rows=2,
    )


def test_a_file_holds_all_of_it(basis, tmp_path):
    basis.save(tmp_path / "basis.safetensors")
    again = CausalBasis.load(tmp_path / "basis.safetensors")
    for field in dataclasses.fields(basis):
        one, two = getattr(basis, field.name), getattr(again, field.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == two.dtype
            torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == two or one != one, field.name
    assert CausalBasis.is_kind_of(tmp_path / "basis.safetensors")
    with pytest.raises(PhysteerError, match="is not a concept"):
        Concept.load(tmp_path / "basis.safetensors")


def test_the_span_is_what_it_measures(basis):
    for k in (1, 3):
        span = basis.span(k)
        torch.testing.assert_close(span.mT @ span, torch.eye(k).double())
        assert largest_principal_angle(span, basis.read[:, :k]) < 1e-6
    with pytest.raises(PhysteerError, match="has 3 directions; rank 4 was asked for"):
        basis.span(4)


def test_erasing_removes_what_it_measures_and_nothing_else(basis):
    h = torch.randn(5, 2, 4, D, dtype=torch.float64)
    erased = basis.replacement()(h)
    mean = basis.mean.mean((0, 1))
    torch.testing.assert_close((erased - mean) @ basis.read, torch.zeros(5, 2, 4, K).double(), atol=1e-10, rtol=0)
    removed = h - erased  # along L
    coordinates = (h - mean) @ basis.read
    torch.testing.assert_close(removed, coordinates @ basis.write.mT)


def test_a_direction_steers_along_what_is_removed(basis):
    concept = basis.concept(2)
    torch.testing.assert_close(concept.direction.flatten().double(), basis.write[:, 1], rtol=1e-6, atol=1e-6)
    assert (concept.site, concept.model) == ("blocks.1", "weights") and "sign has no meaning" in concept.formula
    for number in (0, 4):
        with pytest.raises(PhysteerError, match=f"has the directions 1 to 3; found {number}"):
            basis.concept(number)


def test_addresses_of_directions(tmp_path):
    assert numbered_direction("a/b.safetensors#12") == ("a/b.safetensors", 12)
    assert numbered_direction("a/b.safetensors") == ("a/b.safetensors", None)
    assert numbered_direction("a/b#c.safetensors") == ("a/b#c.safetensors", None)
    odd = tmp_path / "file#3"
    odd.touch()
    assert numbered_direction(str(odd)) == (str(odd), None)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"write": torch.zeros(D, K).double()}, "is not dual"),
        ({"write": torch.zeros(D, 2).double()}, r"R and L \[d, k\]"),
        ({"mean": torch.zeros(D + 1).double()}, r"a mean \[\.\.\., d\]"),
        ({"energies": torch.zeros(2).double()}, "2 energies do not fit 3 directions of 6 channels"),
        ({"energies": torch.full((K,), torch.inf).double()}, "values of energies that are not finite"),
    ],
)
def test_what_is_no_basis(basis, changes, sentence):
    with pytest.raises(PhysteerError, match=sentence):
        dataclasses.replace(basis, **changes)
