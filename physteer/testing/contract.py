"""The contract of forecasters: what every emulator must do for every analysis to be right on it.

from physteer.testing import check_forecaster

def test_my_emulator():
check_forecaster(my_forecaster, data)  # a physteer.CounterfactualDataModule
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from physteer.data.batch import collate
from physteer.data.pair_module import CounterfactualDataModule
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster, staged
from physteer.interventions import Site
from physteer.testing import contract_analyses, contract_passes, contract_training
from physteer.testing.contract_case import Case, NotOfferedError, UnmetError

CHECKS: dict[str, Callable[[Case], None]] = {
    "members": contract_passes.members,
    "prediction": contract_passes.prediction,
    "sites": contract_passes.sites,
    "no change at strength 0": contract_passes.null_edit,
    "steering": contract_passes.steering,
    "capture": contract_passes.capture,
    "replay": contract_passes.replay,
    "probe": contract_analyses.probe,
    "DAS": contract_analyses.das,
    "effects": contract_analyses.effects,
    "causal basis": contract_analyses.basis,
    "weights": contract_training.weights,
    "two processes": contract_training.two_processes,
}
"""The checks, in their order."""


@dataclass
class ContractReport:
    """What `check_forecaster` found."""

    passed: list[str] = field(default_factory=list)
    """Names of the checks that hold."""
    not_offered: dict[str, str] = field(default_factory=dict)
    """By check, what the emulator cannot do, as the sentence that a callback would say."""
    failed: dict[str, str] = field(default_factory=dict)
    """By check, what is wrong, in one sentence."""

    def __str__(self) -> str:
        lines = [f"{name}: holds" for name in self.passed]
        lines += [f"{name}: not offered: {why}" for name, why in self.not_offered.items()]
        return "\n".join(lines + [f"{name}: FAILS: {why}" for name, why in self.failed.items()])


def check_forecaster(
    forecaster: Forecaster,
    data: CounterfactualDataModule,
    sites: Sequence[str] | None = None,
    *,
    skip: Sequence[str] = (),
) -> ContractReport:
    """Check that a forecaster keeps the contract, on real data.

    The network is run on a few windows, at random weights or trained ones; it is left as it was. The last check starts
    two processes, to which the forecaster is sent by pickle: its classes must be importable.

    Args:
        forecaster: any; on the CPU.
        data: pairs of windows, such as those of ``configs/emulator/das.yaml``; a few of ``train`` are read.
        sites: where edits are tried; None for ``encoder`` and every block of a network in stages.
        skip: names of checks that are left out, of `CHECKS`.

    Returns:
        What holds, and what the emulator does not offer.

    Raises:
        PhysteerError: A check fails; the message has one sentence for each that does. Or there are no sites.
    """
    unknown = [name for name in skip if name not in CHECKS]
    if unknown:
        raise PhysteerError(f"there is no check {unknown[0]!r}; checks are {', '.join(CHECKS)}")
    case, report = _case(forecaster, data, sites), ContractReport()
    for name in CHECKS:
        if name in skip:
            continue
        try:
            CHECKS[name](case)
        except NotOfferedError as missing:
            report.not_offered[name] = str(missing)
        except UnmetError as unmet:
            report.failed[name] = str(unmet)
        except Exception as error:  # whatever a user's code raises
            what = " ".join(str(error).split())[:400]
            report.failed[name] = what if isinstance(error, PhysteerError) else f"{type(error).__name__}: {what}"
        else:
            report.passed.append(name)
        if name in ("members", "sites") and report.failed:
            break  # the others would only repeat it
    if report.failed:
        raise PhysteerError("; ".join(f"{name}: {why}" for name, why in report.failed.items()))
    return report


def _case(forecaster: Forecaster, data: CounterfactualDataModule, sites: Sequence[str] | None) -> Case:
    if sites is None:
        try:
            model = staged(forecaster, "check_forecaster without sites")
        except PhysteerError as error:
            raise PhysteerError(f"{error}; name the sites to try, such as sites=['layers.0']") from None
        sites = ["encoder", *(f"blocks.{i}" for i in range(len(model.blocks)))]
    pairs = data.pairs("train", data.rules, 4, mismatched=True)
    windows = list(dict.fromkeys(pairs.pair(i).base for i in range(len(pairs))))[:4]
    dataset = pairs.windows
    if len(windows) < 2:
        raise PhysteerError(f"{dataset.path}: check_forecaster needs two windows or more that have a source")
    batch = collate(
        [dataset.read(window) for window in windows], n_input=dataset.spec.n_input, metadata=dataset.metadata
    )
    generator = torch.Generator().manual_seed(0)
    return Case(forecaster, tuple(map(Site.parse, sites)), batch, pairs, generator)
