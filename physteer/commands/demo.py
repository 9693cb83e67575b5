"""``physteer demo``: the main job, from simulation to report, with the model that ships with physteer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from physteer.commands.parser import Parser

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(args: Sequence[str]) -> int:
    """Simulate shear flow, measure a vortex concept, steer held-out flows along it, and report."""
    parser = Parser(
        prog="physteer demo",
        description="Simulate shear flow in The Well's format, capture activations of a small Walrus, build a concept "
        "(flows that roll up minus flows that do not), steer held-out flows along it, and report. Minutes on 2 cores.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the run (default: runs/demo)")
    out = parser.parse_args(args).out
    began = time.perf_counter()

    _stage(1, f"simulating 60 shear flows → {out / 'data'}")
    from physteer.commands import data

    settings = "--reynolds 250 500 1000 2000 4000 --schmidt 0.5 2 --initial-conditions 4 --valid 0 --test 2 --frames 26"
    data.main(["shear-flow", str(out / "data"), *settings.split(), "--seed", "1"])

    from physteer.trainer_cli import run

    where = ["--data.init_args.path", str(out / "data"), "--trainer.default_root_dir"]
    _stage(2, f"capturing activations, vortex − laminar → {out / 'capture'}")
    run(["predict", "--config", str(CONFIGS / "demo/capture.yaml"), *where, str(out / "capture")])

    _stage(3, f"steering held-out flows and reporting → {out / 'steer'}")
    run(["predict", "--config", str(CONFIGS / "demo/steer.yaml"), *where, str(out / "steer")])
    print(f"done in {time.perf_counter() - began:.0f} s; open {(out / 'steer' / 'report.html').resolve()}")
    return 0


def _stage(number: int, what: str) -> None:
    print(f"[{number}/3] {what}", flush=True)
