import pandas as pd

from configs.layout import RunLayout
from configs.recipe import load_recipe
from slurm import planning

RECIPE = """
insert: {people: {kind: pii, count: 8, contexts: [biography, forum], fields: [phone, email]}}
design: {copies: [0, 3], sizes: [4, 4]}
train: {steps: 40, global_batch: 2, sequence_length: 200, warmup: 2}
"""


def test_copies_of_each_field_are_written_with_the_plan_those_of_held_out_items_too(tmp_path, small_corpus):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml", [])
    drawn = planning.draw(recipe, small_corpus.tokenizer)
    plan = planning.place(drawn, recipe, None)
    planning.write(drawn, plan, RunLayout(tmp_path / "run"))
    written = pd.read_csv(tmp_path / "run" / "field_copies.csv").set_index(["item_id", "field"])["copies"]
    copies = {row["item_id"]: row["copies"] for row in drawn.assignment}
    inserted = {(row["item_id"], row["variant"]) for row in plan.to_pylist()}
    assert len(inserted) == 8  # each text of each of the four
    for item, assigned in copies.items():
        told = [span["field"] for text in drawn.texts if text["item_id"] == item for span in text["spans"]]
        assert set(told) == set(written[item].index)
        assert (written[item] > 0).all() == (assigned > 0)
    assert sum(written) == sum(
        sum(len(text["spans"]) for text in drawn.texts if (text["item_id"], text["variant"]) == (row["item_id"], row["variant"]))
        for row in plan.to_pylist()
    )


def test_models_are_asked_for_by_the_commit_that_is_in_the_fingerprint(monkeypatch):
    from eval import sampling

    asked = []
    monkeypatch.setattr(planning, "pinned_model", lambda name: f"{name}@commit")
    monkeypatch.setattr(sampling, "sample_sequences", lambda *arguments, **named: asked.append((arguments, named)))
    planning._sample("org/model", 3, accept=None)
    assert asked == [(("org/model@commit", 3), {"accept": None})]
