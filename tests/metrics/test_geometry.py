"""Stretched grids against exact integrals and derivatives; uniform grids against the plain formulas, to the bit."""

import math

import pytest
import torch

from physteer.errors import PhysteerError
from physteer.metrics import (
    Flow,
    Geometry,
    TokenAxis,
    derivative,
    divergence_rms,
    energy_spectrum,
    enstrophy,
    geometry_of,
    kinetic_energy,
    momentum_thickness,
    okubo_weiss,
    pooled_targets,
    token_targets,
    tracer_mass,
    tracer_variance,
    vortex_area,
    vorticity,
)
from physteer.metrics.geometry import SPACE, cell_edges, same_positions, uniform_spacing

WALLS, MIXED = (False, False, True), (True, False, True)
X = torch.arange(16, dtype=torch.float64) / 16
ABSENT = torch.zeros(1)


def chebyshev(n):
    """Cell-centred positions between walls at 0 and 1, narrow beside them."""
    return (1 - torch.cos(math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n)) / 2


def lobatto(n):
    """Positions from wall to wall."""
    return (1 - torch.cos(math.pi * torch.arange(n, dtype=torch.float64) / (n - 1))) / 2


def centres(widths):
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), widths.cumsum(0)])
    return (edges[1:] + edges[:-1]) / 2, edges


def channel(y, u):
    """A velocity [3, 16, n, 1] with u along x, on a periodic x and walls across y."""
    u = u.view(1, -1, 1).expand(16, -1, 1)
    return torch.stack([u, torch.zeros_like(u), torch.zeros_like(u)]), geometry_of((X, y, ABSENT), MIXED)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives_of_parabolas_are_exact_on_stretched_axes_up_to_the_edges(axis, reverse):
    positions = [lobatto(5), chebyshev(9), torch.tensor([0.0, 0.1, 0.4, 0.5, 2.0]).double()]
    positions = [along.flip(0) if reverse else along for along in positions]
    points = torch.meshgrid(*positions, indexing="ij")
    field = 3 * points[axis].square() - points[axis] + points[(axis + 1) % 3]
    found = derivative(field, axis, geometry_of(positions, (False,) * 3))
    torch.testing.assert_close(found, 6 * points[axis] - 1, rtol=0, atol=1e-10)
    assert derivative(field.bfloat16(), axis, geometry_of(positions, (False,) * 3)).dtype == torch.float32


@pytest.mark.parametrize("positions", [chebyshev, lobatto], ids=["inside", "from wall to wall"])
def test_means_of_known_integrals(positions):
    """u = sin πy between walls at 0 and 1: ⟨u²⟩ = 1/2, ⟨(∂u/∂y)²⟩ = π²/2, ⟨u⟩ = 2/π."""

    def errors(n):
        y = positions(n)
        velocity, geometry = channel(y, (math.pi * y).sin())
        tracer = velocity[0] + 5
        found = {
            "enstrophy": (enstrophy(velocity, geometry), math.pi**2 / 4),
            "kinetic_energy": (kinetic_energy(velocity, geometry), 0.25),
            "tracer_mass": (tracer_mass(tracer, geometry), 5 + 2 / math.pi),
            "tracer_variance": (tracer_variance(tracer, geometry), 0.5 - 4 / math.pi**2),
        }
        return {name: abs(float(value) / exact - 1) for name, (value, exact) in found.items()}

    coarse, fine = errors(64), errors(128)
    assert max(coarse.values()) < 3e-3
    for name, error in fine.items():
        assert error < coarse[name] / 3.5, f"{name} is of second order"
    y = positions(64)
    velocity, geometry = channel(y, (math.pi * y).sin())
    plain = 0.5 * (math.pi * (math.pi * y).cos()).square().mean()
    assert abs(float(plain) / (math.pi**2 / 4) - 1) > 0.1, "without weights it is far off"
    across = velocity[[1, 0, 2]]  # v(y): ⟨(∇·u)²⟩ = π²/2
    assert divergence_rms(across, geometry).item() == pytest.approx(math.pi / math.sqrt(2), rel=1e-3)


def test_a_vortex_covers_the_area_it_covers_whatever_the_grid():
    def measured(y):
        a, b = 2 * math.pi * X.view(-1, 1, 1), math.pi * y.view(1, -1, 1)
        u, v = (math.pi * a.sin() * (2 * b).sin()), -2 * math.pi * a.cos() * b.sin().square()  # ψ = sin 2πx sin² πy
        velocity, geometry = torch.stack([u, v, torch.zeros_like(u)]), geometry_of((X, y, ABSENT), MIXED)
        w = okubo_weiss(velocity, geometry)
        assert geometry.variance(w).item() == pytest.approx(1), "in units of its own deviation over space"
        return vortex_area(velocity, geometry).item(), (w < -0.2).double().mean().item()

    (area, share_of_cells), (exact, _) = measured(chebyshev(400)), measured((torch.arange(2000).double() + 0.5) / 2000)
    assert 0.2 < exact < 0.5 and area == pytest.approx(exact, abs=3e-3)
    assert abs(share_of_cells - exact) > 0.03


def test_the_thickness_of_a_layer_on_a_grid_that_is_fine_inside_it():
    s = torch.linspace(-1, 1, 400, dtype=torch.float64)
    y = 10 * torch.sinh(4 * s) / math.sinh(4)
    velocity, geometry = channel(y, torch.tanh(2 * y))
    assert momentum_thickness(velocity, geometry).item() == pytest.approx(0.25, rel=1e-3)


def test_tokens_and_pooled_targets_weigh_cells():
    y = chebyshev(32)
    velocity, geometry = channel(y, (math.pi * y).sin())
    flow = Flow(geometry, velocity[None, None])
    energy = 0.5 * (math.pi * y).sin().square()
    assert pooled_targets(["kinetic_energy"], flow).item() == pytest.approx(0.25, rel=5e-3)
    tokens = token_targets(["kinetic_energy"], flow, (TokenAxis(1, 16), TokenAxis(4, 8), TokenAxis(1)))[
        0, 0, 0, :, 0, 0
    ]
    widths = cell_edges(y).diff().view(4, 8)
    torch.testing.assert_close(tokens, (energy.view(4, 8) * widths).sum(1) / widths.sum(1))
    unknown = Flow(None, velocity[None, None], viscosity=torch.tensor([0.1]), obstacle="the grid is a torus")
    assert pooled_targets(["log_viscosity"], unknown).item() == pytest.approx(-1), "a parameter needs no grid"
    with pytest.raises(PhysteerError, match="'kinetic_energy' needs the lengths of the grid: the grid is a torus"):
        pooled_targets(["kinetic_energy"], unknown)


def test_cell_edges():
    def reaches(y, first, last, tolerance=1e-12):
        edges = cell_edges(y)
        assert edges[0].item() == pytest.approx(first, abs=tolerance)
        assert edges[-1].item() == pytest.approx(last, abs=tolerance)
        assert (edges.diff() > 0).all() and torch.equal(edges[1:-1], (y[1:] + y[:-1]) / 2)

    reaches(lobatto(65), 0, 1, 1e-6)
    reaches(chebyshev(64), 0, 1, 2e-4)
    widths = torch.linspace(1, 3, 12, dtype=torch.float64)
    positions, edges = centres(widths)
    reaches(positions, 0, edges[-1].item())
    growing, edges = centres(1.1 ** torch.arange(12, dtype=torch.float64))
    reaches(growing, 0, edges[-1].item(), 0.02)
    torch.testing.assert_close(cell_edges(torch.arange(5.0)), torch.arange(6).double() - 0.5)
    assert cell_edges(torch.tensor([2.0])).tolist() == [1.5, 2.5]


def test_uniform_grids_give_the_plain_formulas_to_the_bit():
    x, y = torch.arange(32, dtype=torch.float32) / 32, torch.linspace(-1, 1, 48)
    geometry = geometry_of((x, y, ABSENT), MIXED)
    assert geometry.spacing == (float(x[-1] - x[0]) / 31, float(y[-1] - y[0]) / 47, 1.0) and not geometry.stretched
    velocity = torch.randn(2, 3, 32, 48, 1, generator=torch.Generator().manual_seed(0))
    slope = derivative(velocity, 1, geometry)
    assert torch.equal(slope, torch.gradient(velocity, spacing=geometry.spacing[1], dim=-2, edge_order=2)[0])
    assert torch.equal(kinetic_energy(velocity, geometry), 0.5 * velocity.square().sum(1).mean(SPACE))
    omega = vorticity(velocity, geometry)
    assert torch.equal(omega[:, 2], derivative(velocity[:, 1], 0, geometry) - slope[:, 0])
    assert torch.equal(enstrophy(velocity, geometry), 0.5 * omega.square().sum(1).mean(SPACE))
    assert torch.equal(tracer_variance(velocity, geometry), velocity.var(SPACE, correction=0))
    assert torch.equal(geometry.deviation(velocity), velocity.std(SPACE, correction=0, keepdim=True))


@pytest.mark.parametrize("offset", [0.0, -1.0, 1000.0])
def test_rounded_positions_are_uniform_and_slightly_stretched_ones_are_not(offset):
    even = (offset + torch.arange(1000, dtype=torch.float64) / 1000).float()
    assert uniform_spacing(even) == pytest.approx(1e-3, rel=1e-3)
    wave = 0.4e-3 * torch.sin(2 * math.pi * torch.arange(1000) / 1000)  # widths differ by a quarter of a percent
    assert uniform_spacing(even.double() + wave) is None
    assert same_positions(even, even.double() + 1e-7) and not same_positions(even, even.double() + 4e-4)
    assert not same_positions(even, even[:-1])


def test_what_cannot_be_measured_is_refused():
    velocity, geometry = channel(chebyshev(8), chebyshev(8))
    with pytest.raises(PhysteerError, match="spectra need evenly spaced cells, and the grid is stretched along y"):
        energy_spectrum(velocity, geometry)
    with pytest.raises(PhysteerError, match="stretched along its periodic axis y, whose period is not stored"):
        geometry_of((X, chebyshev(8), ABSENT), (True, True, True))
    with pytest.raises(PhysteerError, match="periodic axis x"):
        Geometry((chebyshev(8), 1.0, 1.0), (True, False, True))
    for along in (torch.zeros(8), torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.0, math.nan, 1.0])):
        with pytest.raises(PhysteerError, match="coordinates along y neither increase nor decrease"):
            geometry_of((X, along, ABSENT), MIXED)
