"""Training of low-rank adapters on a frozen network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from physteer.callbacks.base import data_module, forecast_module
from physteer.callbacks.export_weights import ExportWeights
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.forecast.lora import LoraSettings, inject, linear_layers, write_injected
from physteer.interventions.seeds import digest

FOLDER = "lora"
"""In the run folder."""


class LoRA(L.Callback):
    """Fine-tune a model by low-rank adapters (LoRA, Hu et al., 2021), with the package ``peft``.

    ``fit`` freezes the network and trains, beside every chosen Linear layer, matrices A [r, n] and B [m, r]:
    y = W x + (α / r) B A x. B starts at 0, so training starts at the model as it is. Modules keep their paths, so
    sites are the same. Checkpoints hold the adapter alone; ``validate`` and ``test`` with this callback need
    ``--ckpt_path``.

    The run folder gets ``lora/``: the adapter in peft's own format. With ``model.lora: runs/…/lora`` every command
    then works on the adapted model: ``predict`` with ``Steer`` and ``Capture``, ``fit`` with ``DAS``, ``validate`` with
    ``Effects``.

    Args:
        rank: r.
        alpha: α.
        dropout: share of the inputs of A that is set to 0 in training.
        target_modules: which Linear layers: paths of layers, or of what holds them, such as ``blocks``,
            ``blocks.*.time`` or ``blocks.3.space.ff_in``; ``*`` stands for one part of a path.
        seed: of the first values of A, and of the dropout.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        target_modules: list[str] = ["blocks"],  # noqa: B006  jsonargparse shows it; never changed
        seed: int = 0,
    ) -> None:
        if rank < 1:
            raise PhysteerError(f"LoRA.rank must be at least 1; found {rank}")
        if not 0 < alpha < float("inf"):
            raise PhysteerError(f"LoRA.alpha must be above 0; found {alpha}")
        if not 0 <= dropout < 1:
            raise PhysteerError(f"LoRA.dropout must be at least 0 and below 1; found {dropout}")
        if not target_modules:
            raise PhysteerError("LoRA.target_modules must name one or more Linear layers, or what holds them")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.target_modules, self.seed = target_modules, seed
        self._has_trained = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze the network and inject the adapter."""
        module = forecast_module(pl_module, "LoRA")
        data_module(trainer, WellDataModule, "LoRA")
        if stage == "predict":
            raise PhysteerError(
                "LoRA trains (fit) and scores (validate, test); in predict, set model.lora to the folder lora/ of its "
                "run"
            )
        self._check_others(trainer)
        if module.adapter is not None:
            return  # of the fit before this test
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            raise PhysteerError(
                f"LoRA needs whole weights, and {type(trainer.strategy).__name__} shards them; use trainer.strategy "
                "auto or ddp"
            )
        layers = linear_layers(module.network, self.target_modules)
        base = module.forecaster.identity
        module.freeze_network()
        module.adapter = inject(
            module.network, LoraSettings(self.rank, self.alpha, self.dropout, layers), base, self.seed
        )
        if stage == "fit" and trainer.is_global_zero:
            n = sum(module.network.get_parameter(name).numel() for name in module.adapter.parameters)
            print(f"LoRA: {n:,} trained numbers on {len(layers)} Linear layers")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember that there is something to score afterwards."""
        self._has_trained = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to score an adapter that nothing has trained."""
        self._check_trained(trainer, "validate")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to score an adapter that nothing has trained."""
        self._check_trained(trainer, "test")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the dropout, so that a run that was interrupted continues as if it had not been."""
        if self.dropout:
            name = digest("lora dropout", self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
            torch.manual_seed(int.from_bytes(name[:8], "big") >> 1)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Refuse an adapter of a layer that the network does not call: it would be written as if it were trained."""
        module = forecast_module(pl_module, "LoRA")
        if module.adapter is None or trainer.global_step:
            return
        unused = [name for name in sorted(module.adapter.parameters) if module.network.get_parameter(name).grad is None]
        if unused:
            layer = unused[0].partition(".lora_")[0]
            raise PhysteerError(
                f"LoRA: the loss does not depend on the output of {layer}: leave it out of LoRA.target_modules"
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the adapter, on the first process."""
        module = forecast_module(pl_module, "LoRA")
        if trainer.is_global_zero and module.adapter is not None:
            folder = Path(trainer.default_root_dir, FOLDER)
            write_injected(module.network, module.adapter, folder)
            pl_module.print(f"adapter: {folder}", flush=True)

    def _check_trained(self, trainer: L.Trainer, command: str) -> None:
        if not self._has_trained and trainer.ckpt_path is None:  # which is known from the start of the loop on
            raise PhysteerError(
                f"LoRA has trained nothing before `physteer {command}`: give the checkpoint of its fit with "
                "--ckpt_path, or set model.lora to the folder lora/ of its run and leave out the callback"
            )

    def _check_others(self, trainer: L.Trainer) -> None:
        """Refuse callbacks that need a frozen network, or that write one."""
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if other is not self and (isinstance(other, LoRA) or getattr(other, "brings_scores", False)):
                raise PhysteerError(
                    f"LoRA and {type(other).__name__} cannot be in one run: train the adapter first, then set "
                    "model.lora to its folder lora/"
                )
            if isinstance(other, ExportWeights):
                raise PhysteerError(
                    "ExportWeights writes whole weights and LoRA an adapter: leave out ExportWeights; for whole "
                    "weights run `physteer convert` with --lora and the folder lora/ of this run"
                )
