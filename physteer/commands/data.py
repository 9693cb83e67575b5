"""``physteer data``: make data sets in The Well's format."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from physteer.commands.parser import Parser, positive, whole, whole_or_zero
from physteer.errors import PhysteerError


def main(args: list[str]) -> int:
    """Run ``physteer data GENERATOR OUT [...]``; return the exit status.

    Raises:
        PhysteerError: a value that is not allowed, or a folder that cannot be used.
    """
    parser = Parser("physteer data", description="Make data sets in The Well's format.")
    generators = parser.add_subparsers(metavar="GENERATOR", required=True)
    _add_shear_flow(
        generators.add_parser(
            "shear-flow",
            help="2D incompressible flow with a passive tracer: shear layers that roll up",
            description=_SHEAR_FLOW,
            formatter_class=_Formatter,
        )
    )
    for name, words in _SIMPLE_FLOWS.items():
        described = f"Write {words}. {_SIMPLE_FLOW}"
        simple = generators.add_parser(name, help=words, description=described, formatter_class=_Formatter)
        _add_simple_flow(simple, name.replace("-", "_"))
    given = parser.parse_args(args)
    run: Callable[[argparse.Namespace], int] = given.run
    return run(given)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in the help, paragraphs kept."""


_SHEAR_FLOW = """\
Simulate periodic 2D shear layers with a passive tracer: Reynolds × Schmidt × initial condition, fully crossed in every
split. Viscosity is 1/Reynolds, diffusivity 1/(Reynolds·Schmidt), the box 1 × 2, the initial velocity ±½.
On 64 × 128 points layers and filaments are resolved up to Reynolds and Reynolds·Schmidt of about 3000, on 128 × 256 up
to four times that; above, ripples appear beside them. Twice the points per side take about eight times as long.
Run it again after an interruption: finished files are kept.
"""


_SIMPLE_FLOWS = {
    "taylor-green": "Taylor–Green vortices in a mean flow: exact decaying vortices, pressure and tracer",
    "advection": "blobs of tracer in a uniform flow: exact advection and diffusion",
    "diffusion": "blobs of tracer at rest: exact diffusion",
}
_SIMPLE_FLOW = """
Fields are exact values, nothing is simulated. Reynolds × Schmidt × initial condition, fully crossed in every split;
viscosity is 1/Reynolds, diffusivity 1/(Reynolds·Schmidt); fields, box and layout are those of shear-flow.
Run it again after an interruption: finished files are kept.
"""


def _add_shear_flow(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_shear_flow)
    many, grid = _add_what_all_have(parser)
    many.add_argument("--widths", type=positive, nargs="+", default=[0.05, 0.065, 0.08], help="half-widths of layers")
    many.add_argument("--shears", type=whole, nargs="+", default=[2, 4], help="numbers of layers, even")
    many.add_argument("--blobs", type=whole, nargs="+", default=[1, 2, 3], help="numbers of waves per layer")
    grid.add_argument("--substeps", type=whole, help="solver steps per frame; by default from a stability rule")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    machine.add_argument("--batch", type=whole, default=4, help="flows advanced together; more on a GPU")


def _add_simple_flow(parser: argparse.ArgumentParser, flow: str) -> None:
    parser.set_defaults(run=_simple_flow, flow=flow)
    _add_what_all_have(parser)


def _add_what_all_have(parser: argparse.ArgumentParser) -> tuple[argparse._ArgumentGroup, argparse._ArgumentGroup]:
    """Add what every generator asks for; return the groups, for more."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the data set")
    many = parser.add_argument_group("parameters and initial conditions")
    reynolds, schmidt = [100.0, 200.0, 500.0, 1000.0, 2000.0], [0.5, 1.0, 2.0]
    many.add_argument("--reynolds", type=positive, nargs="+", default=reynolds, metavar="RE", help="Reynolds numbers")
    many.add_argument("--schmidt", type=positive, nargs="+", default=schmidt, metavar="SC", help="Schmidt numbers")
    many.add_argument(
        "--initial-conditions", type=whole, default=12, metavar="N", help="initial conditions of the train split"
    )
    many.add_argument("--valid", type=whole_or_zero, default=2, metavar="N", help="the same of the valid split")
    many.add_argument("--test", type=whole_or_zero, default=2, metavar="N", help="the same of the test split")
    many.add_argument("--seed", type=whole_or_zero, default=0, help="of the initial conditions")
    grid = parser.add_argument_group("frames and grid")
    grid.add_argument("--frames", type=whole, default=40, help="frames per trajectory, the initial one included")
    grid.add_argument("--dt", type=positive, default=0.25, help="time between frames")
    grid.add_argument("--resolution", type=whole, nargs=2, default=[64, 128], metavar=("X", "Y"), help="grid points")
    return many, grid


def _shear_flow(given: argparse.Namespace) -> int:
    import torch

    from physteer.data.generate import ShearFlowSettings, generate_shear_flow

    _check_distinct(given)
    try:
        torch.zeros(1, device=given.device)
    except (RuntimeError, AssertionError) as error:
        raise PhysteerError(f"device {given.device!r} cannot be used: {str(error).splitlines()[0]}") from error
    settings = ShearFlowSettings(
        counts=_counts(given),
        frames=given.frames,
        dt=given.dt,
        resolution=tuple(given.resolution),
        seed=given.seed,
        widths=tuple(given.widths),
        shears=tuple(given.shears),
        blobs=tuple(given.blobs),
        substeps=given.substeps,
    )
    with _progress(given) as progress:
        written = generate_shear_flow(
            given.out,
            given.reynolds,
            given.schmidt,
            settings,
            device=given.device,
            batch=given.batch,
            progress=progress,
        )
    return _conclude(given, written)


def _simple_flow(given: argparse.Namespace) -> int:
    from physteer.data.crossed_files import CrossedSettings
    from physteer.data.generate_simple import generate_simple_flow

    _check_distinct(given)
    settings = CrossedSettings(_counts(given), given.frames, given.dt, tuple(given.resolution), given.seed)
    with _progress(given) as progress:
        written = generate_simple_flow(given.out, given.flow, given.reynolds, given.schmidt, settings, progress)
    return _conclude(given, written)


def _counts(given: argparse.Namespace) -> tuple[int, int, int]:
    return given.initial_conditions, given.valid, given.test


def _check_distinct(given: argparse.Namespace) -> None:
    for name in ("reynolds", "schmidt"):
        if len(set(getattr(given, name))) < len(getattr(given, name)):
            raise PhysteerError(f"--{name} names a value twice: {getattr(given, name)}")


@contextlib.contextmanager
def _progress(given: argparse.Namespace) -> Iterator[Callable[[int], object]]:
    """Say how much is to come, and show how far it is; yields what is called with the frames just stored."""
    from tqdm import tqdm

    total = sum(_counts(given)) * len(given.reynolds) * len(given.schmidt)
    size = total * given.frames * math.prod(given.resolution) * 4 * 4  # four float32 channels
    print(f"{total} trajectories of {given.frames} frames, {size / 1e9:.2g} GB: {given.out}")
    n_frames = total * given.frames
    with tqdm(total=n_frames, unit=" frames", smoothing=0.05, mininterval=0.5, disable=None) as bar:
        yield _quarters(n_frames) if bar.disable else bar.update


def _conclude(given: argparse.Namespace, written: Sequence[Path]) -> int:
    """Say what was written; return the exit status."""
    files = len(given.reynolds) * len(given.schmidt) * sum(count > 0 for count in _counts(given))
    print(f"{len(written)} files written, {files - len(written)} kept: {given.out}")
    return 0


def _quarters(total: int) -> Callable[[int], None]:
    """Return what says, at every quarter, how far it is: in a log file a bar is redrawn line after line."""
    done = 0

    def update(more: int) -> None:
        nonlocal done
        before, done = 4 * done // total, done + more
        if 4 * done // total > before:
            print(f"{done} of {total} frames", flush=True)

    return update
