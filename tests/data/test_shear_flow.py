"""The simulator against exact solutions, its stated order, and the properties counterfactuals rest on."""

import math

import pytest
import torch
from torch import Tensor

from physteer.data.initial_conditions import draw_shear_layers, initial_state
from physteer.data.shear_flow import LENGTHS, Frame, ShearFlowState, simulate, substeps_per_frame
from physteer.errors import PhysteerError

GRID = (32, 64)
K, L = 2 * math.pi, math.pi  # the box's first wavenumbers along x and y


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def mesh(shape: tuple[int, int] = GRID) -> tuple[Tensor, Tensor]:
    x = torch.arange(shape[0], dtype=torch.float64) / shape[0]
    y = -1 + 2 * torch.arange(shape[1], dtype=torch.float64) / shape[1]
    return torch.meshgrid(x, y, indexing="ij")


def layers(runs: int, shape: tuple[int, int] = GRID) -> ShearFlowState:
    return initial_state(draw_shear_layers(runs, (3,), widths=(0.08,)), shape)


def last(state: ShearFlowState, reynolds: Tensor, schmidt: Tensor, frames: int, dt: float, **more: int) -> Frame:
    *_, frame = simulate(state, reynolds, schmidt, frames, dt, **more)
    return frame


def wavenumbers(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return tuple(
        2 * math.pi / length * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64).view(view)
        for n, length, view in zip(shape, LENGTHS, ((-1, 1), (1, -1)), strict=True)
    )


def divergence(velocity: Tensor) -> Tensor:
    kx, ky = wavenumbers(velocity.shape[1:3])
    u, v = torch.fft.fft2(velocity.movedim(-1, 0))
    return torch.fft.ifft2(1j * (kx * u + ky * v)).real


def test_taylor_green_decays_exactly_in_a_mean_flow() -> None:
    reynolds, mean = numbers(100, 1000), (0.3, -0.2)
    x, y = mesh()

    def exact(time: float, viscosity: float) -> tuple[Tensor, Tensor]:
        amplitude = 0.1 * math.exp(-viscosity * (K**2 + L**2) * time)
        kx, ly = K * (x - mean[0] * time), L * (y - mean[1] * time)
        u = mean[0] + amplitude * L * kx.sin() * ly.cos()
        v = mean[1] - amplitude * K * kx.cos() * ly.sin()
        pressure = amplitude**2 / 4 * (L**2 * (2 * kx).cos() + K**2 * (2 * ly).cos())
        return torch.stack([u, v], -1), pressure

    start = exact(0, 0)[0].expand(2, -1, -1, -1)
    for frame in simulate(ShearFlowState(start, start[..., 0]), reynolds, numbers(1, 1), 5, 0.5):
        for run, viscosity in enumerate(1 / reynolds):
            velocity, pressure = exact(frame.time, viscosity.item())
            assert (frame.velocity[run] - velocity).abs().max() < 1e-6
            assert (frame.pressure[run] - pressure).abs().max() < 1e-6
    assert frame.time == 2.0
    assert (start - frame.velocity).abs().max() > 0.05  # it did move


def test_tracer_at_rest_diffuses_exactly() -> None:
    reynolds, schmidt = numbers(20, 20, 500), numbers(0.5, 4, 1)
    x, y = mesh()
    tracer = ((K * x).sin() * (3 * L * y).cos()).expand(3, -1, -1)
    frame = last(ShearFlowState(torch.zeros(3, *GRID, 2), tracer), reynolds, schmidt, 4, 0.25)
    decay = torch.exp(-(K**2 + 9 * L**2) / (reynolds * schmidt) * 0.75)
    assert (frame.tracer - decay[:, None, None] * tracer).abs().max() < 1e-12
    assert frame.velocity.abs().max() == 0


def test_uniform_flow_carries_the_tracer() -> None:
    x, y = mesh()
    flow = (0.4, -0.7)
    velocity = torch.tensor(flow, dtype=torch.float64).expand(1, *GRID, 2)

    def exact(time: float) -> Tensor:
        kx, ly = K * (x - flow[0] * time), L * (y - flow[1] * time)
        return math.exp(-(K**2 + 4 * L**2) * time / 2000) * (kx + 2 * ly).sin()

    frame = last(ShearFlowState(velocity, exact(0)[None]), numbers(1000), numbers(2), 5, 0.25)
    assert (frame.tracer[0] - exact(1.0)).abs().max() < 1e-6
    assert torch.allclose(frame.velocity, velocity, atol=1e-14)


def test_fourth_order_in_time() -> None:
    start, reynolds, schmidt = layers(2, (16, 32)), numbers(300, 3000), numbers(1, 1)
    truth = last(start, reynolds, schmidt, 2, 0.5, substeps=256)
    coarse, fine = (last(start, reynolds, schmidt, 2, 0.5, substeps=n) for n in (16, 32))
    for field in ("velocity", "tracer", "pressure"):
        errors = [(getattr(frame, field) - getattr(truth, field)).norm() for frame in (coarse, fine)]
        assert math.log2(errors[0] / errors[1]) > 3.7, field


def test_flow_has_no_divergence_and_pressure_no_mean() -> None:
    frame = last(layers(3), numbers(100, 1000, 10000), numbers(1, 1, 1), 4, 0.25)
    assert divergence(layers(3).velocity).abs().max() > 0.1  # the given state has
    assert divergence(frame.velocity).abs().max() < 1e-11
    assert frame.pressure.mean((1, 2)).abs().max() < 1e-15


def test_mean_flow_and_mean_tracer_are_kept() -> None:
    start = layers(2)
    start = ShearFlowState(start.velocity + numbers(0.2, -0.1), start.tracer + 0.3)
    frame = last(start, numbers(500, 500), numbers(1, 1), 4, 0.25)
    assert torch.allclose(frame.velocity.mean((1, 2)), start.velocity.mean((1, 2)), atol=1e-13)
    assert torch.allclose(frame.tracer.mean((1, 2)), start.tracer.mean((1, 2)), atol=1e-13)


def test_schmidt_leaves_velocity_and_pressure_bit_equal() -> None:
    start, reynolds = layers(3), numbers(200, 1000, 5000)
    one = last(start, reynolds, numbers(0.5, 0.5, 0.5), 5, 0.25)
    other = last(start, reynolds, numbers(8, 1, 0.1), 5, 0.25)
    assert torch.equal(one.velocity, other.velocity)
    assert torch.equal(one.pressure, other.pressure)
    assert (one.tracer - other.tracer).abs().amax((1, 2)).min() > 1e-3


def test_several_tracers_share_a_flow() -> None:
    start, reynolds, schmidt = layers(2), numbers(200, 2000), numbers(0.5, 1, 4).expand(2, 3)
    tracers = start.tracer[:, None].repeat(1, 3, 1, 1)
    shared = last(ShearFlowState(start.velocity, tracers), reynolds, schmidt, 4, 0.25)
    for index in range(3):
        alone = last(start, reynolds, schmidt[:, index], 4, 0.25)
        assert torch.allclose(shared.tracer[:, index], alone.tracer, rtol=0, atol=1e-12)
        assert torch.allclose(shared.velocity, alone.velocity, rtol=0, atol=1e-12)


def test_the_rest_of_the_batch_does_not_matter() -> None:
    start, reynolds, schmidt = layers(4), numbers(100, 500, 2000, 8000), numbers(1, 2, 0.5, 1)
    together = last(start, reynolds, schmidt, 4, 0.25)
    order = [2, 0, 3, 1]
    shuffled = last(
        ShearFlowState(start.velocity[order], start.tracer[order]), reynolds[order], schmidt[order], 4, 0.25
    )
    assert torch.equal(shuffled.velocity, together.velocity[order])
    assert torch.equal(shuffled.tracer, together.tracer[order])
    alone = last(ShearFlowState(start.velocity[2:3], start.tracer[2:3]), reynolds[2:3], schmidt[2:3], 4, 0.25)
    assert torch.allclose(alone.velocity, together.velocity[2:3], rtol=0, atol=1e-12)


def test_restart_continues_the_run() -> None:
    start, parameters = layers(2), (numbers(300, 3000), numbers(1, 2))
    frames = list(simulate(start, *parameters, 7, 0.25))
    again = list(simulate(frames[3].state, *parameters, 4, 0.25))
    for old, new in zip(frames[3:], again, strict=True):
        assert old.time == new.time
        for field in ("velocity", "tracer", "pressure"):
            assert torch.allclose(getattr(old, field), getattr(new, field), rtol=0, atol=1e-12)


def test_restart_from_a_stored_frame_at_other_parameters() -> None:
    """A float32 frame is a state: its restart stays at float32 round-off, and other parameters take effect."""
    frames = list(simulate(layers(1), numbers(1000), numbers(1), 5, 0.25))
    stored = ShearFlowState(frames[2].velocity.float(), frames[2].tracer.float())
    same = last(stored, numbers(1000), numbers(1), 3, 0.25)
    assert (same.velocity - frames[4].velocity).abs().max() < 1e-5
    assert divergence(same.velocity).abs().max() < 1e-11
    thicker = last(stored, numbers(100), numbers(1), 3, 0.25)
    assert (thicker.velocity - frames[4].velocity).abs().max() > 1e-2


def test_energy_and_tracer_variance_only_decay() -> None:
    frames = list(simulate(layers(3), numbers(100, 1000, 10000), numbers(1, 1, 1), 21, 0.25))
    energy = torch.stack([frame.velocity.square().sum(-1).mean((1, 2)) for frame in frames])
    variance = torch.stack([frame.tracer.var((1, 2)) for frame in frames])
    assert (energy.diff(dim=0) < 0).all()
    assert (variance.diff(dim=0) < 0).all()


def test_layers_roll_up() -> None:
    """Kelvin–Helmholtz waves grow: faster at higher Reynolds number, from a small start."""
    start = initial_state(draw_shear_layers(6, (0,)), GRID)
    frames = [
        list(simulate(start, torch.full((6,), float(value)), torch.ones(6), 13, 0.25)) for value in (100, 1000, 5000)
    ]
    swing = torch.stack([torch.stack([f.velocity[..., 1].square().mean((1, 2)) for f in run]) for run in frames])
    growth = (swing.amax(1) / swing[:, 0]).mean(1)  # [Reynolds]
    assert growth[0] < growth[1] < growth[2]
    assert growth[1] > 3


def test_substeps_follow_the_stability_rule() -> None:
    assert substeps_per_frame((64, 128), 0.25) == 20
    assert substeps_per_frame((128, 256), 0.25) == 40
    assert substeps_per_frame((64, 128), 0.25, max_speed=2) == 39
    assert substeps_per_frame((64, 128), 1e-6) == 1


def test_initial_conditions_depend_on_seed_and_number_alone() -> None:
    few, many = draw_shear_layers(3, (0, 1)), draw_shear_layers(20, (0, 1))
    assert many[:3] == few
    assert len({one.phases for one in (*many, *draw_shear_layers(20, (0, 2)))}) == 40
    assert len({(one.width, one.n_shear, one.n_blobs) for one in many}) == 18


def test_initial_profile_is_periodic() -> None:
    """No jump across the box's edges: the spectrum of a smooth periodic profile has fallen at the cut."""
    velocity, tracer = draw_shear_layers(1, (0,), widths=(0.08,), shears=(4,))[0].fields((16, 128))
    assert torch.equal(velocity[..., 0], tracer)
    assert torch.fft.rfft(tracer[0])[50:].abs().max() < 1e-4 * torch.fft.rfft(tracer[0]).abs().max()
    assert 0.45 < tracer.max() <= 0.5 and -0.5 <= tracer.min() < -0.45


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reynolds": numbers(0, 100)}, "reynolds must be positive; found 0"),
        ({"schmidt": numbers(1)}, r"schmidt has shape \(1,\); wanted \(2,\)"),
        ({"state": ShearFlowState(torch.zeros(2, 15, 32, 2), torch.zeros(2, 15, 32))}, "grid 15 × 32: both sizes"),
        ({"state": ShearFlowState(torch.zeros(2, 16, 32), torch.zeros(2, 16, 32))}, "velocity has shape"),
        ({"state": ShearFlowState(torch.zeros(2, 16, 32, 2), torch.zeros(2, 16, 16))}, "tracer has shape"),
        ({"dt": 0.0}, "must be positive"),
        ({"state": ShearFlowState(torch.randn(2, 16, 32, 2) * 100, torch.zeros(2, 16, 32))}, "substeps are too few"),
    ],
)
def test_what_cannot_be_simulated_is_told(change: dict[str, object], message: str) -> None:
    given = {"state": layers(2, (16, 32)), "reynolds": numbers(1e4, 1e4), "schmidt": numbers(1, 1), "dt": 0.5}
    with pytest.raises(PhysteerError, match=message):
        list(simulate(**{**given, **change}, n_frames=6))
