"""``physteer sites``: lists the sites of a model, where activations can be captured and edited."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from physteer.commands.parser import Parser, whole
from physteer.errors import PhysteerError

_EXAMPLES = """examples:
  physteer sites --config configs/experiments/steer.yaml
  physteer sites --model.checkpoint physteer://walrus-demo --data.path datasets/shear_flow
  physteer sites --model.checkpoint walrus.safetensors --grid 256 512 1
  physteer sites --model my_package.MyModule --model.checkpoint my.pt --data.path datasets/shear_flow --json

Settings are those of physteer predict and may follow --config, or stand without it; physteer predict --help lists them.
"""
_HINT = (
    "one can also write SITE[2] for a head where the layout has n, SITE.input for what goes into a module, "
    "'SITE as b c h w' to give a layout, and the path of any other module"
)


@dataclass(frozen=True)
class SiteRow:
    """A site and its activation for one window."""

    site: str
    """Path of the module."""
    layout: str | None
    """Its axes; None where the model does not declare them."""
    shape: list[int] | None
    """None where the model's forward does not call the module."""

    @property
    def megabytes(self) -> float:
        """Memory in float32."""
        size = 4e-6
        for length in self.shape or [0]:
            size *= length
        return size


def main(args: Sequence[str]) -> int:
    """Print every site of a model, with its layout, its shape and its memory for one window.

    Raises:
        PhysteerError: A setting is wrong, or the model does not take such fields.
    """
    parser = Parser(
        prog="physteer sites",
        usage="physteer sites [--config CONFIG] [--grid H W D] [--json] [--model … --data … and other settings]",
        description="List where a model can be captured and edited: name, layout, shape and memory of one window. "
        "Nothing is computed, and the weights of a Walrus are not read, so it works at full size on any machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", "-c", help="the configuration of an experiment")
    parser.add_argument(
        "--grid",
        nargs=3,
        type=whole,
        metavar=("H", "W", "D"),
        help="cells of the fields, all periodic; those of the data if left out. With it no data are needed",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON list instead: site, layout (null: unknown), shape (null: never called), megabytes",
    )
    options, settings = parser.parse_known_args(args)
    if options.config is None and not settings:
        raise PhysteerError(
            "name a model: --config CONFIG, or --model … (or --model.checkpoint …) with --data.path … or --grid H W D; "
            "examples are in physteer sites --help"
        )
    if options.config is not None:
        settings = ["--config", options.config, *settings]
    elif options.grid is not None and not any(word.startswith("--data") for word in settings):
        settings = [*settings, "--data.path", "none"]  # a setting without a default, and nothing is read there
    rows = _rows(settings, options.grid)
    if options.json:
        entries = (asdict(row) | {"megabytes": round(row.megabytes, 6)} for row in rows)
        print("[", ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries), "]", sep="\n")
        return 0

    from physteer.reports.text_table import text_table

    shown = [
        (row.site, row.layout or "unknown", str(row.shape), f"{row.megabytes:.2f}")
        if row.shape is not None
        else (row.site, row.layout or "unknown", "never called", "-")
        for row in rows
    ]
    print(*text_table(["site", "layout", "shape", "MB per window, float32"], shown, "<<<>"), sep="\n")
    blocks = [row for row in rows if re.fullmatch(r"blocks\.\d+", row.site)]
    together = f"; blocks.* together {sum(row.megabytes for row in blocks):.2f} MB per window" if blocks else ""
    print(f"{len(rows)} sites, together {sum(row.megabytes for row in rows):.2f} MB per window{together}")
    print(_HINT)
    return 0


def _rows(settings: Sequence[str], cells: Sequence[int] | None) -> list[SiteRow]:
    """Build the model and the data of some settings of ``predict``, the weights on no device, and ask for the sites."""
    import torch

    from physteer.callbacks.base import as_data_module, forecast_module
    from physteer.commands.trainer_cli import run
    from physteer.data.batch import Channels, Grid, SplitMetadata
    from physteer.data.fields import ChannelSource
    from physteer.data.module import WellDataModule
    from physteer.interventions import Site, site_names, with_layout

    with torch.device("meta"):  # weights take no memory, and a Walrus leaves stored ones in their file
        cli = run(["predict", *settings], only_build=True)
    forecaster = forecast_module(cli.model, "physteer sites").forecaster
    data = as_data_module(cli.datamodule, WellDataModule, "physteer sites")
    if cells is None:
        data.rollout_steps = 1  # shapes are those of the context: data that are too short for a rollout have them too
        metadata = data.predict_dataset().metadata
        data.teardown("predict")
    else:
        field = forecaster.fields[-1]  # which one makes no difference to the shapes
        h, w, d = (torch.arange(float(n), device="cpu") for n in cells)
        metadata = SplitMetadata(
            "", "", Channels((ChannelSource(field, field),)), Grid((h, w, d), ((2, 2), (2, 2), (2, 2)), ())
        )
    names = site_names(forecaster.network)
    shapes = forecaster.output_shapes(names, metadata, data.n_steps_input)
    return [
        SiteRow(
            name,
            forecaster.layout(Site(name)) or with_layout(forecaster.network, Site(name)).layout,
            list(shapes[name]) if name in shapes else None,
        )
        for name in names
    ]
