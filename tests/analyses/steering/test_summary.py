"""The tidy table and what is concluded from it, on tables whose answers are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.synthetic_tables import FIELDS, N_STEPS, erased, synthetic

from physteer.analyses.steering.estimands import still_fields
from physteer.analyses.steering.metric_array import metric_array
from physteer.analyses.steering.summary import summarise
from physteer.analyses.steering.summary_rows import (
    MEAN_OVER_FIELDS,
    first_middle_last,
    read_summary,
    reported_steps,
    write_summary,
)
from physteer.analyses.steering.table import COLUMNS, MetricRow, metrics_table, read_metrics, write_metrics
from physteer.errors import PhysteerError
from physteer.reports.summary_text import summary_text


@pytest.fixture(scope="module")
def table():
    return synthetic(n_initial=8)


@pytest.fixture(scope="module")
def rows(table):
    return summarise(table)


def at(rows, quantity, strength=0.4, field=MEAN_OVER_FIELDS, step=1, role="concept"):
    (row,) = [
        row
        for row in rows
        if (row.quantity, row.field, row.step, row.role) == (quantity, field, step, role) and row.strength == strength
    ]
    return row


class TestTable:
    def test_is_read_as_it_was_written(self, table, tmp_path):
        path = write_metrics(tmp_path / "run", table)
        assert sorted(p.name for p in path.parent.iterdir()) == ["metrics.csv", "metrics.parquet"]
        read = read_metrics(tmp_path / "run")
        pd.testing.assert_frame_equal(read, table)
        csv = pd.read_csv(path.with_suffix(".csv"), keep_default_na=False)
        assert list(csv.columns) == list(COLUMNS) and len(csv) == len(table)
        np.testing.assert_allclose(csv["value"].astype(float), table["value"], rtol=1e-8)

    def test_values_need_not_be_finite(self, tmp_path):
        rows = [
            MetricRow("w", "i", "unsteered", "unsteered", "", 0.0, "", "", s, 0.1, "", "enstrophy", v)
            for s, v in ((1, np.nan), (2, np.inf))
        ]
        write_metrics(tmp_path, metrics_table(rows))
        np.testing.assert_array_equal(read_metrics(tmp_path)["value"], [np.nan, np.inf])

    def test_none_written_none_read(self, tmp_path):
        assert read_metrics(tmp_path) is None

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.drop(columns="role"), "no column 'role'; its columns are window"),
            (lambda t: t.assign(more=1), "an unknown column 'more'"),
            (lambda t: t.assign(role="boss"), "the role 'boss'; roles are truth, unsteered"),
            (lambda t: t.assign(step=0), "step 0; steps count from 1"),
            (lambda t: t.assign(step=1.5), "'step' .* no whole number"),
            (lambda t: t.assign(strength=np.inf), "'strength' .* not finite"),
            (lambda t: t.assign(value="high"), "'value' .* holds no numbers"),
            (lambda t: t.assign(field=None), "'field' .* empty cell"),
            (lambda t: pd.concat([t, t.head(1)]), "two values for window 'w0_0'"),
        ],
    )
    def test_what_is_no_table_is_refused(self, table, change, message, tmp_path):
        with pytest.raises(PhysteerError, match=message):
            write_metrics(tmp_path, change(table))
        assert not list(tmp_path.iterdir())

    def test_broken_file_is_named(self, tmp_path):
        (tmp_path / "tables").mkdir()
        (tmp_path / "tables" / "metrics.parquet").write_bytes(b"PAR1 not really")
        with pytest.raises(PhysteerError, match=r"cannot read .*metrics\.parquet"):
            read_metrics(tmp_path)


class TestMetricArray:
    def test_holds_every_value(self, table):
        array = metric_array(table)
        assert array.steps == tuple(range(1, N_STEPS + 1)) and len(array.windows) == 16
        row = table.iloc[777]
        i = [key.condition for key in array.conditions].index(row["condition"])
        place = (i, array.windows.index(row["window"]), row["step"] - 1)
        assert array.get(row["metric"], row["field"])[place] == row["value"]
        assert sum(np.isfinite(values).sum() for values in array.values.values()) == len(table)

    def test_what_follows_a_blow_up_is_left_out(self, table):
        rows = [
            ("w0_0", "vortex drop +0.4 blocks.0", 3),
            ("w1_1", "unsteered", 2),
        ]
        new = []
        for window, condition, step in rows:
            like = table[(table["window"] == window) & (table["condition"] == condition) & (table["step"] == step)]
            new.append(like.head(1).assign(metric="blow_up_step", field="", value=float(step)))
        array = metric_array(pd.concat([table, *new], ignore_index=True))
        names = [key.condition for key in array.conditions]
        enstrophy, a, b = array.get("enstrophy"), array.windows.index("w0_0"), array.windows.index("w1_1")
        steered, other, truth = (
            names.index(n) for n in ("vortex drop +0.4 blocks.0", "vortex drop +0.2 blocks.0", "truth")
        )
        assert np.isfinite(enstrophy[steered, a, :2]).all() and np.isnan(enstrophy[steered, a, 2:]).all()
        assert np.isfinite(enstrophy[other, a]).all()
        assert np.isnan(enstrophy[other, b, 1:]).all() and np.isfinite(enstrophy[truth, b]).all()
        rows = summarise(pd.concat([table, *new], ignore_index=True))
        assert at(rows, "blow_ups", field="", step=0).value == 1
        assert at(rows, "blow_ups", strength=0.2, field="", step=0).value == 0
        assert {f.value for f in rows if f.quantity == "already_diverged"} == {1}
        assert at(rows, "recovery", step=1).windows == 16
        assert at(rows, "recovery", step=6).windows == 14
        assert "In 1 window the unsteered rollout itself blew up" in summary_text(rows)

    def test_reported_steps_are_first_middle_last(self, rows):
        assert reported_steps(rows) == (1, 3, 6) and reported_steps([]) == ()
        assert [first_middle_last(n) for n in (1, 2, 12)] == [(1,), (1, 2), (1, 6, 12)]

    def test_without_unsteered_rollouts_there_is_nothing_to_compare_with(self, table):
        with pytest.raises(PhysteerError, match="one unsteered condition to compare with; it has none"):
            summarise(table[table["role"] != "unsteered"])


class TestSummary:
    def test_a_concept_that_aligns_is_told_from_random_directions(self, rows):
        found = at(rows, "alignment_cosine")
        assert found.value == pytest.approx(0.6, abs=0.03) and found.low < found.value < found.high
        assert (found.controls, found.windows, found.initial_conditions) == (19, 16, 8)
        assert found.p == 1 / 20

    def test_one_that_does_not_is_not(self):
        rows = summarise(synthetic(cosine=0.0, strengths=(0.4,), n_initial=8, n_windows=1))
        assert at(rows, "alignment_cosine").p > 0.05
        assert "*" not in summary_text(rows).split("shuffled")[0].replace("*:", "")

    @pytest.mark.parametrize(
        ("quantity", "error", "reference", "condition"),
        [
            ("recovery", "change_error", "change_truth", "vortex drop +0.4 blocks.0"),
            ("nearness", "error_steered", "error_unsteered", "vortex drop +0.4 blocks.0"),
            ("nearness_base", "change_truth", "error_unsteered", "vortex drop +0.4 blocks.0"),
            ("nearness_blurred", "error_steered", "error_unsteered", "blurred +1"),
        ],
    )
    def test_recovery_and_nearness_are_ratios_of_means(self, table, quantity, error, reference, condition):
        """Over the windows of an initial condition, then over initial conditions; not means of ratios."""
        few = table[(table["role"] != "random") & (table["window"] != "w2_1") & (table["step"] == 6)]
        rows = summarise(few)
        mine = few[(few["condition"] == condition) & few["metric"].isin([error, reference])]
        means = mine.groupby(["field", "metric", "initial_condition"])["value"].mean()
        sums = means.groupby(["field", "metric"]).mean().unstack()
        per_field = 1 - sums[error] / sums[reference]
        for field in FIELDS:
            assert at(rows, quantity, field=field, step=6).value == pytest.approx(per_field[field])
        assert at(rows, quantity, step=6).value == pytest.approx(per_field.mean())

    def test_nearness_is_shown_beside_its_base_lines_only(self, table, rows):
        text = summary_text(rows)
        assert text.index("step  recovery") < text.index("nearness") < text.index("enstrophy, %")
        header = next(line for line in text.splitlines() if "nearness" in line)
        assert "of the base truth" in header and "of the blurred output" in header
        without = summary_text(summarise(table[table["role"] != "blurred"]))
        assert "of the base truth" in without and "of the blurred" not in without
        assert "No blurred output: the parameter is no viscosity" in without
        old = table[~table["metric"].str.startswith("change_")]  # written before the change was measured
        assert "nearness" not in summary_text(summarise(old))

    def test_changes_are_against_the_same_window(self, rows, table):
        step = table[table["step"] == 6]
        values = step[step["metric"] == "enstrophy"].pivot(index="window", columns="condition", values="value")
        change = (values["vortex drop +0.4 blocks.0"] / values["unsteered"] - 1).mean()
        found = at(rows, "enstrophy", field="", step=6)
        assert found.value == pytest.approx(change) and 0.15 < change < 0.25
        assert at(rows, "enstrophy_truth", field="", step=6).value == pytest.approx(0.6, abs=0.05)
        assert at(rows, "enstrophy_truth", strength=-0.4, field="", step=6).value < -0.5

    def test_dose_response(self, rows):
        (slope,) = [f for f in rows if f.quantity == "enstrophy_slope" and f.step == 6 and f.role == "concept"]
        assert slope.value == pytest.approx(0.5, abs=0.05) and np.isnan(slope.strength) and slope.controls == 19
        (share,) = [f for f in rows if f.quantity == "enstrophy_monotone" and f.step == 6 and f.role == "concept"]
        assert share.value == 1

    def test_damage(self, rows):
        assert at(rows, "vrmse_ratio", field="").value == pytest.approx(1.4)
        assert at(rows, "divergence_ratio", strength=0.2, field="").value == pytest.approx(1.2)
        assert at(rows, "tracer_drift", field="", step=6).value == pytest.approx(0.001 * 6 * 1.4 / 0.5)
        assert at(rows, "spectrum_distance", strength=0.0, field="", step=6, role="unsteered").value == pytest.approx(
            0.6
        )

    def test_fields_that_should_not_move_are_judged_by_how_far_they_do(self):
        table = synthetic(moving=("tracer",), strengths=(-0.4, 0.4), n_random=1, n_initial=3)
        assert still_fields(metric_array(table)) == ("pressure", "velocity_x", "velocity_y")
        rows = summarise(table)
        assert {f.field for f in rows if f.quantity == "alignment_cosine"} == {"tracer"}
        found = at(rows, "null_movement", field="velocity_x", step=6)
        assert found.value == pytest.approx(2 * 0.4 * 0.01, rel=0.02)  # from gain and cosine
        measured = table[(table["metric"] == "alignment_cosine") & (table["field"] == "velocity_x")]
        added = pd.concat([table, measured.assign(metric="movement", value=0.5)], ignore_index=True)
        assert at(summarise(added), "null_movement", field="velocity_x", step=6).value == 0.5
        assert "|Δu_x|" in summary_text(rows)

    def test_each_random_direction_counts_once_and_at_the_same_signed_strength(self, table):
        random = (table["role"] == "random") & (table["strength"] == -0.4)
        one = random & (table["direction"] == "random 3") & (table["metric"] == "alignment_cosine")
        better = table.assign(value=table["value"].where(~one, 0.99))
        rows = summarise(better)
        up, down = (at(rows, "alignment_cosine", strength=a) for a in (0.4, -0.4))
        assert (up.controls, up.p) == (19, 1 / 20) and (down.controls, down.p) == (19, 2 / 20)
        only_up = summarise(table[~random])
        assert at(only_up, "alignment_cosine", strength=-0.4).controls == 0
        assert np.isnan(at(only_up, "alignment_cosine", strength=-0.4).p)
        (slope,) = [f for f in only_up if f.quantity == "enstrophy_slope" and f.step == 6 and f.role == "concept"]
        assert slope.controls == 19, "slopes are compared over the strengths that both have"

    def test_one_test_over_all_fields_and_steps_comes_before_the_cells(self, rows):
        for strength in (-0.4, 0.4):
            overall = at(rows, "recovery_overall", strength, "", 0)
            curve = [at(rows, "recovery", strength, step=step) for step in range(1, N_STEPS + 1)]
            assert overall.value == pytest.approx(np.mean([row.value for row in curve]))
            assert (overall.p, overall.controls, overall.initial_conditions) == (1 / 20, 19, 8)
            cells = [at(rows, "recovery", strength, field, step) for field in FIELDS for step in range(1, N_STEPS + 1)]
            assert at(rows, "recovery_cells", strength, "", 0).value == len(cells)
            assert at(rows, "recovery_cells_first", strength, "", 0).value == sum(row.p == 1 / 20 for row in cells)
        text = summary_text(rows)
        assert "rank 1 of 20 (p = 0.05); first in 24 of 24 cells." in " ".join(text.split())
        assert text.index("One test each") < text.index("step  recovery")

    def test_a_control_that_recovers_more_somewhere_costs_cells_and_then_the_rank(self):
        table = synthetic(strengths=(0.4,), n_random=2, n_initial=2, n_windows=1, n_steps=3)
        own = (table["direction"] == "random 1") & (table["metric"] == "change_error")
        for steps, rank, first in ([2], 1, 8), ([1, 2, 3], 2, 0):
            best = own & table["step"].isin(steps)
            rows = summarise(table.assign(value=table["value"].where(~best, 0.0 if len(steps) > 1 else 1e-9)))
            assert at(rows, "recovery_overall", 0.4, "", 0).p == rank / 3
            assert at(rows, "recovery_cells_first", 0.4, "", 0).value == first
        gone = table[~(own & (table["step"] == 3))]  # a control without a value counts as better
        assert at(summarise(gone), "recovery_overall", 0.4, "", 0).p == 2 / 3

    def test_random_directions_made_like_another_concept_do_not_count(self):
        table = synthetic(strengths=(0.4,), n_random=3, n_initial=2)
        random = table["role"] == "random"
        for concept, controls in (("vortex", 3), ("speed", 0)):
            named = table["direction"].where(~random, table["direction"] + f" like {concept}")
            assert at(summarise(table.assign(direction=named)), "recovery").controls == controls

    def test_interpolation_of_data_is_a_line_of_its_own(self, rows):
        found = at(rows, "alignment_cosine", strength=1.0, role="data")
        assert found.value == pytest.approx(0.9, abs=0.03) and found.controls == 0
        (slope,) = [f for f in rows if f.quantity == "enstrophy_slope" and f.step == 6 and f.role == "data"]
        assert slope.value == pytest.approx(0.4, abs=0.05) and slope.controls == 0
        assert "\n  data interpolation\n    −1     1  " in summary_text(rows)

    def test_naturalness_is_told_per_site(self, rows):
        assert at(rows, "natural_percentile", field="blocks.0").value == pytest.approx(90)
        assert at(rows, "residual_percentile", field="blocks.0", role="unsteered", strength=0.0).value == 51.5
        text = summary_text(rows)
        assert "natural" in text and "90.0" in text and "Unsteered at step 6: " in text and "natural 50.0" in text

    def test_controls_of_other_sites_and_modes_do_not_count(self):
        rows = summarise(synthetic(sites=("blocks.0", "blocks.1"), strengths=(0.2,), n_random=3, n_initial=2))
        assert {f.controls for f in rows if f.quantity == "recovery" and f.role == "concept"} == {3}

    def test_without_counterfactuals_and_controls(self, table):
        few = table[table["role"].isin(["unsteered", "concept"]) & (table["field"] == "")]
        rows = summarise(few)
        assert not {f.quantity for f in rows} & {"recovery", "alignment_cosine", "enstrophy_truth"}
        assert np.isnan(at(rows, "enstrophy", field="").p)
        text = summary_text(rows)
        assert "No random directions: p ≤ 0.05 needs at least 19" in text and "cosine" not in text

    def test_fewer_than_eight_initial_conditions_have_neither_interval_nor_star(self):
        rows = summarise(synthetic(n_initial=7, n_windows=1, strengths=(0.4,), n_steps=2))
        assert np.isnan([row.low for row in rows]).all() and np.isnan([row.high for row in rows]).all()
        assert at(rows, "alignment_cosine").p == 1 / 20  # in the table, for who wants it
        text = summary_text(rows)
        assert not {"[", "*"} & set(text)
        assert "Fewer than 8 initial conditions: single values, no intervals and no stars." in text

    def test_every_step_is_judged_as_if_alone(self, table, rows):
        assert {row.step for row in rows} == {0, *range(1, N_STEPS + 1)}
        alone = summarise(table, steps=[2])
        assert {row.step for row in alone} == {0, 2}

        def rounded(row):
            return repr(replace(row, low=round(row.low, 9), high=round(row.high, 9)))

        assert [rounded(row) for row in rows if row.step == 2] == [rounded(row) for row in alone if row.step]

    def test_random_directions_have_the_values_that_p_is_counted_from(self, rows):
        random = [row for row in rows if row.role == "random"]
        assert random and all(np.isnan([row.low, row.high, row.p]).all() and row.controls == 0 for row in random)
        for quantity, field in (("alignment_cosine", MEAN_OVER_FIELDS), ("recovery", "tracer")):
            for step in (1, 6):
                own = at(rows, quantity, field=field, step=step)
                place = (quantity, field, step, 0.4)
                controls = [r.value for r in random if (r.quantity, r.field, r.step, r.strength) == place]
                assert len(controls) == own.controls == 19
                assert own.p == (1 + sum(value >= own.value for value in controls)) / 20

    def test_metrics_of_truths_and_unsteered_rollouts_are_there_as_they_are(self, table, rows):
        for condition, role, strength in (("truth", "truth", 0.0), ("truth at above", "truth", 1.0)):
            values = table[(table["condition"] == condition) & (table["metric"] == "enstrophy") & (table["step"] == 3)]
            expected = values.groupby("initial_condition")["value"].mean().mean()
            row = at(rows, "enstrophy_value", strength, "", 3, role)
            assert row.value == pytest.approx(expected) and row.low < row.value < row.high
        errors = table[(table["role"] == "unsteered") & (table["metric"] == "vrmse") & (table["step"] == 6)]
        row = at(rows, "vrmse_value", 0.0, MEAN_OVER_FIELDS, 6, "unsteered")
        assert row.value == pytest.approx(errors["value"].mean())

    def test_the_file_is_read_back(self, rows, tmp_path):
        write_summary(tmp_path, rows)
        read = read_summary(tmp_path)
        places = [
            [(f.role, f.setting.series, f.quantity, f.field, f.step, f.windows, f.controls) for f in every]
            for every in (read, rows)
        ]
        assert places[0] == places[1]
        for column in ("strength", "value", "low", "high", "p"):
            np.testing.assert_array_equal([getattr(f, column) for f in read], [getattr(f, column) for f in rows])
        assert summary_text(read) == summary_text(rows)


class TestErasing:
    @pytest.mark.parametrize(("moved", "p"), [(0.5, 1 / 20), (0.05, 1.0)])
    def test_what_is_used_moves_rollouts_farther_than_random_erasers(self, moved, p):
        found = at(summarise(erased(moved)), "movement", strength=1.0)
        assert found.value == pytest.approx(moved) and (found.controls, found.p) == (19, p)

    def test_has_no_strength_and_no_target(self):
        rows = summarise(erased())
        assert not [f for f in rows if np.isnan(f.strength) or f.quantity.endswith("_truth")]
        assert not [f for f in rows if f.quantity in ("alignment_cosine", "recovery")]

    def test_has_its_own_words(self):
        text = summary_text(summarise(erased()))
        assert text.startswith("Erasing: 1 eraser, 10 windows of 5 initial conditions, 19 random erasers.\n")
        assert "  vortex at blocks.0, erased" in text and "|Δ| mean" in text
        assert "movement +0.50, rank 1 of 20 (p = 0.05); first in 24 of 24 cells." in " ".join(text.split())
        assert "Intact at step 6: tracer drift" in text
        assert not [word for word in ("steer", "α", "direction") if word in text.replace("one direction each", "")]
        assert max(map(len, text.splitlines())) <= 100

    def test_beside_steering_either_is_told_of(self, table, rows):
        mixed = pd.concat([table, erased(n_initial=8)])
        both = mixed.drop_duplicates(["window", "condition", "step", "field", "metric"])
        text = summary_text(summarise(both))
        assert text.startswith(summary_text(rows))
        assert text.removeprefix(summary_text(rows)) == "\n" + summary_text(summarise(erased(n_initial=8)))


class TestText:
    def test_fits_a_terminal(self, rows):
        wide = synthetic(moving=("tracer",), sites=("blocks.0.space.heads[12]", "blocks.1"), n_initial=2, n_random=2)
        for text in (summary_text(rows), summary_text(summarise(wide))):
            assert max(map(len, text.splitlines())) <= 100

    def test_says_what_was_found_and_what_weakens_it(self, rows):
        text = summary_text(rows)
        assert text.startswith("Steering: 4 settings, 16 windows of 8 initial conditions, 19 random directions.\n")
        assert "  vortex at blocks.0, drop" in text and "+0.4" in text and "−0.4" in text
        assert "4 settings were tried: confirm" in text
        assert "95 % studentised bootstrap interval over initial conditions" in text and "[+" in text and "*" in text

    def test_many_settings_are_cut_to_the_best(self):
        table = synthetic(sites=("blocks.0", "blocks.1", "blocks.2"), n_initial=2, n_random=2, n_steps=1)
        text = summary_text(summarise(table))
        assert "The 8 of 12 settings that did most" in text
        assert "vortex at blocks.1, drop" in text and "blocks.2" not in text

    def test_nothing_steered_nothing_said(self, table):
        assert summary_text(summarise(table[table["role"].isin(["unsteered", "truth"])])) == ""
