"""Walrus under Lightning."""

from __future__ import annotations

import torch
from torch import nn

from physteer.errors import PhysteerError
from physteer.forecast.lora import merge_lora
from physteer.forecast.module import ForecastModule
from physteer.forecast.walrus_forecaster import WalrusForecaster
from physteer.walrus import Walrus, WalrusConfig, load, load_config, model_id
from physteer.walrus.sizes import check_fits


class WalrusModule(ForecastModule):
    """Walrus on data of The Well.

    Args:
        checkpoint: weights to start from: a published ``.pt`` or ``.pth``, our ``.safetensors``, a folder with either,
            ``hf://owner/repo``, or ``physteer://walrus-demo`` for the small model that ships with physteer.
        network: the architecture of a new model with random weights; give this or ``checkpoint``.
        jitter_seed: null for no jitter (the default, for science). With a number, the random shifts of the published
            protocol are on, drawn from (seed, trajectory, step), so that compared runs share their draws.
        objective: a module called with (forecaster, batch, step) that returns the loss of ``fit``.
        learning_rate: peak learning rate of AdamW.
        weight_decay: of matrices; norms and biases have none.
        warmup_steps: steps of linear warm-up, before a cosine decay to 1 % of the peak at the end of training.
        conditions_per_forward: most conditions rolled out side by side in one batch by ``predict``; null for all. A few
            keep the processor as busy as many, in less memory.
        compile: compile every block with ``torch.compile``; sites inside blocks are then refused.
        lora: folder of a LoRA adapter, such as ``runs/…/lora`` of the ``LoRA`` callback or of peft: it is added to the
            weights, W + (α / r) B A.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        network: WalrusConfig | None = None,
        jitter_seed: int | None = None,
        objective: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        conditions_per_forward: int | None = 8,
        compile: bool = False,  # Lightning's and torch's own word
        lora: str | None = None,
    ) -> None:
        if (checkpoint is None) == (network is None):
            raise PhysteerError("give either model.checkpoint (weights to start from) or model.network (a new model)")
        on_meta = torch.empty(0).is_meta  # modules are made on the meta device: for shapes, without any weights
        if checkpoint is not None:
            walrus = Walrus(load_config(checkpoint)) if on_meta else load(checkpoint)
        else:
            network = network or WalrusConfig()
            check_fits(network)
            walrus = Walrus(network)
        if lora is not None and not on_meta:
            add_adapter(walrus, lora)
        if compile:
            for block in walrus.blocks:
                # not block.compile(), which compiles hooks away: the blocks' outputs stay sites
                block.forward = torch.compile(block.forward)
        super().__init__(
            WalrusForecaster(walrus, jitter_seed),
            objective,
            learning_rate,
            weight_decay,
            warmup_steps,
            conditions_per_forward,
        )
        self.checkpoint = checkpoint


def add_adapter(walrus: Walrus, folder: str) -> None:
    """Add a LoRA adapter to the weights of a Walrus, which has another identity from then on (`merge_lora`).

    Raises:
        PhysteerError: The folder holds no adapter of this Walrus.
    """
    walrus.adapters = (*walrus.adapters, merge_lora(walrus, folder, model_id(walrus)))
