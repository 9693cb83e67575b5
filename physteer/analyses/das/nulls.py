"""The exact null: fields that a source must not move which differs from its base in another parameter alone."""

from __future__ import annotations

from collections.abc import Sequence

from physteer.errors import PhysteerError, did_you_mean

TRACER = "tracer"
"""A passive field: its own parameters move it and nothing else."""


def exact_null_fields(asked: Sequence[str] | None, predicted: Sequence[str]) -> tuple[str, ...]:
    """Return the fields that the null parameter cannot move.

    Args:
        asked: names of these fields; None for all but a field named `TRACER`, as for the Schmidt number of a shear
            flow: it changes how a passive tracer diffuses, and never velocity or pressure.
        predicted: names of the fields that the model predicts.

    Returns:
        In the order of the predicted fields.

    Raises:
        PhysteerError: A name is none of the predicted fields.
    """
    for name in asked or ():
        if name not in predicted:
            raise PhysteerError(
                f"DAS.null_fields: the model predicts no field {name!r}, only {', '.join(predicted)}"
                f"{did_you_mean(name, predicted)}"
            )
    return tuple(field for field in predicted if (field != TRACER if asked is None else field in asked))
