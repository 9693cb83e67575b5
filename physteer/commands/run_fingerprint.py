"""The experiment of a run folder: all settings and files that determine its results, and no others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from physteer import __version__
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.files import file_digest
from physteer.forecast import Forecaster
from physteer.run_folder import EXPERIMENT, Experiment
from physteer.tensor_files import numbered_direction
from physteer.untrusted.json_text import json_object

# Weights and data are compared by content, not by path. Batches, devices and processes change only the rounding.
_TRAINER = ("limit_predict_batches", "precision")
_NOT_OF_THE_MODEL = {
    *("checkpoint", "network", "lora", "conditions_per_forward", "compile"),
    *("objective", "learning_rate", "weight_decay", "warmup_steps"),
}
_NOT_OF_THE_DATA = {"path", "batch_size", "num_workers", "storage_options", "one_step_every"}
_SHOWING = ("Figures", "ProgressBar", "RolloutProgress", "RolloutVideo")
"""Callbacks that only show results."""
_RESULTS = (
    *("journal", "rollouts", "concepts", "natural", "tables"),
    *("activations.zarr", "activations.zarr.partial"),
)
"""Folders of ``predict``."""


def experiment_of(
    settings: Mapping[str, Any], forecaster: Forecaster, data: WellDataModule, checkpoint: Path | None
) -> Experiment:
    """Return everything that determines the results of a run of ``predict``.

    Args:
        settings: the merged configuration.
        forecaster: before `checkpoint` is loaded.
        data: whose files of ``predict`` are fingerprinted.
        checkpoint: its weights replace the model's.

    Raises:
        PhysteerError: The data, or a file that a setting names, cannot be read.
    """
    experiment: dict[str, Any] = {"physteer": __version__, "seed_everything": settings.get("seed_everything")}
    experiment["weights"] = forecaster.identity if checkpoint is None else file_digest(checkpoint)
    experiment |= {f"trainer.{name}": settings["trainer"].get(name) for name in _TRAINER}
    experiment |= _settings("model", settings["model"], _NOT_OF_THE_MODEL)
    experiment |= _settings("data", settings["data"], _NOT_OF_THE_DATA)
    names: list[str] = []
    callbacks = settings["trainer"].get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        name = callback["class_path"].rpartition(".")[2]
        if not name.endswith(_SHOWING):
            names.append(name)
            number = names.count(name)
            experiment |= _settings(f"callbacks.{name}{f' {number}' if number > 1 else ''}", callback, set())
    dataset = data.predict_dataset()
    experiment |= {f"file {name}": dataset.fingerprint(name) for name in dataset.files}
    return experiment


def check_folder(folder: Path, experiment: Experiment) -> None:
    """Refuse a run folder that holds results of another experiment.

    Raises:
        PhysteerError: It holds such results. The message lists the differences.
    """
    result = next(_results(folder), None)
    if result is None:
        return
    advice = "set another trainer.default_root_dir, or delete that folder"
    try:
        before = json_object((folder / EXPERIMENT).read_bytes(), str(folder / EXPERIMENT))
    except FileNotFoundError:
        raise PhysteerError(f"{result} is from a run that left no {folder / EXPERIMENT}; {advice}") from None
    except OSError as error:
        raise PhysteerError(f"cannot read {folder / EXPERIMENT}: {error.strerror}") from None
    now = json.loads(json.dumps(experiment))
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        differences = [f"{name} was {_short(before.get(name))}, now {_short(now.get(name))}" for name in changed[:3]]
        differences += [f"and {len(changed) - 3} more"] if len(changed) > 3 else []
        raise PhysteerError(f"{folder} holds results of another experiment: {'; '.join(differences)}; {advice}")


def _results(folder: Path) -> Iterator[Path]:
    """Yield the files of ``predict``; scores are files of ``validate`` and ``test``."""
    for name in _RESULTS:
        for path in (folder / name).rglob("*"):
            if path.is_file() and not path.name.startswith((".", "scores_")):
                yield path


def _settings(prefix: str, chosen: Mapping[str, Any], without: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the class and its arguments, by name."""
    yield prefix, chosen["class_path"].rpartition(".")[2]
    for name, value in (chosen.get("init_args") or {}).items():
        if name not in without:
            yield f"{prefix}.{name}", _with_digests(value)


def _with_digests(value: Any) -> Any:
    """Replace every file's path by its stem, which names directions, and the digest of its content."""
    if isinstance(value, Mapping):
        return {str(name): _with_digests(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_digests(item) for item in value]
    if isinstance(value, str):
        file, number = numbered_direction(value)
        if os.path.isfile(file):  # False too for text longer than a path may be
            return f"{Path(file).stem}{'' if number is None else f'#{number}'} {file_digest(file)}"
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 50 else f"{text[:47]}…"
