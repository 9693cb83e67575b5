"""Where on the token grid a concept is strong, and where it points the same way."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.colors import Normalize
from torch import Tensor
from torch.nn.functional import cosine_similarity

from physteer.concepts import Concept
from physteer.reports.canvas import Canvas, draw_map
from physteer.reports.style import WIDTH, diverging, sequential, style

_MAP_WIDTH, _TOP = 4.2, 1.05  # inches


def token_norms(concept: Concept) -> Tensor:
    """Return ‖v‖ over channels at every token, [h, w]; the mean over depth where there is any."""
    norms: Tensor = concept.direction.norm(dim=-1)  # [h, w, δ]
    return norms.mean(-1)


def token_alignment(concept: Concept) -> Tensor:
    """Return the cosine of every token's vector with the mean over tokens, [h, w]; 1 everywhere for a uniform one."""
    mean = concept.direction.mean(dim=(0, 1, 2))
    return cosine_similarity(concept.direction, mean.expand_as(concept.direction), dim=-1).mean(-1)


def draw_concept(concept: Concept, name: str, path: Path) -> Path:
    """Draw both maps, the longer axis of the token grid across, and save the figure; return its path."""
    norms, alignment = token_norms(concept), token_alignment(concept)
    up, across = "first axis", "second axis"
    if norms.shape[0] > norms.shape[1]:
        norms, alignment, up, across = norms.T, alignment.T, across, up
    shape = " × ".join(map(str, concept.direction.shape[:3]))
    caption = f"{shape} tokens, {concept.width} channels; largest norm {float(norms.max()):.3g}"
    height = min(max(_MAP_WIDTH * norms.shape[0] / norms.shape[1], 0.8), _MAP_WIDTH)
    maps = (
        (norms, "Norm over channels", sequential(), Normalize(0.0, float(norms.max()) or 1.0)),
        (alignment, "Cosine with the mean over tokens", diverging(), Normalize(-1.0, 1.0)),
    )
    with style():
        canvas = Canvas(_TOP + height + 0.45)
        for i, (values, label, colours, scale) in enumerate(maps):
            left = 0.35 + i * (_MAP_WIDTH + 1.2)
            axes = canvas.panel(left, _TOP + 0.05, _MAP_WIDTH, height)
            image = draw_map(axes, torch.nan_to_num(values).numpy(), colours, scale)
            axes.set_title(label)
            axes.set_xlabel(f"{across} →", fontsize=9, loc="left")
            axes.set_ylabel(f"{up} →", fontsize=9, loc="bottom")
            canvas.colour_bar(image, WIDTH - left - _MAP_WIDTH, _TOP + 0.05, height)
        return canvas.save(path, f"Concept {name} at {concept.site}", caption)
