"""The commands that run a Lightning trainer: one YAML per experiment."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

import physteer.callbacks
from physteer.callbacks import RolloutProgress, RunRecord, ScoreTable
from physteer.config_errors import check_yaml, in_one_line
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.module import WalrusModule
from physteer.precision import DTYPES, NetworkPrecision

_IRRELEVANT = (
    r".*LightningCLI's args parameter",  # `main(args)` is how tests and `physteer demo` call us
    r"predict returned None",  # callbacks write what predict makes
    r".*isinstance\(treespec, LeafSpec\)",  # between Lightning and torch
    r".*does not have many workers",  # 0 workers is right for small data, and the user's choice for large
    r".*smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",  # a run folder is used again on purpose
    r"Experiment logs directory .* exists and is not empty",
    r"You're resuming from a checkpoint that ended before the epoch ended",  # `TrainingOrder` goes on where it was
    r"The dirpath has changed",  # a run goes on in another folder
    r"Be aware that when using `ckpt_path`, callbacks used to create",
)


def run(words: list[str], *, only_build: bool = False) -> PhysteerCLI:
    """Parse and run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        words: the command line after ``physteer``.
        only_build: build model and data, with a trainer that does nothing, and leave it at that.

    Returns:
        The trainer, model and data module, as ``trainer``, ``model`` and ``datamodule``.

    Raises:
        PhysteerError: the configuration, or something it names, is wrong.
    """
    check_yaml(words)
    with _quiet():
        try:
            # given None, LightningCLI reads sys.argv itself, which DDP replays in its other processes
            return PhysteerCLI(args=None if words == sys.argv[1:] else words, only_build=only_build)
        except Exception as error:
            mistake = _mistake_behind(error)
            if mistake is None:
                raise
            rank = getattr(rank_zero_only, "rank", None) or 0  # every process may have its own
            raise (PhysteerError(f"{mistake} (process {rank})") if rank else mistake) from None


def _mistake_behind(error: BaseException) -> PhysteerError | None:
    """Find the user's mistake inside what the libraries make of it."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, PhysteerError):
            return behind
        behind = behind.__cause__ or behind.__context__
    if isinstance(error, ValueError | TypeError | MisconfigurationException) and _raised_in(error, "lightning"):
        return PhysteerError(" ".join(str(error).split()))
    if isinstance(error, RuntimeError) and "Connection closed by peer" in str(error):
        return PhysteerError("another process of this run has ended; its own message says why")
    if isinstance(error, OSError) and error.filename is not None:
        return PhysteerError(f"{error.filename}: {error.strerror}")
    return None


def _raised_in(error: BaseException, package: str) -> bool:
    """Whether a library refused something itself, rather than passing on an error from below."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(f"{package}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's chatter off the screen, and put warnings on one line."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        print(f"physteer: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        for message in _IRRELEVANT:
            warnings.filterwarnings("ignore", message=message)
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category)
        warnings.showwarning = show
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise what argparse would print with its usage."""
        if isinstance(ex, PhysteerError):
            raise ex
        commands = next((action.choices for action in self._actions if action.dest == "subcommand"), None)
        parsers = list(commands.values()) if isinstance(commands, dict) else [self]
        settings = {action.dest for parser in parsers for action in parser._actions}
        hidden = {"help", "print_config", "print_shtab", "subcommand"}
        raise PhysteerError(in_one_line(message, settings - hidden, physteer.callbacks.__all__)) from ex


class PhysteerCLI(LightningCLI):
    """LightningCLI with physteer's model and data as the defaults, and its conventions.

    The run folder is ``trainer.default_root_dir``. Everything a run makes goes there: the merged configuration,
    versions and seeds, scores, checkpoints, and the files of loggers whose ``save_dir`` is left out or ``.``.
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
            trainer_defaults={
                "inference_mode": False,
                "default_root_dir": "runs/latest",
                "accelerator": "auto",
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_class=_Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the trainer's commands and the arguments of each that are not settings."""
        ours = {"return_predictions", "verbose", "weights_only"}
        return {name: {*skipped, *ours} for name, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let YAML leave out ``class_path`` where it means our own model and data."""
        parser.set_defaults(
            {"model": {"class_path": "physteer.WalrusModule"}, "data": {"class_path": "physteer.WellDataModule"}}
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read the configuration, and look at the checkpoint before Lightning does."""
        super().parse_arguments(parser, args)
        _check_checkpoint(self.config[self.config.subcommand].get("ckpt_path"))

    # ------------------------------------------------------------------ building

    def before_instantiate_classes(self) -> None:
        """Send the loggers' files to the run folder."""
        settings = self.config[self.subcommand]
        self._as_given = self.config.clone()
        loggers = settings.trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
            if arguments is not None and arguments.get("save_dir", "") in (None, "."):
                arguments.save_dir = os.path.abspath(settings.trainer.default_root_dir)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Add the callbacks that every run has, and keep checkpoints and logs in the run folder."""
        self.config = self._as_given  # what `RunRecord` saves: with another run folder, loggers follow
        settings = self.config_init[self.subcommand].trainer
        given = settings.callbacks
        callbacks = list(given) if isinstance(given, list) else [given] if given else []
        kwargs["callbacks"] = callbacks + _missing(callbacks, settings)
        if settings.logger is None:
            logs = CSVLogger(settings.default_root_dir, name="logs") if self.subcommand == "fit" else False
            kwargs["logger"] = logs
        if settings.precision in DTYPES and not settings.plugins:
            kwargs |= {"precision": None, "plugins": NetworkPrecision(settings.precision)}
        if self._only_build:
            kwargs |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "logger": False}
        trainer = super().instantiate_trainer(**kwargs)
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None:
                checkpoint.dirpath = str(Path(trainer.default_root_dir, "checkpoints").absolute())
        return trainer

    # ------------------------------------------------------------------ running

    def _run_subcommand(self, subcommand: str) -> None:
        if self._only_build:
            return
        main_thread = threading.current_thread() is threading.main_thread()
        on_interrupt = signal.getsignal(signal.SIGINT)
        succeeded = False
        try:
            super()._run_subcommand(subcommand)
            succeeded = True
        except SystemExit:  # Lightning's answer to Ctrl+C
            if self.trainer.interrupted:
                raise KeyboardInterrupt from None
            raise
        finally:
            if main_thread:
                signal.signal(signal.SIGINT, on_interrupt)  # which Lightning ignores from then on
            _finish_wandb(0 if succeeded else 1)

    def fit(self, **kwargs: Any) -> None:
        """Run ``Trainer.fit``."""
        self.trainer.fit(weights_only=True, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Run ``Trainer.validate``; `ScoreTable` prints the scores."""
        self.trainer.validate(verbose=False, weights_only=True, **self._existing(kwargs))

    def test(self, **kwargs: Any) -> None:
        """Run ``Trainer.test``; `ScoreTable` prints the scores."""
        self.trainer.test(verbose=False, weights_only=True, **self._existing(kwargs))

    def predict(self, **kwargs: Any) -> None:
        """Run ``Trainer.predict`` without collecting its outputs."""
        self.trainer.predict(return_predictions=False, weights_only=True, **self._existing(kwargs))

    def _existing(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Refuse ``--ckpt_path last`` where there is none: Lightning would go on with the initial weights."""
        checkpoints = (c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
        folders = [Path(checkpoint.dirpath) for checkpoint in checkpoints if checkpoint.dirpath]
        if kwargs.get("ckpt_path") == "last" and not any(list(folder.glob("last*.ckpt")) for folder in folders):
            where = " or ".join(map(str, folders)) or "any folder"
            raise PhysteerError(f"ckpt_path last: there is no last.ckpt in {where}")
        return kwargs


def _missing(callbacks: list[L.Callback], settings: Namespace) -> list[L.Callback]:
    """Return the callbacks of every run that the configuration does not list itself."""

    def absent(kind: type) -> bool:
        return not any(isinstance(callback, kind) for callback in callbacks)

    more: list[L.Callback] = []
    if absent(ScoreTable):
        more.append(ScoreTable())
    if absent(ProgressBar) and settings.enable_progress_bar is not False:
        more.append(RolloutProgress())
    if absent(ModelCheckpoint) and settings.enable_checkpointing is not False:
        more.append(ModelCheckpoint(save_last=True))  # what `--ckpt_path last` looks for
    return more


def _check_checkpoint(path: str | None) -> None:
    """Refuse a ``--ckpt_path`` that is not a checkpoint of Lightning's, in one line; nothing in it is executed."""
    if path is None or path in ("last", "hpc") or "://" in path:
        return
    if not os.path.isfile(path):
        raise PhysteerError(f"ckpt_path {path} does not exist; it is a file, or 'last' for the run folder's last one")
    try:
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # it opens the file or refuses it
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise PhysteerError(f"{path} holds more than tensors and was not opened: {reason}") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = (str(error) or "it is empty").splitlines()[0]
        raise PhysteerError(f"{path} is not a whole checkpoint: {reason}") from None
    if not isinstance(checkpoint, dict) or not {"state_dict", "pytorch-lightning_version"} <= checkpoint.keys():
        raise PhysteerError(
            f"{path} is not a checkpoint of `physteer fit`; weights to start from go to model.checkpoint"
        )


def _finish_wandb(status: int) -> None:
    """End a run of Weights & Biases, so that its file is whole and the next run begins its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=status)
