"""What every figure shares: type, colours that the colour-blind can tell apart, and how it is saved."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from physteer.files import atomic_write

WIDTH = 12.6
"""Inches of a full-width figure: 1210 CSS pixels, which a laptop shows without scaling."""

DPI = 144

INK, MUTED, FAINT = "#1a1d24", "#5c6370", "#d5d8de"

_NOT_FINITE = "#9aa0a8"
_BLUE, _ORANGE = 255.0, 45.0  # hues in OKLCh, degrees; apart for every common colour blindness

RC: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def _oklch(lightness: NDArray[np.float64], chroma: NDArray[np.float64], hue: float) -> NDArray[np.float64]:
    """Convert OKLCh to sRGB in [0, 1] (Ottosson 2020, "A perceptual color space for image processing")."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    ).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _arm(weight: NDArray[np.float64], hue: float) -> NDArray[np.float64]:
    """From near white (weight 0) to dark (1), lightness linear in the weight."""
    chroma = 0.155 * np.sin(np.pi * np.minimum(weight, 1) ** 0.75 * 0.72)
    return _oklch(0.975 - 0.595 * weight, chroma, hue)


def diverging() -> Colormap:
    """Return blue – white – orange, of equal lightness at equal distance from zero."""
    weight = np.linspace(1, 0, 128)
    colours = np.concatenate([_arm(weight, _BLUE), _arm(weight[::-1], _ORANGE)])
    return ListedColormap(colours).with_extremes(bad=_NOT_FINITE)


def sequential() -> Colormap:
    """Return the palette of fields without a special zero."""
    return colormaps["viridis"].with_extremes(bad=_NOT_FINITE)


def strength_colour(strength: float, largest: float) -> tuple[float, float, float]:
    """Return a line's colour: blue for − and orange for +, darker the stronger; grey for 0."""
    if strength == 0 or largest == 0:
        return (0.45, 0.47, 0.51)
    weight = 0.42 + 0.58 * min(abs(strength) / largest, 1.0)
    red, green, blue = _arm(np.array(weight), _ORANGE if strength > 0 else _BLUE).tolist()
    return (red, green, blue)


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return a figure that belongs to no global state; draw it inside ``with style():``."""
    return Figure(figsize=(width, height))


def style() -> AbstractContextManager[None]:
    """Return a context with the shared type and colours."""
    return rc_context(RC)


def strength_label(strength: float) -> str:
    """Return ``α = +0.4`` with a true minus sign."""
    return f"α = {strength:+.3g}".replace("-", "−")


def signed(value: float) -> str:
    """Return ``+0.4`` with a true minus sign, and ``0``."""
    return f"{value:+.4g}".replace("-", "−") if value else "0"


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """Write a figure's title and, below it, what it shows; together they take 0.65 inches."""
    height = figure.get_size_inches()[1]
    figure.text(0.008, 1 - 0.08 / height, title, fontsize=13.5, fontweight="bold", va="top")
    figure.text(0.008, 1 - 0.4 / height, subtitle, fontsize=10, color=MUTED, va="top")


def arrange(figure: Figure, bottom: float = 0.0) -> None:
    """Fit the axes below the heading, and above what is left free at the bottom, in inches."""
    height = figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, bottom / height, 1, 1 - 0.68 / height), h_pad=1.6, w_pad=1.4)


def bare(axes: Axes) -> None:
    """Leave an image without ticks and grid, in a thin frame."""
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)
        spine.set_color(MUTED)


def save(figure: Figure, path: Path, title: str, description: str) -> Path:
    """Write a PNG, whole or not at all, that carries its title and a description for `alt` texts; return its path."""
    about = {"Title": title, "Description": description}
    fast = {"compress_level": 6}  # matplotlib's 9 takes five times as long for files of 96 % the size
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", metadata=about, pil_kwargs=fast)
    return path
