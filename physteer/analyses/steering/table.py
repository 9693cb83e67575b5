"""The tidy table of a steered run: one row per window, condition, step, field and metric, as Parquet and CSV."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.untrusted.parquet_files import read_parquet, reading

TRUTH, UNSTEERED = "truth", "unsteered"
"""The two conditions that every steered one is compared with."""
ERASED = "erased"
"""The mode of conditions that erase something instead of steering."""
ROLES = ("truth", "unsteered", "blurred", "concept", "random", "shuffled", "data")
"""What a condition is there for. ``truth`` is no rollout of the model: the stored or simulated answer. ``blurred`` is
the unsteered rollout, smoothed as much as the parameter's change of diffusion would."""


@dataclass(frozen=True, order=True)
class Series:
    """Conditions that differ in strength alone: one dose–response curve."""

    direction: str = ""
    mode: str = ""
    site: str = ""

    def __str__(self) -> str:
        return " · ".join(part for part in (self.direction, self.mode, self.site) if part)


@dataclass(frozen=True, order=True)
class Setting:
    """What was done to the model, and as what it is judged."""

    role: str
    """One of `ROLES`."""
    direction: str = ""
    site: str = ""
    mode: str = ""
    strength: float = 0.0
    """α, signed."""

    @property
    def series(self) -> Series:
        """The curve over strengths that the setting is on."""
        return Series(self.direction, self.mode, self.site)

    def has_control(self, random: Setting) -> bool:
        """Whether a random direction is one of this setting's controls, at whatever strength.

        It is where both are at the same sites and in the same mode, unless it was made like another concept.
        """
        _, like, concept = random.direction.partition(" like ")
        same = (random.role, random.site, random.mode) == ("random", self.site, self.mode)
        return same and (not like or concept == self.direction)


@dataclass(frozen=True, order=True)
class ConditionKey(Setting):
    """A setting with its name, unique within a run."""

    condition: str = ""


@dataclass(frozen=True, slots=True)  # slots: a large run has a million of them
class MetricRow:
    """One value of one metric."""

    window: str
    """The window's address in words."""
    initial_condition: str
    """Windows that share it are one draw in every interval."""
    condition: str
    """Unique name within the run."""
    role: str
    """One of `ROLES`."""
    direction: str
    strength: float
    """α, signed; 0 for truth and unsteered. The truth at other parameters and blurred rollouts have the sign of the α
    that they go with."""
    mode: str
    site: str
    step: int
    """1 for the first predicted frame."""
    time: float
    """In the data set's unit."""
    field: str
    """Empty for metrics of the whole flow."""
    metric: str
    """Per field ``vrmse``, ``alignment_cosine``, ``alignment_gain``; ``change_product`` ⟨Δŷ Δy⟩, ``change_error``
    ⟨(Δŷ − Δy)²⟩ and ``change_truth`` ⟨Δy²⟩ of the change by steering Δŷ and the true change Δy; ``error_steered`` and
    ``error_unsteered``, squared errors against y(θ'); and ``movement``, the RMS of Δŷ in units of the truth's spread.
    Of the whole flow ``enstrophy``, ``vortex_area``, ``kinetic_energy``, ``tracer_variance``, ``divergence_rms``,
    ``tracer_mass``, ``spectrum_distance`` and ``blow_up_step``; per site, named in ``field``,
    ``natural_percentile`` and ``residual_percentile``. Others are kept and not read."""
    value: float
    """May be NaN or infinite, where a rollout is not finite."""


COLUMNS = tuple(field.name for field in fields(MetricRow))
KEY = ("window", "condition", "step", "field", "metric")
"""What tells rows apart."""
_NUMBERS = {"strength": np.float64, "step": np.int64, "time": np.float64, "value": np.float64}
_SCHEMA = pa.schema(
    [(name, pa.from_numpy_dtype(_NUMBERS[name]) if name in _NUMBERS else pa.string()) for name in COLUMNS]
)


def metrics_table(rows: Iterable[MetricRow]) -> pd.DataFrame:
    """Gather rows as a checked table."""
    return check_metrics(pd.DataFrame.from_records(map(attrgetter(*COLUMNS), rows), columns=list(COLUMNS)))


def check_metrics(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its columns in order and of their types.

    Raises:
        PhysteerError: a column is missing, unknown, or of another type; an unknown role; a step before 1; a strength
            that is not finite; two values in one place.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    unknown = [str(name) for name in table.columns if name not in COLUMNS]
    if missing or unknown:
        wrong = [f"no column {name!r}" for name in missing] + [f"an unknown column {name!r}" for name in unknown]
        raise PhysteerError(f"a table of metrics has {', '.join(wrong)}; its columns are {', '.join(COLUMNS)}")
    checked = {}
    for name in COLUMNS:
        column = table[name]
        if name in _NUMBERS:
            try:
                numbers = pd.to_numeric(column).to_numpy(np.float64)
            except (TypeError, ValueError) as error:
                raise PhysteerError(f"column {name!r} of a table of metrics holds no numbers: {error}") from error
            if name != "value" and not np.isfinite(numbers).all():
                raise PhysteerError(f"column {name!r} of a table of metrics has a value that is not finite")
            checked[name] = numbers.astype(_NUMBERS[name])
            if name == "step" and not (checked[name] == numbers).all():
                raise PhysteerError("column 'step' of a table of metrics has a value that is no whole number")
        else:
            if column.isna().any():
                raise PhysteerError(f"column {name!r} of a table of metrics has an empty cell; say ''")
            checked[name] = column.astype(str).to_numpy(object)
    result = pd.DataFrame(checked, columns=list(COLUMNS))
    _check_values(result)
    return result


def _check_values(table: pd.DataFrame) -> None:
    unknown_roles = sorted(set(table["role"]) - set(ROLES))
    if unknown_roles:
        raise PhysteerError(f"a table of metrics has the role {unknown_roles[0]!r}; roles are {', '.join(ROLES)}")
    if len(table) and table["step"].min() < 1:
        raise PhysteerError(f"a table of metrics has step {table['step'].min()}; steps count from 1")
    twice = table.duplicated(list(KEY))
    if twice.any():
        first = table[twice].iloc[0]
        place = ", ".join(f"{name} {first[name]!r}" for name in KEY)
        raise PhysteerError(f"a table of metrics has two values for {place}")


def metrics_file(run_folder: Path | str) -> Path:
    """Return where a run's table is, or would be."""
    return Path(run_folder) / "tables" / "metrics.parquet"


def write_metrics(run_folder: Path | str, table: pd.DataFrame) -> Path:
    """Write ``tables/metrics.parquet`` and ``metrics.csv``, each whole or not at all; return the first.

    Raises:
        PhysteerError: the table is not as `check_metrics` wants it, or cannot be written.
    """
    return _write(metrics_file(run_folder), [check_metrics(table)])


def write_metrics_of(run_folder: Path | str, tables: Iterable[pd.DataFrame]) -> Path:
    """Write the tables of several windows one after the other, as `write_metrics` writes one; return the path.

    Only one table is in memory at a time.
    """
    return _write(metrics_file(run_folder), map(check_metrics, tables))


def write_part(run_folder: Path | str, window: str, table: pd.DataFrame) -> Path:
    """Write one window's rows as ``tables/parts/<window>.parquet``, whole or not at all; return the path.

    Raises:
        PhysteerError: the table is not as `check_metrics` wants it, or cannot be written.
    """
    path = _part(run_folder, window)
    with atomic_write(path) as temporary:
        check_metrics(table).to_parquet(
            temporary, index=False, engine="pyarrow", compression="zstd", write_page_checksum=True
        )
    return path


def merge_parts(run_folder: Path | str, windows: Iterable[str]) -> Path | None:
    """Put the parts of some windows together, one after the other, as `write_metrics` writes a table.

    Parts are kept: a run that goes on adds to them. Only one is in memory at a time.

    Returns:
        The path of the table; None where there are no parts.

    Raises:
        PhysteerError: a part is broken, or the table cannot be written.
    """
    parts = [path for window in windows if (path := _part(run_folder, window)).exists()]
    return _write(metrics_file(run_folder), map(_read, parts)) if parts else None


def _part(run_folder: Path | str, window: str) -> Path:
    return metrics_file(run_folder).parent / "parts" / f"{window}.parquet"


def _write(path: Path, tables: Iterable[pd.DataFrame]) -> Path:
    # The CSV file gets its name first: a reader takes the other one, which is there last.
    with (
        atomic_write(path) as parquet,
        atomic_write(path.with_suffix(".csv")) as csv,
        pq.ParquetWriter(parquet, _SCHEMA, compression="zstd", write_page_checksum=True) as writer,
        csv.open("w", newline="") as lines,
    ):
        for number, table in enumerate(tables):
            table.to_csv(lines, index=False, header=number == 0, float_format="%.9g")
            writer.write_table(pa.Table.from_pandas(table, _SCHEMA, preserve_index=False))
    return path


def read_metrics(run_folder: Path | str) -> pd.DataFrame | None:
    """Read a run's table of metrics; None where the run has none.

    Raises:
        PhysteerError: the file is broken or holds something else.
    """
    path = metrics_file(run_folder)
    return _read(path) if path.exists() else None


def _read(path: Path) -> pd.DataFrame:
    with reading(path):
        table = read_parquet(path).to_pandas()
    try:
        return check_metrics(table)
    except PhysteerError as error:
        raise PhysteerError(f"{path}: {error}") from error
