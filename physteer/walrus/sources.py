"""Where weights come from: a file, a folder, the Hugging Face hub, or this package."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import physteer
from physteer.errors import PhysteerError, did_you_mean
from physteer.untrusted.hub import Repository
from physteer.walrus.extended_config import FILE_NAME

SUFFIXES = (".safetensors", ".pt", ".pth")
KNOWN_NAMES = ("walrus.safetensors", "weights.safetensors", "walrus.pt", "coalesced.pth")
"""Published and our own usual names: taken first where a folder holds several weight files."""


@dataclass(frozen=True)
class Source:
    """Local files of a checkpoint."""

    weights: Path
    """A `.safetensors`, `.pt` or `.pth` file."""
    extended_config: Path | None
    """The published configuration beside it, if there is one."""


def locate(source: str | Path) -> Source:
    """Find, and download if need be, the files of a checkpoint.

    Args:
        source: A file, a folder with one, `hf://owner/repo[@revision][/file]`, or `physteer://name` for a model that
            ships with physteer.

    Raises:
        PhysteerError: There is no such file, or several and none of a usual name.
    """
    text = str(source)
    if text.startswith("hf://"):
        return _from_hub(text)
    if text.startswith("physteer://"):
        return _shipped(text)
    path = Path(source).expanduser()
    _check_not_distributed(path)
    if path.is_dir():
        path = path / _choose([child.name for child in path.iterdir() if child.is_file()], str(path))
    if not path.is_file():
        raise PhysteerError(f"checkpoint {text} does not exist")
    if path.suffix not in SUFFIXES:
        raise PhysteerError(f"checkpoint {text} is not one of {', '.join(SUFFIXES)}")
    beside = path.parent / FILE_NAME
    return Source(path, beside if beside.is_file() else None)


def _check_not_distributed(path: Path) -> None:
    """Refuse what `torch.distributed.checkpoint` wrote: its list of tensors is a pickle that may run code.

    Raises:
        PhysteerError: It is such a folder, or a file of one, or a folder of such folders.
    """
    folder = path if path.is_dir() else path.parent
    if path.name == ".metadata" or path.suffix == ".distcp" or (path.is_dir() and (path / ".metadata").is_file()):
        target = shlex.quote(f"{folder}.pt")
        raise PhysteerError(
            f"{path} is a distributed checkpoint: make it one file with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(str(folder))} {target}` and give "
            "that; the command runs code that such a folder may hold, so use it on folders that you trust"
        )
    if path.is_dir():
        parts = sorted(child.parent for child in path.glob("*/.metadata"))
        if parts and not any(child.suffix in SUFFIXES for child in path.iterdir()):
            raise PhysteerError(f"{path} holds distributed checkpoints ({parts[-1].name}): give one of them")


def _choose(names: Sequence[str], where: str) -> str:
    """Return the weight file among the names of one folder."""
    weights = sorted(name for name in names if name.endswith(SUFFIXES))
    if len(weights) == 1:
        return weights[0]
    for name in KNOWN_NAMES:
        if name in weights:
            return name
    if not weights:
        raise PhysteerError(f"{where} holds no weights ({', '.join(SUFFIXES)})")
    raise PhysteerError(f"{where} holds several weight files, name one of {', '.join(weights)}")


def _shipped(text: str) -> Source:
    folder = Path(physteer.__file__).parent / "assets"
    name = text.removeprefix("physteer://")
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.safetensors"))
        hint = did_you_mean(name, known) or f"; it ships {', '.join(known) or 'none'}"
        raise PhysteerError(f"no model {name!r} ships with physteer{hint}")
    return Source(path, None)


def _from_hub(text: str) -> Source:
    parsed = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", text)
    if parsed is None:
        raise PhysteerError(f"{text!r} is not of the form hf://owner/repo[@revision][/file]")
    repository, file = Repository(parsed[1], revision=parsed[2]), parsed[3]
    names = repository.names()
    if names is None:
        return _from_cache(text, repository, file)
    file = file or _choose([name for name in names if "/" not in name], text)
    if file not in names:
        raise PhysteerError(f"{text} does not exist; {parsed[1]} has {', '.join(names[:8])}{did_you_mean(file, names)}")
    config = _config_beside(file)
    try:
        weights = _download(repository, file)
        return Source(weights, _download(repository, config) if config in names else None)
    except Exception as error:  # a full disk, a broken connection: as many classes as versions of the hub's client
        raise PhysteerError(f"{text} cannot be downloaded: {' '.join(str(error).split())[:300]}") from None


def _from_cache(text: str, repository: Repository, file: str | None) -> Source:
    """Find the files of a repository where the hub keeps what it has downloaded, without asking it."""
    folder = repository.cached()
    if folder is not None and file is None:
        present = [child.name for child in folder.iterdir() if child.is_file() and child.name.endswith(SUFFIXES)]
        file = _choose(present, text) if present else None
    if folder is None or file is None or not (folder / file).is_file():
        raise repository.unreachable(text, *([file, _config_beside(file)] if file else []))
    beside = folder / _config_beside(file)
    return Source(folder / file, beside if beside.is_file() else None)


def _config_beside(file: str) -> str:
    return str(PurePosixPath(file).parent / FILE_NAME)


def _download(repository: Repository, file: str) -> Path:
    import huggingface_hub  # slow to import, and only needed here

    return Path(huggingface_hub.hf_hub_download(repository.name, file, revision=repository.revision))
