import json

from inject.certificate import LISTED, Certificate, Violation, summary


def test_a_certificate_without_violations_is_certified():
    certificate = Certificate("perturbed", 10, 10)
    assert certificate.certified
    assert certificate.as_json()["verdict"] == "certified"


def test_one_violation_is_enough():
    certificate = Certificate("perturbed", 10, 10)
    certificate.violate(Violation("ledger", "step 3 is not in the ledger", 3))
    assert not certificate.certified
    assert certificate.as_json()["verdict"] == "violated"


def test_violations_beyond_the_listed_ones_are_counted():
    certificate = Certificate("perturbed", 10, 10)
    for step in range(LISTED + 5):
        certificate.violate(Violation("order", "elsewhere", step))
    assert certificate.violations.total == LISTED + 5
    assert len(certificate.violations.listed) == LISTED
    assert summary(certificate)[-1] == f"  and {LISTED - 5:,} more violations"


def test_a_certificate_is_json_with_every_place_named():
    certificate = Certificate("perturbed", 10, 10, {"plan": "abc"})
    certificate.violate(Violation("moved", "elsewhere", 3, 1, 13, "a", 2))
    read = json.loads(json.dumps(certificate.as_json()))
    assert read["violations"]["listed"] == [
        {"kind": "moved", "what": "elsewhere", "step": 3, "slot": 1, "row": 13, "item_id": "a", "copy": 2}
    ]
    assert read["fingerprints"] == {"plan": "abc"}


def test_the_summary_tells_the_verdict_and_the_numbers():
    certificate = Certificate("perturbed", 5, 10, rows=20, consumed_tokens=1000, planned=9, consumed=4, skipped=2, not_reached=3)
    certificate.inserted_tokens = 50
    certificate.skipped_steps.add({"step": 3})
    lines = summary(certificate)
    assert lines[0] == "perturbed: certified, the first 5 of 10 steps"
    assert (
        "planned copies: 9; 4 consumed whole at their place and step, 2 in skipped steps, 3 not reached yet, 0 unproven" in lines[2]
    )
    assert "50 tokens (5.00%)" in lines[3]
    assert lines[-1].endswith("recorded as not consumed: 3")


def test_the_summary_tells_of_labels_left_out_where_there_are_some():
    certificate = Certificate("perturbed", 10, 10, rows=40, consumed_tokens=4000, labels_left_out=1000)
    assert "  labels left out of the loss: 1,000 (25.00% of the tokens)" in summary(certificate)
    certificate.labels_left_out = 0
    assert not any("left out" in line for line in summary(certificate))


def test_the_summary_names_where_each_violation_is():
    certificate = Certificate("standard", 10, 10)
    certificate.violate(Violation("differs", "its tokens are others", 1234, 1, 4937))
    certificate.violate(Violation("copies", "the plan has 1 copies of a, its assignment 2", item_id="a"))
    lines = summary(certificate)
    assert lines[0] == "standard: VIOLATED, all of 10 steps"
    assert lines[-2:] == [
        "  differs: step 1,234, slot 1 (row 4,937): its tokens are others",
        "  copies: the plan has 1 copies of a, its assignment 2",
    ]


def test_the_summary_warns_of_held_out_items_inside_of_inserted_ones():
    certificate = Certificate("perturbed", 10, 10)
    assert not any("no controls" in line for line in summary(certificate))
    certificate.contained_held_out_items = 2
    assert "  held-out items that stand inside of inserted ones, and so are no controls: 2 (see contained)" in summary(certificate)


def test_an_empty_certificate_has_a_summary():
    assert "0 tokens (0.00%)" in summary(Certificate("standard", 0, 10))[3]
