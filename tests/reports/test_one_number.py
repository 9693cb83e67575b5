"""A number is computed once: what the page and the terminal show of a quantity is the summary table's value."""

import ast
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.synthetic_tables import erased, synthetic

from physteer.analyses.steering.run_tables import summarise_run
from physteer.analyses.steering.summary_rows import MEAN_OVER_FIELDS
from physteer.analyses.steering.table import write_metrics
from physteer.reports import report, summary_of

SHOWN = {  # column: quantity, field, what a unit is shown as
    "cosine": ("alignment_cosine", MEAN_OVER_FIELDS, 1),
    "tracer": ("alignment_cosine", "tracer", 1),
    "gain": ("alignment_gain", MEAN_OVER_FIELDS, 1),
    "recovery": ("recovery", MEAN_OVER_FIELDS, 1),
    "nearness": ("nearness", MEAN_OVER_FIELDS, 1),
    "of the base truth": ("nearness_base", MEAN_OVER_FIELDS, 1),
    "of the blurred output": ("nearness_blurred", MEAN_OVER_FIELDS, 1),
    "|Δ| mean": ("movement", MEAN_OVER_FIELDS, 1),
    "enstrophy, %": ("enstrophy", "", 100),
    "truth, %": ("enstrophy_truth", "", 100),
    "vortex area, %": ("vortex_area", "", 100),
    "VRMSE ×": ("vrmse_ratio", "", 1),
    "∇·u ×": ("divergence_ratio", "", 1),
    "natural": ("natural_percentile", "blocks.0", 1),
    "spectrum": ("spectrum_distance", "", 1),
    "drift": ("tracer_drift", "", 1),
    "enstrophy ½⟨ω²⟩": ("enstrophy_value", "", 1),
    "VRMSE": ("vrmse_value", MEAN_OVER_FIELDS, 1),
}


class Tables(HTMLParser):
    """Collects the page's tables: rows of cells, the header first."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.inside = tag in ("td", "th") or (self.inside and tag not in ("table", "tr"))

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")


@pytest.fixture(
    scope="module", params=[synthetic(n_random=3, n_initial=8, n_windows=1), erased()], ids=["steered", "erased"]
)
def shown(request, tmp_path_factory):
    """The run folder, the summary's CSV file by place, and the page's tables."""
    folder = tmp_path_factory.mktemp("run")
    write_metrics(folder, request.param)
    summarise_run(folder)
    page = report(folder)
    table = pd.read_csv(folder / "tables/summary.csv", keep_default_na=False)
    columns = ["role", "direction", "site", "mode", "quantity", "field", "step", "strength"]
    rows = {
        (*tuple(row[c] for c in columns[:-1]), str(float(row["strength"]))): row for row in table.to_dict("records")
    }
    return folder, rows, Tables(page.read_text()).tables


def same(text, value, unit):
    """Whether a text is a value, rounded as it is written."""
    digits = text.replace("−", "-").replace("*", "").strip()
    decimals = len(digits.partition("e")[0].partition(".")[2])
    scale = 10**-decimals * (10 ** int(digits.partition("e")[2]) if "e" in digits else 1)
    if decimals == 0 and len(digits.lstrip("+-")) == 3:
        scale = 1
    return abs(float(digits) - unit * float(value)) <= 0.51 * scale


def setting_of(label, strength):
    """Return role, direction, site, mode and strength as in the table."""
    named = re.fullmatch(r"(.+?)(?: at ([^\s,]+))?(?:, (\w+))?", label)
    number = float(strength.replace("−", "-")) if strength else 1.0 if named[3] == "erased" else 0.0
    if label.startswith("truth"):
        return "truth", "", "", "", {"truth": 0.0}.get(label, 1.0 if label.endswith("above") else -1.0)
    if label in ("unsteered", "intact"):
        return "unsteered", "", "", "", 0.0
    role = {"shuffled 1": "shuffled", "data interpolation": "data", "blurred output": "blurred"}.get(
        named[1], "concept"
    )
    return role, named[1], named[2] or "", named[3] or "", number


def test_on_the_page(shown):
    _, rows, tables = shown
    checked = set()
    for header, *body in tables:
        if "step" not in header or {"enstrophy per α, %", "initial condition"} & set(header):
            continue
        label = strength = ""
        for cells in body:
            labels, step = cells[: header.index("step")], int(cells[header.index("step")])
            if any(labels):
                label, strength = labels[0], labels[1] if len(labels) > 1 else ""
            role, direction, site, mode, number = setting_of(label, strength)
            for title, cell in zip(header, cells, strict=True):
                if title not in SHOWN or cell in ("", "—"):
                    continue
                quantity, field, unit = SHOWN[title]
                row = rows[role, direction, site, mode, quantity, field, step, str(number)]
                value, _, interval = cell.partition("\n")
                assert same(value, row["value"], unit), (title, label, strength, step, cell, row)
                for end, text in zip(
                    ("low", "high"), interval.strip("[]").split(", ") if interval else (), strict=False
                ):
                    assert same(text, row[end], unit), (title, cell, row)
                enough = int(row["initial_conditions"]) >= 8
                assert ("*" in value) == (enough and row["p"] != "" and float(row["p"]) <= 0.05)
                assert enough or not interval
                checked.add(title)
    assert len(checked) >= 8, checked


def test_on_the_terminal(shown):
    folder, rows, _ = shown
    header, series, strength, checked = [], "", "", 0
    for line in summary_of(folder).splitlines():
        if re.match(r" +(α +)?step ", line):
            header = re.split(r"  +", line.strip().removeprefix("α").strip())[1:]
        elif re.match(r"  [^\s+−]", line):
            series = line.strip()
        elif (found := re.match(r" *([+−][\d.]+)?  +(\d+)  (.*)", line)) and "enstrophy per α, %" not in header:
            strength = found[1] or strength
            cells = re.split(r"  +", found[3].strip())
            role, direction, site, mode, number = setting_of(series, "" if series.endswith("erased") else strength)
            if len(cells) < len(header):
                continue  # an empty cell: columns cannot be told apart by spaces
            for title, cell in zip(header, cells, strict=True):
                if title in SHOWN and cell != "—":
                    quantity, field, unit = SHOWN[title]
                    row = rows[role, direction, site, mode, quantity, field, int(found[2]), str(number)]
                    assert same(cell.partition(" [")[0], row["value"], unit), (title, line, row)
                    checked += 1
    assert checked >= 10


def test_reports_import_no_computation():
    """Of metrics only the vorticity, as a picture; of analyses rows and files (tests/project/test_imports.py)."""
    imported = set()
    for path in (ROOT / "physteer/reports").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("physteer.metrics"):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names if alias.name.startswith(("physteer", "pandas"))}
    assert imported == {"vorticity"}
