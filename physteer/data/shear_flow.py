"""The built-in simulator: two-dimensional incompressible flow with passive tracers on a doubly periodic box.

    ∂u/∂t + (u·∇)u + ∇p = ν ∇²u,   ∇·u = 0,   ν = 1/Re
    ∂c/∂t + (u·∇)c = κ ∇²c,                   κ = 1/(Re·Sc)

These are the equations and parameters of The Well's ``shear_flow``. Every run of a batch has its own viscosity and
diffusivities. The arithmetic is in float64, on the device of the initial state.

Space: Fourier pseudo-spectral. Modes are cut by the 2/3 rule, so quadratic products carry no aliasing error. Flow is
advanced as vorticity plus the (conserved) mean velocity, hence divergence-free to round-off. Seven transforms a stage
with one tracer: u, v, c to the grid; u² − v², uv, uc, vc back (the curl of ∇·(uu) needs only these two products of
velocity). A frame holds all retained modes: a stored frame is a complete state, up to the precision it is stored in.

Time: classical fourth-order Runge–Kutta on e^{νk²t} ω̂ (integrating factor; Lawson 1967), so diffusion is exact and
only advection limits the step. Fixed steps, a whole number per frame, the same for every run (`substeps_per_frame`).

The tracer never enters the computation of the flow, so Schmidt leaves velocity and pressure bit-equal between batches
of one size; several tracers (Schmidt numbers) can share one flow, which makes that true by construction.

Libraries considered instead of this file: torchfsm 0.0.6 (vorticity operators without the mean flow, one channel;
no tracer coupled to it, and a Reynolds number per operator, not per run) and torch-cfd 0.2.6 (one scalar viscosity,
second-order IMEX steps, no tracer, no mean flow).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.errors import PhysteerError

LENGTHS = (1.0, 2.0)
"""Side lengths of The Well's shear_flow box, 0 ≤ x < 1 and −1 ≤ y < 1."""

_STABLE_CFL = 2.4  # RK4 is stable on the imaginary axis up to 2√2; the rest is margin for speeds above the bound


@dataclass(frozen=True)
class ShearFlowState:
    """Physical fields from which a simulation starts; every mode is kept up to the 2/3 cut.

    Attributes:
        velocity: [B, X, Y, 2], any float type. Divergence, if any, is projected out.
        tracer: [B, X, Y], or [B, S, X, Y] for S tracers carried by each flow.
        time: time of the state.
    """

    velocity: Tensor
    tracer: Tensor
    time: float = 0.0


@dataclass(frozen=True)
class Frame:
    """One stored instant of a batch of runs, float64.

    Attributes:
        time: in units of the box width over the unit velocity.
        tracer: [B, X, Y] or [B, S, X, Y], as in the state the run started from.
        pressure: [B, X, Y], zero mean, divided by density.
        velocity: [B, X, Y, 2].
    """

    time: float
    tracer: Tensor
    pressure: Tensor
    velocity: Tensor

    @property
    def state(self) -> ShearFlowState:
        """The state to restart from."""
        return ShearFlowState(self.velocity, self.tracer, self.time)


def substeps_per_frame(
    shape: tuple[int, int], dt: float, max_speed: float = 1.0, lengths: tuple[float, float] = LENGTHS
) -> int:
    """Return the number of steps per frame: the smallest with step · max_speed · |k|_max ≤ 2.4.

    |k|_max is the largest retained wavenumber, so step · max_speed · |k|_max bounds the advection operator's spectrum
    on the imaginary axis, where RK4 is stable up to 2√2.

    Args:
        shape: grid points (X, Y).
        dt: time between frames.
        max_speed: bound on the speed of the flow.
        lengths: side lengths of the box.
    """
    k_max = math.hypot(*(2 * math.pi * _cut(n) / length for n, length in zip(shape, lengths, strict=True)))
    return max(1, math.ceil(dt * max_speed * k_max / _STABLE_CFL))


@torch.no_grad()
def simulate(
    state: ShearFlowState,
    reynolds: Tensor,
    schmidt: Tensor,
    n_frames: int,
    dt: float,
    *,
    substeps: int | None = None,
    lengths: tuple[float, float] = LENGTHS,
) -> Iterator[Frame]:
    """Yield `n_frames` frames `dt` apart, the first of them the initial state, made divergence-free, with its pressure.

    Args:
        state: fields of B runs; sets grid and device. Both grid sizes even and at least 8.
        reynolds: [B], positive.
        schmidt: [B], positive; [B, S] where the state has S tracers.
        n_frames: frames to yield, the initial one included.
        dt: time between frames.
        substeps: steps per frame; by default `substeps_per_frame` for a speed bound of 1.
        lengths: side lengths of the box.

    Raises:
        PhysteerError: for shapes that do not match, parameters that are not positive, or a run that becomes unstable
            (a larger `substeps` cures it).
    """
    velocity, tracer = state.velocity.double(), state.tracer.double()
    _check(velocity, tracer, reynolds, schmidt, dt)
    shape = (velocity.shape[1], velocity.shape[2])
    if substeps is None:
        substeps = substeps_per_frame(shape, dt, lengths=lengths)
    viscosity = 1 / reynolds.to(velocity)  # [B]
    tracers = tracer.reshape(len(tracer), -1, *shape)  # [B, S, X, Y]
    diffusivity = viscosity[:, None] / schmidt.to(velocity).reshape(len(tracer), -1)  # [B, S]
    modes = _Modes(shape, lengths, velocity.device)
    hat, mean = modes.from_fields(velocity, tracers)
    stepper = _Stepper(modes, mean, torch.cat([viscosity[:, None], diffusivity], 1), dt / substeps)
    for index in range(n_frames):
        if index:
            for _ in range(substeps):
                stepper.step(hat)
        flow, carried, pressure = modes.to_fields(hat, mean)
        if not flow.isfinite().all():
            bad = [run for run in range(len(flow)) if not flow[run].isfinite().all()]
            raise PhysteerError(f"simulation unstable by frame {index} in runs {bad}: {substeps} substeps are too few")
        yield Frame(state.time + index * dt, carried.reshape(tracer.shape), pressure, flow)


def check_grid(shape: Sequence[int]) -> None:
    """Check that the solver takes a grid of (X, Y) points.

    Raises:
        PhysteerError: a size is odd or below 8.
    """
    if any(n < 8 or n % 2 for n in shape):
        raise PhysteerError(f"grid {shape[0]} × {shape[1]}: both sizes must be even and at least 8")


def _check(velocity: Tensor, tracer: Tensor, reynolds: Tensor, schmidt: Tensor, dt: float) -> None:
    if velocity.ndim != 4 or velocity.shape[-1] != 2:
        raise PhysteerError(f"velocity has shape {tuple(velocity.shape)}; wanted [B, X, Y, 2]")
    runs, *shape = velocity.shape[:3]
    check_grid(shape)
    if tracer.ndim not in (3, 4) or [tracer.shape[0], *tracer.shape[-2:]] != [runs, *shape]:
        raise PhysteerError(f"tracer has shape {tuple(tracer.shape)}; wanted {[runs, *shape]} or [B, S, X, Y]")
    for name, values, wanted in (("reynolds", reynolds, (runs,)), ("schmidt", schmidt, tuple(tracer.shape[:-2]))):
        if tuple(values.shape) != wanted:
            raise PhysteerError(f"{name} has shape {tuple(values.shape)}; wanted {wanted}")
        if not bool((values > 0).all()):
            raise PhysteerError(f"{name} must be positive; found {values.min().item():g}")
    if not dt > 0:
        raise PhysteerError(f"time between frames must be positive; found {dt:g}")


def _cut(n: int) -> int:
    """Largest index wavenumber K with 3K < n: products of two kept modes then alias only onto dropped ones."""
    return (n - 1) // 3


class _Modes:
    """Wavenumbers and transforms; spectra are [..., X, K+1]: all x wavenumbers (dropped ones zero), kept y ≥ 0."""

    def __init__(self, shape: tuple[int, int], lengths: tuple[float, float], device: torch.device) -> None:
        index = torch.fft.fftfreq(shape[0], 1 / shape[0], dtype=torch.float64, device=device)[:, None]  # [X, 1]
        self.shape = shape
        self.keep = _cut(shape[1]) + 1
        self.kx = 2 * math.pi / lengths[0] * index
        self.ky = 2 * math.pi / lengths[1] * torch.arange(self.keep, dtype=torch.float64, device=device)  # [K+1]
        self.mask = (index.abs() <= _cut(shape[0])).double().expand(-1, self.keep)
        self.k2 = self.kx**2 + self.ky**2  # [X, K+1]
        self.inverse_k2 = torch.where(self.k2 > 0, self.mask / self.k2, 0.0)
        self.velocity_of = 1j * torch.stack([self.ky * self.inverse_k2, -self.kx * self.inverse_k2])  # [2, X, K+1]

    def to_grid(self, spectrum: Tensor) -> Tensor:
        columns = torch.fft.ifft(spectrum, dim=-2, norm="forward")
        out: Tensor = torch.fft.irfft(columns, n=self.shape[1], dim=-1, norm="forward")
        return out

    def to_modes(self, field: Tensor) -> Tensor:
        """Transform without clearing dropped x wavenumbers: the caller multiplies by something masked."""
        rows = torch.fft.rfft(field, dim=-1, norm="forward")[..., : self.keep]
        out: Tensor = torch.fft.fft(rows, dim=-2, norm="forward")
        return out

    def from_fields(self, velocity: Tensor, tracers: Tensor) -> tuple[Tensor, Tensor]:
        """Return vorticity and tracer modes [B, 1+S, X, K+1] and the mean velocity [B, 2]."""
        u, v = self.to_modes(velocity.movedim(-1, 0)) * self.mask
        vorticity = 1j * (self.kx * v - self.ky * u)
        hat = torch.cat([vorticity[:, None], self.to_modes(tracers) * self.mask], 1)
        return hat.contiguous(), torch.stack([u[:, 0, 0].real, v[:, 0, 0].real], 1)

    def velocity_and_tracers(self, hat: Tensor, mean: Tensor) -> Tensor:
        """Return u, v and the tracers on the grid, [B, 2+S, X, Y]."""
        spectrum = torch.empty(len(hat), hat.shape[1] + 1, *hat.shape[2:], dtype=hat.dtype, device=hat.device)
        torch.mul(hat[:, :1], self.velocity_of, out=spectrum[:, :2])
        spectrum[:, :2, 0, 0] = mean.to(hat.dtype)
        spectrum[:, 2:] = hat[:, 1:]
        return self.to_grid(spectrum)

    def to_fields(self, hat: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return velocity [B, X, Y, 2], tracers [B, S, X, Y] and pressure [B, X, Y]: ∇²p = −∂_i ∂_j (u_i u_j)."""
        fields = self.velocity_and_tracers(hat, mean)
        flow = fields[:, :2]
        u, v = flow.unbind(1)
        uu, uv, vv = self.to_modes(torch.stack([u * u, u * v, v * v]))
        stress = self.kx**2 * uu + 2 * self.kx * self.ky * uv + self.ky**2 * vv
        return flow.movedim(1, -1).contiguous(), fields[:, 2:], self.to_grid(-self.inverse_k2 * stress)


class _Stepper:
    """One step of integrating-factor RK4, in place; `diffusivities` [B, 1+S] are those of vorticity and tracers."""

    def __init__(self, modes: _Modes, mean: Tensor, diffusivities: Tensor, step: float) -> None:
        self.modes, self.mean = modes, mean
        half_decay = torch.exp(-0.5 * step * diffusivities[:, :, None, None] * modes.k2)
        # Real factors for interleaved (re, im) pairs: a real times a complex tensor would be promoted and copied.
        self.half_decay = half_decay[..., None].repeat(1, 1, 1, 1, 2)  # [B, 1+S, X, K+1, 2]
        kx, ky, mask = modes.kx, modes.ky, modes.mask * step
        # step · curl of −∇·(uu), from u² − v² and uv; step · −∇·(uc), from uc and vc
        self.curl = torch.stack([-kx * ky * mask, (kx**2 - ky**2) * mask]).to(torch.complex128)  # [2, X, K+1]
        self.divergence = -1j * torch.stack([kx * mask, ky * mask])[:, None]  # [2, 1, X, K+1]

    def tendency(self, hat: Tensor) -> Tensor:
        """Return step × the advective tendency of vorticity and tracers, as interleaved reals."""
        fields = self.modes.velocity_and_tracers(hat, self.mean)
        u, v, tracers = fields[:, 0], fields[:, 1], fields[:, 2:]
        runs, carried = tracers.shape[:2]
        products = torch.empty(runs, 2 + 2 * carried, *u.shape[1:], dtype=u.dtype, device=u.device)
        torch.mul(u - v, u + v, out=products[:, 0])
        torch.mul(u, v, out=products[:, 1])
        torch.mul(u[:, None], tracers, out=products[:, 2 : 2 + carried])
        torch.mul(v[:, None], tracers, out=products[:, 2 + carried :])
        hats = self.modes.to_modes(products)
        out = torch.empty_like(hat)
        torch.add(hats[:, 0].mul_(self.curl[0]), hats[:, 1].mul_(self.curl[1]), out=out[:, 0])
        fluxes = hats[:, 2:].view(runs, 2, carried, *hats.shape[2:]).mul_(self.divergence)
        torch.add(fluxes[:, 0], fluxes[:, 1], out=out[:, 1:])
        return torch.view_as_real(out)

    def step(self, hat: Tensor) -> None:
        """Advance `hat` [B, 1+S, X, K+1] by one step."""
        now = torch.view_as_real(hat)
        decay = self.half_decay

        def at(values: Tensor) -> Tensor:
            return torch.view_as_complex(values)

        first = self.tendency(hat)
        halfway = now * decay
        stage = torch.add(now, first, alpha=0.5).mul_(decay)
        now.add_(first, alpha=1 / 6).mul_(decay).mul_(decay)
        second = self.tendency(at(stage))
        torch.add(halfway, second, alpha=0.5, out=stage)
        third = self.tendency(at(stage))
        torch.add(halfway, third, out=stage).mul_(decay)
        now.add_(second.add_(third).mul_(decay), alpha=1 / 3)
        now.add_(self.tendency(at(stage)), alpha=1 / 6)
