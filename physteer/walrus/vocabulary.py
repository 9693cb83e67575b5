"""The published field vocabularies: a field's index is its column in the first and the last convolution."""

from collections.abc import Sequence

from physteer.errors import PhysteerError, did_you_mean

FLAGS = ("closed_boundary", "open_boundary", "bias_correction")
"""The three channels the `released` stem appends itself; they stand first in its vocabulary and are never data."""

ZEROS = "zeros_like_"
"""What the name of a field begins with whose values are replaced by zeros."""
_PAIRS = ("xx", "xy", "xz", "yx", "yy", "yz", "zx", "zy", "zz")
_D, _E, _C = (tuple(f"{tensor}_{pair}" for pair in _PAIRS) for tensor in "DEC")

_SHARED_TAIL = (
    *("velocity_r", "velocity_theta", "velocity_phi", "momentum_x", "momentum_y", "momentum_z"),
    *("pressure_re", "pressure_im", "mask", "magnetic_field_x", "magnetic_field_y", "magnetic_field_z"),
    *("A", "B", "height", "internal_energy", "temperature", "electron_fraction", "entropy"),
    *("magnetic_field_log_r", "magnetic_field_theta", "magnetic_field_phi", "velocity_log_r"),
    *("buoyancy", "tracer", "log10_density", "log10_temperature", "c_zz", *_C),
)

RELEASED_FIELDS: tuple[str, ...] = (
    *FLAGS,
    *("pressure", "velocity_x", "velocity_y", "velocity_z", "zeros_like_density", "speed_of_sound", "concentration"),
    *(*_D, *_E, "density", "energy"),
    *_SHARED_TAIL,
)
"""The 67 states of `polymathic-ai/walrus`."""

PREVIEW_FIELDS: tuple[str, ...] = (
    *("pressure", "velocity_x", "velocity_y", "velocity_z", "density", "speed_of_sound", "concentration"),
    *(*_D, *_E, "energy"),
    *_SHARED_TAIL,
)
"""The 63 states of the checkpoint behind the published steering results."""


def labels(names: Sequence[str], fields: Sequence[str]) -> tuple[int, ...]:
    """Return the vocabulary index of each name.

    A vocabulary without a state for ``zeros_like_density`` (`PREVIEW_FIELDS`) gives it that of ``density``, as the
    published trainer does; the values stay zero.

    Raises:
        PhysteerError: A name is not in `fields`, or is one of the flags that only the stem may set.
    """
    index = {name: i for i, name in enumerate(fields) if name not in FLAGS}
    for name in names:
        if name not in index and name.removeprefix(ZEROS) in index:
            index[name] = index[name.removeprefix(ZEROS)]
        if name not in index:
            hint = did_you_mean(name, index) or f"; the model knows {', '.join(index)}"
            raise PhysteerError(f"field {name!r} is not in the model's vocabulary{hint}")
    return tuple(index[name] for name in names)
