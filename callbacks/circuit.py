"""Which few nodes of a model carry a variable, together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lightning as L

from physteer.analyses.effects import CircuitEvaluation, CircuitPlan
from physteer.analyses.effects.circuit_table import write_circuit_tables
from physteer.callbacks.base import check_alone, data_module, forecast_module
from physteer.callbacks.progress import OccasionalLines
from physteer.data.pair_module import CounterfactualDataModule
from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.interventions import leaves_of
from physteer.reports import write_page
from physteer.reports.circuit_report import circuit_text, report_circuit

MEBIBYTE = 2**20


class Circuit(L.Callback):
    """Find the fewest nodes that carry a variable together, and test them on other initial conditions.

    ``validate`` estimates the effect of every node on pairs of ``valid`` (attribution), orders the nodes, and adds them
    one by one to the set of those that are kept in the source's pass, while all others take the activations of another
    window together. The circuit is the smallest set with faithfulness f ≥ 0.95: f = 0 with all nodes resampled, 1 with
    all kept, and what counts is the aligned effect, the share of the simulated change against the base's prediction.
    Then ``test`` reports, beside random orders: f with its interval, CPR = ∫ f dκ and CMD = ∫ |1 − f| dκ over the share
    κ of nodes, completeness (f of all nodes but the circuit's), minimality (the drop of f without each node) and the
    overlap with circuits of resampled initial conditions.

    The run folder gets ``circuit.json``, ``tables/circuit_<split>``, ``tables/circuit_curve_<split>`` and a figure.

    Args:
        nodes: leaves, or patterns of them: attention heads and feed-forward updates; null for all, where the network
            says which they are (``leaves`` of ``physteer.interventions.WritesResidual``).
        frames: frames of the context that are patched: ``[-1]``, the last, or null for all.
        random_orders: orders to compare with.
        cache: mebibytes of memory for windows that several pairs share.
        seed: of the partners, the orders and the resamples.
    """

    brings_scores = True
    """For other callbacks: the module has room for the scores of one."""

    test_after_validate = True
    """For the command line: the circuit is chosen on ``valid``, results come from ``test``."""

    def __init__(
        self,
        nodes: list[str] | None = None,
        frames: list[int] | None = None,
        random_orders: int = 3,
        cache: int = 1024,
        seed: int = 0,
    ) -> None:
        if random_orders < 0 or cache < 0:
            raise PhysteerError(
                f"Circuit.random_orders and cache must be at least 0; found {random_orders} and {cache}"
            )
        if frames is not None and len(frames) != 1:
            raise PhysteerError(f"Circuit.frames must be null or one frame, such as [-1]; found {frames}")
        self.nodes = nodes
        chosen = None if frames is None else tuple(frames)
        self.plan = CircuitPlan(tuple(nodes or ()), chosen, random_orders, cache * MEBIBYTE, seed)
        self._evaluation: CircuitEvaluation | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze the network and put the evaluation on the module."""
        module = forecast_module(pl_module, "Circuit")
        if stage not in ("validate", "test"):
            raise PhysteerError("Circuit is searched by `physteer validate`")
        data_module(trainer, CounterfactualDataModule, "Circuit")
        check_alone(trainer, self)
        if self._evaluation is None:
            if stage == "test":
                raise PhysteerError(
                    "Circuit is chosen on valid and reported on test: run `physteer validate`, which does both"
                )
            module.freeze_network()
            nodes = self.plan.nodes if self.nodes is not None else leaves_of(module.network)
            if self.nodes is None and not nodes:
                raise PhysteerError(
                    f"{type(module.network).__name__} does not say what adds to its residual stream (leaves of "
                    "physteer.interventions.WritesResidual): give Circuit.nodes"
                )
            plan = dataclasses.replace(self.plan, nodes=nodes)
            self._evaluation = CircuitEvaluation(plan, OccasionalLines(trainer.is_global_zero))
        module.evaluation = self._evaluation

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the circuit and the tables of ``valid``."""
        self._write(trainer, "valid")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the tables of ``test`` and the report."""
        self._write(trainer, "test")
        if trainer.is_global_zero:
            run = Path(trainer.default_root_dir)
            report_circuit(run, "test")
            pl_module.print(f"{circuit_text(run, 'test')}\nreport: {write_page(run)}", flush=True)

    def _write(self, trainer: L.Trainer, split: str) -> None:
        evaluation, run = self._evaluation, Path(trainer.default_root_dir)
        if not trainer.is_global_zero or evaluation is None:
            return
        write_circuit_tables(run, split, evaluation.tables.curve, evaluation.tables.scores)
        with atomic_write(run / "circuit.json") as temporary:
            temporary.write_text(evaluation.described() + "\n", encoding="utf-8")
