"""``physteer sites``: where a model can be captured and edited."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(args: Sequence[str]) -> int:
    """Print every site of the model in a configuration, with its shape and memory for one window."""
    parser = argparse.ArgumentParser(
        prog="physteer sites",
        description="List where a model can be captured and edited: name, shape and memory of one window. "
        "Nothing is computed, so it works at full size on any machine.",
    )
    parser.add_argument("--config", "-c", required=True, help="the configuration of an experiment")
    parser.add_argument(
        "--grid", nargs=3, type=int, metavar=("H", "W", "D"), help="cells; those of the data if left out"
    )
    known, overrides = parser.parse_known_args(args)

    import torch

    from physteer.interventions import Site, observed, site_names
    from physteer.trainer_cli import run

    cli = run(["predict", "--config", known.config, *overrides], only_build=True)
    module, data = cli.model, cli.datamodule
    network = module.network.to("meta").eval()
    frames = getattr(data, "n_steps_input", network.config.n_steps_input)
    if known.grid is None:
        origin = data.predict_dataloader().dataset.origin
        data.teardown("predict")
        shape, boundaries, names = origin.grid.shape, origin.grid.boundaries, origin.channels.names
    else:
        shape, boundaries, names = tuple(known.grid), ((2, 2),) * 3, network.config.fields[-5:]

    shapes: dict[Site, torch.Size] = {}
    sites = [Site.parse(name) for name in site_names(network)]
    x = torch.empty(1, frames, len(names), *shape, device="meta")
    with torch.no_grad(), observed(network, sites, lambda site, h: shapes.__setitem__(site, h.shape)):
        network(x, network.config.labels(names), boundaries)

    print(f"{'site':<36}{'shape [B, T, h, w, δ, …]':<34}{'MB per window, float32':>22}")
    for site in sites:
        if site in shapes:
            size = shapes[site].numel() * 4 / 1e6
            print(f"{site!s:<36}{list(shapes[site])!s:<34}{size:>22.2f}")
    print(f"{len(shapes)} sites; write site.heads[i] for one attention head")
    return 0
