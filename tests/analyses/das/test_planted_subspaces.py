"""Distributed alignment search on models whose answer is planted: the subspace is found, and nothing where none is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from physteer.forecast.optimizer import adamw
from physteer.interventions import (
    BoundlessRotation,
    Edit,
    Interchange,
    LowRankRotation,
    Span,
    Subspace,
    attached,
    captured,
    check_gradient,
    evaluated_once,
)
from physteer.metrics import largest_principal_angle

D = 16
STEPS = 400


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Planted(nn.Module):
    """A network that reads variables through known subspaces only: y = (f_1(h P_1), f_2(h P_2), …, g(the rest))."""

    def __init__(self, *ranks: int, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Linear(D, D, bias=False)
        nn.init.orthogonal_(self.encoder.weight)  # activations are isotropic: no direction is special but the planted
        rotation = torch.linalg.qr(random(D, D, seed=seed))[0]
        self.planted = rotation.split([*ranks, D - sum(ranks)], dim=1)
        self.readers = nn.ModuleList(
            nn.Sequential(nn.Linear(part.shape[1], 32), nn.Tanh(), nn.Linear(32, 4)) for part in self.planted
        )
        self.requires_grad_(False)

    def parts(self, x: Tensor) -> list[Tensor]:
        h = self.encoder(x)
        return [h @ part for part in self.planted]

    def read(self, parts: list[Tensor]) -> Tensor:
        return torch.cat([reader(part) for reader, part in zip(self.readers, parts, strict=True)], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.parts(x))

    def counterfactual(self, base: Tensor, *sources: Tensor) -> Tensor:
        """Return the output with variable i of source i."""
        parts = self.parts(base)
        for i, source in enumerate(sources):
            parts[i] = self.parts(source)[i]
        return self.read(parts)


def activation(model: nn.Module, x: Tensor) -> Tensor:
    with captured(model, ["encoder"]) as h:
        model(x)
    return h["encoder"]


def swapped(model: nn.Module, subspaces: list[Subspace], base: Tensor, sources: list[Tensor]) -> Tensor:
    """Return the output from the base with each subspace's coordinates taken from its source."""
    edits = [
        Edit("encoder", Interchange(activation(model, source)), subspace)
        for subspace, source in zip(subspaces, sources, strict=True)
    ]
    with attached(model, edits):
        return model(base)


def train(
    model: Planted,
    subspaces: list[Subspace],
    boundary_penalty: Callable[[], Tensor | float] = lambda: 0.0,
    anneal: Callable[[float], None] = lambda progress: None,
    shuffled: bool = False,
) -> None:
    """Fit subspaces to counterfactuals of random pairs; shuffled truths belong to other pairs.

    Were sources shuffled alone, the truth would still show what must stay as in the base, and with it the subspace.
    """
    parameters = nn.ModuleList(subspaces)
    optimizer = adamw(parameters, 0.02, weight_decay=0.1)
    for step in range(STEPS):
        anneal(step / STEPS)
        base, *sources = random(1 + len(subspaces), 64, D, seed=step)
        truth = model.counterfactual(base, *sources)
        truth = truth.roll(1, 0) if shuffled else truth
        with evaluated_once(parameters):
            loss = (swapped(model, subspaces, base, sources) - truth).square().mean() + boundary_penalty()
        if step == 0:
            check_gradient([Edit("encoder", Interchange(), subspace) for subspace in subspaces], loss)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parameters.eval()


def recovery(model: Planted, subspaces: list[Subspace]) -> float:
    """Counterfactual recovery on pairs that were not trained on."""
    base, *sources = random(1 + len(subspaces), 500, D, seed=10**6)
    truth = model.counterfactual(base, *sources)
    with torch.no_grad():
        edited = swapped(model, subspaces, base, sources)
    return float(1 - (edited - truth).square().sum() / (model(base) - truth).square().sum())


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_planted_subspace_is_recovered(rank):
    model, rotation = Planted(rank), LowRankRotation(D, rank, seed=1)
    before = largest_principal_angle(rotation.basis, model.planted[0])
    train(model, [rotation])
    after = largest_principal_angle(rotation.basis, model.planted[0])
    assert before > 45
    assert after < 1.0
    assert recovery(model, [rotation]) > 0.999
    assert recovery(model, [Span(model.planted[0])]) > 0.99999
    assert recovery(model, [LowRankRotation(D, rank, seed=2)]) < 0.3


@pytest.mark.parametrize("rank", [1, 4])
def test_shuffled_pairs_recover_nothing(rank):
    # Exactly so: bases, sources and what is made of them are drawn alike, whatever the rotation.
    model, rotation = Planted(rank), LowRankRotation(D, rank, seed=1)
    train(model, [rotation], shuffled=True)
    assert largest_principal_angle(rotation.basis, model.planted[0]) > 45
    assert recovery(model, [rotation]) < 0.2


def test_two_variables_are_recovered_side_by_side_each_from_its_own_source():
    model = Planted(1, 2)
    groups = list(LowRankRotation(D, 3, seed=1).split([1, 2]))
    train(model, groups)
    for group, planted in zip(groups, model.planted, strict=False):
        assert largest_principal_angle(group.basis, planted) < 1.0
    assert recovery(model, groups) > 0.999


def test_a_boundless_rotation_shrinks_to_the_planted_subspace():
    model, rotation = Planted(2), BoundlessRotation(D, seed=1)
    train(model, [rotation], boundary_penalty=lambda: 0.02 * rotation.share, anneal=rotation.anneal)
    assert rotation.rank in (2, 3)
    assert largest_principal_angle(rotation.basis, model.planted[0]) < 5.0
    assert recovery(model, [rotation]) > 0.98
