"""Optional packages that are not installed, told with the command that installs them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

from physteer.errors import PhysteerError

_COMMAND = re.compile(r"pip install (?:-U )?'?([\w.-]+(?:[<>=!~]=?[\w.*]+)*)(\[[\w,]+\])?'?")
_CLASS = re.compile(r"class_path[ =]'([\w.]+)'")
_DISTRIBUTIONS = {
    "comet_ml": "comet-ml",
    "cv2": "opencv-python",
    "neuralop": "neuraloperator",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages whose name for pip is not the name that is imported."""


def missing_package(error: BaseException, needed_by: str = "") -> PhysteerError | None:
    """Return the user error behind an exception that a missing package has caused.

    Args:
        error: of an import; or a library's own, which names a command with ``pip install``.
        needed_by: what needs the package, where the exception does not tell.

    Returns:
        The error in one sentence; None where something else is wrong, such as a class path that names no module.
    """
    chain = list(_chain(error))
    text = "\n".join(map(str, chain))
    class_path = _CLASS.search(text)
    own = "" if class_path is None else class_path[1].partition(".")[0]
    user = class_path[1].rpartition(".")[2] if class_path is not None else needed_by or _raised_by(chain[-1])
    for cause in reversed(chain):
        name = (cause.name or "").partition(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
        if name and name != own and importlib.util.find_spec(name) is None:
            package = _DISTRIBUTIONS.get(name, name)
            return PhysteerError(
                f"{user or 'this run'} needs the package {package}; install it with: pip install {package} (or, if "
                f"{name} is code of your own, add its folder to PYTHONPATH)"
            )
    packages = list(dict.fromkeys(match[1] + (match[2] or "") for match in _COMMAND.finditer(text)))
    if not packages:
        return None
    *_, first = sorted(packages, key=len, reverse=True)  # of alternatives the shortest: tensorboard, not tensorboardX
    quoted = f"'{first}'" if re.search(r"[<>=!~\[]", first) else first
    names = " or ".join(sorted({re.split(r"[<>=!~\[]", package)[0] for package in packages}))
    return PhysteerError(f"{user or 'this run'} needs the package {names}; install it with: pip install {quoted}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what caused it, the cause last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _raised_by(error: BaseException) -> str:
    """Return the class whose method raised an error, or nothing."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        name = "" if owner is None else type(owner).__name__
        trace = trace.tb_next
    return name
