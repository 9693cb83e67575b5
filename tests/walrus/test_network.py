"""The network: golden numbers, stages that join bit for bit, causality, dtypes, gradients, bad grids."""

import json

import pytest
import torch
from helpers import golden
from helpers.paths import ROOT
from helpers.walruses import MIXED, PERIODIC, VARIANTS, fields, make, randomize
from safetensors.torch import load_file, save_file

from physteer.errors import PhysteerError
from physteer.walrus.grid import STRIDES


@torch.no_grad()
def test_golden_numbers():
    found = list(golden.compare(ROOT / "tests/golden"))
    assert {row.case for row in found} >= {"released_2d_mixed_jitter", "released_rollout_delta", "fork_2d_periodic"}
    assert [row for row in found if not row.ok] == []


@torch.no_grad()
def test_golden_notices_missing_cases_and_wrong_numbers(tmp_path, capsys):
    source = ROOT / "tests/golden"
    name = "released_2d_periodic"
    (tmp_path / "index.json").write_text(json.dumps({name: json.loads((source / "index.json").read_text())[name]}))
    assert golden.main([str(tmp_path)]) == 1
    assert "missing" in capsys.readouterr().out
    truth = load_file(source / f"{name}.safetensors")
    truth["y"][0, 0, 0, 0, 0] += 1e-3
    save_file(truth, tmp_path / f"{name}.safetensors")
    assert golden.main([str(tmp_path)]) == 1
    assert "ABOVE" in capsys.readouterr().out


@pytest.mark.parametrize(("variant", "boundaries"), VARIANTS)
@torch.no_grad()
def test_stages_join_bit_for_bit(variant, boundaries):
    walrus = randomize(make(variant))
    x, labels = fields(2, 3, 4, 16, 32, 1), walrus.config.labels(["velocity_x", "velocity_y", "pressure", "tracer"])
    whole = walrus(x, labels, boundaries)
    assert whole.shape == x.shape
    for stop in range(4):
        h, context = walrus.encode(x, labels, boundaries)
        h = walrus.run_blocks(h, context, stop=stop)
        assert h.is_contiguous()
        h = walrus.run_blocks(h, context, start=stop)
        assert torch.equal(walrus.decode(h, context), whole)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("variant", "boundaries"), VARIANTS)
@torch.no_grad()
def test_the_last_frame_alone_is_the_last_frame(variant, boundaries, causal):
    walrus = randomize(make(variant, causal_in_time=causal))
    x, labels = fields(2, 3, 2, 16, 32, 1), walrus.config.labels(["velocity_x", "pressure"])
    whole, last = walrus(x, labels, boundaries), walrus(x, labels, boundaries, last_frame_only=True)
    assert last.shape == (2, 1, 2, 16, 32, 1)
    torch.testing.assert_close(last, whole[:, -1:], rtol=1e-6, atol=1e-6 * float(whole.abs().max()))
    h, context = walrus.encode(x, labels, boundaries)
    assert walrus.run_blocks(h, context, 0, 2, last_frame_only=True).shape == (2, 1, *context.grid.tokens, 32)
    assert walrus.run_blocks(h, context, 0, 0, last_frame_only=True).shape == (2, 1, *context.grid.tokens, 32)


@torch.no_grad()
def test_no_frame_depends_on_a_later_one():
    walrus = randomize(make())
    x, labels = fields(1, 4, 2, 16, 16, 1), walrus.config.labels(["velocity_x", "pressure"])
    other = x.clone()
    other[:, -1] = fields(2, 16, 16, 1) + 1
    for stop in range(4):
        (h, context), (g, _) = (walrus.encode(fields, labels, MIXED) for fields in (x, other))
        h, g = (walrus.run_blocks(activation, context, stop=stop) for activation in (h, g))
        assert torch.equal(h[:, :-1], g[:, :-1])
        assert not torch.equal(h[:, -1], g[:, -1])
    two_way = randomize(make(causal_in_time=False))
    assert not torch.equal(two_way(x, labels, MIXED)[:, 0], two_way(other, labels, MIXED)[:, 0])


@pytest.mark.parametrize("shape", [(16, 32, 1), (1, 16, 16), (16, 1, 16), (16, 16, 32)])
@pytest.mark.parametrize("variant", ["released", "preview"])
@torch.no_grad()
def test_any_axis_may_be_the_one_of_size_one(variant, shape):
    walrus = make(variant)
    x, labels = fields(1, 2, 1, *shape), walrus.config.labels(["pressure"])
    for boundaries in (PERIODIC, MIXED, ((2, 2), (0, 0), (1, 1))):
        assert walrus(x, labels, boundaries).shape == x.shape


@torch.no_grad()
def test_a_plane_is_a_plane_whichever_way_it_lies():
    walrus = make()
    for parameter in walrus.stem.embed["2"].parameters():  # kernels that do not tell the axes apart
        parameter.copy_(
            parameter.mean((2, 3, 4), keepdim=True).expand_as(parameter) if parameter.ndim == 5 else parameter
        )
    x, labels = fields(1, 2, 1, 16, 16, 1), walrus.config.labels(["pressure"])
    flat, _ = walrus.encode(x, labels, PERIODIC)
    upright, _ = walrus.encode(x.transpose(4, 5), labels, PERIODIC)
    torch.testing.assert_close(upright.transpose(3, 4), flat)


@pytest.mark.parametrize("ratio", STRIDES)
@pytest.mark.parametrize("boundaries", [PERIODIC, MIXED])
@pytest.mark.parametrize("variant", ["released", "preview"])
@torch.no_grad()
def test_every_stride_gives_the_grid_back(variant, boundaries, ratio):
    walrus = make(variant, n_blocks=1)
    shape = (4 * ratio, 16, 1)
    x, labels = fields(1, 2, 1, *shape), walrus.config.labels(["pressure"])
    if variant == "preview" and ratio == 1:
        with pytest.raises(PhysteerError, match="axis H has 4 cells, fewer than"):
            walrus.encode(x, labels, boundaries)
        return
    h, context = walrus.encode(x, labels, boundaries)
    if variant == "released":
        assert context.grid.tokens == (4, 4, 1)
    assert tuple(h.shape[2:5]) == context.grid.tokens
    assert walrus.decode(h, context).shape == x.shape


@pytest.mark.parametrize("ratio", [16, 24, 32])  # below, the norm between the convolutions counts some cells twice
@torch.no_grad()
def test_a_periodic_field_moved_by_whole_tokens_moves_the_tokens(ratio):
    walrus = randomize(make())
    x, labels = fields(1, 2, 1, 4 * ratio, 16, 1), walrus.config.labels(["pressure"])
    h, _ = walrus.encode(x, labels, PERIODIC)
    moved, _ = walrus.encode(x.roll(ratio, 3), labels, PERIODIC)
    torch.testing.assert_close(moved, h.roll(1, 2), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_samples_do_not_see_each_other():
    walrus = randomize(make())
    x, labels = fields(3, 2, 2, 16, 16, 1), walrus.config.labels(["pressure", "tracer"])
    together = walrus(x, labels, MIXED)
    for row in range(3):
        torch.testing.assert_close(walrus(x[row : row + 1], labels, MIXED)[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["released", "preview"])
@torch.no_grad()
def test_bfloat16(variant):
    walrus = make(variant)
    x, labels = fields(1, 3, 2, 16, 16, 1), walrus.config.labels(["pressure", "tracer"])
    exact = walrus(x, labels, MIXED)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = walrus(x, labels, MIXED)
    low = walrus.bfloat16()(x, labels, MIXED)
    assert low.dtype == torch.bfloat16
    for found in (mixed, low):
        assert float((found.float() - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("rotary", ["fixed", "shared", "per_axis"])
@pytest.mark.parametrize(("variant", "boundaries"), VARIANTS)
def test_gradients_reach_every_parameter_and_the_input(variant, boundaries, rotary):
    walrus = randomize(make(variant, dimensions=(2,), rotary=rotary, position=None)).train()
    x, labels = fields(1, 3, 2, 16, 16, 1).requires_grad_(), walrus.config.labels(["pressure", "tracer"])
    shifts = walrus.draw_shifts((16, 16, 1), boundaries, [torch.Generator().manual_seed(0)])
    walrus(x, labels, boundaries, shifts).square().mean().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    for name, parameter in walrus.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_small_model_learns_to_move_a_field():
    walrus = make(n_blocks=2).train()
    optimizer = torch.optim.AdamW(walrus.parameters(), lr=3e-3)
    x, labels = fields(4, 3, 1, 16, 16, 1), walrus.config.labels(["tracer"])
    x = torch.stack([x[:, 0].roll(t, 2) for t in range(3)], 1)
    change = x.roll(1, 3) - x
    losses = []
    for _ in range(30):
        loss = (walrus(x, labels, PERIODIC) - change).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] < 1.1 * float(change.abs().mean())  # starts near "nothing changes"
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("variant", "boundaries"), VARIANTS)
@torch.no_grad()
def test_float64_is_float32_without_its_rounding(variant, boundaries):
    walrus = randomize(make(variant))
    x, labels = fields(1, 3, 2, 16, 16, 1), walrus.config.labels(["pressure", "tracer"])
    y = walrus(x, labels, boundaries)
    exact = walrus.double()(x.double(), labels, boundaries)
    assert exact.dtype == torch.float64
    assert float((y - exact).abs().max() / exact.abs().max()) < 1e-4
