"""Edits and captures of other people's models, beside bare hooks, nnsight and pyvene: python benchmarks/any_model.py.

Needs the `bench` extra (transformers, neuraloperator; nnsight and pyvene are left out where they are missing). Two
models with random weights: a GPT-2 of 12 × 256 × 8 (64 tokens) and a Fourier neural operator of 4 layers × 32 channels
(64 × 64 cells, 16 × 16 modes). In one forward, without gradients, at every layer:

    steer      the output moves along a direction by a share of its own norm
    swap       8 directions of the output come from another run
    head       a head is set to zero before its projection (GPT-2)
    capture    the output is kept, a copy

    bare       torch's own hooks with the same arithmetic, registered and removed in every forward, as all do
    physteer   `attached` and `captured`

The contestants take turns, so that a busy machine slows all of them; medians are compared, and outputs before. A ratio
is the median, over rounds, of a contestant's time and the bare hooks' time of the same round. `extra` is what physteer
takes at a layer more than a bare hook: Python, most of it, which does not grow with the model. It shows where a layer
is small, as that of the GPT-2 with 64 tokens is.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from neuralop.models import FNO
from torch import Tensor, nn
from torch.linalg import vector_norm
from transformers import GPT2Config, GPT2LMHeadModel

from physteer.interventions import Edit, Interchange, Span, Steer, Zero, attached, captured

try:
    import nnsight
except ModuleNotFoundError:
    nnsight = None
try:
    import pyvene
except ModuleNotFoundError:
    pyvene = None

RANK, STRENGTH, GOAL = 8, 0.1, 1.02
Work = Callable[[], list[Tensor]]
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """What is done at every layer of a model, in one forward."""

    name: str
    model: nn.Module
    inputs: dict[str, Tensor]
    read: Callable[[Any], Tensor]
    """From what the model returns to a tensor."""
    modules: Sequence[str]
    changes: Sequence[Change] = ()
    """Of each module's output, by plain arithmetic; none where it is captured."""
    edits: Sequence[Edit] = ()
    """The same edits."""
    of_input: bool = False

    def run(self) -> Tensor:
        """Return the model's output."""
        return self.read(self.model(**self.inputs))


def bare(task: Task) -> list[Tensor]:
    """Hooks of torch."""
    kept: list[Tensor] = []
    handles = []
    for i, name in enumerate(task.modules):
        module = task.model.get_submodule(name)
        if not task.changes:
            handles.append(module.register_forward_hook(lambda m, a, y: kept.append(y.detach().clone())))
        elif task.of_input:
            handles.append(module.register_forward_pre_hook(lambda m, a, f=task.changes[i]: (f(a[0]), *a[1:])))
        else:
            handles.append(module.register_forward_hook(lambda m, a, y, f=task.changes[i]: f(y)))
    try:
        return [task.run(), *kept]
    finally:
        for handle in handles:
            handle.remove()


def physteer(task: Task) -> list[Tensor]:
    """The package's own."""
    if task.changes:
        with attached(task.model, task.edits):
            return [task.run()]
    with captured(task.model, task.modules) as kept:
        y = task.run()
    return [y, *kept.values()]


def with_nnsight(task: Task) -> Work:
    """Traces of nnsight."""
    traced = nnsight.NNsight(task.model)
    places = [traced.get(name) for name in task.modules]

    def work() -> list[Tensor]:
        with torch.no_grad(), traced.trace(**task.inputs):
            kept = nnsight.save([])
            for i, place in enumerate(places):
                if not task.changes:
                    kept.append(place.output.detach().clone())
                elif task.of_input:
                    place.input = task.changes[i](place.input)
                else:
                    place.output = task.changes[i](place.output)
            y = traced.output.save()
        return [task.read(y), *kept]

    return work


def with_pyvene(task: Task) -> Work:
    """Interventions of pyvene with the same arithmetic."""

    class Changed(pyvene.ConstantSourceIntervention, pyvene.LocalistRepresentationIntervention):
        def __init__(self, change: Change, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.change = change

        def forward(self, base: Tensor, source: Any = None, subspaces: Any = None, **kwargs: Any) -> Tensor:
            return self.change(base)

    kept: list[Tensor] = []

    def keep(h: Tensor) -> Tensor:
        kept.append(h.detach().clone())
        return h

    changes = task.changes or [keep] * len(task.modules)
    side = "input" if task.of_input else "output"
    components = [
        {"component": f"{pyvene_name(name)}.{side}", "intervention": Changed(change, keep_last_dim=True)}
        for name, change in zip(task.modules, changes, strict=True)
    ]
    if not hasattr(task.model, "config"):
        task.model.config = SimpleNamespace()  # pyvene asks for one
    peer = pyvene.IntervenableModel(pyvene.IntervenableConfig(components), task.model)

    def work() -> list[Tensor]:
        kept.clear()
        _, y = peer(task.inputs)
        return [task.read(y), *kept]

    return work


def pyvene_name(module: str) -> str:
    """h.3.attn → h[3].attn."""
    parts = [f"[{part}]" if part.isdigit() else f".{part}" for part in module.split(".")]
    return "".join(parts).removeprefix(".")


def tasks(model: nn.Module, inputs: dict[str, Tensor], read: Any, modules: list[str], layout: str) -> list[Task]:
    """Return steering, swaps and captures of some outputs; channels lie last, or first where the layout says so."""
    make = partial(Task, model=model, inputs=inputs, read=read, modules=modules)
    channels_first = layout.startswith("b c")
    with captured(model, [f"{name} as {layout}" for name in modules]) as seen:
        model(**{name: value.flip(-1) for name, value in inputs.items()})
    width = next(iter(seen.values())).shape[-1]
    directions = [torch.randn(width) for _ in modules]
    bases = [torch.linalg.qr(torch.randn(width, RANK))[0] for _ in modules]

    def steered(unit: Tensor, h: Tensor) -> Tensor:
        if channels_first:
            cells = h[0, 0].numel()
            norm = vector_norm(h, dim=(1, 2, 3), keepdim=True)
            return torch.addcmul(h, STRENGTH / cells**0.5 * norm, unit[:, None, None])
        return torch.addcmul(h, STRENGTH * vector_norm(h, dim=-1, keepdim=True), unit)

    def swapped(basis: Tensor, source: Tensor, h: Tensor) -> Tensor:
        if channels_first:
            h, source = h.movedim(1, -1), source[:, 0]
            return (h + (source - h) @ basis @ basis.mT).movedim(-1, 1).contiguous()
        return h + (source - h) @ basis @ basis.mT

    sites = [f"{name} as {layout}" for name in modules]
    sources = list(seen.values())
    return [
        make(
            "steer",
            changes=[partial(steered, direction / direction.norm()) for direction in directions],
            edits=[Edit(site, Steer(v, STRENGTH)) for site, v in zip(sites, directions, strict=True)],
        ),
        make(
            "swap",
            changes=[partial(swapped, basis, source) for basis, source in zip(bases, sources, strict=True)],
            edits=[
                Edit(site, Interchange(source), Span(basis))
                for site, basis, source in zip(sites, bases, sources, strict=True)
            ],
        ),
        make("capture"),
    ]


def gpt2(batch: int) -> list[Task]:
    """A GPT-2 as in benchmarks/das.py."""
    config = GPT2Config(
        n_layer=12, n_embd=256, n_head=8, n_positions=64, vocab_size=1000, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    inputs = {"input_ids": torch.randint(config.vocab_size, (batch, 64))}
    found = tasks(model, inputs, lambda y: y.logits, [f"transformer.h.{i}" for i in range(12)], "b t d")

    def zeroed(h: Tensor) -> Tensor:
        h = h.clone()
        h[..., 32:64] = 0
        return h

    modules = [f"transformer.h.{i}.attn.c_proj" for i in range(12)]
    edits = [Edit(f"{name}.input[1] as b t (n=8 hd)", Zero()) for name in modules]
    return [*found, Task("head", model, inputs, lambda y: y.logits, modules, [zeroed] * 12, edits, of_input=True)]


def fno(batch: int) -> list[Task]:
    """A Fourier neural operator with channels first."""
    model = FNO(n_modes=(16, 16), in_channels=3, out_channels=3, hidden_channels=32, n_layers=4)
    model.eval().requires_grad_(False)
    modules = [f"fno_blocks.convs.{i}" for i in range(4)]
    return tasks(model, {"x": torch.randn(batch, 3, 64, 64)}, lambda y: y, modules, "b c h w")


def timed(works: dict[str, Work], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return seconds of every round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 2):
        order = list(works.items())
        for name, work in order if turn % 2 else order[::-1]:
            start = clock()
            work()
            if turn > 1:
                times[name].append(clock() - start)
    return times


@torch.no_grad()
def compare(label: str, task: Task, rounds: int, clock: Callable[[], float]) -> float:
    """Print a line, and return physteer's ratio."""
    works: dict[str, Work] = {"bare": partial(bare, task), "physteer": partial(physteer, task)}
    if nnsight is not None:
        works["nnsight"] = with_nnsight(task)
    if pyvene is not None:
        works["pyvene"] = with_pyvene(task)
    wanted = works["bare"]()
    assert not task.changes or (wanted[0] - task.run()).abs().max() > 1e-4
    for name, work in works.items():
        for found, truth in zip(work(), wanted, strict=True):
            torch.testing.assert_close(
                found, truth, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )
    times = timed(works, rounds, clock)
    ratios = {
        name: statistics.median(a / b for a, b in zip(own, times["bare"], strict=True)) for name, own in times.items()
    }
    extra = statistics.median(a - b for a, b in zip(times["physteer"], times["bare"], strict=True))
    line = f"{label + ', ' + task.name:28} {1e3 * statistics.median(times['bare']):8.2f}"
    for name in ("physteer", "nnsight", "pyvene"):
        if name in works:
            line += f" {1e3 * statistics.median(times[name]):9.2f} {ratios[name]:7.3f}"
        if name == "physteer":
            line += f" {1e6 * extra / len(task.modules):8.0f}"
    print(line, flush=True)
    return ratios["physteer"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="forwards of every contestant (default: 40)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument(
        "--busy", action="store_true", help="for a machine with other work: one thread, processor time instead of wall"
    )
    options = parser.parse_args()
    clock = time.process_time if options.busy else time.perf_counter
    torch.set_num_threads(1 if options.busy else options.threads)
    torch.manual_seed(0)
    peers = {"nnsight": nnsight, "pyvene": pyvene}
    for name, module in peers.items():
        if module is None:
            print(f"{name} is not installed and left out: pip install -e '.[bench]'")
    print(f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads, {clock.__name__}")
    names = ["physteer", *(name for name, module in peers.items() if module is not None)]
    head = " ".join(f"{name:>9} {'ratio':>7}" + f" {'extra':>8}" * (name == "physteer") for name in names)
    print(f"{'ms, ratios; extra in µs':28} {'bare':>8} {head}")
    worst = 0.0
    for label, made in (("GPT-2, 16 x 64", gpt2(16)), ("GPT-2, 1 x 64", gpt2(1)), ("FNO, 4 x 64 x 64", fno(4))):
        worst = max(worst, *(compare(label, task, options.rounds, clock) for task in made))
    print(f"largest ratio of physteer: {worst:.3f}; the goal is {GOAL:.2f} at most")


if __name__ == "__main__":
    main()
