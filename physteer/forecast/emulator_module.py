"""Any network under Lightning, by YAML."""

from __future__ import annotations

import torch
from torch import nn

from physteer.forecast.emulator_weights import load_weights, tensors_alone
from physteer.forecast.frame_forecaster import FrameForecaster
from physteer.forecast.lora import merge_lora
from physteer.forecast.module import ForecastModule


class EmulatorModule(ForecastModule):
    """A network of yours, or one of `physteer.adapters`, on data of The Well.

    Args:
        network: any torch module that maps a window's normalised fields [N, T, F, H, W, D] to the change of the last
            frame [N, 1, F, H, W, D] (`physteer.forecast.FrameForecaster`); with ``blocks`` in stages
            (`physteer.interventions.StagedNetwork`), all analyses take it.
        fields: names of the F fields, in the network's order.
        checkpoint: its weights: what ``ExportWeights`` wrote, or a state dictionary as ``.safetensors`` or of
            ``torch.save``; null for the network as it is.
        objective: a module called with (forecaster, batch, step) that returns the loss of ``fit``.
        learning_rate: peak learning rate of AdamW.
        weight_decay: of matrices; norms and biases have none.
        warmup_steps: steps of linear warm-up, before a cosine decay to 1 % of the peak at the end of training.
        conditions_per_forward: most conditions rolled out side by side in one batch by ``predict``; null for all.
        lora: folder of a LoRA adapter, such as ``runs/…/lora`` of the ``LoRA`` callback or of peft: it is added to the
            weights, W + (α / r) B A.
    """

    def __init__(
        self,
        network: nn.Module,
        fields: list[str],
        checkpoint: str | None = None,
        objective: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        conditions_per_forward: int | None = 8,
        lora: str | None = None,
    ) -> None:
        tensors_alone(network)
        forecaster = FrameForecaster(network, fields)
        on_meta = torch.empty(0).is_meta  # modules are made on the meta device: for shapes, without any weights
        if checkpoint is not None and not on_meta:
            load_weights(network, checkpoint)
        if lora is not None and not on_meta:
            merge_lora(network, lora, forecaster.identity)
        super().__init__(forecaster, objective, learning_rate, weight_decay, warmup_steps, conditions_per_forward)
        self.checkpoint = checkpoint
