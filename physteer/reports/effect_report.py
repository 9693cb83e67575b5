"""The figures and text of a run that measured the effects of nodes, from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.analyses.effects.table import EffectRow, read_attribution_tables, read_effect_table
from physteer.reports.effect_figures import (
    draw_effect_curves,
    draw_effect_steps,
    draw_head_maps,
    overall,
    shown_effect,
)
from physteer.reports.style import signed
from physteer.reports.text_table import text_table

_TOP = 10
_CONTROLS = {"mean": "its mean", "resample": "another sample's activation"}
"""Variants that hold nothing of the source, in words; the field effect of each is over a reference of its own."""
_ACTS = {"aligned": "makes", "field": "moves the prediction by", "class_changed": "changes the answer in"}
_OF = {
    "aligned": " of the simulated change",
    "field": " of the distance to the reference",
    "class_changed": " of the pairs whose answers differ",
}


def report_effects(run_folder: Path, split: str) -> None:
    """Draw ``figures/effects_*_<split>`` from ``tables/effects_<split>``, if there is one.

    Raises:
        PhysteerError: The table is broken.
    """
    rows, figures = read_effect_table(run_folder, split), run_folder / "figures"
    if rows:
        for effect in dict.fromkeys((shown_effect(rows), "field")):
            draw_effect_curves(rows, effect, figures / f"effects_{effect}_{split}.png")
        draw_head_maps(rows, figures / f"effects_heads_{split}.png")
        draw_effect_steps(rows, figures / f"effects_steps_{split}.png")


def top_nodes(rows: Sequence[EffectRow]) -> tuple[str, list[EffectRow]]:
    """Return the effect that ranks nodes, and the row of each node, the largest first: one variant at one scale."""
    first = [row for row in rows if row.step == 1]
    effect = shown_effect(first)
    here = overall(first, effect)
    if not here:
        return effect, []
    variant = "source" if any(row.variant == "source" for row in here) else here[0].variant
    scale = min({row.scale for row in here if row.variant == variant}, key=lambda c: abs(c - 1))
    chosen = [row for row in here if (row.variant, row.scale) == (variant, scale) and math.isfinite(row.value)]
    return effect, sorted(chosen, key=lambda row: -abs(row.value))


@dataclass(frozen=True)
class TopNodes:
    """The nodes with the largest effects, in words."""

    title: str
    header: list[str]
    lines: list[list[str]]


def top_node_table(run_folder: Path, split: str) -> TopNodes | None:
    """Return the largest effects of ``tables/effects_<split>`` for the terminal and the page; None without any."""
    rows = read_effect_table(run_folder, split)
    effect, ranked = top_nodes(rows)
    if not ranked:
        return None
    head = ranked[0]
    unsigned = {row.node: row.value for row in overall(rows, "field") if _same(row, head)}
    nulls = [row for row in rows if row.effect == "null_share" and row.field]
    fields = list(dict.fromkeys(row.field for row in nulls))
    null_of = {(row.node, row.field): f"{row.value:.1%}" for row in nulls}
    lines = [
        [
            row.node,
            signed(round(row.value, 3)),
            f"[{signed(round(row.low, 3))}, {signed(round(row.high, 3))}]" if math.isfinite(row.low) else "",
            f"{unsigned[row.node]:.3f}" if row.node in unsigned else "",
            *(null_of.get((row.node, field), "–") for field in fields),
        ]
        for row in ranked[:_TOP]
    ]
    return TopNodes(
        f"{effect} effect of {head.variant.replace('_', ' ')} at scale {head.scale:g} on {split}: the largest of "
        f"{len(ranked)} nodes ({head.initial_conditions} initial conditions)",
        ["node", effect, "95 % interval", "field", *(f"null {field.replace('_', ' ')}" for field in fields)],
        lines,
    )


def effects_answer(run_folder: Path, split: str) -> str:
    """Say in a sentence which node has the largest effect, and what its controls do; empty where there are none."""
    rows = read_effect_table(run_folder, split)
    effect, ranked = top_nodes(rows)
    if not ranked:
        return ""
    head = ranked[0]
    number = _signed if effect == "aligned" else "{:.2f}".format
    interval = f" [{number(head.low)}, {number(head.high)}]" if math.isfinite(head.low) else ""
    others = [
        row for row in overall(rows, "field") if row.node == head.node and (row.scale, row.step) == (head.scale, 1)
    ]
    moved = {row.variant: row.value for row in others if math.isfinite(row.value)}
    nulls = [row for row in rows if (row.node, row.effect) == (head.node, "null_share") and math.isfinite(row.value)]
    controls = []
    if listed := ", ".join(f"{name} {moved[variant]:.2f}" for variant, name in _CONTROLS.items() if variant in moved):
        controls.append(f"what holds nothing of the source moves the prediction too (field effect: {listed})")
    if nulls:
        listed = ", ".join(f"{row.field.replace('_', ' ') or 'all fields'} {100 * row.value:.0f} %" for row in nulls)
        controls.append(f"sources that must not change a field move it by {listed} of what pairs do (null)")
    if not controls:
        controls.append("the run has no controls beside it (variants mean and resample, or a null parameter)")
    second = f"; next {ranked[1].node}, {number(ranked[1].value)}" if len(ranked) > 1 else ""
    what = _ACTS.get(effect, f"has the effect {effect} of")
    patch = "the activation of the source" if head.variant == "source" else head.variant.replace("_", " ")
    return (
        f"On {split}, {patch} at scale {head.scale:g} in {head.node} {what} "
        f"{number(head.value)}{interval}{_OF.get(effect, '')}, the largest of {len(ranked)} nodes{second}, over "
        f"{head.initial_conditions} initial conditions; {'; '.join(controls)}."
    )


def effect_remarks(run_folder: Path, split: str) -> list[str]:
    """Return what the null share is, where there is one, and how far attribution can be trusted."""
    remarks = []
    if any(row.effect == "null_share" for row in read_effect_table(run_folder, split)):
        remarks.append("null: how far a source that must not change a field moves it, over how far pairs do")
    for check in read_attribution_tables(run_folder, split)[1]:
        remarks.append(
            f"attribution, {check.estimate}: rank correlation with exact effects {check.spearman:.2f} on {check.nodes} "
            f"nodes drawn at random, {check.flagged} of them flagged"
        )
    return remarks


def effects_text(run_folder: Path, split: str) -> str:
    """Return what a terminal shows of a run's effects; empty where there are none."""
    top = top_node_table(run_folder, split)
    if top is None:
        return ""
    table = text_table(top.header, top.lines, align="<><>")
    return "\n".join([effects_answer(run_folder, split), top.title, *table, *effect_remarks(run_folder, split)])


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _same(row: EffectRow, other: EffectRow) -> bool:
    return (row.variant, row.scale, row.step) == (other.variant, other.scale, other.step)
