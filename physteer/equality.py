"""A search whose answer is known: where a small transformer keeps whether the first of two pairs is equal.

The task is hierarchical equality (Geiger et al., arXiv 2303.02536), answered in context: five tokens a b c d ?, and
after b, d and ? the network says whether a = b, whether c = d, and whether the two answers agree. If the answer to the
first pair is one variable in one direction, then that direction's coordinate, taken from another question, must turn
the last answer into the one that the variable's value there would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from physteer.errors import PhysteerError
from physteer.interventions import (
    Edit,
    Interchange,
    Locus,
    LowRankRotation,
    Subspace,
    attached,
    captured,
    check_gradient,
    evaluated_once,
)
from physteer.metrics import InterchangeAccuracy
from physteer.optimizer import adamw, warmup_then_cosine

OBJECTS = 16
"""Different tokens, beside the question mark."""
ANSWERED = (1, 3, 4)
"""Positions of b, d and ?."""
GROUPS = 20
"""Pairs are independent draws; intervals resample this many groups of them."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Some questions and what is true of them."""

    tokens: Tensor
    """[B, 5]: a b c d ?."""
    equal: Tensor
    """[B, 2]: whether a = b, and whether c = d."""

    @classmethod
    def of(cls, tokens: Tensor) -> Questions:
        """Answer the first two questions."""
        return cls(tokens, tokens[:, [0, 2]] == tokens[:, [1, 3]])

    @property
    def answers(self) -> Tensor:
        """After b, d and ?: [B, 3], 1 for yes."""
        return torch.cat([self.equal, self.equal[:, :1] == self.equal[:, 1:]], dim=1).long()

    def with_first_pair_of(self, source: Questions) -> Tensor:
        """Return the last answer if the first pair were equal where the source's is: [B]."""
        return (source.equal[:, 0] == self.equal[:, 1]).long()


def draw_questions(n: int, generator: torch.Generator) -> Tensor:
    """Draw tokens [n, 5]; every pair is equal half of the time."""
    first = torch.randint(OBJECTS, (n, 2), generator=generator)
    other = (first + torch.randint(1, OBJECTS, (n, 2), generator=generator)) % OBJECTS
    second = torch.where(torch.rand(n, 2, generator=generator) < 0.5, first, other)
    pairs = rearrange([first, second], "member n pair -> n (pair member)")
    return functional.pad(pairs, (0, 1), value=OBJECTS)


class EqualityTransformer(nn.Module):
    """Three blocks of width 32, causal attention; activations are [B, token, d]."""

    def __init__(self, width: int = 32, n_blocks: int = 3, n_heads: int = 4) -> None:
        super().__init__()
        self.objects = nn.Embedding(OBJECTS + 1, width)
        self.positions = nn.Parameter(0.1 * torch.randn(5, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, n_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of no and yes after b, d and ?: [B, 3, 2]."""
        x = self.objects(tokens) + self.positions
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        for block in self.blocks:
            x = block(x, src_mask=causal, is_causal=True)
        scores: Tensor = self.head(self.norm(x[:, ANSWERED]))
        return scores


def trained_network(steps: int, seed: int) -> EqualityTransformer:
    """Train the network to answer, about half a minute, and freeze it.

    Raises:
        PhysteerError: It does not answer 99 % of new questions.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        network = EqualityTransformer()
        optimizer = adamw(network, 3e-3, weight_decay=0.01)
        schedule = warmup_then_cosine(optimizer, 100, steps)
        for _ in range(steps):
            questions = Questions.of(draw_questions(128, generator))
            loss = functional.cross_entropy(network(questions.tokens).flatten(0, 1), questions.answers.flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    network.requires_grad_(False)
    questions = Questions.of(draw_questions(2000, generator))
    accuracy = float((network(questions.tokens).argmax(-1) == questions.answers).float().mean(0)[-1])
    if accuracy < 0.99:
        raise PhysteerError(f"after {steps} steps the network answers {accuracy:.1%} of the questions; train it longer")
    return network


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
        self.site, self.locus = site, Locus(frames=[token])  # axis 1 of these activations is the token
        self.learning_rate, self.network_steps, self.seed = learning_rate, network_steps, seed
        self.network = EqualityTransformer()
        width = self.network.head.in_features
        self.rotation = LowRankRotation(width, rank, seed=seed)
        self.subspaces: dict[str, Subspace | None] = {
            "iia": self.rotation,
            "iia_random": LowRankRotation(width, rank, seed=seed + 1).requires_grad_(False),
            "iia_full": None,
        }
        groups = [str(group) for group in range(GROUPS)]
        self.accuracies = nn.ModuleDict({name: InterchangeAccuracy(groups) for name in self.subspaces})

    def setup(self, stage: str) -> None:
        """Train the network; the same one in every process."""
        self.network = trained_network(self.network_steps, self.seed)

    def answer(self, base: Questions, source: Questions, subspace: Subspace | None) -> tuple[Tensor, Edit]:
        """Return the scores of the last answer [B, 2] with a part of the activation from the source, and the edit."""
        with torch.no_grad(), captured(self.network, [self.site]) as activations:
            self.network(source.tokens)
        (activation,) = activations.values()
        edit = Edit(self.site, Interchange(self.locus.take(activation)), subspace, self.locus)
        with attached(self.network, [edit]):
            scores: Tensor = self.network(base.tokens)
        return scores[:, -1], edit

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy of the edited answer to the counterfactual one."""
        base, source = Questions.of(batch[0]), Questions.of(batch[1])
        with evaluated_once(self.rotation):
            scores, edit = self.answer(base, source, self.rotation)
        loss = functional.cross_entropy(scores, base.with_first_pair_of(source))
        if self.global_step == 0:
            check_gradient([edit], loss)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Count answers that are the counterfactual ones."""
        base, source = Questions.of(batch[0]), Questions.of(batch[1])
        groups = [str(group) for group in batch[2].tolist()]
        for name, subspace in self.subspaces.items():
            scores, _ = self.answer(base, source, subspace)
            self._accuracy(name).update(scores.argmax(-1), base.with_first_pair_of(source), groups)

    def on_validation_epoch_end(self) -> None:
        """Log the shares."""
        for name in self.subspaces:
            found = self._accuracy(name).accuracy()
            self.log(f"val/{name}", found.value, sync_dist=True)  # the same everywhere already
            self.print(f"{name:<12}{found.value:.4f}  [{found.low:.4f}, {found.high:.4f}]")
            self._accuracy(name).reset()

    def configure_optimizers(self) -> Any:
        """AdamW over the rotation, with a cosine decay."""
        optimizer = adamw(self, self.learning_rate, weight_decay=0.01)
        schedule = warmup_then_cosine(optimizer, 0, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _accuracy(self, name: str) -> InterchangeAccuracy:
        accuracy = self.accuracies[name]
        assert isinstance(accuracy, InterchangeAccuracy)
        return accuracy
