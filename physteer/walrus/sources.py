"""Where weights come from: a file, a folder, the Hugging Face hub, or this package."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import physteer
from physteer.errors import PhysteerError, did_you_mean
from physteer.walrus.extended_config import FILE_NAME

SUFFIXES = (".safetensors", ".pt", ".pth")
KNOWN_NAMES = ("walrus.safetensors", "walrus.pt", "coalesced.pth")
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
    if path.is_dir():
        path = path / _choose([child.name for child in path.iterdir() if child.is_file()], str(path))
    if not path.is_file():
        raise PhysteerError(f"checkpoint {text} does not exist")
    if path.suffix not in SUFFIXES:
        raise PhysteerError(f"checkpoint {text} is not one of {', '.join(SUFFIXES)}")
    beside = path.parent / FILE_NAME
    return Source(path, beside if beside.is_file() else None)


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
    import huggingface_hub  # slow to import, and only needed here
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    parsed = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", text)
    if parsed is None:
        raise PhysteerError(f"{text!r} is not of the form hf://owner/repo[@revision][/file]")
    repo, revision, file = parsed.groups()
    try:
        names = _hub_files(repo, revision)
        file = file or _choose([name for name in names if "/" not in name], text)
        config = str(PurePosixPath(file).parent / FILE_NAME)
        weights = huggingface_hub.hf_hub_download(repo, file, revision=revision)
        beside = huggingface_hub.hf_hub_download(repo, config, revision=revision) if config in names else None
    except LocalEntryNotFoundError:
        raise PhysteerError(f"{text} is not in the local cache, and the hub cannot be reached") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise PhysteerError(f"{text} cannot be downloaded: {' '.join(str(error).split())[:300]}") from None
    return Source(Path(weights), Path(beside) if beside else None)


def _hub_files(repo: str, revision: str | None) -> list[str]:
    """Names of a repository's files: as the hub lists them, or as the local cache holds them when offline."""
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return list(huggingface_hub.HfApi().list_repo_files(repo, revision=revision))
    except (OfflineModeIsEnabled, ConnectionError):
        folder = Path(huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True))
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
