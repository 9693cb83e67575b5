"""Compare the network with the golden numbers of the reference.

    PYTHONPATH=tests python -m helpers.golden tests/golden

Prints each case's largest relative error, max |a − b| / max |b|, for the output y and the blocks; exits 1 if one is
above 2e-5 or a case is missing. The folder's README says how weights and inputs are made.
"""

import argparse
import json
import math
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from physteer.concepts import DifferenceOfMeans
from physteer.forecast.rollout import rollout, sample_scale
from physteer.interventions import Edit, Steer, attached, captured
from physteer.walrus import PREVIEW_FIELDS, RELEASED_FIELDS, Shifts, WalrusConfig, roll_tokens
from physteer.walrus.positions import rotary_frequencies
from physteer.walrus.published import from_published, optional_shapes, published_shapes

TOLERANCE = 2e-5


@dataclass(frozen=True)
class Comparison:
    """One tensor of one case."""

    case: str
    tensor: str
    error: float

    @property
    def ok(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return self.error <= TOLERANCE


def recipe(key: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers seeded by a name."""
    seed = zlib.crc32(key.encode())
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def recipe_state(config: WalrusConfig, prefix: str = "") -> dict[str, Tensor]:
    """A published state dictionary by recipe."""
    state = {}
    for key, shape in (published_shapes(config) | optional_shapes(config)).items():
        module, _, parameter = key.rpartition(".")
        r = recipe(prefix + key, shape)
        if key == "encoder_dummy":
            state[key] = torch.ones(shape)
        elif key.endswith("rotary_emb.freqs"):
            state[key] = rotary_frequencies(config.head_dim)
        elif "norm" in module.rpartition(".")[2] and parameter == "weight":
            state[key] = 1 + 0.1 * r
        else:
            state[key] = r / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1 * r
    return state


def recipe_config(variant: str) -> WalrusConfig:
    """The size of the golden models."""
    fields = RELEASED_FIELDS if variant == "released" else PREVIEW_FIELDS
    sizes = {"hidden_dim": 64, "intermediate_dim": 16, "projection_dim": 8, "n_blocks": 2, "n_heads": 4}
    return WalrusConfig(variant=variant, fields=fields[:12], **sizes)  # type: ignore[arg-type]


def shifts_of(case: dict[str, Any], config: WalrusConfig) -> Shifts | None:
    """The shifts the reference drew, or none without jitter."""
    if not case["jitter"]:
        return None
    batch = case["shape"][1]
    pixels = torch.zeros(batch, 3, dtype=torch.long)
    pixels[:, case["pixel_rolls"]["spatial_dims"]] = torch.tensor(case["pixel_rolls"]["shifts"])
    tokens = torch.zeros(batch, config.n_blocks, 3, dtype=torch.long)
    if case.get("token_rolls"):
        axes = [i for i, codes in enumerate(case["boundary_conditions"]) if codes[0] == 2]
        tokens[..., axes] = torch.tensor(case["token_rolls"]).view(config.n_blocks, len(axes))
    return Shifts(pixels, tokens)


def relative_error(found: Tensor, truth: Tensor) -> float:
    """max |a − b| / max |b|; infinite where the shapes differ."""
    if found.shape != truth.shape:
        return math.inf
    return float((found - truth).abs().max() / truth.abs().max())


def thin(x: Tensor, strides: tuple[int, int, int]) -> Tensor:
    """Every k-th cell of the last three axes, as the golden files keep them."""
    h, w, d = (s if n > 1 else 1 for s, n in zip(strides, x.shape[-3:], strict=True))
    return x[..., ::h, ::w, ::d]


def run_network(case: dict[str, Any]) -> dict[str, Tensor]:
    """One forward pass, steered if the case has a concept.

    Returns y [T, B, C, H, W, D] and the blocks [T, B, d, h, w, δ] in the reference's rolled frame; the steered block is
    seen before its edit.
    """
    config = recipe_config(case["variant"])
    walrus = from_published(recipe_state(config, case["weight_prefix"]), config)
    x = recipe(case["x_key"], tuple(case["shape"])).transpose(0, 1)
    given = x, case["labels"], case["boundary_conditions"], shifts_of(case, config)
    edits = [steering(case)] if "concept_key" in case else []
    with captured(walrus, [f"blocks.{i}" for i in range(config.n_blocks)]) as blocks, attached(walrus, edits):
        y = walrus(*given)
    _, context = walrus.encode(*given)
    found = {"y": thin(y.transpose(0, 1), (case["y_stride"],) * 3)}
    for i, h in enumerate(blocks.values()):
        raw = roll_tokens(h, context, i).permute(1, 0, 5, 2, 3, 4)
        found["block_shape"] = torch.tensor(raw.shape)
        found[f"block{i}"] = thin(raw, (4, 4, 4))
    return found


def steering(case: dict[str, Any]) -> Edit:
    """The edit of a steering case; its concept [1, 1, d, h, w, δ] is made by recipe."""
    concept = recipe(case["concept_key"], tuple(case["concept_shape"]))[0, 0].permute(1, 2, 3, 0)
    mode = {"interpol": "interpolate"}.get(case["mode"], case["mode"])
    return Edit(case["site"], Steer(concept, case["sign"] * case["alpha"], mode))


def run_rollout(case: dict[str, Any]) -> dict[str, Tensor]:
    """Autoregressive steps: predictions [steps, B, C, H, W, D] in physical units."""
    config = recipe_config(case["variant"])
    walrus = from_published(recipe_state(config, case["weight_prefix"]), config)
    mask, scale = (torch.tensor(case[key]).view(-1, 1, 1, 1) for key in ("channel_mask", "channel_scale"))
    window = (recipe(case["x_key"], tuple(case["shape"])) * mask * scale).transpose(0, 1)

    def predict(window: Tensor, step: int) -> Tensor:
        scale = sample_scale(window, config.eps)
        y = walrus(window / scale.fields, case["labels"], case["boundary_conditions"], last_frame_only=True)
        return (window[:, -1:] + y * scale.differences) * mask

    frames = torch.cat(list(rollout(predict, window, case["steps"])), 1).transpose(0, 1)
    return {"y": thin(frames, (*case["y_stride"], 1))}


TRANSFORMS = {"a*(1+i)+i": lambda a, i: a * (1 + i) + i, "a*2-1": lambda a, i: a * 2 - 1}


def run_concept(case: dict[str, Any]) -> dict[str, Tensor]:
    """The difference of means of some activations [T, B, d, h, w, δ] made by recipe."""
    fitter = DifferenceOfMeans()
    for label in fitter.classes:
        transform = TRANSFORMS[case[f"{label}_transform"]]
        for i, key in enumerate(case[f"{label}_keys"]):
            activation = transform(recipe(key, tuple(case["shape"])), i)
            fitter.update(label, activation.permute(1, 0, 3, 4, 5, 2))
    return {"delta": fitter.fit(site="blocks.0").direction.permute(3, 0, 1, 2)[None, None]}


def compare(folder: Path) -> Iterator[Comparison]:
    """Run every case of a folder; a case without a file counts as an infinite error."""
    for name, case in json.loads((folder / "index.json").read_text()).items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            yield Comparison(name, "missing", math.inf)
            continue
        run = run_concept if "feature_keys" in case else run_rollout if "steps" in case else run_network
        found = run(case)
        for tensor, truth in load_file(path).items():
            error = relative_error(found[tensor], truth) if tensor in found else math.inf
            yield Comparison(name, tensor, error)


@torch.no_grad()
def main(args: list[str]) -> int:
    """Print the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds index.json and one safetensors file per case")
    rows = list(compare(parser.parse_args(args).folder))
    for row in rows:
        print(f"{row.case:32} {row.tensor:12} {row.error:9.2e} {'' if row.ok else '  ABOVE 2e-5'}")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
