"""`physteer convert IN OUT`: any Walrus checkpoint, published concept or published activations, to safetensors."""

from pathlib import PurePath

from physteer.commands.parser import Parser
from physteer.errors import PhysteerError

CONCEPTS = (".pkl", ".pickle", ".p")


def main(args: list[str]) -> int:
    """Convert a checkpoint or a concept, and print what was written."""
    parser = Parser(
        prog="physteer convert",
        description="Convert to safetensors: a Walrus checkpoint, with residual gains folded in, configuration and "
        "provenance in the header; a published concept, a pickle of one tensor [1, 1, d, h, w, δ], to a concept file; "
        "or published activations, a pickle of a dictionary module path → tensor [T, B, d, h, w, δ], to one tensor "
        "[B, T, h, w, δ, d] per module. Nothing in the input is executed.",
    )
    parser.add_argument(
        "source",
        metavar="IN",
        help="checkpoint: .pt, .pth or .safetensors, a folder, or hf://owner/repo[@rev][/file]; "
        f"concept or activations: {', '.join(CONCEPTS)}",
    )
    parser.add_argument("target", metavar="OUT", help="the .safetensors file to write")
    parser.add_argument(
        "--extended-config", metavar="YAML", help="the checkpoint's extended_config.yaml (default: beside IN)"
    )
    parser.add_argument(
        "--lora",
        metavar="FOLDER",
        help="a LoRA adapter to add to the checkpoint's weights: adapter_config.json and adapter_model.safetensors",
    )
    parser.add_argument(
        "--site",
        metavar="SITE",
        help="where the concept was measured, or which entry of a pickled dictionary (default: its only one; "
        "blocks.39, the published choice, for a pickle of one tensor)",
    )
    options = parser.parse_args(args)
    if PurePath(options.source).suffix.lower() in CONCEPTS:
        for name, value in (("--extended-config", options.extended_config), ("--lora", options.lora)):
            if value is not None:
                raise PhysteerError(f"{name} goes with a checkpoint; {options.source} is a concept")
        return _concept(options.source, options.target, options.site)
    if options.site is not None:
        raise PhysteerError(f"--site goes with a concept ({', '.join(CONCEPTS)}); {options.source} is a checkpoint")
    return _checkpoint(options.source, options.target, options.extended_config, options.lora)


def _checkpoint(source: str, target: str, extended_config: str | None, lora: str | None) -> int:
    from physteer.walrus.checkpoints import load, model_id, save  # imports torch: not needed for --help

    walrus, metadata = load(source, extended_config), {"source": source}
    if lora is not None:
        from physteer.forecast.walrus_module import add_adapter

        add_adapter(walrus, lora)
        metadata["lora"] = lora
    save(walrus, target, metadata)
    size = sum(parameter.numel() for parameter in walrus.parameters())
    config = walrus.config
    print(
        f"{target}: {config.variant} Walrus, {size:,} parameters, {config.n_blocks} blocks of width "
        f"{config.hidden_dim}, {config.n_states} states, id {model_id(walrus)}"
    )
    return 0


def _concept(source: str, target: str, site: str | None) -> int:
    from physteer.concepts import Concept, read_published
    from physteer.tensor_files import write_tensors

    if PurePath(target).suffix != ".safetensors":
        raise PhysteerError(f"concepts are written as .safetensors; found {target}")
    concept = read_published(source, site)
    if not isinstance(concept, Concept):
        about = {"layout": "[B, T, h, w, δ, d]", "data": PurePath(source).name}
        write_tensors(target, "activations", 1, concept, about)
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in concept.items())
        print(f"{target}: activations [B, T, h, w, δ, d]: {shapes}")
        return 0
    concept.save(target)
    grid = " × ".join(map(str, concept.direction.shape[:3]))
    print(f"{target}: concept of width {concept.width} on {grid} tokens, measured at {concept.site}")
    return 0
