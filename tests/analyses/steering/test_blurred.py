"""Blurring as a base line: exact where a flow only diffuses, and with the solver's pressure."""

import math
from dataclasses import replace

import pytest
import torch

from physteer.analyses.steering.blurred import blurred_rollouts
from physteer.analyses.steering.comparison import solver_comparison
from physteer.analyses.steering.rollout_rows import RolloutRows
from physteer.data.batch import collate
from physteer.data.counterfactual import next_values, solver_truth
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.errors import PhysteerError
from physteer.metrics import Geometry, diffused, poisson_pressure

N_STEPS = 2


@pytest.fixture(scope="module")
def batch(tiny_well):
    """A window of every Reynolds and Schmidt number."""
    with WindowDataset(f"{tiny_well}/data/test", WindowSpec(3, N_STEPS, every=2)) as windows:
        mine = [windows[i] for i in range(len(windows))]
        return collate([one for one in mine if one.window.start == 4], n_input=3, metadata=windows.metadata)


@pytest.fixture(scope="module")
def parallel(batch):
    """The same windows with a flow along x that varies along y alone: nothing but diffusion happens to it."""
    fields, names = torch.zeros_like(batch.fields), batch.channels.names
    y = 2 * math.pi * torch.arange(fields.shape[-2]) / fields.shape[-2]
    fields[:, :, names.index("velocity_x")] = (3 * y).sin()[:, None]
    fields[:, :, names.index("tracer")] = ((5 * y).cos() + 0.5)[:, None]
    return replace(batch, fields=fields)


@pytest.mark.parametrize("parameter", ["Reynolds", "Schmidt"])
def test_where_a_flow_only_diffuses_the_blurred_output_is_the_truth(parallel, parameter):
    values = sorted(set(parallel.parameters[parameter].tolist()))
    new = next_values(parallel.parameters[parameter], values, -1)  # more diffusion: round-off is not amplified
    assert new.isfinite().any() and new.isnan().any()
    found = blurred_rollouts(parallel, solver_truth(parallel, N_STEPS, {}), {parameter: new})
    expected = solver_truth(parallel, N_STEPS, {parameter: new})
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6, equal_nan=True)
    assert found.isnan().flatten(1).all(1).tolist() == new.isnan().tolist()


def test_schmidt_blurs_the_tracer_alone(batch):
    base = solver_truth(batch, N_STEPS, {})
    found = blurred_rollouts(batch, base, {"Schmidt": 0.5 * batch.parameters["Schmidt"]})
    tracer = batch.channels.names.index("tracer")
    same = [i for i in range(base.shape[2]) if i != tracer]
    assert torch.equal(found[:, :, same], base[:, :, same]) and not torch.equal(found[:, :, tracer], base[:, :, tracer])


def test_the_pressure_is_the_solver_s(batch):
    frames, names = solver_truth(batch, N_STEPS, {}), batch.channels.names
    velocity = frames[:, :, [names.index(f"velocity_{axis}") for axis in "xyz"]]
    expected = frames[:, :, names.index("pressure")]
    torch.testing.assert_close(poisson_pressure(velocity, batch.grid.geometry), expected, rtol=0, atol=2e-6)


def test_less_diffusion_amplifies_no_more_than_at_the_two_thirds_wavenumber():
    geometry = Geometry((1 / 16, 1.0, 1.0), (True, True, True))
    x = 2 * math.pi * torch.arange(16).double()[:, None, None] / 16
    area = torch.tensor(-1e-3)
    for mode, wavenumber in ((2, 4 * math.pi), (7, 2 / 3 * 16 * math.pi)):  # the cut lies between modes 5 and 6
        wave = (mode * x).cos()
        torch.testing.assert_close(diffused(wave, area, geometry), wave * math.exp(1e-3 * wavenumber**2))
    torch.testing.assert_close(diffused((7 * x).cos(), -area, geometry), (7 * x).cos() * math.exp(-0.196 * math.pi**2))
    with pytest.raises(PhysteerError, match="axis x is not periodic"):
        diffused(x, area, Geometry((1 / 16, 1.0, 1.0), (False, True, True)))


def test_its_rows_are_beside_the_truths_in_the_table(batch):
    frames = solver_truth(batch, N_STEPS, {})
    comparison = solver_comparison(batch, frames, "Reynolds", [200, 2000])
    (table, *_) = RolloutRows(comparison, ["ic"] * len(batch)).tables().values()
    blurred = table[table["role"] == "blurred"]
    assert len(blurred["condition"].unique()) == 1 and "blurred as at the Reynolds" in blurred["condition"].iloc[0]
    for metric in ("alignment_cosine", "change_error", "error_steered", "enstrophy", "movement"):
        assert metric in set(blurred["metric"])
