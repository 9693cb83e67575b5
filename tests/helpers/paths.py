"""Where things are in the checkout."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def importing(test_file: str) -> dict[str, str]:
    """Return an environment in which a process can import a file of tests and the helpers."""
    paths = [str(Path(test_file).parent), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
