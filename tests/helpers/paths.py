"""Where things are in the checkout."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def importing(test_file: str) -> dict[str, str]:
    """Return an environment in which a process can import a file of tests and the helpers."""
    return os.environ | {"PYTHONPATH": f"{Path(test_file).parent}{os.pathsep}{ROOT / 'tests'}"}
