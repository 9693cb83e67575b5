"""A search whose answer is known: where a small transformer keeps whether the first of two pairs is equal.

If the answer to the first pair is one variable in one direction, then that direction's coordinate, taken from another
question, must turn the last answer into the one that the variable's value there would give. The search is that of the
`DAS` callback: `InterchangeObjective` over replayed suffix passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from physteer.analyses.das import InterchangeObjective, InterventionVariant
from physteer.analyses.engine import Outcome, PlainSuffix
from physteer.forecast.optimizer import adamw, warmup_then_cosine
from physteer.interventions import Locus, LowRankRotation, Site, Subspace
from physteer.metrics import InterchangeAccuracy
from physteer.testing.equality_task import (
    EqualityTransformer,
    QuestionPairs,
    Questions,
    draw_questions,
    trained_network,
)

GROUPS = 20
"""Pairs are independent draws; intervals resample this many groups of them."""


class EqualityPairs(L.LightningDataModule):
    """Random (base, source) pairs of questions, others for validation.

    Args:
        n_train: pairs to train on.
        n_val: pairs to validate on.
        batch_size: pairs per batch.
        seed: of the draw.
    """

    def __init__(self, n_train: int = 40_000, n_val: int = 4_000, batch_size: int = 128, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.pairs = {
            name: TensorDataset(draw_questions(n, generator), draw_questions(n, generator), torch.arange(n) % GROUPS)
            for name, n in (("train", n_train), ("val", n_val))
        }
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Pairs to train on, in a new order every epoch."""
        return DataLoader(self.pairs["train"], self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Pairs to validate on."""
        return DataLoader(self.pairs["val"], self.batch_size)


class AnswerLoss(nn.Module):
    """Cross-entropy of the edited answer to the counterfactual one."""

    def forward(self, outcome: Outcome, pairs: QuestionPairs) -> Tensor:
        """Return the loss of predictions [B, 1, 2]."""
        return functional.cross_entropy(outcome.prediction[:, 0], pairs.answers)


class EqualitySearch(L.LightningModule):
    """Learn the subspace of one token's activation in which "the first pair is equal" lives, on a network made here.

    Validation logs the interchange-intervention accuracy of the learned subspace (``val/iia``), of a random one of the
    same rank (``val/iia_random``) and of the whole activation (``val/iia_full``, the most there is to find at the
    site).

    Args:
        site: where in the network.
        token: position whose activation is exchanged; 1 is b.
        rank: dimensions of the subspace.
        learning_rate: of the rotation, before its decay.
        network_steps: steps for which the network itself is trained, before the search begins.
        seed: of the network and of the rotations.
    """

    def __init__(
        self,
        site: str = "blocks.1",
        token: int = 1,
        rank: int = 1,
        learning_rate: float = 0.03,
        network_steps: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.learning_rate, self.network_steps, self.seed = learning_rate, network_steps, seed
        self.network = EqualityTransformer()
        where, width = Site.parse(site), self.network.head.in_features

        def variant(kind: Any, subspace: Subspace | None) -> InterventionVariant:
            return InterventionVariant(where, width, kind, [subspace], rank)

        random = LowRankRotation(width, rank, seed=seed + 1).requires_grad_(False)
        self.variants = nn.ModuleDict(
            {
                "iia": variant("learned", LowRankRotation(width, rank, seed=seed)),
                "iia_random": variant("random", random),
                "iia_full": variant("full", None),
            }
        )
        # axis 1 of these activations is the token
        self.objective = InterchangeObjective(
            self._all_variants, PlainSuffix([where]), AnswerLoss(), Locus(frames=[token])
        )
        groups = [str(group) for group in range(GROUPS)]
        self.accuracies = nn.ModuleDict({name: InterchangeAccuracy(groups) for name in self.variants})

    def setup(self, stage: str) -> None:
        """Train the network; the same one in every process."""
        self.network = trained_network(self.network_steps, self.seed)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy of the edited answer to the counterfactual one."""
        loss: Tensor = self.objective(self.network, _pairs(batch), self.global_step)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Count answers that are the counterfactual ones."""
        pairs, groups = _pairs(batch), [str(group) for group in batch[2].tolist()]
        suffix, network = self.objective.suffix, self.network
        prepared = suffix.prepare(network, pairs)
        for name, variant in zip(self.variants, self._all_variants, strict=True):
            activations = suffix.at(network, variant.site, prepared)
            edited = self.objective.edited(network, pairs, variant, activations).prediction[:, 0]
            self._accuracy(name).update(edited.argmax(-1), pairs.answers, groups)

    def on_validation_epoch_end(self) -> None:
        """Log the shares."""
        for name in self.variants:
            share = self._accuracy(name).accuracy()
            self.log(f"val/{name}", share.value, sync_dist=True)  # the same everywhere already
            self.print(f"{name:<12}{share.value:.4f}  [{share.low:.4f}, {share.high:.4f}]")
            self._accuracy(name).reset()

    def configure_optimizers(self) -> Any:
        """AdamW over the rotation, with a cosine decay."""
        optimizer = adamw(self, self.learning_rate, weight_decay=0.01)
        schedule = warmup_then_cosine(optimizer, 0, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _all_variants(self) -> Sequence[InterventionVariant]:
        return list(self.variants.values())  # type: ignore[arg-type]

    def _accuracy(self, name: str) -> InterchangeAccuracy:
        accuracy = self.accuracies[name]
        assert isinstance(accuracy, InterchangeAccuracy)
        return accuracy


def _pairs(batch: list[Tensor]) -> QuestionPairs:
    return QuestionPairs(Questions.of(batch[0]), Questions.of(batch[1]))
