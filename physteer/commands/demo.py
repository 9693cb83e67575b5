"""``physteer demo``: the main job, from simulation to report, with the model that ships with physteer."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from physteer.commands.parser import Parser, whole
from physteer.run_folder import locked

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
EXTRA_FRAMES = 14
"""Stored frames besides the predicted ones: five of context, and more for later windows of the demo's other runs."""


def main(args: Sequence[str]) -> int:
    """Simulate shear flow, measure a vortex concept, steer held-out flows along it, and report."""
    parser = Parser(
        prog="physteer demo",
        description="Simulate shear flow in The Well's format, capture activations of a small Walrus, build a concept "
        "(flows that roll up minus flows that do not), steer held-out flows along it, and report. Minutes on 2 cores.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the run (default: %(default)s)")
    parser.add_argument("--steps", type=whole, default=12, metavar="N", help="frames to predict (default: %(default)s)")
    parser.add_argument(
        "--initial-conditions",
        type=whole,
        default=4,
        metavar="N",
        help="that the concept is made from (default: %(default)s)",
    )
    parser.add_argument(
        "--held-out",
        type=whole,
        default=4,
        metavar="N",
        help="other initial conditions, which are steered (default: %(default)s)",
    )
    options = parser.parse_args(args)
    with locked(options.out, "demo"):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    out: Path = options.out
    data, capture, steer = out / "data", out / "capture", out / "steer"
    began = time.perf_counter()

    n_flows = 5 * 2 * (options.initial_conditions + options.held_out + 2)
    _stage(1, f"simulating {n_flows} shear flows → {data}")
    from physteer.commands.data import main as simulate

    sizes = ["--initial-conditions", str(options.initial_conditions), "--frames", str(options.steps + EXTRA_FRAMES)]
    crossed = ["--reynolds", "250", "500", "1000", "2000", "4000", "--schmidt", "0.5", "2"]
    splits = ["--valid", "2", "--test", str(options.held_out), "--seed", "1"]
    simulate(["shear-flow", str(data), *crossed, *splits, *sizes])

    from physteer.commands.trainer_cli import run  # imports torch and Lightning

    _stage(2, f"capturing activations, vortex − laminar → {capture}")
    run([*_predict("capture"), "--data.path", str(data), "--trainer.default_root_dir", str(capture)])

    _stage(3, f"steering held-out flows and reporting → {steer}")
    data_settings = ["--data.path", str(data), "--data.rollout_steps", str(options.steps)]
    callbacks = ["--trainer.callbacks", _steer_callbacks(out)]
    run([*_predict("steer"), *data_settings, *callbacks, "--trainer.default_root_dir", str(steer)])
    print(f"done in {time.perf_counter() - began:.0f} s; open {(steer / 'report.html').resolve()}")
    return 0


def _predict(name: str) -> list[str]:
    return ["predict", "--config", str(CONFIGS / f"demo/{name}.yaml")]


def _steer_callbacks(out: Path) -> str:
    """Return the callbacks of ``configs/demo/steer.yaml`` as JSON, with the files of this run."""
    import yaml

    settings = yaml.safe_load((CONFIGS / "demo/steer.yaml").read_text())
    return json.dumps(settings["trainer"]["callbacks"]).replace('"runs/demo/', json.dumps(f"{out}/")[:-1])


def _stage(number: int, text: str) -> None:
    print(f"[{number}/3] {text}", flush=True)
