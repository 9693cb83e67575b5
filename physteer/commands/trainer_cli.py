"""The commands that run a Lightning trainer: one YAML per experiment."""

from __future__ import annotations

import inspect
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

import physteer.callbacks
from physteer.callbacks import Interrupts, Journal, RolloutProgress, RunRecord, ScoreTable, WandbReport
from physteer.commands.checkpoints import WholeCheckpoints, resolve_last
from physteer.commands.guards.missing_packages import missing_package
from physteer.commands.guards.wandb_folders import wandb_folders
from physteer.commands.memory import keep_freed_memory
from physteer.commands.parts import with_whole_parts
from physteer.commands.processes import Processes, stopped_as_asked
from physteer.commands.run_fingerprint import check_folder, experiment_of
from physteer.commands.user_errors import bound_yaml, check_checkpoint, check_yaml, in_one_line, user_error_behind
from physteer.commands.warning_filters import filtered_warnings
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError, ProcessEnded
from physteer.files import home_expanded
from physteer.forecast.module import ForecastModule
from physteer.forecast.precision import DTYPES, NetworkPrecision
from physteer.run_folder import WRITTEN, locked, remove_temporaries

# Lightning 2.5 has no such argument; what `check_checkpoint` has passed is safe there too
_TENSORS_ONLY: dict[str, Any] = (
    {"weights_only": True} if "weights_only" in inspect.signature(L.Trainer.fit).parameters else {}
)

_HELP = {"--model.help": "--model.help=physteer.WalrusModule", "--data.help": "--data.help=physteer.WellDataModule"}
"""Help about a model or data without a class shows the settings of physteer's own classes."""


def run(arguments: list[str], *, only_build: bool = False) -> PhysteerCLI:
    """Parse and run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        arguments: the command line after ``physteer``.
        only_build: whether to stop when model and data are built.

    Returns:
        The trainer, model and data module, as ``trainer``, ``model`` and ``datamodule``.

    Raises:
        PhysteerError: The configuration, or something that it names, is wrong.
    """
    keep_freed_memory()
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())  # a class path may name a user's own file, as under `python -m`; packages go first
    check_yaml(arguments)
    bound_yaml()
    arguments = with_whole_parts([_HELP.get(argument, argument) for argument in arguments])
    with filtered_warnings():
        try:
            # With None, LightningCLI reads sys.argv itself, which DDP replays in its other processes.
            return PhysteerCLI(args=None if arguments == sys.argv[1:] else arguments, only_build=only_build)
        except Exception as error:
            user_error = user_error_behind(error)
            if user_error is None:
                raise
            rank = getattr(rank_zero_only, "rank", None) or 0  # processes may fail differently
            if rank and not isinstance(user_error, ProcessEnded):
                user_error = PhysteerError(f"{user_error} (process {rank})")
            raise user_error from None


class _Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise the message that argparse would print with its usage."""
        user_error = ex if isinstance(ex, PhysteerError) or ex is None else missing_package(ex)
        if user_error is not None:
            raise user_error
        commands = next((action.choices for action in self._actions if action.dest == "subcommand"), None)
        parsers = list(commands.values()) if isinstance(commands, dict) else [self]
        settings = {action.dest for parser in parsers for action in parser._actions}
        hidden = {"help", "print_config", "print_shtab", "subcommand"}
        raise PhysteerError(in_one_line(message, settings - hidden, physteer.callbacks.__all__)) from ex


class PhysteerCLI(LightningCLI):
    """LightningCLI with physteer's model and data as the defaults, and its conventions.

    The run folder is ``trainer.default_root_dir``. All files of a run are written there: the merged configuration,
    versions and seeds, scores, checkpoints, and the files of loggers whose ``save_dir`` is left out or ``.``.
    Inference mode is off, because activations may be used for training later. ``predict`` keeps no predictions in
    memory: callbacks write them.
    """

    def __init__(self, args: list[str] | None = None, *, only_build: bool = False) -> None:
        self._only_build = only_build
        self._interrupts = Interrupts()
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
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
        not_settings = {"return_predictions", "verbose", "weights_only"}
        return {name: {*skipped, *not_settings} for name, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let YAML leave out ``class_path`` where it means our own model and data."""
        parser.set_defaults(
            {"model": {"class_path": "physteer.WalrusModule"}, "data": {"class_path": "physteer.WellDataModule"}}
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read the configuration, and check the checkpoint before Lightning loads it."""
        super().parse_arguments(parser, args)
        for key, value in self.config.items():  # every setting, the parts of nested ones by names with dots
            self.config[key] = _home_expanded(value)
        check_checkpoint(self.config[self.config.subcommand].get("ckpt_path"))

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
        """Add the callbacks of every run, and direct checkpoints and logs to the run folder."""
        self.config = self._as_given  # what `RunRecord` saves: with another run folder, loggers follow
        settings = self.config_init[self.subcommand].trainer
        listed = settings.callbacks
        callbacks = list(listed) if isinstance(listed, list) else [listed] if listed else []
        kwargs["callbacks"] = [*callbacks, *_missing(callbacks, settings), self._interrupts]
        if settings.logger is None:
            logs = self.subcommand == "fit" and not settings.barebones
            kwargs["logger"] = CSVLogger(settings.default_root_dir, name="logs") if logs else False
        if settings.precision in DTYPES and not settings.plugins:
            kwargs |= {"precision": None, "plugins": NetworkPrecision(settings.precision)}
        if self._only_build:
            kwargs |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "logger": False}
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None:
                checkpoint.dirpath = str(Path(trainer.default_root_dir, "checkpoints").absolute())
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        if self._only_build:
            return
        limit = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}
        if subcommand in limit and not getattr(self.trainer, limit[subcommand]):
            raise PhysteerError(f"trainer.{limit[subcommand]} is 0, so `physteer {subcommand}` would do nothing")
        folder, is_first = Path(self.trainer.default_root_dir), self.trainer.is_global_zero
        processes = Processes(self.trainer, lambda: self._interrupts.asked is not None)
        with (
            stopped_as_asked(self.trainer, self._interrupts),
            locked(folder, subcommand) if is_first else nullcontext(),
            processes.watched(),
            wandb_folders(self.trainer.loggers),
        ):
            if is_first:
                remove_temporaries(folder, WRITTEN)
            super()._run_subcommand(subcommand)

    def fit(self, **kwargs: Any) -> None:
        """Run ``Trainer.fit``, and ``Trainer.test`` on the best checkpoint where a callback wants that."""
        kwargs = self._with_checkpoint(kwargs)
        self.trainer.fit(**_TENSORS_ONLY, **kwargs)
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(getattr(callback, "test_after_fit", False) for callback in callbacks):
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
            kwargs["ckpt_path"] = "best" if best else None
            self.trainer.test(verbose=False, **_TENSORS_ONLY, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Run ``Trainer.validate``, and ``Trainer.test`` where a callback reports what it has chosen there."""
        kwargs = self._with_checkpoint(kwargs)
        self.trainer.validate(verbose=False, **_TENSORS_ONLY, **kwargs)
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(getattr(callback, "test_after_validate", False) for callback in callbacks):
            self.trainer.test(verbose=False, **_TENSORS_ONLY, **kwargs)

    def test(self, **kwargs: Any) -> None:
        """Run ``Trainer.test``; `ScoreTable` prints the scores."""
        self.trainer.test(verbose=False, **_TENSORS_ONLY, **self._with_checkpoint(kwargs))

    def predict(self, **kwargs: Any) -> None:
        """Run ``Trainer.predict`` without collecting its outputs; an interrupted run continues."""
        kwargs = self._with_checkpoint(kwargs)
        if isinstance(self.model, ForecastModule) and isinstance(self.datamodule, WellDataModule):
            self._prepare_folder(self.model, self.datamodule, kwargs.get("ckpt_path"))
        self.trainer.predict(return_predictions=False, **_TENSORS_ONLY, **kwargs)

    def _prepare_folder(self, model: ForecastModule, data: WellDataModule, ckpt_path: str | None) -> None:
        """Refuse a run folder of another experiment before anything is written; else add a journal of this run."""
        settings = yaml.safe_load(self._parser("predict").dump(self.config["predict"], skip_none=False))
        limit = settings["trainer"]["limit_predict_batches"] = self.trainer.limit_predict_batches  # 1.0 is all
        experiment = experiment_of(settings, model.forecaster, data, Path(ckpt_path) if ckpt_path else None)
        check_folder(Path(self.trainer.default_root_dir), experiment)
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        for record in callbacks:
            if isinstance(record, RunRecord):
                record.experiment = experiment
        if isinstance(limit, float) and limit == 1:  # a trial of some batches never resumes
            callbacks.insert(callbacks.index(self._interrupts), Journal())

    def _with_checkpoint(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Choose the file that ``--ckpt_path last`` means; Lightning would take half files, or the initial weights."""
        if kwargs.get("ckpt_path") != "last":
            return kwargs
        callbacks = self.trainer.checkpoint_callbacks
        folders = [Path(c.dirpath) for c in callbacks if isinstance(c, ModelCheckpoint) and c.dirpath]
        chosen = resolve_last(str(self.subcommand), Path(self.trainer.default_root_dir), folders)
        return {**kwargs, "ckpt_path": chosen}


def _home_expanded(value: Any) -> Any:
    """Return a setting in which texts that begin with ``~/`` begin with the user's home; it may be a list or a tree."""
    if isinstance(value, str):
        return home_expanded(value)
    if isinstance(value, list):
        return [_home_expanded(item) for item in value]
    if isinstance(value, dict):
        return {name: _home_expanded(item) for name, item in value.items()}
    if isinstance(value, Namespace):
        for name, item in vars(value).items():
            setattr(value, name, _home_expanded(item))
    return value


def _missing(callbacks: list[L.Callback], settings: Namespace) -> list[L.Callback]:
    """Return the callbacks of every run that the configuration does not list itself."""

    def absent(kind: type) -> bool:
        return not any(isinstance(callback, kind) for callback in callbacks)

    if settings.barebones:
        return []
    more: list[L.Callback] = []
    if absent(ScoreTable):
        more.append(ScoreTable())
    if absent(ProgressBar) and settings.enable_progress_bar is not False:
        more.append(RolloutProgress())
    checkpoints = settings.enable_checkpointing is not False and not settings.fast_dev_run
    if absent(ModelCheckpoint) and checkpoints:
        more.append(ModelCheckpoint(save_last=True))  # what `--ckpt_path last` looks for
    if absent(WandbReport):
        more.append(WandbReport())
    return more
