"""Probe targets against exact fields; which cells belong to a token; raw patches."""

import math

import pytest
import torch
from helpers.walruses import make

from physteer.errors import PhysteerError
from physteer.metrics import TARGETS, Flow, Geometry, TokenAxis, patches, pooled_targets, token_means, token_targets
from physteer.walrus.grid import plan
from physteer.walrus.stem import convolve

PERIODIC, WALLS = (True, True, True), (False, False, True)
K, L = 2 * math.pi, 3 * math.pi  # one and three periods of a box of 1 × 2
GRID = (TokenAxis(4, 8), TokenAxis(8, 6), TokenAxis(1))


def flow(shape=(32, 48), periodic=PERIODIC):
    """Two windows of three frames of Taylor–Green vortices of different strength, a wave of tracer, a pressure."""
    x = torch.arange(shape[0], dtype=torch.float64)[:, None, None] / shape[0]
    y = 2 * torch.arange(shape[1], dtype=torch.float64)[:, None] / shape[1]
    strength = torch.tensor([[1.0, 0.5, 0.2], [2.0, 3.0, 0.0]], dtype=torch.float64)[..., None, None, None]
    u, v = L * (K * x).sin() * (L * y).cos(), -K * (K * x).cos() * (L * y).sin()
    velocity = strength[:, :, None] * torch.stack([u, v, torch.zeros_like(u)])
    tracer = strength * (K * x + L * y).sin()
    spacing = (1 / shape[0], 2 / shape[1], 1.0)
    viscosity, diffusivity = torch.tensor([0.1, 0.001]), torch.tensor([0.01, 1.0])
    return Flow(Geometry(spacing, periodic), velocity, tracer, tracer + 1, viscosity, diffusivity), strength, (x, y)


def test_quantities_of_exact_fields():
    fields, s, (x, y) = flow()
    both = (K * x).sin() * (L * y).sin()
    vorticity = (K**2 + L**2) * both
    ux = K * L * (K * x).cos() * (L * y).cos()  # = −∂y v
    cross = (K**2 - L**2) * both  # ∂y u + ∂x v
    strain = 2 * ux.square() + cross.square() / 2
    speed = (L * (K * x).sin() * (L * y).cos()).square() + (K * (K * x).cos() * (L * y).sin()).square()
    expected = {
        "vorticity": s * vorticity,
        "speed_squared": s**2 * speed,
        "kinetic_energy": s**2 * speed / 2,
        "shear_rate": s * (2 * strain).sqrt(),
        "dissipation_rate": s**2 * 2 * fields.viscosity.view(2, 1, 1, 1, 1) * strain,
        "tracer_gradient": s * math.hypot(K, L) * (K * x + L * y).cos().abs(),
        "pressure": s * (K * x + L * y).sin() + 1,
    }
    parameters = {"log_viscosity": [-1.0, -3.0], "log_diffusivity": [-2.0, 0.0]}
    assert {*expected, *parameters} == set(TARGETS)
    names = [*expected, *parameters]
    tokens, pooled = token_targets(names, fields, GRID), pooled_targets(names, fields)
    assert tokens.shape == (2, 3, 4, 8, 1, len(names)) and pooled.shape == (2, 3, len(names))
    for i, name in enumerate(names):
        if name in parameters:
            value = torch.tensor(parameters[name], dtype=torch.float64)
            torch.testing.assert_close(tokens[..., i], value.view(2, 1, 1, 1, 1).expand(2, 3, 4, 8, 1))
            torch.testing.assert_close(pooled[..., i], value[:, None].expand(2, 3))
            continue
        cells = expected[name].view(2, 3, 4, 8, 8, 6)  # tokens of 8 × 6 cells
        torch.testing.assert_close(tokens[..., 0, i], cells.mean((3, 5)), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(pooled[..., i], expected[name].mean((2, 3, 4)), rtol=1e-6, atol=1e-9)


def test_derivatives_stop_at_walls():
    """Beside walls, differences of second order, not the spectral derivative of a field that jumps."""
    n = 24
    x = torch.linspace(0, 1, n, dtype=torch.float64)[:, None, None].expand(n, n, 1)
    zero = torch.zeros_like(x)
    velocity = torch.stack([zero, x.square(), zero])[None, None]
    walls = Flow(Geometry((1 / (n - 1),) * 2 + (1.0,), WALLS), velocity)
    every_cell = (TokenAxis(n), TokenAxis(n), TokenAxis(1))
    torch.testing.assert_close(token_targets(["vorticity"], walls, every_cell)[0, 0, ..., 0], 2 * x)


@pytest.mark.parametrize(
    ("axis", "size", "periodic", "rows"),
    [
        (TokenAxis(3, 2), 6, True, [[0, 1], [2, 3], [4, 5]]),
        (TokenAxis(3, 3, -1), 6, True, [[5, 0, 1], [2, 3, 4], [5, 0, 1]]),
        (TokenAxis(3, 3, -1), 6, False, [[0, 1], [2, 3, 4], [5]]),
        (TokenAxis(4, 2, -2), 4, False, [[0], [0, 1], [2, 3], [3]]),
        (TokenAxis(1), 1, True, [[0]]),
    ],
)
def test_tokens_average_their_own_cells(axis, size, periodic, rows):
    values = torch.rand(size, dtype=torch.float64)
    expected = torch.stack([values[row].mean() for row in rows])
    for dim in range(3):
        grid = tuple(axis if i == dim else TokenAxis(2) for i in range(3))
        field = values.view([size if i == dim else 1 for i in range(3)])
        field = field.expand([size if i == dim else 2 for i in range(3)])
        means = token_means(field, grid, Geometry((1.0, 1.0, 1.0), (periodic,) * 3)).movedim(dim, 0)
        torch.testing.assert_close(means, expected[:, None, None].expand_as(means))


@pytest.mark.parametrize("variant", ["released", "preview"])
@pytest.mark.parametrize("codes", [(2, 2), (0, 1)])
@pytest.mark.parametrize("jitter", [True, False])
def test_a_token_s_cells_are_in_the_middle_of_what_it_sees(variant, codes, jitter):
    """Through the stem's own convolutions: what each token sees of a field, found by one cell at a time."""
    config = make(variant=variant).config
    grid = plan(config, (64, 64, 1), (codes, codes, (2, 2)), jitter)
    axis = grid.axes[0]
    margin = axis.before + axis.after
    size = axis.size + 2 * margin
    impulses = torch.eye(size)[:, None, :, None].expand(-1, 1, -1, size)
    seen = convolve(convolve(impulses, torch.ones(1, 1, 8, 8, 8), grid, 0), torch.ones(1, 1, 4, 4, 4), grid, 1)
    sees = seen[:, 0, :, 0] > 0  # [padded cell, token]
    assert sees.shape[1] == axis.tokens
    for token in range(axis.tokens):
        cells = sees[:, token].nonzero().flatten() - margin
        own = axis.first_cell + axis.cells * token + torch.arange(axis.cells)
        assert cells.double().mean() == own.double().mean()
        assert set(own.tolist()) <= set(cells.tolist())
    if variant == "released" and not (jitter and codes != (2, 2)):
        assert axis.first_cell == 0 and axis.tokens * axis.cells == axis.size


def test_patches_are_the_cells_of_each_token():
    fields = torch.rand(2, 3, 2, 8, 6, 1)
    raw = patches(fields, (TokenAxis(4, 2), TokenAxis(2, 3), TokenAxis(1)), PERIODIC)
    assert raw.shape == (2, 3, 4, 2, 1, 12)
    assert torch.equal(raw[1, 2, 3, 1, 0].view(2, 2, 3), fields[1, 2, :, 6:8, 3:6, 0])
    shifted = patches(fields, (TokenAxis(4, 2, -1), TokenAxis(2, 3), TokenAxis(1)), PERIODIC)
    assert torch.equal(shifted[0, 0, 0, 0, 0].view(2, 2, 3), fields[0, 0, :, [7, 0], 0:3, 0])
    clamped = patches(fields, (TokenAxis(4, 2, -1), TokenAxis(2, 3), TokenAxis(1)), WALLS)
    assert torch.equal(clamped[0, 0, 0, 0, 0].view(2, 2, 3), fields[0, 0, :, [0, 0], 0:3, 0])


def test_what_the_data_lack_is_told():
    fields, _, _ = flow()
    without = Flow(fields.geometry, fields.velocity)
    with pytest.raises(PhysteerError, match="'tracer_gradient' needs the tracer, which this data set lacks"):
        token_targets(["tracer_gradient"], without, GRID)
    with pytest.raises(PhysteerError, match="'dissipation_rate' needs the viscosity"):
        pooled_targets(["dissipation_rate"], without)
    with pytest.raises(PhysteerError, match=r"no probe target 'vortisity'.*did you mean 'vorticity'"):
        pooled_targets(["vortisity"], fields)
