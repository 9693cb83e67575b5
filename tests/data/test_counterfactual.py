"""Restarts of the built-in simulator: from any frame, at parameters of each window's own."""

import dataclasses
import math

import pytest
import torch

from physteer.data.batch import collate
from physteer.data.counterfactual import next_values, solver_truth
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.errors import PhysteerError


@pytest.fixture(scope="module")
def batch(tiny_well):
    """Windows of every Reynolds and Schmidt, from the middle of their trajectories."""
    with WindowDataset(f"{tiny_well}/data/test", WindowSpec(3, 2, every=2)) as windows:
        mine = [windows[i] for i in range(len(windows))]
        return collate([one for one in mine if one.window.start == 4], n_input=3, metadata=windows.metadata)


def test_the_next_value_is_the_neighbour_in_the_list():
    own = torch.tensor([100.0, 400.0, 200.0 * (1 + 1e-9), 300.0], dtype=torch.float64)
    up, down = next_values(own, [100, 200, 400], 0.4), next_values(own, [100, 200, 400], -0.1)
    torch.testing.assert_close(up, torch.tensor([200, math.nan, 400, math.nan], dtype=torch.float64), equal_nan=True)
    torch.testing.assert_close(down, torch.tensor([math.nan, 200, 100, math.nan], dtype=torch.float64), equal_nan=True)
    torch.testing.assert_close(next_values(own, [400, 200, 100], 1), down, equal_nan=True)  # up is the list's order
    assert next_values(own, [], 1).isnan().all()


def test_a_restart_at_the_own_parameters_gives_the_stored_frames(batch):
    stored = batch.fields[:, 1:]
    for start, truth in ((0, stored), (1, stored[:, 1:]), (-1, batch.targets)):
        again = solver_truth(batch, truth.shape[1], {}, start=start)
        scale = truth.square().mean((1, 3, 4, 5), keepdim=True).sqrt()
        assert ((again - truth).abs() <= 1e-4 * scale).all(), start


def test_windows_of_several_strides_in_one_batch_keep_their_own_time_steps(tiny_well):
    with WindowDataset(f"{tiny_well}/data/test", WindowSpec(3, 2, strides=(1, 2), every=None)) as windows:
        batch = collate([windows[0], windows[1], windows[2]], n_input=3, metadata=windows.metadata)
    assert [window.stride for window in batch.windows] == [1, 2, 1]
    again = solver_truth(batch, 2, {})
    scale = batch.targets.square().mean((1, 3, 4, 5), keepdim=True).sqrt()
    assert ((again - batch.targets).abs() <= 1e-4 * scale).all()
    uneven = dataclasses.replace(batch, times=batch.times.square())
    with pytest.raises(PhysteerError, match="at even intervals of time only"):
        solver_truth(uneven, 2, {})


def test_a_number_per_window_is_that_number_for_all_windows(batch):
    values = next_values(batch.parameters["Reynolds"], [200, 2000], 1)
    up = solver_truth(batch, 2, {"Reynolds": values})
    at_2000 = solver_truth(batch, 2, {"Reynolds": 2000})
    low = batch.parameters["Reynolds"] == 200
    assert low.any() and (~low).any()
    assert torch.equal(up[low], at_2000[low])
    assert up[~low].isnan().all(), "nothing is above 2000"


def test_schmidt_changes_the_tracer_alone(batch):
    plain, other = solver_truth(batch, 2, {}, start=0), solver_truth(batch, 2, {"Schmidt": 10.0}, start=0)
    tracer = batch.channels.index("tracer")
    rest = [i for i in range(plain.shape[2]) if i != tracer]
    assert torch.equal(plain[:, :, rest], other[:, :, rest])
    assert not torch.isclose(plain[:, :, tracer], other[:, :, tracer]).all()


def test_there_is_no_such_parameter(batch):
    with pytest.raises(PhysteerError, match="no parameter 'Rayleigh'"):
        solver_truth(batch, 1, {"Rayleigh": 1.0})
