"""Published steering: golden numbers through the real network, and the formula's properties."""

import json
import math

import pytest
import torch
from helpers import golden
from helpers.paths import ROOT
from safetensors.torch import load_file
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.interventions import (
    UNSTEERED,
    Condition,
    Edit,
    Interchange,
    Locus,
    Steer,
    apply_edits,
    attached,
    captured,
    fit_to_grid,
    separated,
    stack_conditions,
)
from physteer.walrus.published import from_published

FOLDER = ROOT / "tests/golden"
CASES = {name: case for name, case in json.loads((FOLDER / "index.json").read_text()).items() if "mode" in case}
MODES = ("drop", "pad", "interpolate", "none")


@pytest.fixture
def h():
    return torch.randn(2, 3, 4, 5, 1, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def direction():
    return torch.randn(4, 5, 1, 6, generator=torch.Generator().manual_seed(1))


def test_every_mode_and_sign_has_its_golden_case():
    modes = {(case["mode"].replace("interpol", "interpolate"), case["sign"]) for case in CASES.values()}
    assert modes == {(mode, sign) for mode in MODES for sign in (1, -1)}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_golden_steering(name):
    case = CASES[name]
    config = golden.recipe_config(case["variant"])
    walrus = from_published(golden.recipe_state(config, case["weight_prefix"]), config)
    x = golden.recipe(case["x_key"], tuple(case["shape"])).transpose(0, 1)
    concept = golden.recipe(case["concept_key"], tuple(case["concept_shape"]))[0, 0].permute(1, 2, 3, 0)
    mode = "interpolate" if case["mode"] == "interpol" else case["mode"]
    edit = Edit(case["site"], Steer(concept, case["sign"] * case["alpha"], mode))

    sites = ["blocks.0", "blocks.1"]
    with captured(walrus, sites[:1]) as before, attached(walrus, [edit]), captured(walrus, sites[1:]) as after:
        y = walrus(x, case["labels"], case["boundary_conditions"])
    blocks = {site.replace("s.", ""): h.permute(1, 0, 5, 2, 3, 4) for site, h in (before | after).items()}
    found = {name: golden.thin(h, (4, 4, 4)) for name, h in blocks.items()}
    found["y"] = golden.thin(y.transpose(0, 1), (case["y_stride"],) * 3)

    truth = load_file(FOLDER / f"{name}.safetensors")
    assert list(truth.pop("block_shape")) == list(blocks["block1"].shape)
    errors = {tensor: golden.relative_error(found[tensor], truth[tensor]) for tensor in truth}
    assert max(errors.values()) <= golden.TOLERANCE, errors
    unsteered = golden.thin(walrus(x, case["labels"], case["boundary_conditions"]).transpose(0, 1), (4, 4, 4))
    assert golden.relative_error(unsteered, truth["y"]) > 100 * golden.TOLERANCE  # the case does something


SITES = ("encoder", "blocks.0", "blocks.1.time", "blocks.0.space.heads", "blocks.0.space.heads[1]", "blocks.1")


@pytest.mark.parametrize("last_frame_only", [False, True])
@torch.no_grad()
def test_nulls_and_stacked_conditions_on_walrus(last_frame_only):
    config = golden.recipe_config("released")
    walrus = from_published(golden.recipe_state(config), config)
    x = torch.randn(2, 3, 2, 32, 32, 1, generator=torch.Generator().manual_seed(0))

    def run(x: Tensor, edits: list[Edit]) -> Tensor:
        with attached(walrus, edits):
            return walrus(x, (3, 4), ((2, 2),) * 3, last_frame_only=last_frame_only)

    plain = run(x, [])
    with captured(walrus, SITES) as h:
        run(x, [])
    assert {site: a.shape[-1] for site, a in h.items()} == {site: 16 if "[" in site else 64 for site in SITES}
    directions = {site: torch.randn(a.shape[2:]) for site, a in h.items()}
    assert torch.equal(run(x, [Edit(site, Steer(v, 0.0, "none")) for site, v in directions.items()]), plain)
    assert torch.equal(run(x, [Edit(site, Interchange(a)) for site, a in h.items()]), plain)
    conditions = [UNSTEERED, *(Condition(site, (Edit(site, Steer(v, 0.4)),)) for site, v in directions.items())]
    together = run(torch.cat([x] * len(conditions)), stack_conditions(conditions, 2))
    for condition, y in zip(conditions, separated(together, len(conditions)), strict=True):
        torch.testing.assert_close(y, run(x, list(condition.edits)), rtol=1e-4, atol=1e-5)
        assert condition is UNSTEERED or golden.relative_error(y, plain) > 1e-3


def test_the_formula(h, direction):
    v = direction.double()
    for alpha in (0.7, -0.3):
        steered = Steer(direction, alpha, "none")(h)
        norm = h.double().flatten(2).norm(dim=-1)[..., None, None, None, None]
        torch.testing.assert_close(steered.double(), h + alpha * v * norm / v.norm(), rtol=1e-6, atol=1e-6)


def test_the_norm_is_exact_at_full_size():
    h = torch.randn(1, 1, 32, 32, 1, 1408, generator=torch.Generator().manual_seed(0))
    steered = Steer(torch.ones(1, 1, 1, 1408), 0.5, "drop")(h)
    step = 0.5 * h.double().norm() / math.sqrt(h.numel())
    torch.testing.assert_close((steered.double() - h).mean(), step, rtol=1e-6, atol=0)


def test_every_frame_moves_by_alpha_times_its_own_norm(h, direction):
    h = h * torch.tensor([1.0, 10.0, 0.1])[:, None, None, None, None]
    for mode in MODES:
        moved = (Steer(direction, -0.4, mode)(h) - h).flatten(2).norm(dim=-1)
        torch.testing.assert_close(moved, 0.4 * h.flatten(2).norm(dim=-1), rtol=1e-5, atol=1e-5)


def test_the_size_of_the_direction_does_not_matter(h, direction):
    for mode in MODES:
        torch.testing.assert_close(Steer(1e4 * direction, 0.4, mode)(h), Steer(direction, 0.4, mode)(h))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_zero_is_bit_identical_even_at_negative_zero(h, direction, mode, dtype):
    h = h.to(dtype)
    h[0, 0, 0] = -0.0
    h[1, 1, 0, 0, 0, 0] = torch.nan
    word = torch.int32 if dtype == torch.float32 else torch.int16
    for strength in (0.0, -0.0):
        alone = Edit("a", Steer(direction, strength, mode))
        assert torch.equal(alone(h).view(word), h.view(word))
        beside = [
            alone.at(Locus(rows=[1])),
            Edit("a", Steer(direction, 0.5, mode), locus=Locus(rows=[0], frames=[2])),
        ]
        steered = apply_edits(h, beside)
        assert torch.equal(steered.view(word)[1], h.view(word)[1])
        assert torch.equal(steered.view(word)[0, :2], h.view(word)[0, :2])
        assert not torch.equal(steered[0, 2], h[0, 2])


def test_drop_keeps_the_mean_direction_only(h, direction):
    unit = fit_to_grid(direction, (7, 2, 1), "drop").expand(7, 2, 1, 6)
    torch.testing.assert_close(unit.norm(), torch.tensor(1.0))
    torch.testing.assert_close(
        unit[3, 1, 0] * direction.mean((0, 1, 2)).norm() * math.sqrt(14), direction.mean((0, 1, 2))
    )


def test_one_token_is_root_tokens_stronger_in_none_than_in_drop():
    token = torch.randn(1, 1, 1, 6)
    ratio = fit_to_grid(token, (4, 5, 2), "none") / fit_to_grid(token, (4, 5, 2), "drop")
    torch.testing.assert_close(ratio, torch.full_like(ratio, math.sqrt(40)))


def test_a_vector_is_the_same_direction_at_every_token(h):
    vector = torch.randn(6, generator=torch.Generator().manual_seed(2))
    for activation in (h, h[:, :, 0, 0, 0], h[:, :, :, :, 0]):  # [B, T, h, w, δ, d], [B, T, d], [B, T, h, w, d]
        found = Steer(vector, 0.3)(activation)
        assert torch.equal(found, Steer(vector[None, None, None], 0.3, "drop")(activation))
        tokens = activation.flatten(2, -2) if activation.ndim > 3 else activation[:, :, None]
        length = 0.3 * tokens.flatten(2).norm(dim=-1)[..., None, None] / math.sqrt(tokens.shape[2])
        moved = tokens + length * vector / vector.norm()
        torch.testing.assert_close(found, moved.view(activation.shape))


def test_pad_cuts_to_the_centre_and_fills_the_high_end(direction):
    fitted = fit_to_grid(direction, (6, 2, 1), "pad")
    kept = direction[:, 1:3]
    torch.testing.assert_close(fitted[:4], kept / kept.norm())
    assert not fitted[4:].any()


def test_interpolation_keeps_a_constant_constant_and_a_ramp_a_ramp():
    ramp = torch.arange(4.0)[:, None, None, None] + torch.zeros(4, 3, 1, 2)
    fitted = fit_to_grid(ramp, (8, 3, 1), "interpolate")
    steps = fitted[1:-1].diff(dim=0)  # both ends are held
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    even = fit_to_grid(torch.ones(4, 3, 1, 2), (8, 5, 2), "interpolate")
    torch.testing.assert_close(even, torch.full_like(even, 1 / math.sqrt(even.numel())))


@pytest.mark.parametrize("mode", MODES)
def test_the_own_grid_needs_no_fitting(direction, mode):
    if mode != "drop":
        assert torch.equal(
            fit_to_grid(direction, (4, 5, 1), mode), (direction.double() / direction.double().norm()).float()
        )


def test_the_fit_is_made_once_per_grid(h, direction):
    steer = Steer(direction, 0.1, "interpolate")
    wide = torch.randn(1, 2, 8, 5, 1, 6)
    assert steer.unit(h) is steer.unit(h)
    assert steer.unit(wide) is steer.unit(wide)
    assert steer.unit(wide).shape == (8, 5, 1, 6)


def test_a_fit_made_under_inference_mode_serves_training(h, direction):
    steer = Steer(direction, 0.1, "interpolate")
    with torch.inference_mode():
        steer(torch.randn(1, 1, 6, 7, 1, 6))
        steer(h)
    h.requires_grad_()
    steer(h).sum().backward()
    assert torch.isfinite(h.grad).all()


def test_low_precision_rounds_once(h, direction):
    low = h.bfloat16()
    exact = Steer(direction.double(), 0.4)(low.double())
    assert torch.equal(Steer(direction, 0.4)(low), exact.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": math.nan}, "must be finite"),
        ({"strength": math.inf}, "must be finite"),
        ({"mode": "interpol"}, "'interpol' is not one of drop, pad, interpolate, none; did you mean 'interpolate'"),
        ({"direction": torch.ones(6), "mode": "none"}, r"a direction \[d\] is the same at every token, in mode 'drop'"),
        *(
            ({"direction": torch.ones(shape)}, r"a direction is \[d\], the same at every token, or \[h, w, δ, d\]")
            for shape in ((), (2, 6), (1, 2, 6), (1, 1, 1, 1, 6))
        ),
        ({"direction": torch.full((1, 1, 1, 6), torch.inf)}, "not finite"),
    ],
)
def test_bad_settings_are_refused(direction, arguments, message):
    with pytest.raises(PhysteerError, match=message):
        Steer(**({"direction": direction, "strength": 0.1, "mode": "drop"} | arguments))


@pytest.mark.parametrize(
    ("bad", "mode", "message"),
    [
        (torch.ones(4, 5, 1, 7), "drop", "width 7, the activation 6"),
        (torch.ones(3, 5, 1, 6), "none", r"on the grid \[4, 5, 1\] or on one token; it is on \[3, 5, 1\]"),
        (torch.zeros(4, 5, 1, 6), "pad", "zero in mode 'pad'"),
        (torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 1, 1, 6), "drop", "zero in mode 'drop'"),
    ],
)
def test_a_direction_that_does_not_fit_names_the_site(h: Tensor, bad, mode, message):
    with pytest.raises(PhysteerError, match=f"site blocks.3: .*{message}"):
        Edit("blocks.3", Steer(bad, 0.1, mode))(h)
