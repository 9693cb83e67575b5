"""Initial conditions one by one: single values, and how many go the wrong way."""

import numpy as np
import pytest
from helpers.synthetic_tables import FIELDS, synthetic

from physteer.analyses.steering.initial_condition_rows import read_single_values
from physteer.analyses.steering.initial_conditions import single_values
from physteer.analyses.steering.metric_array import metric_array
from physteer.analyses.steering.pooling import agreements
from physteer.analyses.steering.run_tables import summarise_run
from physteer.analyses.steering.summary_rows import read_summary
from physteer.analyses.steering.table import write_metrics
from physteer.reports import report, summary_of

CONCEPT = "vortex drop +0.4 blocks.0"


@pytest.fixture(scope="module")
def table():
    """Steering pushes the tracer of one initial condition far the wrong way, and of another a little."""
    table = synthetic(strengths=(0.4,), n_random=1, n_steps=2)
    mine = (table["condition"] == CONCEPT) & (table["metric"] == "change_product") & (table["field"] == "tracer")
    factor = table["initial_condition"].map({"ic1": -9.0, "ic3": -0.5}).fillna(1.0)
    return table.assign(value=table["value"].where(~mine, table["value"] * factor))


def test_agreement_is_summed_over_fields_in_units_of_their_true_change():
    terms = np.array([[[1.0, 2.0, 3.0, 4.0]], [[3.0, 6.0, 5.0, 4.0]], [[-9.0, 4.0, 0.0, 12.0]], [[np.nan] * 4]])
    found = agreements(terms, ["a", "a", "b", "c"])  # E‖Δy‖² of the fields: ((2 + 6)/2 + 4)/2 = 4, (4 + 12)/2 = 8
    np.testing.assert_allclose(found, [[2 / 4 + 4 / 8], [-9 / 4], [np.nan]])


def test_wrong_signs_are_counted_over_all_fields_together(table, tmp_path):
    write_metrics(tmp_path, table)
    summarise_run(tmp_path)
    counts = [r for r in read_summary(tmp_path) if r.quantity == "wrong_sign" and r.role == "concept"]
    assert [(r.value, r.initial_conditions, r.step, r.field) for r in counts] == [(1, 5, 1, ""), (1, 5, 2, "")]
    singles = [r for r in read_single_values(tmp_path) if r.quantity == "agreement" and r.role == "concept"]
    assert {r.initial_condition for r in singles if r.value < 0} == {"ic1"} and len(singles) == 10
    assert "1 of 5" in summary_of(tmp_path)


def test_single_values_average_to_the_mean(table, tmp_path):
    write_metrics(tmp_path, table)
    summarise_run(tmp_path)
    rows, singles = read_summary(tmp_path), read_single_values(tmp_path)
    for quantity in ("enstrophy", "enstrophy_truth", "alignment_cosine"):
        for role in ("concept", "data", "blurred"):
            (mean,) = [
                r.value
                for r in rows
                if (r.quantity, r.role, r.step) == (quantity, role, 2)
                and r.strength > 0
                and r.field in ("", "mean over fields")
            ]
            own = [r.value for r in singles if (r.quantity, r.role, r.step) == (quantity, role, 2) and r.strength > 0]
            assert len(own) == 5 and np.mean(own) == pytest.approx(mean)
    text, page = summary_of(tmp_path), report(tmp_path).read_text()
    assert "From each initial condition, vortex at blocks.0, drop, α +0.4" in text and "  ic3 " in text
    assert "From each initial condition: vortex at blocks.0, drop, α +0.4" in page


def test_gains_of_fields_are_told_from_smallest_to_largest(table, tmp_path):
    gains = {"tracer": 0.9, "pressure": 0.13, "velocity_x": 0.5, "velocity_y": 0.3}
    for field in FIELDS:
        own = (table["condition"] == CONCEPT) & (table["metric"] == "alignment_gain") & (table["field"] == field)
        table = table.assign(value=table["value"].where(~own, gains[field]))
    write_metrics(tmp_path, table)
    summarise_run(tmp_path)
    sentence = "+0.13 (pressure) to +0.90 (tracer) at step 1"
    assert sentence in " ".join(summary_of(tmp_path).split()) and sentence in report(tmp_path).read_text()


def test_one_field_that_changes_and_erasers():
    array = metric_array(synthetic(moving=("tracer",), strengths=(0.4,), n_random=0, n_initial=2, n_steps=1))
    own = [r for r in single_values(array) if r.role == "concept"]
    assert {r.quantity for r in own} == {"recovery", "alignment_cosine", "agreement", "enstrophy", "enstrophy_truth"}
    erased = synthetic(modes=("erased",), strengths=(1.0,), n_random=0, n_initial=2, n_steps=1)
    assert {r.role for r in single_values(metric_array(erased))} == {"data", "blurred"}
