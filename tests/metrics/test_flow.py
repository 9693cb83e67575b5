"""Flow diagnostics against fields whose answers are known exactly."""

import math

import pytest
import torch

from physteer.metrics import (
    Geometry,
    derivative,
    divergence_rms,
    energy_spectrum,
    enstrophy,
    kinetic_energy,
    momentum_thickness,
    tracer_variance,
    vortex_area,
    vorticity,
)

PERIODIC = (True, True, True)
WALLS = (False, False, False)
UNIT = Geometry((1.0, 1.0, 1.0), PERIODIC)


def axes(shape, lengths, centred=False):
    """Cell positions [H, W, D] along x, y, z, and spacings; the far end is left out, as on periodic axes."""
    spacing = tuple(length / n for length, n in zip(lengths, shape, strict=True))
    lines = [
        torch.arange(n, dtype=torch.float64) * d - centred * length / 2
        for n, d, length in zip(shape, spacing, lengths, strict=True)
    ]
    return torch.meshgrid(*lines, indexing="ij"), spacing


def taylor_green(n=(32, 48, 1), lengths=(2 * math.pi, 4 * math.pi, 1.0)):
    """u = cos ax sin by, v = −(a/b) sin ax cos by with one and two periods."""
    (x, y, _), spacing = axes(n, lengths)
    a, b = 2 * math.pi / lengths[0], 2 * 2 * math.pi / lengths[1]
    u, v = (a * x).cos() * (b * y).sin(), -a / b * (a * x).sin() * (b * y).cos()
    return torch.stack([u, v, torch.zeros_like(u)]), spacing, (x, y, a, b)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("n", [12, 13])
def test_periodic_derivatives_are_exact_for_waves_the_grid_holds(axis, n):
    shape, lengths = [3, 4, 5], [1.0, 2.0, 3.0]
    shape[axis] = n
    points, spacing = axes(shape, lengths)
    for mode in range(6):
        k = 2 * math.pi * mode / lengths[axis]
        wave = (k * points[axis] + 0.3).sin()
        truth = k * (k * points[axis] + 0.3).cos()
        torch.testing.assert_close(derivative(wave, axis, Geometry(spacing, PERIODIC)), truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_derivatives_between_walls_are_exact_for_parabolas(axis):
    points, spacing = axes((5, 6, 7), (1.0, 2.0, 3.0))
    field = 3 * points[axis].square() - points[axis] + points[(axis + 1) % 3]
    torch.testing.assert_close(derivative(field, axis, Geometry(spacing, WALLS)), 6 * points[axis] - 1)


def test_derivatives_between_walls_are_of_second_order():
    def error(n):
        x = torch.linspace(0, 1, n, dtype=torch.float64).view(n, 1, 1)
        spacing = (1 / (n - 1), 1.0, 1.0)
        return float((derivative((3 * x).sin(), 0, Geometry(spacing, WALLS)) - 3 * (3 * x).cos()).abs().max())

    assert math.log2(error(41) / error(81)) == pytest.approx(2, abs=0.1)


def test_derivatives_along_absent_axes_are_zero():
    field = torch.randn(2, 4, 4, 1)
    for periodic in (PERIODIC, WALLS):
        assert not derivative(field, 2, Geometry((1.0, 1.0, 1.0), periodic)).any()


def test_taylor_green_vortices():
    velocity, spacing, (x, y, a, b) = taylor_green()
    omega = vorticity(velocity, Geometry(spacing, PERIODIC))
    torch.testing.assert_close(omega[2], -(a * a / b + b) * (a * x).cos() * (b * y).cos())
    assert not omega[:2].any()
    assert enstrophy(velocity, Geometry(spacing, PERIODIC)).item() == pytest.approx((a * a / b + b) ** 2 / 8)
    assert divergence_rms(velocity, Geometry(spacing, PERIODIC)).item() < 1e-12


def test_a_beltrami_flow_is_its_own_vorticity():
    (x, y, z), spacing = axes((8, 9, 10), (2 * math.pi,) * 3)
    abc = torch.stack([z.sin() + y.cos(), x.sin() + z.cos(), y.sin() + x.cos()])
    torch.testing.assert_close(vorticity(abc, Geometry(spacing, PERIODIC)), abc)
    assert divergence_rms(abc, Geometry(spacing, PERIODIC)).item() < 1e-12


def test_divergence_of_an_expansion():
    (x, y, z), spacing = axes((5, 6, 7), (1.0, 2.0, 3.0))
    expansion = torch.stack([x, 2 * y, 3 * z])
    assert divergence_rms(expansion, Geometry(spacing, WALLS)).item() == pytest.approx(6)
    assert not vorticity(expansion, Geometry(spacing, WALLS)).abs().max() > 1e-12


@pytest.mark.parametrize("shape", [(16, 16, 1), (12, 31, 1), (8, 9, 10), (1, 16, 1)])
def test_the_spectrum_sums_to_the_kinetic_energy(shape):
    velocity = torch.randn(2, 4, 3, *shape, dtype=torch.float64)
    spectrum = energy_spectrum(velocity, UNIT)
    assert spectrum.shape[:2] == (2, 4)
    torch.testing.assert_close(spectrum.sum(-1), kinetic_energy(velocity, UNIT))
    torch.testing.assert_close(kinetic_energy(velocity, UNIT), 0.5 * velocity.square().sum(2).mean((-3, -2, -1)))


def test_a_wave_is_in_its_shell_whatever_the_domain():
    velocity, _, _ = taylor_green()  # index wavenumber √(1² + 2²) = 2.24
    spectrum = energy_spectrum(velocity, UNIT)
    assert spectrum[2].item() == pytest.approx(kinetic_energy(velocity, UNIT).item())
    assert spectrum.sum().item() == pytest.approx(spectrum[2].item())
    uniform = torch.ones(3, 8, 8, 1)
    assert energy_spectrum(uniform, UNIT)[0].item() == pytest.approx(1.5)


def test_vortex_area_of_rotation_strain_and_taylor_green():
    (x, y, _), spacing = axes((16, 16, 1), (1.0, 1.0, 1.0), centred=True)
    zero = torch.zeros_like(x)
    rotation, strain = torch.stack([-y, x, zero]), torch.stack([x, -y, zero])
    shear = torch.stack([y, zero, zero])
    assert vortex_area(rotation, Geometry(spacing, WALLS)).item() == 1
    assert vortex_area(strain, Geometry(spacing, WALLS)).item() == 0
    assert vortex_area(1e-3 * shear, Geometry(spacing, WALLS)).item() == 0  # W = 0 exactly
    velocity, spacing, (x, y, a, b) = taylor_green((64, 64, 1), (2 * math.pi, 4 * math.pi, 1.0))
    w = 4 * ((a * x).sin() * (b * y).sin()).square() - 4 * ((a * x).cos() * (b * y).cos()).square()  # a = b = 1
    truth = (w < -0.2 * w.std(correction=0)).double().mean().item()
    assert 0.3 < truth < 0.5
    assert vortex_area(velocity, Geometry(spacing, PERIODIC)).item() == pytest.approx(truth)


def test_tracer_variance():
    (x, _, _), _ = axes((32, 8, 1), (1.0, 1.0, 1.0))
    assert tracer_variance(5 + 2 * (2 * math.pi * x).sin(), UNIT).item() == pytest.approx(2)


def test_momentum_thickness_of_a_tanh_layer():
    (_, y, _), spacing = axes((4, 4000, 1), (1.0, 20.0, 1.0), centred=True)
    for delta in (0.5, 1.0):
        u = 3 * torch.tanh(2 * y / delta) + 7
        velocity = torch.stack([u, torch.zeros_like(u), torch.zeros_like(u)])
        assert momentum_thickness(velocity, Geometry(spacing, WALLS)).item() == pytest.approx(delta / 4, rel=1e-6)
        turned = torch.stack([torch.zeros_like(u), u, torch.zeros_like(u)]).transpose(1, 2)
        swapped = (spacing[1], spacing[0], spacing[2])
        assert momentum_thickness(turned, Geometry(swapped, WALLS), stream=1, across=0).item() == pytest.approx(
            delta / 4, rel=1e-6
        )


def test_batches_and_half_precision_go_through():
    velocity, spacing, _ = taylor_green()
    batch = torch.stack([velocity, 2 * velocity])[:, None].expand(2, 3, *velocity.shape)
    for diagnostic in (enstrophy, vortex_area, divergence_rms):
        one = diagnostic(velocity, Geometry(spacing, PERIODIC))
        many = diagnostic(batch, Geometry(spacing, PERIODIC))
        assert many.shape == (2, 3)
        torch.testing.assert_close(many[0], one.expand(3))
        assert diagnostic(velocity.bfloat16(), Geometry(spacing, PERIODIC)).dtype == torch.float32
    torch.testing.assert_close(
        enstrophy(batch, Geometry(spacing, PERIODIC))[1], 4 * enstrophy(batch, Geometry(spacing, PERIODIC))[0]
    )


def test_diagnostics_are_differentiable():
    velocity, spacing, _ = taylor_green((8, 8, 1))
    velocity.requires_grad_()
    enstrophy(velocity, Geometry(spacing, PERIODIC)).backward()
    energy_spectrum(velocity, UNIT).square().sum().backward()
    assert torch.isfinite(velocity.grad).all()
