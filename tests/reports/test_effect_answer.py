"""The effects of nodes are told in a sentence first: what, how much of the true change, beside what, over how many."""

import math

import pytest

from physteer.analyses.effects.table import EffectRow, write_effect_table
from physteer.reports import write_page
from physteer.reports.effect_report import effects_answer, effects_text


def row(node, variant, effect, value, field="", step=1, width=0.1):
    bounds = (value - width, value + width) if width else (math.nan, math.nan)
    return EffectRow(node, 0, "output", -1, -1, variant, 1.0, effect, field, "", step, value, *bounds, 8)


ALIGNED = [row("encoder", "source", "aligned", 0.9), row("blocks.0", "source", "aligned", -1.2)]


def test_the_largest_effect_is_told_with_its_interval_and_controls(tmp_path):
    rows = [
        *ALIGNED,
        row("blocks.0", "source", "aligned", 0.7, step=4),
        *(
            row("blocks.0", variant, "field", value)
            for variant, value in (("source", 1.5), ("mean", 1.4), ("resample", 1.1))
        ),
        row("blocks.0", "source", "null_share", 0.08, "velocity_x", width=0),
    ]
    write_effect_table(tmp_path, "valid", rows)
    answer = effects_answer(tmp_path, "valid")
    assert answer == (
        "On valid, the activation of the source at scale 1 in blocks.0 makes −1.20 [−1.30, −1.10] of the simulated "
        "change, the largest of 2 nodes; next encoder, +0.90, over 8 initial conditions; what holds nothing of the "
        "source moves the prediction too (field effect: its mean 1.40, another sample's activation 1.10); sources that "
        "must not change a field move it by velocity x 8 % of what pairs do (null)."
    )
    assert effects_text(tmp_path, "valid").startswith(answer)
    page = write_page(tmp_path).read_text()
    assert page.index("the activation of the source at scale 1") < page.index("<table")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (ALIGNED, "the run has no controls beside it"),
        (
            [row("encoder", "resample", "class_changed", 0.5)],
            "resample at scale 1 in encoder changes the answer in 0.50",
        ),
        ([], ""),
    ],
)
def test_runs_without_controls_or_of_other_effects(rows, told, tmp_path):
    write_effect_table(tmp_path, "test", rows)
    answer = effects_answer(tmp_path, "test")
    assert told in answer and bool(answer) == bool(rows)
