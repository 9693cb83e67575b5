"""The Hugging Face hub: asked once and without retries; where it cannot be reached, what its cache holds is used."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from physteer.errors import PhysteerError

_SECONDS = 5
"""How long the hub may take to answer whether it is there."""


@dataclass(frozen=True)
class Repository:
    """A repository of the hub."""

    name: str
    """``owner/name``."""
    kind: Literal["model", "dataset"] = "model"
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""

    def names(self) -> list[str] | None:
        """Return the names of its files as the hub lists them; None where the hub cannot be reached.

        Raises:
            PhysteerError: The hub says that there is no such repository or revision, or no access to it.
        """
        import huggingface_hub  # slow to import, and only needed here
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            info = huggingface_hub.HfApi().repo_info(
                self.name, repo_type=self.kind, revision=self.revision, timeout=_SECONDS
            )
            return [file.rfilename for file in getattr(info, "siblings", None) or ()]
        except HFValidationError as error:
            raise PhysteerError(f"{self.name!r} is no name of a repository: {_one_line(error)}") from None
        except HfHubHTTPError as error:
            if getattr(error.response, "status_code", 0) >= 500:
                return None
            raise PhysteerError(f"the hub refuses {self.kind} {self.name}: {_one_line(error)}") from None
        except Exception:  # no network, or offline mode: the error's class depends on the version of the hub's client
            return None

    def cached(self) -> Path | None:
        """Return the folder of the files that the local cache has; None where it has none of this revision."""
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(
                huggingface_hub.snapshot_download(
                    self.name, repo_type=self.kind, revision=self.revision, local_files_only=True
                )
            )
        except LocalEntryNotFoundError:
            return None

    def unreachable(self, address: str, *files: str) -> PhysteerError:
        """Return the error for what is neither on the hub nor in the cache, with the command that downloads it.

        Args:
            address: as the user gave it.
            files: what to download; none for everything.
        """
        words = ["hf", "download", self.name, *files]
        words += ["--repo-type", self.kind] if self.kind != "model" else []
        words += ["--revision", self.revision] if self.revision else []
        return PhysteerError(
            f"{address} is not in the local cache, and the hub cannot be reached: where there is a network, run "
            f"`{shlex.join(words)}`; with HF_HUB_OFFLINE=1 only the cache is asked, here too"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
