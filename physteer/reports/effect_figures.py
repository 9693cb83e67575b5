"""What patching each node does: over scales, by block and head, and over rollout steps."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter

from physteer.analyses.effects.table import EffectRow
from physteer.files import atomic_write
from physteer.reports.canvas import Canvas, draw_annotated_map
from physteer.reports.lines import draw_band, draw_line, label_steps, legend_line
from physteer.reports.style import INK, MUTED, WIDTH, arrange, heading, new_figure, save, signed, style

KIND_COLOURS = ("#3a6fb5", "#c8641a", "#1f7a4d", "#8a4fa3", "#b03a5b", "#5c6370", "#a08a1a", "#2a9d9d")
KNOWN_COLOURS = {True: "#c8641a", False: "#8d96a3"}
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP, _ROW = 1.0, 1.0, 1.25, 0.0, 0.3, 0.34  # inches
_MOST_SCALES = 4


def shown_effect(rows: Sequence[EffectRow]) -> str:
    """Return the effect that figures show: the aligned one where there is any, else the first."""
    effects = dict.fromkeys(row.effect for row in rows if row.effect != "null_share")
    return "aligned" if "aligned" in effects else next(iter(effects), "")


def overall(rows: Sequence[EffectRow], effect: str) -> list[EffectRow]:
    """Return the rows of an effect for all fields together, everywhere."""
    return [row for row in rows if (row.effect, row.field, row.region) == (effect, "", "")]


def draw_effect_curves(
    rows: Sequence[EffectRow], effect: str, path: Path, known: Mapping[str, bool] | None = None
) -> Path | None:
    """Draw effects over scales, a panel for each variant and a line for each node; also as PDF and SVG.

    In the SVG, a line tells its node's name under the pointer.

    Args:
        rows: of one split.
        effect: which one.
        path: of the PNG.
        known: whether each node belongs to the true circuit, by name, where that is known: colours say so.

    Returns:
        The path, or None where there are fewer than two scales.
    """
    here = [row for row in overall(rows, effect) if row.step == 1]
    variants = list(dict.fromkeys(row.variant for row in here))
    scales = sorted({row.scale for row in here})
    if len(scales) < 2:
        return None
    kinds = list(dict.fromkeys(row.kind for row in here))
    colours = {kind: KIND_COLOURS[i % len(KIND_COLOURS)] for i, kind in enumerate(kinds)}
    columns = min(3, len(variants))
    n_rows = math.ceil(len(variants) / columns)
    title = f"{_CAPTIONS.get(effect, (effect, ''))[0]} of every node over scales"
    caption = f"{_CAPTIONS.get(effect, ('', effect))[1]}; a line per node, all fields together."
    with style():
        figure = new_figure(1.25 + 2.9 * n_rows)
        grid = figure.subplots(n_rows, columns, squeeze=False)
        for axes, variant in zip(grid.flat, variants, strict=False):
            for node in dict.fromkeys(row.node for row in here):
                line = sorted(
                    (row for row in here if (row.node, row.variant) == (node, variant)), key=lambda r: r.scale
                )
                if not line:
                    continue
                colour = colours[line[0].kind] if known is None else KNOWN_COLOURS[known.get(node, False)]
                (drawn,) = axes.plot(
                    range(len(line)),
                    [row.value for row in line],
                    color=colour,
                    linewidth=1.1,
                    alpha=0.8,
                    marker=".",
                    ms=4,
                )
                drawn.set_gid(f"node {node}")
            axes.axhline(0, color=INK, linewidth=0.6)
            axes.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
            axes.set_title(variant.replace("_", " "))
            axes.set_xlabel("scale c")
            if max((abs(row.value) for row in here if math.isfinite(row.value)), default=0) > 4:
                axes.set_yscale("symlog", linthresh=1.0)
                axes.yaxis.set_major_formatter(ScalarFormatter())
        for axes in list(grid.flat)[len(variants) :]:
            axes.set_visible(False)
        grid[0, 0].set_ylabel(effect.replace("_", " "))
        if known is None:
            entries = [legend_line(kind, colours[kind]) for kind in kinds]
        else:
            names = {True: "in the true circuit", False: "outside"}
            entries = [legend_line(names[inside], colour) for inside, colour in KNOWN_COLOURS.items()]
        heading(figure, title, caption)
        arrange(figure, 0.35)
        figure.legend(handles=entries, loc="lower center", ncols=min(len(entries), 8), fontsize=8.5)
        with atomic_write(path.with_suffix(".pdf")) as temporary:
            figure.savefig(temporary, format="pdf")
        _save_svg(figure, path.with_suffix(".svg"))
        return save(figure, path, title, caption)


def draw_head_maps(rows: Sequence[EffectRow], path: Path) -> Path | None:
    """Draw the effect of every head, a map of blocks and heads for each kind of head and each scale.

    Args:
        rows: of one split.
        path: of the PNG.

    Returns:
        The path, or None where no heads were patched.
    """
    effect = shown_effect(rows)
    heads = [row for row in overall(rows, effect) if row.head >= 0 and row.position < 0 and row.step == 1]
    if not heads:
        return None
    variant = "source" if any(row.variant == "source" for row in heads) else heads[0].variant
    heads = [row for row in heads if row.variant == variant and math.isfinite(row.value)]
    every = sorted({row.scale for row in heads}, key=lambda scale: (abs(scale - 1), scale))[:_MOST_SCALES]
    scales, kinds = sorted(every), list(dict.fromkeys(row.kind for row in heads))
    blocks, numbers = sorted({row.block for row in heads}), sorted({row.head for row in heads})
    cells = {(row.kind, row.scale, row.block, row.head): row.value for row in heads}
    largest = max(abs(value) for value in cells.values()) or 1.0
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(scales) - 1)) / len(scales)
    height = max(_ROW * len(blocks), 0.8)
    annotate = width / len(numbers) >= 0.42
    title = f"{_CAPTIONS.get(effect, (effect, ''))[0]} by block and head ({variant.replace('_', ' ')})"
    caption = f"{_CAPTIONS.get(effect, ('', effect))[1]}. Colours: effect over the largest, {largest:.3g}."
    with style():
        canvas = Canvas(_TOP + (height + 0.45) * len(kinds) + _BOTTOM)
        for i, kind in enumerate(kinds):
            top = _TOP + i * (height + 0.45)
            for j, scale in enumerate(scales):
                axes = canvas.panel(_LEFT + j * (width + _GAP), top, width, height)
                block_values = [[cells.get((kind, scale, b, n), math.nan) for n in numbers] for b in blocks]
                values = [[value / largest for value in row] for row in block_values]
                texts = [[signed(round(value, 2)) if annotate else "" for value in row] for row in block_values]
                image = draw_annotated_map(axes, values, texts, fontsize=7)
                axes.set_title(f"{kind}, c = {scale:g}", pad=16)
                axes.set_xticks(range(len(numbers)), [str(n) for n in numbers], fontsize=7)
                if j == 0:
                    axes.set_yticks(range(len(blocks)), [f"block {b}" for b in blocks])
        canvas.colour_bar(image, _RIGHT, _TOP, height, label="effect / largest")
        return canvas.save(path, title, caption)


def draw_effect_steps(rows: Sequence[EffectRow], path: Path) -> Path | None:
    """Draw how much of the simulated change the source's activation makes over rollout steps, with intervals.

    Args:
        rows: of one split.
        path: of the PNG.

    Returns:
        The path, or None where nothing was rolled out.
    """
    aligned = [row for row in overall(rows, "aligned") if (row.variant, row.scale) == ("source", 1.0)]
    nodes = list(dict.fromkeys(row.node for row in aligned if row.step > 1))
    if not nodes:
        return None
    title = "Share of the simulated change over rollout steps"
    caption = (
        "Σ⟨δŷ, Δ*⟩ / Σ‖Δ*‖², a node taken from the source's own rollout at every step; 1: as much of the true change "
        "as there is.\nBands: 95 % intervals over initial conditions."
    )
    with style():
        figure = new_figure(4.2)
        axes = figure.add_axes((0.07, 0.14, 0.73, 0.62))
        entries: list[Line2D] = []
        for i, node in enumerate(nodes):
            line = sorted((row for row in aligned if row.node == node), key=lambda row: row.step)
            colour = KIND_COLOURS[i % len(KIND_COLOURS)]
            steps = [row.step for row in line]
            draw_line(axes, steps, [row.value for row in line], colour, marker="o", markersize=3)
            draw_band(axes, steps, [row.low for row in line], [row.high for row in line], colour, alpha=0.12)
            entries.append(legend_line(node, colour))
        axes.axhline(1, color=MUTED, linewidth=0.8)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_ylabel("aligned effect")
        label_steps(axes)
        figure.legend(handles=entries, loc="center left", bbox_to_anchor=(0.81, 0.45))
        heading(figure, title, caption)
        return save(figure, path, title, caption)


_CAPTIONS = {
    "aligned": (
        "Aligned effect",
        "Share of the simulated change that a node's patch makes, Σ⟨δŷ, Δ*⟩ / Σ‖Δ*‖²",
    ),
    "field": ("Effect", "How far the prediction moves, √(Σ‖δŷ‖² / Σ‖ŷ_reference − ŷ_b‖²)"),
    "class_changed": ("Changed answers", "Share of pairs whose answer changes, among those whose answers differ"),
    "tolerance_model": ("Changed answers", "Share of pairs whose answer moves by more than the tolerance"),
}


def _save_svg(figure: Figure, path: Path) -> None:
    """Write an SVG whose lines carry their node's name as a title."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = re.sub(
        r'<g id="node ([^"]+)">',
        lambda found: f"{found[0]}<title>{html.escape(html.unescape(found[1]))}</title>",
        buffer.getvalue(),
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
