"""Checks of a forecaster's weights, and of its training over two processes."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torch.multiprocessing.spawn import ProcessException, spawn
from torch.nn.parallel import DistributedDataParallel

from physteer.data.batch import Batch
from physteer.forecast import Forecaster, NextStepMAE
from physteer.forecast.checkpoint_keys import check_state
from physteer.forecast.module import ForecastModule
from physteer.testing.contract_case import Case, close, unmet


def weights(case: Case) -> None:
    """Check that the identity follows the weights, and that a checkpoint and a file of weights hold all of them."""
    forecaster = copy.deepcopy(case.forecaster)
    module = ForecastModule(forecaster)
    identity, state = forecaster.identity, copy.deepcopy(module.state_dict())
    unmet(identity == case.forecaster.identity, "equal weights have two identities: caches would never be used")
    with torch.no_grad():
        for parameter in forecaster.network.parameters():
            parameter.mul_(1.5)
    unmet(forecaster.identity != identity, "other weights have the same identity: caches would be used for both")
    check_state(state, module.state_dict())
    module.load_state_dict(state)
    unmet(forecaster.identity == identity, "a loaded checkpoint gives other weights than those that were saved")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        forecaster.save(path, {})
        unmet(path.is_file() and path.stat().st_size > 0, "save has written no file")


def two_processes(case: Case) -> None:
    """Check that two processes with half of the windows each find the gradient that one finds with all of them."""
    n = len(case.batch) - len(case.batch) % 2
    batch = case.batch.rows(range(n))
    try:
        pickle.dumps(case.forecaster)
    except Exception as error:
        unmet(False, f"{case.name} cannot be sent to another process, as multi-process runs do: {error}")
    halves = [batch.rows(range(rank * n // 2, (rank + 1) * n // 2)) for rank in range(2)]
    whole = _gradients(case.forecaster, batch, distributed=False)
    unused = sorted(dict(case.network.named_parameters()).keys() - whole.keys())
    unmet(
        not unused,
        f"training in several processes needs a gradient of every parameter; {' '.join(unused[:1])} has none",
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            spawn(_in_one_of_two, (case.forecaster, halves, folder), nprocs=2)  # type: ignore[no-untyped-call]
        except ProcessException as error:
            unmet(False, f"training in two processes failed: {str(error).strip().splitlines()[-1]}")
        shared = torch.load(Path(folder) / "gradients.pt", weights_only=True)
    for (name, one), two in zip(whole.items(), shared.values(), strict=True):
        unmet(close(one, two, 1e-3), f"two processes find another gradient of {name} than one process")


class _Loss(nn.Module):
    """The training loss, as a module that DDP can wrap."""

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        self.forecaster, self.network = forecaster, forecaster.network

    def forward(self, batch: Batch) -> Tensor:
        loss: Tensor = NextStepMAE()(self.forecaster, batch, 0)
        return loss


def _gradients(forecaster: Forecaster, batch: Batch, *, distributed: bool) -> dict[str, Tensor]:
    """Return the gradient of the loss by parameter; that of the mean over processes under DDP."""
    loss = _Loss(copy.deepcopy(forecaster))
    loss.network.requires_grad_(True).eval()
    module = DistributedDataParallel(loss) if distributed else loss
    module(batch).backward()
    return {name: p.grad.detach() for name, p in loss.network.named_parameters() if p.grad is not None}


def _in_one_of_two(rank: int, forecaster: Forecaster, halves: Sequence[Batch], folder: str) -> None:
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    gradients = _gradients(forecaster, halves[rank], distributed=True)
    if rank == 0:
        torch.save(gradients, Path(folder) / "gradients.pt")
    destroy_process_group()
