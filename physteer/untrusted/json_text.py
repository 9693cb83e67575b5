"""JSON objects: headers of our files, `experiment.json`, journals."""

from __future__ import annotations

import json
from typing import Any

from physteer.errors import PhysteerError


def json_object(text: str | bytes, name: str) -> dict[str, Any]:
    """Return a JSON object as a dictionary.

    Args:
        text: the JSON.
        name: of what it is from, for the error.

    Raises:
        PhysteerError: It is not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:  # ValueError: UTF-8 and numbers of too many digits as well
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise PhysteerError(f"{name} is not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise PhysteerError(f"{name} is a JSON {type(value).__name__}, not an object")
    return value
