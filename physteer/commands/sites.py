"""``physteer sites``: lists the sites of a model, where activations can be captured and edited."""

from __future__ import annotations

from collections.abc import Sequence

from physteer.commands.parser import Parser, whole


def main(args: Sequence[str]) -> int:
    """Print every site of the model in a configuration, with its shape and memory for one window.

    Raises:
        PhysteerError: The configuration is wrong, or the model does not take such fields.
    """
    parser = Parser(
        prog="physteer sites",
        description="List where a model can be captured and edited: name, shape and memory of one window. "
        "Nothing is computed, so it works at full size on any machine. Settings after the options override the "
        "configuration, as in physteer predict.",
    )
    parser.add_argument("--config", "-c", required=True, help="the configuration of an experiment")
    parser.add_argument(
        "--grid", nargs=3, type=whole, metavar=("H", "W", "D"), help="cells; those of the data if left out"
    )
    options, overrides = parser.parse_known_args(args)

    import torch

    from physteer.callbacks.base import as_data_module, forecast_module
    from physteer.commands.trainer_cli import run
    from physteer.data.batch import Channels, Grid, SplitMetadata
    from physteer.data.fields import ChannelSource
    from physteer.data.module import WellDataModule
    from physteer.interventions import Site, site_names
    from physteer.reports.text_table import text_table

    with torch.device("meta"):  # a new model's weights take no memory
        cli = run(["predict", "--config", options.config, *overrides], only_build=True)
    forecaster = forecast_module(cli.model, "physteer sites").forecaster
    data = as_data_module(cli.datamodule, WellDataModule, "physteer sites")
    if options.grid is None:
        metadata = data.predict_dataset().metadata
        data.teardown("predict")
    else:
        field = forecaster.fields[-1]  # which one makes no difference to the shapes
        h, w, d = (torch.arange(float(cells), device="cpu") for cells in options.grid)
        metadata = SplitMetadata(
            "", "", Channels((ChannelSource(field, field),)), Grid((h, w, d), ((2, 2), (2, 2), (2, 2)), ())
        )
    sites = site_names(forecaster.network)
    shapes = forecaster.output_shapes(sites, metadata, data.n_steps_input)

    rows = [
        (
            site,
            forecaster.layout(Site(site)) or "unknown",
            str(list(shapes[site])),
            f"{shapes[site].numel() * 4 / 1e6:.2f}",
        )
        for site in sites
    ]
    print(*text_table(["site", "layout", "shape", "MB per window, float32"], rows, "<<<>"), sep="\n")
    print(f"{len(sites)} sites; write site.heads[i] for one attention head")
    return 0
