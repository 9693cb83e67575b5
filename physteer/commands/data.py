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
        PhysteerError: A value is not allowed, or the folder cannot be used.
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
    for name, summary in _SIMPLE_FLOWS.items():
        described = f"Write {summary}. {_SIMPLE_FLOW}"
        simple = generators.add_parser(name, help=summary, description=described, formatter_class=_Formatter)
        _add_simple_flow(simple, name.replace("-", "_"))
    options = parser.parse_args(args)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


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
    many, grid = _add_common_arguments(parser)
    many.add_argument("--widths", type=positive, nargs="+", default=[0.05, 0.065, 0.08], help="half-widths of layers")
    many.add_argument("--shears", type=whole, nargs="+", default=[2, 4], help="numbers of layers, even")
    many.add_argument("--blobs", type=whole, nargs="+", default=[1, 2, 3], help="numbers of waves per layer")
    grid.add_argument("--substeps", type=whole, help="solver steps per frame; by default from a stability rule")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    machine.add_argument("--batch", type=whole, default=4, help="flows advanced together; more on a GPU")


def _add_simple_flow(parser: argparse.ArgumentParser, flow: str) -> None:
    parser.set_defaults(run=_simple_flow, flow=flow)
    _add_common_arguments(parser)


def _add_common_arguments(parser: argparse.ArgumentParser) -> tuple[argparse._ArgumentGroup, argparse._ArgumentGroup]:
    """Add the arguments of every generator; return the groups, for further arguments."""
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


def _shear_flow(options: argparse.Namespace) -> int:
    import torch

    from physteer.data.generate import ShearFlowSettings, generate_shear_flow

    _check_distinct(options)
    try:
        torch.zeros(1, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise PhysteerError(f"device {options.device!r} cannot be used: {str(error).splitlines()[0]}") from error
    settings = ShearFlowSettings(
        counts=_counts(options),
        frames=options.frames,
        dt=options.dt,
        resolution=tuple(options.resolution),
        seed=options.seed,
        widths=tuple(options.widths),
        shears=tuple(options.shears),
        blobs=tuple(options.blobs),
        substeps=options.substeps,
    )
    with _progress(options) as progress:
        written = generate_shear_flow(
            options.out,
            options.reynolds,
            options.schmidt,
            settings,
            device=options.device,
            batch=options.batch,
            progress=progress,
        )
    return _conclude(options, written)


def _simple_flow(options: argparse.Namespace) -> int:
    from physteer.data.crossed_files import CrossedSettings
    from physteer.data.generate_simple import generate_simple_flow

    _check_distinct(options)
    settings = CrossedSettings(_counts(options), options.frames, options.dt, tuple(options.resolution), options.seed)
    with _progress(options) as progress:
        written = generate_simple_flow(options.out, options.flow, options.reynolds, options.schmidt, settings, progress)
    return _conclude(options, written)


def _counts(options: argparse.Namespace) -> tuple[int, int, int]:
    return options.initial_conditions, options.valid, options.test


def _check_distinct(options: argparse.Namespace) -> None:
    for name in ("reynolds", "schmidt"):
        if len(set(getattr(options, name))) < len(getattr(options, name)):
            raise PhysteerError(f"--{name} names a value twice: {getattr(options, name)}")


@contextlib.contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Callable[[int], object]]:
    """Print the size of the data set and show progress; yields a function to call with the number of stored frames."""
    from tqdm import tqdm

    total = sum(_counts(options)) * len(options.reynolds) * len(options.schmidt)
    size = total * options.frames * math.prod(options.resolution) * 4 * 4  # four float32 channels
    print(f"{total} trajectories of {options.frames} frames, {size / 1e9:.2g} GB: {options.out}")
    n_frames = total * options.frames
    with tqdm(total=n_frames, unit=" frames", smoothing=0.05, mininterval=0.5, disable=None) as bar:
        yield _quarters(n_frames) if bar.disable else bar.update


def _conclude(options: argparse.Namespace, written: Sequence[Path]) -> int:
    """Print the number of written files; return the exit status."""
    files = len(options.reynolds) * len(options.schmidt) * sum(count > 0 for count in _counts(options))
    print(f"{len(written)} files written, {files - len(written)} kept: {options.out}")
    return 0


def _quarters(total: int) -> Callable[[int], None]:
    """Return a function that prints progress at every quarter; in a log file a bar would be redrawn line after line."""
    done = 0

    def update(more: int) -> None:
        nonlocal done
        before, done = 4 * done // total, done + more
        if 4 * done // total > before:
            print(f"{done} of {total} frames", flush=True)

    return update
