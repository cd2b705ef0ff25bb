"""What a model's fingerprint covers."""

from pathlib import Path

import pytest

from configs.recipe import load_recipe
from slurm.jobs import Experiment

LINEAGE = """
name: staged
facts: {a: {kind: key_value, count: 6}, b: {kind: key_value, count: 6}, c: {kind: key_value, count: 6}}
stages:
  first: {data: [a], train: {steps: 4}}
  second: {data: [b], train: {steps: 4}}
  third: {data: [c], mix: [{source: replay, per_batch: 1}], train: {steps: 4}}
"""
RECIPE = "name: small\ninsert: {codes: {kind: canary, count: 6}}\ndesign: {copies: [0, 3], sizes: [3, 3]}\n"


@pytest.fixture
def trained(tmp_path: Path):
    """`trained(override, ...)`: the fingerprints of plan and model."""
    (tmp_path / "small.yaml").write_text(RECIPE)

    def fingerprints(*overrides: str) -> tuple[str, str]:
        recipe = load_recipe(tmp_path / "small.yaml", [f"runs={tmp_path}", *overrides])
        marks = Experiment(recipe).fingerprints
        return marks.plan, marks.train("perturbed")

    return fingerprints


def test_another_loss_is_another_model_on_the_same_plan(trained) -> None:
    losses = ["{kind: full}", "{kind: goldfish}", "{kind: goldfish, k: 3}", "{kind: goldfish, context: 5}", "{kind: random}"]
    plans, models = zip(*(trained(f"train.loss={loss}") for loss in losses), strict=True)
    assert len(set(plans)) == 1
    assert len(set(models)) == len(losses)


def test_what_the_full_loss_does_not_read_is_no_part_of_a_model(trained) -> None:
    assert trained("train.loss={k: 3, context: 5}") == trained()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("first: {", "first: {after: perturbed, ", True),
        ("third: {", "third: {after: second, ", True),
        ("third: {", "third: {after: first, ", False),
        ("source: replay", "source: replay, of: [b]", True),
        ("source: replay", "source: replay, of: [a]", False),
    ],
)
def test_a_stage_is_the_same_whether_what_it_follows_and_replays_is_named_or_meant(
    tmp_path: Path, old: str, new: str, same: bool
) -> None:
    assert old in LINEAGE
    marks = []
    for name, text in (("one", LINEAGE), ("other", LINEAGE.replace(old, new))):
        (tmp_path / f"{name}.yaml").write_text(text)
        marks.append(Experiment(load_recipe(tmp_path / f"{name}.yaml", [f"runs={tmp_path}"])).fingerprints.train("third"))
    assert (marks[0] == marks[1]) == same


@pytest.mark.parametrize(("length", "same"), [(64, True), (128, True), (129, False)])
def test_pretraining_is_another_where_a_stage_s_rows_need_more_positions(trained, length: int, same: bool) -> None:
    stages = "facts={a: {kind: key_value, count: 4}}", f"stages={{learn: {{data: [a], train: {{sequence_length: {length}}}}}}}"
    assert (trained("train.sequence_length=128", *stages) == trained("train.sequence_length=128")) == same


def test_a_stage_that_starts_from_new_weights_is_another_where_those_have_more_positions(tmp_path: Path) -> None:
    def fingerprint(longest: int) -> str:
        stages = "learn: {data: [a], train: {sequence_length: 64}}, other: {after: start, data: [a], train: {sequence_length: %d}}"
        (tmp_path / "r.yaml").write_text(
            "name: new\ntrain: {models: [], sequence_length: 64}\nfacts: {a: {kind: key_value, count: 4}}\n"
            f"stages: {{{stages % longest}}}\n"
        )
        return Experiment(load_recipe(tmp_path / "r.yaml", [f"runs={tmp_path}"])).fingerprints.train("learn")

    assert fingerprint(32) == fingerprint(64) != fingerprint(96)
