"""``physteer sites``: where a model can be captured and edited."""

from __future__ import annotations

from collections.abc import Sequence

from physteer.commands.parser import Parser, whole


def main(args: Sequence[str]) -> int:
    """Print every site of the model in a configuration, with its shape and memory for one window.

    Raises:
        PhysteerError: the configuration is wrong, or the model does not take such fields.
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
    given, overrides = parser.parse_known_args(args)

    import torch

    from physteer.interventions import site_names
    from physteer.trainer_cli import run
    from physteer.walrus import output_shapes

    with torch.device("meta"):  # a new model's weights take no memory
        cli = run(["predict", "--config", given.config, *overrides], only_build=True)
    network, data = cli.model.network, cli.datamodule
    if given.grid is None:
        origin = data.predict_dataloader().dataset.origin
        data.teardown("predict")
        shape, boundaries, names = origin.grid.shape, origin.grid.boundaries, origin.channels.names
    else:
        shape, boundaries, names = tuple(given.grid), ((2, 2),) * 3, network.config.fields[-1:]
    sites, jitter = site_names(network), cli.model.jitter_seed is not None
    shapes = output_shapes(network.config, sites, data.n_steps_input, names, shape, boundaries, jitter)

    print(f"{'site':<36}{'shape [B, T, h, w, δ, …]':<34}{'MB per window, float32':>22}")
    for site in sites:
        print(f"{site:<36}{list(shapes[site])!s:<34}{shapes[site].numel() * 4 / 1e6:>22.2f}")
    print(f"{len(sites)} sites; write site.heads[i] for one attention head")
    return 0
