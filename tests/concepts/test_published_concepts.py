"""Published concepts and activations: pickles of tensors are read, and nothing in any pickle is ever run."""

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from physteer.cli import main
from physteer.concepts import Concept, DifferenceOfMeans, read_published_activations, read_published_concept
from physteer.errors import PhysteerError
from physteer.tensor_files import read_tensors

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def published(d=5, grid=(3, 4, 1), seed=0):
    """A concept as published, [1, 1, d, h, w, δ]."""
    return torch.randn(1, 1, d, *grid, generator=torch.Generator().manual_seed(seed))


def pickled(path: Path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


class Call:
    """Pickled, it calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


# --- what is read


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickled_tensor_is_a_concept(tmp_path, protocol):
    tensor = published()
    concept = read_published_concept(pickled(tmp_path / "c.pickle", tensor, protocol))
    assert concept.direction.shape == (3, 4, 1, 5)
    assert torch.equal(concept.direction.permute(3, 0, 1, 2), tensor[0, 0])
    assert concept.site == "blocks.39"
    assert concept.direction[2, 1, 0, 3] == tensor[0, 0, 3, 2, 1, 0]


def test_views_parameters_other_precisions_and_files_of_torch_save_are_read(tmp_path):
    whole = torch.randn(2, 2, 5, 3, 4, 1)
    view = whole[1:, :1].transpose(3, 4)  # an offset and strides of its own
    for i, content in enumerate((view, torch.nn.Parameter(view), view.double(), view.bfloat16())):
        read = read_published_concept(pickled(tmp_path / f"{i}.pkl", content)).direction
        assert torch.equal(read.permute(3, 0, 1, 2), content.detach().float()[0, 0])
    for zipped in (True, False):
        torch.save(view, tmp_path / "saved.pkl", _use_new_zipfile_serialization=zipped)
        read = read_published_concept(tmp_path / "saved.pkl").direction
        assert torch.equal(read.permute(3, 0, 1, 2), view[0, 0])


def test_an_entry_of_a_dictionary_is_chosen_by_its_site(tmp_path):
    tensors = {"blocks.3": published(seed=1), "blocks.39": published(seed=2)}
    path = pickled(tmp_path / "c.pkl", tensors)
    for site, tensor in tensors.items():
        concept = read_published_concept(path, site)
        assert concept.site == site
        assert torch.equal(concept.direction.permute(3, 0, 1, 2), tensor[0, 0])
    with pytest.raises(PhysteerError, match=r"holds blocks\.3, blocks\.39: say which site"):
        read_published_concept(path)
    with pytest.raises(PhysteerError, match=r"no 'block\.3'; it holds .*did you mean 'blocks\.3"):
        read_published_concept(path, "block.3")
    alone = pickled(tmp_path / "alone.pkl", collections.OrderedDict({"blocks.7": tensors["blocks.3"]}))
    assert read_published_concept(alone).site == "blocks.7"


def test_activations_come_in_our_layout_and_make_the_concept(tmp_path):
    feature, control = torch.randn(2, 6, 1, 5, 3, 4, 1)  # [T, B, d, h, w, δ]
    fitter = DifferenceOfMeans()
    for label, tensor in (("feature", feature), ("control", control)):
        read = read_published_activations(pickled(tmp_path / f"{label}.pkl", {"blocks.39": tensor}))
        assert read["blocks.39"].shape == (1, 6, 3, 4, 1, 5)
        assert read["blocks.39"][0, 4, 2, 3, 0, 1] == tensor[4, 0, 1, 2, 3, 0]
        fitter.update(label, read["blocks.39"])

    def standard(a):
        return (a - a.mean((2, 3, 4, 5), True)) / a.std((2, 3, 4, 5), keepdim=True)

    truth = (standard(feature).mean((0, 1)) - standard(control).mean((0, 1))).permute(1, 2, 3, 0)
    torch.testing.assert_close(fitter.fit(site="blocks.39").direction, truth)


# --- what is refused, and does not run


def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path):
    trace = tmp_path / "ran"
    inner = pickle.dumps(Call(os.mkdir, str(trace)))
    evil = {
        "bare": Call(os.mkdir, str(trace)),
        "beside tensors": {"blocks.39": published(), "blocks.40": Call(os.mkdir, str(trace))},
        "builtin": Call(eval, f"__import__('os').mkdir({str(trace)!r})"),
        "getattr": Call(getattr, "x", "upper"),
        "storage": Call(torch.storage._load_from_bytes, inner),
        "torch": Call(torch.load, str(trace)),
    }
    for name, content in evil.items():
        for protocol in PROTOCOLS:
            path = pickled(tmp_path / "evil.pkl", content, protocol)
            for read in (read_published_concept, read_published_activations):
                with pytest.raises(PhysteerError, match=r"evil\.pkl holds .* and was not opened") as error:
                    read(path)
                assert "\n" not in str(error.value)
            assert not trace.exists(), name
    pickle.loads(pickle.dumps(evil["bare"]))
    assert trace.exists()  # it does run in the hands of an ordinary unpickler


def test_code_in_a_file_of_torch_save_does_not_run(tmp_path):
    trace, path = tmp_path / "ran", tmp_path / "evil.pkl"
    for zipped in (True, False):
        torch.save({"blocks.39": Call(os.mkdir, str(trace))}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(PhysteerError, match=r"was not opened: it would call \S*\.mkdir$") as error:
            read_published_concept(path)
        assert "\n" not in str(error.value)
        assert not trace.exists()


def test_nothing_can_be_done_to_what_is_rebuilt(tmp_path):
    """BUILD, which sets attributes or calls __setstate__, gets no hold on tensors and storages."""
    whole = pickle.dumps(published(), protocol=2)
    assert whole.endswith(b".")
    for state in (b"}X\x05\x00\x00\x00shapeK\x01s", b"N}X\x05\x00\x00\x00shapeK\x01s\x86", b"(K\x01K\x02K\x03t"):
        path = tmp_path / "c.pkl"
        path.write_bytes(whole[:-1] + state + b"b.")
        with pytest.raises(PhysteerError, match="not a whole pickle of tensors"):
            read_published_concept(path)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((1, 1, 5, 3, 4, 10), (1,) * 6, 60), ((99, 1), (1, 1), 0), ((2,), (-1,), 1), ((2,), (1, 1), 0), (3, (1,), 0)],
)
def test_tensors_that_reach_beyond_their_numbers_are_refused(tmp_path, shape, strides, offset):
    storage = torch.randn(60)._typed_storage()
    lie = Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, collections.OrderedDict())
    with pytest.raises(PhysteerError, match=r"reaches beyond its 60 numbers|makes no sense"):
        read_published_concept(pickled(tmp_path / "lie.pkl", lie))


def test_what_is_no_tensor_is_refused(tmp_path):
    path = tmp_path / "c.pkl"
    for content, message in (
        ([published()], "was not opened: it is a list"),
        ({"blocks.39": 3.0}, "it has under 'blocks.39' a float"),
        ({39: published()}, "the key 39, which is no module path"),
        (torch.arange(3), "a tensor of torch.int64"),
        (torch.eye(3).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (published().numpy(), "it would call numpy"),
        (torch.nn.Linear(1, 1), "it would call torch"),
    ):
        with pytest.raises(PhysteerError, match=message) as error:
            read_published_concept(pickled(path, content))
        assert "\n" not in str(error.value)


def test_tensors_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "c.pkl"
    with pytest.raises(PhysteerError, match=r"\[6, 1, 5, 3, 4, 1\] is activations \[T, B, d, h, w, δ\]"):
        read_published_concept(pickled(path, {"blocks.39": torch.randn(6, 1, 5, 3, 4, 1)}))
    with pytest.raises(PhysteerError, match=r"\[5\] is no concept"):
        read_published_concept(pickled(path, torch.randn(5)))
    with pytest.raises(PhysteerError, match=r"c\.pkl: the concept at blocks\.39 has values that are not finite"):
        read_published_concept(pickled(path, published() / 0))
    with pytest.raises(PhysteerError, match="holds one tensor, not a dictionary of activations"):
        read_published_activations(pickled(path, published()))
    with pytest.raises(PhysteerError, match=r"blocks\.3 has shape \[2\]"):
        read_published_activations(pickled(path, {"blocks.3": torch.randn(2)}))


def test_damaged_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "c.pkl"
    with pytest.raises(PhysteerError, match="there is no file"):
        read_published_concept(path)
    whole = pickle.dumps(published(), protocol=4)
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(PhysteerError) as error:
            read_published_concept(path)
        assert "\n" not in str(error.value)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):  # one byte changed: read as something finite, or refused in one line
        damaged = bytearray(whole)
        damaged[int(torch.randint(len(whole), (), generator=generator))] ^= 1 << int(
            torch.randint(8, (), generator=generator)
        )
        path.write_bytes(damaged)
        try:
            read_published_concept(path)
        except PhysteerError as error:
            assert "\n" not in str(error)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello", b"")
    with pytest.raises(PhysteerError, match="not a whole pickle of tensors"):
        read_published_concept(path)


# --- the command


def test_convert_writes_a_concept_file(tmp_path, capsys):
    tensor = published()
    path = pickled(tmp_path / "newTensor:(18vortex_group)-(10laminar_group)[+].pickle", tensor)
    out = tmp_path / "vortex.safetensors"
    assert main(["convert", str(path), str(out)]) == 0
    assert "width 5 on 3 × 4 × 1 tokens, measured at blocks.39" in capsys.readouterr().out
    concept = Concept.load(out)
    assert torch.equal(concept.direction, tensor[0, 0].permute(1, 2, 3, 0))
    assert concept.data.startswith(f"{path.name} (SHA-256 ")
    assert main(["convert", str(path), str(out), "--site", "blocks.12"]) == 0
    assert Concept.load(out).site == "blocks.12"


def test_convert_writes_activations(tmp_path, capsys):
    tensors = {"blocks.3": torch.randn(6, 2, 5, 3, 4, 1), "blocks.39": torch.randn(1, 1, 5, 3, 4, 1)}
    path, out = pickled(tmp_path / "a.pkl", tensors), tmp_path / "a.safetensors"
    assert main(["convert", str(path), str(out)]) == 0
    assert "blocks.3 [2, 6, 3, 4, 1, 5], blocks.39 [1, 1, 3, 4, 1, 5]" in capsys.readouterr().out
    read, described = read_tensors(out, "activations", 1)
    assert described == {"layout": "[B, T, h, w, δ, d]", "data": "a.pkl"}
    assert torch.equal(read["blocks.3"], tensors["blocks.3"].permute(1, 0, 3, 4, 5, 2))
    assert main(["convert", str(path), str(out), "--site", "blocks.39"]) == 0  # one sample of one frame is a concept
    assert Concept.load(out).site == "blocks.39"


def test_convert_tells_mistakes_in_one_line(tmp_path, capsys):
    path = pickled(tmp_path / "c.pkl", published())
    evil = pickled(tmp_path / "evil.pkl", Call(os.mkdir, str(tmp_path / "ran")))
    for words, message in (
        ([str(path), str(tmp_path / "out.pkl")], "concepts are written as .safetensors"),
        ([str(path), str(tmp_path / "o.safetensors"), "--extended-config", "x.yaml"], "goes with a checkpoint"),
        ([str(tmp_path / "w.pt"), str(tmp_path / "o.safetensors"), "--site", "blocks.3"], "--site goes with a concept"),
        ([str(evil), str(tmp_path / "o.safetensors")], "was not opened: it would call"),
    ):
        assert main(["convert", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "o.safetensors").exists()


def test_a_pickle_in_memory_is_what_python_would_have_read(tmp_path):
    buffer = io.BytesIO()
    tensor = published()
    pickle.dump({"blocks.3": tensor, "blocks.4": tensor}, buffer)  # one storage, two tensors
    (tmp_path / "c.pkl").write_bytes(buffer.getvalue())
    ordinary = pickle.loads(buffer.getvalue())
    for site in ordinary:
        ours = read_published_concept(tmp_path / "c.pkl", site).direction
        assert torch.equal(ours.permute(3, 0, 1, 2), ordinary[site][0, 0])
