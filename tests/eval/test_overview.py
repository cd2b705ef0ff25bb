import json
import re
from math import nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from eval.overview import DONE, MISSING, OUTDATED, Point, collect, extractable, families, seeds_of_cells, table, write_overview
from eval.report import javascript

HOSTILE = "<script>alert('pwned')</script>"
SLOPE = "more copies, more memorized"


def finding(name: str, value: float, verdict: str = "yes", **own: Any) -> dict[str, Any]:
    row = {"name": name, "metric": "log_prob", "kind": "all", "arm": "all", "step": 300, "value": value}
    return {**row, "low": value - 0.25, "high": value + 0.25, "n": 12, "verdict": verdict, **own}


def attack(metric: str, value: float) -> dict[str, Any]:
    return finding(f"{metric} attack finds items inserted 64 times", value, metric=metric, arm="64x", high=1.0)


def rates(learning_rate: float, seed: int) -> dict[str, Any]:
    return {"train.learning_rate": learning_rate, "seed": seed}


POINTS = [
    Point(
        "learning_rate-0.001_seed-1",
        rates(0.001, 1),
        DONE,
        findings=[
            finding(SLOPE, 0.5, kind="canary"),
            finding(SLOPE, 0.75, "not decidable", kind="pii"),
            attack("loss", 0.75),
            attack("zlib", 0.5),
        ],
    ),
    Point(
        "learning_rate-0.002_seed-1",
        rates(0.002, 1),
        OUTDATED,
        "eval-perturbed: its settings or inputs have changed",
        [finding(SLOPE, 0.25, "no", kind="canary"), finding("secrets are extracted", 0.5, metric="secret_extracted")],
    ),
    Point("learning_rate-0.004_seed-1", rates(0.004, 1), MISSING, f"train-perturbed: {HOSTILE}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_overview(tmp_path_factory.mktemp("sweep") / "overview", "rates", POINTS, ["seed-9"]).parent


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    """The page without Vega's own JavaScript."""
    text = (folder / "index.html").read_text()
    assert text.count(javascript()) == 1
    return text.replace(javascript(), "")


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def rows(page: str, kind: str) -> list[str]:
    body = page.split(f'<table class="{kind}">')[1].split("</table>")[0]
    return [words(row) for row in body.split("<tr>")[2:]]


def charts(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_every_point_is_listed_with_its_settings_and_state_and_none_is_dropped(page: str) -> None:
    assert rows(page, "points") == [
        "1 0.001 1 done learning_rate-0.001_seed-1",
        "2 0.002 1 out of date learning_rate-0.002_seed-1 eval-perturbed: its settings or inputs have changed",
        "3 0.004 1 missing learning_rate-0.004_seed-1 train-perturbed: &lt;script&gt;alert(&#39;pwned&#39;)&lt;/script&gt;",
    ]
    assert "In the same folder, but not of the sweep as it is given now: seed-9." in page


def test_points_with_findings_link_to_their_reports(page: str) -> None:
    links = re.findall(r'href="\.\./([^"]*)"', page)
    assert links == [f"{point.name}/report/index.html" for point in POINTS[:2]]


def test_findings_stand_side_by_side_with_interval_and_verdict(page: str) -> None:
    found = rows(page, "matrix")
    assert found[0] == f"{SLOPE} log_prob · canary · all 0.50 0.25 to 0.75 0.25 0.00 to 0.50 no –"
    assert found[1] == f"{SLOPE} log_prob · pii · all 0.75 0.50 to 1.00 not decidable – –"
    assert len(found) == 5


def test_the_page_says_what_its_intervals_are_not_about(page: str) -> None:
    assert "holds for the one training run of its point" in words(page)
    assert "here every cell has one seed, so such a claim is not decidable" in words(page)


def test_with_several_seeds_a_cell_it_says_how_many(tmp_path: Path) -> None:
    more = [Point(f"{rate}-{seed}", rates(rate, seed), DONE, findings=POINTS[0].findings) for rate in (1, 2) for seed in (1, 2)]
    assert "here cells have 2 seeds" in words(write_overview(tmp_path, "rates", more).read_text())
    assert "here cells have 1 to 2 seeds; where a cell has one" in words(write_overview(tmp_path, "rates", more[:3]).read_text())


def test_only_points_with_findings_count_as_seeds_of_a_cell() -> None:
    done, missing = ([Point("p", rates(1, seed), DONE, findings=own) for seed in (1, 2)] for own in (POINTS[0].findings, []))
    assert (seeds_of_cells(done), seeds_of_cells([done[0], missing[1]]), seeds_of_cells(missing)) == ((2, 2), (1, 1), (0, 0))


def test_the_page_loads_nothing_and_runs_nothing_that_a_run_says(page: str) -> None:
    addresses = {address.split("/")[2] for address in re.findall(r"https?://[^\s\"'<]*", page)}
    assert addresses <= {"www.w3.org", "vega.github.io"}
    assert not re.search(r"\ssrc=|@import|url\(|<link|fetch\(", page)
    assert HOSTILE not in page


def test_every_file_that_the_page_names_is_there_and_no_other(folder: Path, page: str) -> None:
    names = [name for name in re.findall(r'<a href="([^"]*)"', page) if not name.startswith("..")]
    assert sorted([*names, "index.html"]) == sorted(path.name for path in folder.iterdir())
    for path in folder.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "var(" not in path.read_text()


def test_findings_that_say_the_same_share_a_figure() -> None:
    told = [(family.title, family.labels) for family in families(POINTS)]
    assert told == [
        (SLOPE, ["canary", "pii"]),
        ("attack finds items inserted 64 times", ["loss", "zlib"]),
        ("secrets are extracted", ["all"]),
    ]


def test_a_figure_has_every_point_and_says_which_have_no_such_finding(page: str) -> None:
    data = charts(page)["finding-1"]["datasets"].values()
    shown, gaps = sorted(data, key=lambda rows: "why" in rows[0])
    assert [(row["point"], row["series"], row["value"]) for row in shown] == [
        (POINTS[0].name, "canary", 0.5),
        (POINTS[0].name, "pii", 0.75),
        (POINTS[1].name, "canary", 0.25),
    ]
    assert gaps == [{"point": POINTS[2].name, "why": "no findings yet"}]
    assert next(row for rows in charts(page)["finding-3"]["datasets"].values() for row in rows if "why" in row) == {
        "point": POINTS[0].name,
        "why": "not measured",
    }


def test_the_table_has_a_row_a_finding_with_the_swept_settings_as_columns(folder: Path) -> None:
    saved = pd.read_csv(folder / "findings.csv")
    assert list(saved.columns) == [
        *("point", "train.learning_rate", "seed", "state", "finding", "metric", "kind", "arm"),
        *("step", "value", "low", "high", "n", "verdict"),
    ]
    assert list(saved["train.learning_rate"]) == [0.001] * 4 + [0.002] * 2 + [0.004]
    assert list(saved.value[:6]) == [0.5, 0.75, 0.75, 0.5, 0.25, 0.5]
    assert (saved.state.iloc[6], saved.finding.isna().sum(), saved.value.isna().sum()) == (MISSING, 1, 1)


def test_settings_that_are_lists_or_mappings_are_told_as_json() -> None:
    point = Point("p", {"design.copies": [0, 4], "model": {"layers": 2}, "train.compile": True}, MISSING)
    assert table([point]).iloc[0][["design.copies", "model", "train.compile"]].tolist() == ["[0, 4]", '{"layers": 2}', "true"]


def test_a_sweep_without_findings_has_an_overview(tmp_path: Path) -> None:
    page = write_overview(tmp_path, "rates", POINTS[2:]).read_text()
    assert "No point has findings yet." in page
    assert len(rows(page, "points")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["findings.csv", "index.html"]


def test_a_bound_that_is_not_finite_is_drawn_as_none(tmp_path: Path) -> None:
    point = Point("p", {"seed": 1}, DONE, findings=[finding(SLOPE, 0.5, low=None, high=None)])
    page = write_overview(tmp_path, "rates", [point]).read_text()
    assert "no interval" in rows(page, "matrix")[0]
    assert "finding-1" in charts(page)


def test_a_finding_of_another_arm_is_another_finding() -> None:
    points = [Point(arm, {"seed": 1}, DONE, findings=[finding(SLOPE, 0.5, arm=arm)]) for arm in ("4x", "8x")]
    assert [[row is not None for row in each.found] for each in collect(points)] == [[True, False], [False, True]]


# ------------------------------------------------------------------------------------------------ attacks over several points


def attacked(point: str, value: float, low: float = 0.5, high: float = 0.9, cell: str = "{}") -> dict[str, Any]:
    told = {"cell": cell, "models": 3, "kind": "pii", "attack": "rmia", "point": point, "value": value, "low": low, "high": high}
    return {**told, "loss": value - 0.1, "loss_low": low, "loss_high": high, "n": 12}


def test_attacks_over_several_points_stand_beside_the_loss_on_the_same_texts(tmp_path: Path) -> None:
    shadow = pd.DataFrame([attacked(POINTS[0].name, 0.75), attacked(POINTS[2].name, 0.5), attacked("pooled", 0.6, nan, nan)])
    page = write_overview(tmp_path, "rates", POINTS, shadow=shadow).read_text()
    assert rows(page, "matrix across") == ["rmia pii 0.75 0.50 to 0.90 loss 0.65 – 0.50 0.50 to 0.90 loss 0.40 0.60 loss 0.50"]
    assert "These are 3 models, so each text has at most 2 others to be compared with" in words(page)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "shadow.csv"), shadow)
    assert '<a href="shadow.csv">' in page


def test_attacks_on_models_of_several_settings_tell_them_apart(tmp_path: Path) -> None:
    shadow = pd.DataFrame([attacked("pooled", 0.6, cell=f'{{"model.layers": {layers}}}') for layers in (2, 4)])
    page = write_overview(tmp_path, "rates", POINTS, shadow=shadow).read_text()
    assert [row.split(" – ")[0] for row in rows(page, "matrix across")] == [
        f"rmia pii · {{&#34;model.layers&#34;: {layers}}}" for layers in (2, 4)
    ]


def test_points_that_can_not_be_paired_show_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "shadow.csv").write_text("of points that were paired once")
    page = write_overview(tmp_path, "rates", POINTS, shadow=pd.DataFrame(columns=list(attacked("pooled", 0.6)))).read_text()
    assert "Membership attacks over" not in page
    assert not (tmp_path / "shadow.csv").exists()


# ------------------------------------------------------------------------------------------------ extraction


def rate(metric: str, arm: str, point: str, value: float, **more: Any) -> dict[str, Any]:
    row = {"metric": metric, "contrast": "rate", "kind": "all", "item_set": "all", "arm": arm, "model": "perturbed", "step": 9}
    return {**row, "value": value, "low": 0.0, "high": 1.0, "n": 4, "note": "", "point": point, **more}


def test_extraction_is_told_by_copies_prefix_and_point() -> None:
    rows = [
        *(rate("extractable/8+8", arm, "large", value) for arm, value in (("held-out", 0.0), ("4x", 0.5), ("16x", 1.0))),
        rate("extractable/8+8", "16x", "small", 0.25),
        rate("extractable/16+8", "16x", "small", 0.75),
        rate("extractable/16+8", "16x", "small", 0.1, kind="pii"),
        rate("extracted", "16x", "small", 0.3),
    ]
    found = extractable(pd.DataFrame(rows))
    assert found is not None
    assert found.arms == ["held-out", "4x", "16x"]
    values = [(prefix, point, [cell and cell[0] for cell in cells]) for prefix, point, cells in found.rows]
    assert values == [
        ("8+8", "large", [0.0, 0.5, 1.0]),
        ("8+8", "small", [None, None, 0.25]),
        ("16+8", "small", [None, None, 0.75]),
    ]


def test_without_such_measures_there_is_no_table() -> None:
    assert extractable(pd.DataFrame([rate("extracted", "16x", "small", 0.3)])) is None


# ------------------------------------------------------------------------------------------------ methods over seeds


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    told = {"key": "remix/text/retention/A", "metric": "retention", "kind": "A", "arm": "text"}
    found = [finding("more of A is retained in text than in none", value, **told) for value in (-0.5, -0.51, -0.52)]
    points = [Point(f"seed-{n}", {"seed": n}, DONE, findings=[row]) for n, row in enumerate(found)]
    return write_overview(tmp_path_factory.mktemp("methods") / "overview", "remix", points).parent


def test_methods_are_compared_over_seeds(methods: Path) -> None:
    text = (methods / "index.html").read_text()
    section = text.split('<section id="methods">')[1].split("</section>")[0]
    assert words(section).endswith("more of A is retained in text than in none −50% −51% −52% −51% −53% to −49% no")
    assert "Of methods against forgetting it is made below" in words(text.split('<section id="methods">')[0])
    [row] = pd.read_csv(methods / "methods.csv").to_dict("records")
    assert (row["key"], row["n"], row["verdict"], row["found"]) == ("remix/text/retention/A", 3, "no", "[-0.5, -0.51, -0.52]")


def test_differences_of_shares_below_zero_are_drawn(methods: Path) -> None:
    [specification] = charts((methods / "index.html").read_text().replace(javascript(), "")).values()
    scales = [layer["encoding"]["x"].get("scale") for layer in specification["layer"] if "scale" in layer["encoding"].get("x", {})]
    assert scales[0]["domain"] == [-0.77, 1]


def test_a_sweep_without_methods_says_nothing_of_them(page: str, folder: Path) -> None:
    assert 'id="methods"' not in page
    assert not (folder / "methods.csv").exists()
