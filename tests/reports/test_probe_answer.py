"""What is said of probes: simple flows beside full simulations, every control, and where the input wins."""

import math

import pytest

from physteer.analyses.probing.class_table import ClassScore, write_class_table
from physteer.analyses.probing.table import ProbeScore, write_probe_tables
from physteer.reports import write_page
from physteer.reports.probe_answer import class_answer, probe_answer, probe_remarks
from physteer.reports.probe_choice import chosen_probes
from physteer.reports.probe_report import probes_text
from physteer.reports.probe_text import chosen_table, r2_text

R2 = {  # by target: at blocks.0 and blocks.1, then random features and the raw patch; simple, full
    "vorticity": ((0.9, 0.8), (0.95, 0.9), (0.5, 0.4), (0.2, 0.1)),
    "pressure": ((0.9, 0.9), (0.8, 0.8), (0.98, 0.97), (1.0, 1.0)),
    "log_viscosity": ((0.06, 0.48), (0.03, 0.3), (0.0, -0.1), (0.0, 0.0)),
    "dissipation_rate": ((0.3, -2.0), (0.2, -1.0), (0.1, -0.5), (0.0, -0.2)),
}


def rows_of(n_full=8, valid=True, tested=True):
    """A table in which blocks.1 is best on valid for vorticity, and blocks.0 for the rest."""
    rows = []
    for target, (first, second, random, patch) in R2.items():
        places = (("blocks.0", "probe", first), ("blocks.1", "probe", second))
        places += (("", "random_features", random), ("", "raw_patch", patch))
        for site, control, values in (*places, ("blocks.0", "shuffled", (0, 0)), ("blocks.1", "shuffled", (0, 0))):
            for i, data in enumerate(("simple", "full")):
                above = values[i] - max(random[i], patch[i])
                beside = (values[i], values[i] - 0.02, values[i] + 0.02, above, above - 0.03, above + 0.03)
                best = site == ("blocks.1" if target == "vorticity" else "blocks.0")
                rows.append(
                    ProbeScore(
                        *(site, target, "token", data, control, 1.0, values[i], values[i] - 0.02, values[i] + 0.02),
                        *(
                            0.1,
                            (6, n_full)[i],
                            math.nan,
                            math.nan,
                            0.9 if best and valid else 0.5 if valid else math.nan,
                        ),
                        *(beside if control == "probe" and tested else [math.nan] * 6),
                    )
                )
    return rows


def test_the_site_is_chosen_on_valid_and_simple_stands_beside_full():
    assert [probe.site for probe in chosen_probes(rows_of(), "token")] == ["blocks.1", *["blocks.0"] * 3]
    header, lines = chosen_table(rows_of(), "token")
    assert header == [
        "target",
        "site",
        "simple",
        "95 % interval",
        "full",
        "95 % interval",
        "selectivity",
        "random",
        "patch",
    ]
    assert lines[2] == [
        *("log viscosity", "blocks.0", "+0.06", "[+0.04, +0.08]", "+0.48", "[+0.46, +0.50]"),
        *("+0.06 / +0.48", "+0.00 / −0.10", "+0.00 / +0.00"),
    ]


def test_the_answer_names_values_intervals_controls_and_n():
    assert probe_answer(rows_of()) == (
        "On full simulations (8 initial conditions), linear probes at the sites chosen on valid read 2 of 4 targets "
        "per token better than random features and the raw patch do (R² and the difference have intervals above 0): "
        "vorticity R² +0.90 [+0.88, +0.92] at blocks.1 (held-out simple flows +0.95; shuffled +0.00, random features "
        "+0.40, raw patch +0.10); log viscosity R² +0.48 [+0.46, +0.50] at blocks.0 (held-out simple flows +0.06; "
        "shuffled +0.00, random features −0.10, raw patch +0.00)."
    )
    lost = [row for row in rows_of() if row.target == "pressure"]
    assert "read none of 1 targets" in probe_answer(lost) and "the nearest: pressure R² +0.90" in probe_answer(lost)


def test_where_the_input_wins_the_text_says_so():
    remarks = probe_remarks(rows_of(), "token")
    assert [remark for remark in remarks if remark.startswith("Random features or the raw patch win")] == [
        f"Random features or the raw patch win on {data}, so that no computation of the network is shown for pressure "
        "(raw patch +1.00, blocks.0 +0.90)."
        for data in ("held-out simple flows", "full simulations")
    ]
    assert (
        "On full simulations neither the chosen site nor the input reads dissipation rate: R² is at most 0." in remarks
    )
    assert remarks[-1].endswith("correlate of the quantity: log viscosity (+0.48 full, +0.06 simple).")


def test_a_table_of_an_earlier_version_is_told_from_its_first_data_set():
    rows = rows_of(valid=False, tested=False)
    assert [probe.site for probe in chosen_probes(rows, "token")] == ["blocks.1", *["blocks.0"] * 3]
    answer = probe_answer(rows)
    assert (
        "at the sites chosen on the held-out simple flows themselves read 2 of 4" in answer
        and "difference" not in answer
    )
    assert chosen_table(rows, "token")[1][0][6] == "– / –"


def test_class_probes_are_told_with_every_control():
    rows = [
        ClassScore(site, "Reynolds", data, control, 1.0, accuracy, accuracy - 0.1, accuracy + 0.1, 0.2, 4)
        for data, better in (("simple", 0.2), ("full", 0.0))
        for site, control, accuracy in (
            *(("encoder", "probe", 0.5 + better), ("blocks.0", "probe", 0.6 + better), ("blocks.0", "shuffled", 0.25)),
            *(("", "random_features", 0.3), ("", "raw_patch", 0.7)),
        )
    ]
    assert class_answer(rows) == (
        "Reynolds is told right in 0.60 [0.50, 0.70] of the frames of full simulations at blocks.0, the best of 2 "
        "sites on held-out simple flows, where it is 0.80 (chance 0.20, shuffled values 0.25, random features 0.30, "
        "raw patch 0.70; 4 initial conditions); the input alone does at least as well."
    )


def test_the_page_begins_with_the_answers_and_has_the_terminal_s_tables(tmp_path):
    rows = rows_of()
    write_probe_tables(tmp_path, rows, [])
    write_class_table(tmp_path, [ClassScore("encoder", "Schmidt", "held_out", "probe", 1.0, 0.9, 0.8, 1.0, 0.5, 4)])
    page = write_page(tmp_path).read_text()
    assert (
        page.index("linear probes at the sites chosen on valid")
        < page.index("Schmidt is told right")
        < page.index("<table")
    )
    for line in (*chosen_table(rows, "token")[1], ["accuracy"]):
        assert all(f">{cell}<" in page for cell in line)
    text = probes_text(tmp_path)
    assert text.index("linear probes at") < text.index("Schmidt is told right") < text.index("R² per token")


@pytest.mark.parametrize(("value", "text"), [(-0.001, "+0.00"), (0.999, "+1.00"), (-10, "< −9"), (math.nan, "–")])
def test_r2_is_two_digits(value, text):
    assert r2_text(value) == text
