"""Tables as text, and what is said in them."""

from dataclasses import dataclass

from physteer.reports.score_text import score_line, score_text
from physteer.reports.text_table import text_table


def test_columns_are_as_wide_as_their_widest_cell():
    lines = text_table(["name", "n"], [["a", "1"], "  between", ["longer", "23"]], "<>")
    assert lines == ["name     n", "a        1", "  between", "longer  23"]


def test_columns_beyond_the_alignment_are_aligned_as_its_last():
    assert text_table(["a", "b", "c"], [["1", "22", "333"]], "<>") == ["a   b    c", "1  22  333"]
    assert text_table(["", ""], [["1", "22"]], widths=(3,)) == ["1    22"]  # no header, no line


@dataclass
class Score:
    loader: str
    forecast: str
    field: str
    step: int
    vrmse: float


def test_scores_have_a_column_per_forecast():
    rows = [
        Score(loader, forecast, field, step, value)
        for loader, steps in (("one_step", 1), ("rollout", 3))
        for step in range(1, steps + 1)
        for forecast, value in (("model", 0.1 * step), ("persistence", 0.2 * step))
        for field in ("tracer", "mean")
    ]
    lines = score_text(rows, "mean", {"one_step": {1}, "rollout": {1, 3}}).splitlines()
    assert [line.split() for line in lines] == [
        ["VRMSE", "model", "persistence"],
        ["one", "step", "tracer", "0.1000", "0.2000"],
        ["one", "step", "mean", "0.1000", "0.2000"],
        ["rollout", "1", "mean", "0.1000", "0.2000"],
        ["rollout", "3", "tracer", "0.3000", "0.6000"],
        ["rollout", "3", "mean", "0.3000", "0.6000"],
    ]
    assert score_line(rows, "mean") == "VRMSE one step 0.1 (persistence 0.2); rollout step 3 0.3 (persistence 0.6)"
