"""The commands that run a Lightning trainer: one YAML per experiment."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import physteer.callbacks  # noqa: F401  so that YAML may say `class_path: Steer`
from physteer.callbacks.run_record import RunRecord
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.module import WalrusModule


def run(words: list[str], *, only_build: bool = False) -> PhysteerCLI:
    """Parse and run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        words: the command line after ``physteer``.
        only_build: build trainer, model and data, and leave it at that.

    Returns:
        The trainer, model and data module, as ``trainer``, ``model`` and ``datamodule``.

    Raises:
        PhysteerError: the configuration is wrong.
    """
    # given None, LightningCLI reads sys.argv itself and does not warn about a second source
    same = words == sys.argv[1:]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
        try:
            return PhysteerCLI(args=None if same else words, only_build=only_build)
        except Exception as error:
            raise _mistake_behind(error) or error from None


def _mistake_behind(error: BaseException | None) -> PhysteerError | None:
    """Find our own error inside what jsonargparse makes of an error in a constructor."""
    while error is not None:
        if isinstance(error, PhysteerError):
            return error
        error = error.__cause__ or error.__context__
    return None


class _Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise what argparse would print with its usage."""
        if isinstance(ex, PhysteerError):
            raise ex
        lines = [line.strip(" -") for line in str(message).splitlines() if line.strip()]
        raise PhysteerError("; ".join(lines)) from ex


class PhysteerCLI(LightningCLI):
    """LightningCLI with physteer's model and data as the defaults, and its conventions.

    The run folder is ``trainer.default_root_dir``: the merged configuration, versions and seeds are saved there.
    Activations may be used for training later, so inference mode is off. ``predict`` keeps nothing in memory: callbacks
    write what they want to keep.
    """

    def __init__(self, args: list[str] | None = None, *, only_build: bool = False) -> None:
        self._only_build = only_build
        super().__init__(
            WalrusModule,
            WellDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunRecord,
            trainer_defaults={"inference_mode": False, "default_root_dir": "runs/latest", "accelerator": "auto"},
            seed_everything_default=0,
            parser_class=_Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the trainer's commands and the arguments of each that are not settings."""
        skipped = {name: set(skip) for name, skip in LightningCLI.subcommands().items()}
        skipped["predict"].add("return_predictions")
        return skipped

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let YAML leave out ``class_path`` where it means our own model and data."""
        parser.set_defaults(
            {"model": {"class_path": "physteer.WalrusModule"}, "data": {"class_path": "physteer.WellDataModule"}}
        )

    def _run_subcommand(self, subcommand: str) -> None:
        if not self._only_build:
            super()._run_subcommand(subcommand)

    def predict(self, **kwargs: Any) -> None:
        """Run ``Trainer.predict`` without collecting its outputs."""
        self.trainer.predict(return_predictions=False, **kwargs)
