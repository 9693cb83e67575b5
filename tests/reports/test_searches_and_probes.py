"""``physteer report`` draws searches and probes again from their tables and maps."""

import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from physteer.analyses.das.table import InterchangeScore, write_interchange_table
from physteer.analyses.probing.class_table import ClassScore, write_class_table
from physteer.analyses.probing.table import LensScore, ProbeScore, write_probe_tables
from physteer.analyses.probing.trajectory_maps import TrajectoryMaps
from physteer.cli import main
from physteer.errors import PhysteerError
from physteer.reports import summary_of
from physteer.tables import read_rows, write_rows


def scores(best_site):
    """A search over two sites, of which one does best, with its controls."""
    rows = [InterchangeScore("", "model", 0, "", "nearness", "", 0.75, math.nan, math.nan, 3)]
    for site in ("blocks.0", "blocks.1"):
        value = 0.5 if site == best_site else 0.2
        for kind, name, share in (("learned", "", 1), ("shuffled", "", 0.4), ("random", "1", 0.1), ("full", "", -2)):
            who = (site, kind, 0 if kind == "full" else 2, name)
            rows += [
                InterchangeScore(*who, "recovery", field, share * value, share * value - 0.05, share * value + 0.05, 3)
                for field in ("", "tracer", "pressure")
            ]
            if kind == "learned":
                rows.append(InterchangeScore(*who, "recovery_above_shuffled", "", 0.6 * value, 0.2, 0.4, 3))
                rows.append(InterchangeScore(*who, "recovery_p_value", "", 0.5, math.nan, math.nan, 3))
            rows.append(InterchangeScore(*who, "nearness", "", 0.9 * share * value, 0.0, 0.5, 3))
            rows.append(InterchangeScore(*who, "interchange_accuracy", "", 0.5, 0.4, 0.6, 3))
            for field, moved, null in (("tracer", 0.3, 0.03), ("pressure", 0.4, 0.04)):
                rows.append(InterchangeScore(*who, "movement", field, moved, math.nan, math.nan, 3))
                rows.append(InterchangeScore(*who, "null_movement", field, null, math.nan, math.nan, 3))
            rows += [InterchangeScore(*who, "null_share", field, 0.1, 0.05, 0.2, 3) for field in ("", "tracer")]
            rows.append(InterchangeScore(*who, "null_share", "pressure", 0.02, 0.01, 0.03, 3))
            rows.append(InterchangeScore(*who, "exact_null_share", "pressure", 0.02, 0.01, 0.03, 3))
    return rows


def title(path):
    with Image.open(path) as image:
        return image.info["Title"]


def test_a_search_is_drawn_again(tmp_path, capsys):
    write_interchange_table(tmp_path, "valid", scores("blocks.1"), ["Reynolds", "Schmidt"])
    write_interchange_table(tmp_path, "test", scores("blocks.0"), ["Reynolds", "Schmidt"])
    assert main(["report", str(tmp_path)]) == 0
    figures = {path.name: title(path) for path in (tmp_path / "figures").iterdir()}
    assert figures == {  # those of fields are of what was selected on valid
        "recovery_test.png": "Recovery of the change of Reynolds, Schmidt, by site and rank",
        "recovery_valid.png": "Recovery of the change of Reynolds, Schmidt, by site and rank",
        "recovery_fields_test.png": "Recovery of the change of Reynolds, Schmidt by field: blocks.1, rank 2",
        "recovery_fields_valid.png": "Recovery of the change of Reynolds, Schmidt by field: blocks.1, rank 2",
    }
    page = (tmp_path / "report.html").read_text()
    assert 'id="learned-subspaces"' in page and "+0.50" in page and "ceiling of nearness is +0.75" in page
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("recovery of the change of Reynolds, Schmidt by interchange, on test (3 initial")
    row = " ".join(printed[2].split())
    assert row == "blocks.0 2 +0.50 [+0.45, +0.55] +0.20 +0.30 [+0.20, +0.40] +0.05 0.50 -1.00 +0.45 0.50"
    null = next(i for i, line in enumerate(printed) if line.startswith("null: how far"))
    assert printed[null].endswith("exact null: pressure together, which that parameter does not change")
    assert printed[null + 1].split("  ")[-1] == "all fields" and "exact null" in printed[null + 1]
    assert " ".join(printed[null + 2].split()) == "blocks.0 2 2.0% [1.0%, 3.0%] 10.0% 2.0% 10.0%"


def test_a_table_whose_recovery_is_nearness_is_refused(tmp_path, capsys):
    former = [replace(row, metric=row.metric.replace("nearness", "recovery")) for row in scores("blocks.0")]
    write_interchange_table(tmp_path, "test", former, ["Reynolds"])
    assert main(["report", str(tmp_path)]) == 2
    assert "whose recovery was nearness: score the checkpoint" in capsys.readouterr().err


def test_probes_are_drawn_again(tmp_path, capsys):
    places = [("blocks.0", "probe"), ("blocks.0", "shuffled"), ("", "random_features"), ("", "raw_patch")]
    rows = [
        ProbeScore(site, "vorticity", resolution, data, control, 1.0, 0.8, 0.7, 0.9, 0.1, 4, 0.01, 0.02)
        for site, control in places
        for resolution in ("token", "pooled")
        for data in ("simple", "full")
    ]
    lens = [LensScore(depth, field, 0.1, 0.05, 0.2, 4) for depth in ("encoder", "persistence") for field in ("", "p")]
    write_probe_tables(tmp_path, rows, lens)
    classes = [ClassScore(site, "Reynolds", "full", control, 1.0, 0.6, 0.5, 0.7, 0.2, 4) for site, control in places]
    write_class_table(tmp_path, classes)
    maps = TrajectoryMaps(
        name="flow_0",
        data="full",
        sites=("blocks.0",),
        targets=("vorticity",),
        pooled_targets=("vorticity",),
        frames=torch.arange(3),
        prediction=torch.randn(1, 1, 3, 4, 4, 1),
        truth=torch.randn(1, 3, 4, 4, 1),
        pooled_prediction=torch.randn(1, 1, 3),
        pooled_truth=torch.randn(1, 3),
    )
    maps.save(tmp_path / "maps" / "full_flow_0.safetensors")
    assert main(["report", str(tmp_path)]) == 0
    names = ("best_match", "classes", "lens", "maps_flow_0", "r2_pooled", "r2_token", "traces_flow_0")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [f"probe_{name}.png" for name in names]
    assert 'id="probes"' in (tmp_path / "report.html").read_text()
    printed = capsys.readouterr().out
    assert printed.startswith("On full simulations (4 initial conditions), linear probes")
    assert "R² per token" in printed and "accuracy of class probes" in printed
    assert printed.startswith(summary_of(tmp_path))


def test_probe_tables_of_an_earlier_version_are_read(tmp_path):
    """Columns with a default may be missing; others may not."""

    columns = [("target", "str"), ("r2", "float")]
    Earlier = dataclasses.make_dataclass("Earlier", columns)
    Now = dataclasses.make_dataclass("Now", [*columns, ("selectivity", "float", dataclasses.field(default=math.nan))])
    Other = dataclasses.make_dataclass("Other", [*columns, ("selectivity", "float")])
    write_rows(tmp_path / "probes", Earlier, [Earlier("vorticity", 0.5)])
    (row,) = read_rows(tmp_path / "probes", Now)
    assert (row.target, row.r2) == ("vorticity", 0.5) and math.isnan(row.selectivity)
    with pytest.raises(PhysteerError, match="has the columns target, r2, not target, r2, selectivity"):
        read_rows(tmp_path / "probes", Other)
    write_rows(tmp_path / "later", Now, [Now("vorticity", 0.5, 0.1)])
    with pytest.raises(PhysteerError, match="has the columns target, r2, selectivity, not target, r2"):
        read_rows(tmp_path / "later", Earlier)
