"""What a model's fingerprint covers."""

from pathlib import Path

import pytest

from configs.recipe import load_recipe
from slurm.jobs import Experiment

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
