"""Hierarchical equality, answered in context by a small transformer (Geiger et al., arXiv 2303.02536).

Five tokens a b c d ?, and after b, d and ? the network says whether a = b, whether c = d, and whether the two answers
agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from physteer.errors import PhysteerError
from physteer.forecast.optimizer import adamw, warmup_then_cosine

OBJECTS = 16
"""Different tokens, beside the question mark."""
ANSWERED = (1, 3, 4)
"""Positions of b, d and ?."""


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


def draw_questions(n: int, generator: torch.Generator) -> Tensor:
    """Draw tokens [n, 5]; every pair is equal half of the time."""
    first = torch.randint(OBJECTS, (n, 2), generator=generator)
    other = (first + torch.randint(1, OBJECTS, (n, 2), generator=generator)) % OBJECTS
    second = torch.where(torch.rand(n, 2, generator=generator) < 0.5, first, other)
    pairs = rearrange([first, second], "member n pair -> n (pair member)")
    return functional.pad(pairs, (0, 1), value=OBJECTS)


@dataclass(frozen=True, eq=False)
class QuestionPairs:
    """Base and source questions, row by row (`physteer.analyses.engine.PlainSuffix`)."""

    base: Questions
    source: Questions

    @property
    def base_inputs(self) -> tuple[Tensor]:
        """What the network gets of the bases."""
        return (self.base.tokens,)

    @property
    def source_inputs(self) -> list[tuple[Tensor]]:
        """What the network gets of the sources, of the one variable."""
        return [(self.source.tokens,)]

    @property
    def answers(self) -> Tensor:
        """The last answer if the first pair were equal where the source's is: [B], 1 for yes."""
        return (self.source.equal[:, 0] == self.base.equal[:, 1]).long()


class EqualityTransformer(nn.Module):
    """Three blocks of width 32, causal attention; activations are [B, token, d]. It runs in stages (`StagedModel`)."""

    def __init__(self, width: int = 32, n_blocks: int = 3, n_heads: int = 4) -> None:
        super().__init__()
        self.objects = nn.Embedding(OBJECTS + 1, width)
        self.positions = nn.Parameter(0.1 * torch.randn(5, width))
        self.encoder = nn.Identity()
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, n_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of no and yes after b, d and ?: [B, 3, 2]."""
        x, context = self.encode(tokens)
        return self.decode(self.run_blocks(x, context), context)

    def encode(self, tokens: Tensor) -> tuple[Tensor, None]:
        """Embed tokens [B, 5] as [B, 5, d]; the blocks need nothing else."""
        x: Tensor = self.encoder(self.objects(tokens) + self.positions)
        return x, None

    def run_blocks(
        self, h: Tensor, context: None, start: int = 0, stop: int | None = None, *, last_frame_only: bool = False
    ) -> Tensor:
        """Run blocks start … stop − 1 on [B, 5, d]."""
        causal = nn.Transformer.generate_square_subsequent_mask(h.shape[1], device=h.device)
        for block in self.blocks[start:stop]:
            h = block(h, src_mask=causal, is_causal=True)
        return h

    def decode(self, h: Tensor, context: None, *, last_frame_only: bool = False) -> Tensor:
        """Return the scores after b, d and ?, [B, 3, 2], or after ? alone, [B, 1, 2]."""
        scores: Tensor = self.head(self.norm(h[:, ANSWERED[-1:] if last_frame_only else ANSWERED]))
        return scores

    def pack_context(self, context: None) -> tuple[tuple[Tensor, ...], str]:
        """Return nothing: there is no context."""
        return (), ""

    def unpack_context(self, rows: Sequence[Tensor], shared: str) -> None:
        """Return nothing: there is no context."""


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
