"""Where Weights & Biases writes during a run: in its own folder, with nothing of it elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger


@contextmanager
def wandb_folders(loggers: Sequence[Logger]) -> Iterator[None]:
    """Keep the files of W&B beside its run while the context is open, and end its run with the context.

    Copies of what is uploaded (``wandb/artifacts/staging``) and W&B's cache lie in the ``wandb`` folder of the first
    ``WandbLogger``, so that an offline run that is carried to another machine has all its files. Variables
    ``WANDB_DATA_DIR`` and ``WANDB_CACHE_DIR`` that the user has set stay as they are. When the context ends the
    environment is what it was. The cache is removed then; W&B removes its
    copies after an upload, and an offline run keeps them for ``wandb sync``.

    Args:
        loggers: of the trainer.
    """
    folder = next(
        (Path(logger.save_dir or ".", "wandb") for logger in loggers if isinstance(logger, WandbLogger)), None
    )
    chosen: dict[str, str] = {}
    if folder is not None:
        folders = {"WANDB_DATA_DIR": folder, "WANDB_CACHE_DIR": folder / "cache"}
        chosen = {name: str(path.absolute()) for name, path in folders.items() if name not in os.environ}
    os.environ.update(chosen)
    status = 1
    try:
        yield
        status = 0
    finally:
        _finish(status)
        for name in chosen:
            os.environ.pop(name, None)
        if "WANDB_CACHE_DIR" in chosen:
            shutil.rmtree(chosen["WANDB_CACHE_DIR"], ignore_errors=True)
        if "WANDB_DATA_DIR" in chosen:
            for name in ("artifacts/staging/artifact_manifests", "artifacts/staging", "artifacts"):
                with suppress(OSError):  # not there, or not empty
                    Path(chosen["WANDB_DATA_DIR"], name).rmdir()


def _finish(status: int) -> None:
    """End a run of W&B, so that its file is whole and the next run begins its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=status)
