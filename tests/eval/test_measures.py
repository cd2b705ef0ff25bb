"""The tables of all measures: which rows and columns they have, and what stands in them."""

from typing import Any

import pandas as pd

from eval.measures import by_field, field_table, measures

ROW: dict[str, Any] = {
    "kind": "all",
    "item_set": "all",
    "model": "perturbed",
    "step": 9,
    "low": 0.1,
    "high": 0.9,
    "n": 4,
    "note": "",
}
ARMS = ["held-out", "1x", "4x", "unused"]


def tables(*rows: dict[str, Any]) -> dict[str, Any]:
    return {table.family: table for _, table in measures(pd.DataFrame([{**ROW, **row} for row in rows]), ARMS, ["perturbed"])}


def share(metric: str, arm: str, value: float, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "contrast": "rate", "arm": arm, "value": value, **more}


def test_a_metric_is_a_row_and_an_arm_that_has_any_a_column() -> None:
    table = tables(share("extracted", "1x", 0.5), share("extracted", "held-out", 0.0), share("secret_extracted", "4x", 1.0))[
        "extraction"
    ]
    assert table.arms == ["held-out", "1x", "4x"]
    assert [row.name for row in table.rows] == ["extracted", "secret_extracted"]
    assert [cell and cell.value for cell in table.rows[0].cells] == [0.0, 0.5, None]


def test_prefixes_come_in_the_order_in_which_people_count() -> None:
    rows = [share(f"extractable/{prefix}+8", "1x", 0.5) for prefix in (16, 100, 8)]
    assert [row.name for row in tables(*rows)["extraction"].rows] == ["extractable/8+8", "extractable/16+8", "extractable/100+8"]


def test_earlier_checkpoints_and_single_item_sets_are_left_out() -> None:
    rows = [share("extracted", "1x", 0.5), share("extracted", "4x", 0.7, step=3), share("extracted", "4x", 0.7, item_set="a")]
    assert tables(*rows)["extraction"].arms == ["1x"]


def test_differences_stand_in_the_csv_only() -> None:
    rows = [share("extracted", "1x", 0.5), {"metric": "extracted", "contrast": "minus held-out", "arm": "1x", "value": 0.5}]
    assert [row.name for row in tables(*rows)["extraction"].rows] == ["extracted"]


def test_a_true_positive_rate_says_where_it_is_not_resolved() -> None:
    auc = {"metric": "loss", "contrast": "auc", "arm": "1x", "value": 0.7}
    table = tables(auc, {**auc, "contrast": "tpr at 1.0%", "value": 0.2, "note": "too few"})["membership"]
    assert [(row.name, row.form) for row in table.rows] == [("loss", ".2f"), ("loss, tpr at 1.0%", ".0%")]
    assert table.notes == ["too few"]


def test_a_note_about_some_arms_names_them() -> None:
    noted = [share("extracted", arm, 0.5, note=note) for arm, note in (("1x", "few"), ("4x", "few"), ("held-out", "none"))]
    assert tables(*noted)["extraction"].notes == ["none (held-out)", "few (1x, 4x)"]


def test_of_a_curve_since_the_last_exposure_its_end_is_shown() -> None:
    left = {"metric": "retainability", "kind": "all", "low": float("nan"), "high": float("nan")}
    cells = [("1x", "after 90 steps", 9, 0.3), ("4x", "after 92 steps", 9, 0.5), ("4x", "after 2 steps", 5, 0.9)]
    [row] = tables(*({**left, "arm": a, "contrast": c, "step": s, "value": v} for a, c, s, v in cells))["forgetting"].rows
    assert (row.name, [cell.value for cell in row.cells if cell]) == ("retainability, at the end", [0.3, 0.5])


def test_what_is_of_all_arms_together_has_one_cell() -> None:
    auc = {"metric": "loss", "contrast": "auc", "arm": "1x", "value": 0.7}
    table = tables(auc, {**auc, "metric": "bag_of_words", "arm": "all", "value": 0.5})["membership"]
    assert [len(row.cells) for row in table.rows] == [1, 1]
    assert table.rows[1].cells[0].value == 0.5


def test_a_family_is_about_the_items_of_its_kind_where_there_are_such() -> None:
    everything, people = share("exact_match", "1x", 0.2), share("exact_match", "1x", 0.6, kind="pii")
    assert tables(everything, people)["pii"].rows[0].cells[0].value == 0.6
    assert tables(everything)["pii"].rows[0].cells[0].value == 0.2


def test_fields_are_means_over_groups() -> None:
    probes = [
        {"probe_id": "b/phone", "context": "biography", "field": "phone"},
        {"probe_id": "f/phone", "context": "forum", "field": "phone"},
    ]
    items = pd.DataFrame([{"item_id": item, "kind": "pii", "probes": probes} for item in "abc"])
    assignment = pd.DataFrame({"item_id": list("abc"), "group": ["1", "1", "2"], "arm": ["4x", "4x", "4x"]})
    cells = [("a", "b/phone", 1.0), ("b", "b/phone", 0.0), ("c", "b/phone", 0.0), ("c", "f/phone", 1.0)]
    scores = pd.DataFrame([{"step": 5, "item_id": i, "probe_id": p, "metric": "extracted", "value": v} for i, p, v in cells])
    fields = by_field(scores, items, assignment)
    assert [tuple(row) for row in fields[["context", "field", "arm", "value", "n"]].to_numpy()] == [
        ("biography", "phone", "4x", 0.25, 2),
        ("forum", "phone", "4x", 1.0, 1),
    ]
    table = field_table(fields)
    assert (table.contexts, table.arm) == (["biography", "forum"], "4x")
    assert table.rows == [("phone", [[("extracted", 0.25)], [("extracted", 1.0)]])]
