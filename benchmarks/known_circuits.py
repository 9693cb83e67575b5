"""Are planted circuits found, and do the criteria discriminate? python benchmarks/known_circuits.py [--seeds 10].

Trains small transformers on two tasks (recall, running fraction), with the strict loss and without it, and looks for
the planted nodes on 2 048 fresh pairs each: the area under the ROC curve of effects (resampling, and the source inside
the principal directions, both at scale 1), the gap between planted nodes and all others, the greatest effect outside,
the share of answers kept when all nodes outside are patched together, attribution, and the circuit search.

About 20 seconds of one core per network. `--folder` keeps the weights, and takes those that are there.
"""

import argparse
from pathlib import Path

import torch

from physteer.analyses.effects import SCALES, Patch
from physteer.reports.effect_figures import draw_effect_curves
from physteer.testing.planted_effects import PlantedRecovery, planted_effects, planted_recovery
from physteer.testing.planted_tasks import TASKS
from physteer.testing.planted_training import train_planted
from physteer.testing.planted_weights import load_planted, read_planted, write_planted


def passed(found: PlantedRecovery) -> dict[str, bool]:
    """Return which goals a network meets."""
    return {
        "AUROC 1": min(found.auroc.values()) == 1,
        "gap": min(found.gap.values()) >= 0.5,
        "outside": max(found.outside.values()) <= 0.02,
        "together": found.together >= 0.98,
        "attribution": found.attribution_auroc >= 0.95,
        "circuit": found.planted,
    }


def main() -> None:
    """Print the tables, and draw the regression's curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="networks per task and loss (default: 10)")
    parser.add_argument("--folder", type=Path, help="of the weights, made where they are missing")
    parser.add_argument("--figure", type=Path, help="PNG of the effects over scales on the shipped regression network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for strict in (True, False):
        kind = "strict" if strict else "loose"
        print(f"\n{'with' if strict else 'without'} the strict loss")
        print("network          AUROC     gap  outside  together  attribution  circuit")
        goals: dict[str, int] = {}
        discriminated = 0
        for name, task in TASKS.items():
            for seed in range(options.seeds):
                path = None if options.folder is None else options.folder / f"{name}_{seed}_{kind}.safetensors"
                if path is not None and path.exists():
                    network = read_planted(path)
                else:
                    network = train_planted(task, seed, strict=strict)
                    if path is not None:
                        write_planted(path, network, task=name, seed=seed)
                found = planted_recovery(network.eval().requires_grad_(False), task, seed=seed)
                met = passed(found)
                goals = {goal: goals.get(goal, 0) + ok for goal, ok in met.items()}
                discriminated += not (met["outside"] and met["together"])
                auroc, gap, outside = min(found.auroc.values()), min(found.gap.values()), max(found.outside.values())
                circuit = "planted" if found.planted else " ".join(found.circuit) or "none"
                print(
                    f"{f'{name} {seed}':14}  {auroc:6.3f}  {gap:+.3f}   {outside:6.3f}    {found.together:6.3f}  "
                    f"     {found.attribution_auroc:6.3f}  {circuit}",
                    flush=True,
                )
        total = options.seeds * len(TASKS)
        print("; ".join(f"{goal}: {count} of {total}" for goal, count in goals.items()))
        print(f"'outside' or 'together' fails: {discriminated} of {total}")
    if options.figure:
        task = TASKS["regression"]
        patches = [Patch(v, c) for v in ("scaled_resample", "span_source", "zero") for c in SCALES]
        rows = planted_effects(load_planted("regression"), task, patches)
        known = {row.node: row.node in task.planted.values() for row in rows}
        draw_effect_curves(rows, "tolerance_model", options.figure, known)


if __name__ == "__main__":
    main()
