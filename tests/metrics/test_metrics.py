"""Rollout scores: The Well's VRMSE, the same result for any batching and number of processes, and baselines."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from physteer.errors import PhysteerError
from physteer.metrics import RolloutVRMSE, linear_extrapolation, persistence, vrmse

FIELDS = ("tracer", "velocity_x")


def rollouts(n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(n, 3, 2, 6, 7, 1, generator=generator)
    return truth + 0.1 * torch.randn(truth.shape, generator=generator), truth


def test_vrmse_by_hand():
    prediction, truth = rollouts()
    u, v = truth[1, 2, 0].flatten().double(), prediction[1, 2, 0].flatten().double()
    variance = ((u - u.mean()) ** 2).sum() / (len(u) - 1)
    by_hand = (((v - u) ** 2).mean() / (variance + 1e-7)).sqrt()
    assert vrmse(prediction, truth)[1, 2, 0].item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_vrmse_is_that_of_the_well():
    spatial = pytest.importorskip("the_well.benchmark.metrics.spatial")
    prediction, truth = rollouts()
    channels_last = (t.movedim(2, -1).squeeze(-2) for t in (prediction, truth))  # [B, T, H, W, C]
    theirs = spatial.VRMSE.eval(*channels_last, SimpleNamespace(n_spatial_dims=2))
    torch.testing.assert_close(vrmse(prediction, truth), theirs)


def test_the_spatial_mean_scores_one_and_the_truth_zero():
    _, truth = rollouts()
    mean = truth.mean((-3, -2, -1), keepdim=True).expand_as(truth)
    torch.testing.assert_close(vrmse(mean, truth), torch.full((5, 3, 2), (41 / 42) ** 0.5))
    assert not vrmse(truth, truth).any()
    constant = torch.ones_like(truth)
    assert not vrmse(constant, constant).any()  # no division by zero


@pytest.mark.parametrize("split", [[5], [1, 4], [1] * 5])
def test_the_mean_over_samples_does_not_depend_on_batches(split):
    prediction, truth = rollouts()
    score = RolloutVRMSE(3, FIELDS)
    for p, t in zip(prediction.split(split), truth.split(split), strict=True):
        score.update(p, t)
    torch.testing.assert_close(score.compute(), vrmse(prediction, truth).mean(0))


def test_steps_may_come_one_at_a_time():
    prediction, truth = rollouts()
    score = RolloutVRMSE(3, FIELDS)
    for step in range(2):
        score.update(prediction[:, [step]], truth[:, [step]], first_step=step)
    torch.testing.assert_close(score.compute()[:2], vrmse(prediction, truth).mean(0)[:2])
    assert score.compute()[2].isnan().all()


def test_results_are_named_by_field_and_step():
    prediction, truth = rollouts()
    score = RolloutVRMSE(3, FIELDS)
    score.update(prediction, truth)
    named, means = score.named(), vrmse(prediction, truth).mean(0)
    assert set(named) == {f"{f}/step_{i}" for f in (*FIELDS, "mean_over_fields") for i in (1, 2, 3)}
    torch.testing.assert_close(named["velocity_x/step_2"], means[1, 1])
    torch.testing.assert_close(named["mean_over_fields/step_3"], means[2].mean())
    score.reset()
    score.update(truth, truth)
    assert not score.compute().any()


def test_predictions_that_do_not_fit_are_refused():
    prediction, truth = rollouts()
    score = RolloutVRMSE(3, FIELDS)
    with pytest.raises(PhysteerError, match="a score of 2 fields got"):
        score.update(prediction[:, :, :1], truth[:, :, :1])
    with pytest.raises(PhysteerError, match="a score of 2 fields got"):
        score.update(prediction, truth[:, :2])
    with pytest.raises(PhysteerError, match="step 4 is beyond the 3 steps"):
        score.update(prediction, truth, first_step=1)


def _score_on_one_of_two_processes(rank, rendezvous, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    prediction, truth = rollouts()
    rows = [slice(0, 2), slice(2, 5)][rank]  # uneven, each sample once
    score = RolloutVRMSE(3, FIELDS)
    for row in range(*rows.indices(5)):
        score.update(prediction[row : row + 1], truth[row : row + 1])
    torch.save(score.compute(), f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_score_as_one(tmp_path):
    mp.spawn(_score_on_one_of_two_processes, (tmp_path / "rendezvous", tmp_path), nprocs=2)
    prediction, truth = rollouts()
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), vrmse(prediction, truth).mean(0))


def test_baselines_are_exact_where_their_assumption_holds():
    slope, start = torch.randn(2, 2, 1, 3, 4, 5, 1)
    times = torch.arange(8.0).view(1, -1, 1, 1, 1, 1)
    steady, linear = start.expand(-1, 8, -1, -1, -1, -1), start + slope * times
    assert torch.equal(persistence(steady[:, :4], 4), steady[:, 4:])
    torch.testing.assert_close(linear_extrapolation(linear[:, :4], 4), linear[:, 4:])
    assert persistence(linear[:, :4], 0).shape[1] == linear_extrapolation(linear[:, :4], 0).shape[1] == 0
