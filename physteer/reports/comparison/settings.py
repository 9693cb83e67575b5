"""What differs between runs: settings of their merged configurations, and the data that they were computed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from physteer.reports.comparison.runs import Run

ABSENT = "–"
_SHOWING = ("Figures", "ProgressBar", "RolloutProgress", "RolloutVideo")
_NEVER_TELLING = (
    *("trainer.default_root_dir", "trainer.logger", "trainer.enable_progress_bar", "trainer.log_every_n_steps"),
    *("data.num_workers", "data.storage_options"),
)
"""Settings that decide no result."""
_NO_QUESTION = ("data.batch_size", "data.train_pairs")
"""Settings of the data that do not change what is asked."""
_WHOSE_CHANGE = ("parameter", "values", "variables")
"""Last names of settings that say which parameter's change is the truth."""


@dataclass(frozen=True)
class Difference:
    """A setting that has not the same value in all runs."""

    setting: str
    values: tuple[str, ...]
    """By run."""


def differences(runs: Sequence[Run]) -> list[Difference]:
    """List what differs between the configurations, versions and weights of runs, the model first."""
    settings = [dict(_settings(run)) for run in runs]
    names = dict.fromkeys(name for own in settings for name in own)
    partly = {name for name in names if name.count(".") == 1 and not all(name in own for own in settings)}
    rows = []
    for name in names:
        values = [own.get(name, ABSENT) for own in settings]
        inside_absent = any(name.startswith(f"{callback}.") for callback in partly)  # its first line says enough
        if len(set(values)) > 1 and not inside_absent:
            rows.append(Difference(name, tuple(values)))
    return sorted(rows, key=lambda row: not row.setting.startswith(("model", "weights")))


def data_remarks(runs: Sequence[Run], found: Sequence[Difference]) -> list[str]:
    """Say in a sentence each in what the data of runs differ, for rows of other data are no answers to one question.

    Args:
        runs: that are compared.
        found: what `differences` listed.
    """
    remarks = []
    files = [{name: digest for name, digest in run.experiment.items() if name.startswith("file ")} for run in runs]
    known = [own for own in files if own]
    if any(own != known[0] for own in known):
        changed = {name for own in known for name in own if any(own[name] != other.get(name) for other in known)}
        remarks.append(f"the fingerprints of {len(changed)} data files differ")
    same_files = len(known) == len(runs) and not remarks
    for row in found:
        is_data = row.setting.startswith("data") and row.setting not in _NO_QUESTION
        is_change = row.setting.startswith("callbacks.") and row.setting.rpartition(".")[2] in _WHOSE_CHANGE
        if (is_data or is_change) and not (same_files and row.setting == "data.path"):
            listed = ", ".join(f"{run.name}: {short(value)}" for run, value in zip(runs, row.values, strict=True))
            remarks.append(f"{row.setting} differs ({listed})")
    if not remarks:
        return []
    return [f"These runs do not rest on the same data, and may differ for that: {'; '.join(remarks)}."]


def short(value: str, most: int = 44) -> str:
    """Return the beginning of a long value."""
    return value if len(value) <= most else f"{value[: most - 1]}…"


def _settings(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the settings by name, as text: classes, and their arguments without ``init_args`` between."""
    config = run.config
    if "weights" in run.experiment:
        yield "weights (digest)", str(run.experiment["weights"])
    for part in ("model", "data"):
        yield from _flat(part, config.get(part))
    trainer = config.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    callbacks = trainer.get("callbacks")
    names: list[str] = []
    for callback in callbacks if isinstance(callbacks, list) else []:
        name = _class_name(callback)
        if name and name not in _SHOWING:
            names.append(name)
            number = names.count(name)
            yield from _flat(f"callbacks.{name}{f' {number}' if number > 1 else ''}", callback)
    yield from _flat("trainer", {name: value for name, value in trainer.items() if name != "callbacks"})
    for name in ("seed_everything", "ckpt_path"):
        yield from _flat(name, config.get(name))
    versions = run.environment.get("versions")
    yield "stage", str(run.environment.get("stage", ABSENT))
    yield "version of physteer", str(versions.get("physteer", ABSENT)) if isinstance(versions, dict) else ABSENT


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if name in _NEVER_TELLING:
        return
    if isinstance(value, Mapping):
        if class_name := _class_name(value):
            yield name, class_name
            value = value.get("init_args") or {}
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif isinstance(value, list):
        yield name, ", ".join(_class_name(item) or str(item) for item in value) or "none"
    else:
        yield name, ABSENT if value is None else str(value)


def _class_name(value: Any) -> str:
    return str(value.get("class_path", "")).rpartition(".")[2] if isinstance(value, Mapping) else ""
