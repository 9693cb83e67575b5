"""`physteer convert IN OUT`: any Walrus checkpoint to safetensors."""

import argparse


def main(args: list[str]) -> int:
    """Convert a checkpoint and say what was written."""
    parser = argparse.ArgumentParser(
        prog="physteer convert",
        description="Convert a Walrus checkpoint to safetensors: residual gains folded in, configuration and "
        "provenance in the header. Nothing in the input is executed.",
    )
    parser.add_argument(
        "source", metavar="IN", help=".pt, .pth or .safetensors, a folder, or hf://owner/repo[@rev][/file]"
    )
    parser.add_argument("target", metavar="OUT", help="the .safetensors file to write")
    parser.add_argument(
        "--extended-config", metavar="YAML", help="the checkpoint's extended_config.yaml (default: beside IN)"
    )
    options = parser.parse_args(args)

    from physteer.walrus.checkpoints import load, model_id, save  # imports torch: not needed for --help

    walrus = load(options.source, options.extended_config)
    save(walrus, options.target, {"source": options.source})
    size = sum(parameter.numel() for parameter in walrus.parameters())
    config = walrus.config
    print(
        f"{options.target}: {config.variant} Walrus, {size:,} parameters, {config.n_blocks} blocks of width "
        f"{config.hidden_dim}, {config.n_states} states, id {model_id(walrus)}"
    )
    return 0
