"""Checks of a forecaster's passes: predictions, edits, captures and replays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from physteer.analyses.engine import ActivationReader
from physteer.forecast import Forecaster, steered_rollout
from physteer.interventions import (
    UNSTEERED,
    Condition,
    Edit,
    Interchange,
    LowRankRotation,
    Site,
    Steer,
    attached,
    replayed,
    take_snapshots,
)
from physteer.testing.contract_case import Case, NotOfferedError, close, unmet


def members(case: Case) -> None:
    """Check that the protocol's members are there."""
    wanted = [name for name in dir(Forecaster) if not name.startswith("_")] + ["jitter_seed"]
    missing = [name for name in wanted if not hasattr(case.forecaster, name)]
    unmet(not missing, f"{case.name} lacks {', '.join(missing)} (physteer.forecast.Forecaster)")


@torch.no_grad()
def prediction(case: Case) -> None:
    """Check the next frame: shape, finite, repeatable, each window for itself, and the same by parts."""
    forecaster, batch = case.forecaster, case.batch
    window = batch.context
    frame = forecaster.predict_next(window, batch)
    want = [len(batch), 1, *window.shape[2:]]
    unmet(list(frame.shape) == want, f"predict_next must return a frame {want}; it returned {list(frame.shape)}")
    unmet(frame.isfinite().all(), "predict_next returned values that are not finite")
    unmet(not torch.equal(frame, window[:, -1:]), "predict_next returned the last frame unchanged")
    unmet(
        torch.equal(frame, forecaster.predict_next(window, batch)),
        "predict_next differs from call to call: put the network in evaluation mode, and draw nothing at random",
    )
    first = forecaster.predict_next(window[:1], batch.rows([0]))
    unmet(
        close(frame[:1] - window[:1, -1:], first - window[:1, -1:], 1e-3),
        "a window's prediction depends on the others in its batch, which DAS and steering stack",
    )
    inputs, scale = forecaster.inputs(window, batch)
    y = case.network(*inputs)
    parts = forecaster.next_frame(y[:, -1:], window[:, -1:], scale, batch)
    unmet(close(parts, frame, 1e-5), "predict_next is not next_frame of network(*inputs), which replays rely on")
    changes = forecaster.run(inputs)
    unmet(
        changes.shape[2:] == window.shape[2:] and changes.shape[1] in (1, window.shape[1]),
        f"run must return changes [N, T or 1, C, H, W, D] in the data's channels; it returned {list(changes.shape)}",
    )
    rows = [*inputs.rows([0])]
    unmet(
        len(rows) == len([*inputs]) and close(case.network(*rows), y[:1], 1e-3),
        "inputs.rows does not give the inputs of some windows",
    )


@torch.no_grad()
def sites(case: Case) -> None:
    """Check that sites have layouts and the shapes that are told without computing."""
    for site in case.located:
        if site.layout is None:
            raise NotOfferedError(
                f"the axes of {site} are unknown: let {case.name}.layout, or site_layout of its network, say them"
            )
    found = _activations(case)
    for site in case.located:
        told, seen = case.shape(site), found[site].shape
        unmet(
            seen[0] == len(case.batch),
            f"{site} has {seen[0]} rows for {len(case.batch)} windows by its layout {site.layout!r}",
        )
        unmet(
            told[1:] == seen[1:],
            f"site_shapes tells {list(told)} for {site}; activations of {len(case.batch)} windows are {list(seen)}",
        )


@torch.no_grad()
def null_edit(case: Case) -> None:
    """Check that steering by 0 leaves every bit, at every site, and that hooks are gone afterwards."""
    hooks = _hooks(case)
    for site in case.located:
        direction = torch.randn(case.shape(site)[-1], generator=case.generator)
        null = Condition("null", (Edit(site, Steer(direction.reshape(1, 1, 1, -1), 0.0)),))
        plain, same = torch.cat([*steered_rollout(case.forecaster, case.batch, 2, [UNSTEERED, null])], 1).chunk(2)
        unmet(torch.equal(plain, same), f"steering {site} by strength 0 changes the rollout")
    unmet(_hooks(case) == hooks, "hooks are left on the network")


@torch.no_grad()
def steering(case: Case) -> None:
    """Check that steering moves an activation by α ‖h‖ along the direction, and moves the forecast."""
    for site in case.located:
        direction = torch.randn(case.shape(site)[-1], generator=case.generator).reshape(1, 1, 1, -1)
        steered = Condition("steered", (Edit(site, Steer(direction, 0.3)),))
        plain, moved = (_activations(case, [site], condition)[site] for condition in (UNSTEERED, steered))
        plain, moved = plain.double().flatten(2), moved.double().flatten(2)
        lengths = (moved - plain).norm(dim=2), 0.3 * plain.norm(dim=2)
        unmet(
            close(*lengths, 1e-3),
            f"steering {site} by 0.3 does not move its activation by 0.3 of its norm: its layout may be wrong",
        )
        frames = torch.cat([*steered_rollout(case.forecaster, case.batch, 1, [UNSTEERED, steered])])
        plain, moved = frames.chunk(2)
        unmet(not torch.equal(plain, moved), f"steering {site} does not change the forecast")


@torch.no_grad()
def capture(case: Case) -> None:
    """Check that a pass which stops at a site sees what a whole pass sees there."""
    whole = _activations(case)
    for site in case.located:
        alone = _activations(case, [site])[site]
        unmet(torch.equal(alone, whole[site]), f"a pass that stops at {site} sees other activations than a whole one")


def replay(case: Case) -> None:
    """Check that passes continued from a site have the output and the gradients of whole passes under equal edits."""
    model = case.staged("Replay")
    known = case.stages("Replay")
    inputs, _ = case.forecaster.inputs(case.batch.context, case.batch)
    trainable = [p for p in case.network.parameters() if p.requires_grad]
    case.network.requires_grad_(False)
    try:
        snapshots = take_snapshots(model, known, *inputs)
        plain = case.network(*inputs)[:, -1:]
        for site, snapshot in snapshots.items():
            unmet(
                close(replayed(model, snapshot, last_frame_only=True), plain, 1e-5),
                f"a pass continued from {site} ends elsewhere than a whole pass: blocks read more than the activation "
                "and the context (CarriesSkips)",
            )
            source = snapshot.activation.flip(0)
            edit = Edit(site, Interchange(source), LowRankRotation(source.shape[-1], min(2, source.shape[-1])))
            with attached(case.network, [edit]):
                whole = case.network(*inputs)[:, -1:]
            part = replayed(model, snapshot, [edit], last_frame_only=True)
            gradients = [torch.autograd.grad(y.square().sum(), [*edit.parameters()]) for y in (whole, part)]
            unmet(close(part.detach(), whole.detach(), 1e-5), f"an edit at {site} has another effect in a replay")
            unmet(
                all(close(a, b, 1e-3) for a, b in zip(*gradients, strict=True)),
                f"gradients to an edit at {site} differ between a replay and a whole pass",
            )
            unmet(any(bool(g.any()) for g in gradients[0]), f"no gradient reaches an edit at {site}")
    finally:
        for parameter in trainable:
            parameter.requires_grad_()


def _activations(case: Case, sites: Sequence[Site] = (), condition: Condition = UNSTEERED) -> dict[Site, Tensor]:
    """Return activations of the first forward of a rollout, at some sites or all."""
    found: dict[Site, Tensor] = {}

    def keep(step: int, site: Site, h: Tensor) -> None:
        found[site] = h.clone()

    ActivationReader(case.forecaster, sites or case.located).read_rollout(case.batch, keep, [0], condition)
    return found


def _hooks(case: Case) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in case.network.modules())
