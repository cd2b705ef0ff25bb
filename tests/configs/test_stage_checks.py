"""Impossible stages are refused in a sentence that names the setting, what was given and what is possible."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import RecipeError
from configs.recipe import load_recipe
from configs.schema import Recipe
from configs.stage_checks import learned_before, lineage, parent_of, replayed

BASE: dict[str, Any] = {
    "name": "staged",
    "train": {"steps": 100, "models": ["standard"], "learning_rate": 0.003, "checkpoints": {"every": 25}},
    "insert": {"places": {"kind": "factoid", "count": 8}},
    "design": {"copies": [4], "sizes": [8]},
    "facts": {"a": {"kind": "key_value", "count": 8}, "b": {"kind": "key_value", "count": 8}, "c": {"kind": "factoid"}},
    "stages": {
        "first": {"data": ["a"], "train": {"steps": 50}},
        "second": {"data": ["b"], "train": {"steps": 60, "global_batch": 4}},
        "other": {"after": "first", "data": ["b"], "mix": [{"source": "replay", "per_batch": 1}]},
    },
}


def load(tmp_path: Path, changes: dict[str, Any]) -> Recipe:
    """The recipe with some dotted keys set, or removed where the value is ..."""
    settings = deepcopy(BASE)
    for key, value in changes.items():
        *sections, last = key.split("/")
        place = settings
        for part in sections:
            place = place.setdefault(part, {})
        if value is ...:
            del place[last]
        else:
            place[last] = value
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return load_recipe(tmp_path / "r.yaml")


def test_a_stage_has_the_settings_of_training_with_its_own_laid_over_them_but_for_those_that_are_steps(tmp_path: Path) -> None:
    train = load(tmp_path, {}).stages["second"].train
    assert (train.steps, train.global_batch, train.learning_rate) == (60, 4, 0.003)
    assert (train.warmup, train.checkpoints.every) == (0, 300)


def test_a_saved_recipe_is_the_same_again(tmp_path: Path) -> None:
    from configs.recipe import result_settings, save_recipe

    recipe = load(tmp_path, {})
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert result_settings(load_recipe(tmp_path / "saved.yaml")) == result_settings(recipe)


def test_a_stage_follows_the_one_before_it_or_the_one_that_it_names(tmp_path: Path) -> None:
    recipe = load(tmp_path, {})
    assert [parent_of(recipe, name) for name in recipe.stages] == ["standard", "first", "first"]
    assert lineage(recipe, "other") == ["standard", "first", "other"]
    assert learned_before(recipe, "other") == ["a"]
    assert replayed(recipe, "other", recipe.stages["other"].mix[0]) == ["a"]


def test_without_pretraining_stages_begin_with_the_model_of_the_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path, {"train/models": [], "insert": ...})
    assert lineage(recipe, "second") == ["start", "first", "second"]


def test_a_stage_may_begin_with_the_model_of_the_recipe_beside_pretraining(tmp_path: Path) -> None:
    recipe = load(tmp_path, {"stages/first/after": "start"})
    assert lineage(recipe, "other") == ["start", "first", "other"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": ...}, ["facts holds a, b, c", "no stages"]),
        ({"facts/a/design": {"copies": [2]}}, ["facts.a.design is given", "leave it out"]),
        (
            {"eval/harness": ["piqa"], "train/models": [], "insert": ...},
            ["eval.harness holds piqa", "not on stages", "run lm_eval itself"],
        ),
        ({"eval/harness": ["piqa"], "insert": ..., "design": ...}, ["eval.harness holds piqa", "leave it out"]),
        ({"stages/second/data": []}, ["stages.second.data is empty", "possible: a, b, c, places, corpus"]),
        ({"stages/second/data": ["x"]}, ["stages.second.data holds 'x'", "possible: a, b, c, places, corpus"]),
        ({"stages/second/data": ["b", "b"]}, ["stages.second.data holds 'b' more than once"]),
        ({"stages/second/data": ["b", "a"]}, ["stages.second.data holds a, which first", "mix: [{source: replay, of: [a]}]"]),
        ({"stages/first/after": "second"}, ["stages.first.after is 'second'", "comes later", "possible: standard, start"]),
        ({"stages/second/after": "nobody"}, ["stages.second.after is 'nobody'", "possible: first, standard, start"]),
        ({"stages/second/after": "start"}, ["stages.first goes back to standard", "stages.second to start"]),
        ({"stages/second/train/models": ["standard"]}, ["stages.second.train.models", "leave it out"]),
        ({"stages/second/train/steps": 0}, []),
        ({"stages/second/train/warmup": 70}, ["stages.second.train.warmup is 70", "stages.second.train.steps = 60"]),
        ({"stages/second/train/stepz": 3}, ["stages.second.train.stepz is not a setting", "did you mean steps?"]),
        ({"stages/second/dat": ["b"]}, ["stages.second.dat is not a setting", "did you mean data?"]),
        ({"stages/second/known": "maybe"}, ["stages.second.known is 'maybe'", "drop, keep"]),
        ({"stages/second/format": "{question}"}, ["stages.second.format is '{question}'", "{answer}"]),
        ({"stages/second/until": {"exact_match": 1.5}}, ["stages.second.until.exact_match is 1.5"]),
        ({"stages/second/until": {"loss": -1}}, ["stages.second.until.loss is -1", "more than 0"]),
        ({"stages/second/until": {"loss": 1, "times": 0}}, ["stages.second.until.times is 0"]),
        ({"stages/second/until": {"exact_match": 1, "every": 0}}, ["stages.second.until.every is 0"]),
        ({"stages/second/data": ["corpus"], "stages/second/until": {"exact_match": 1}}, ["exact_match", "corpus ask nothing"]),
        ({"stages/second/mix": [{"source": "x", "ratio": 1}]}, ["stages.second.mix[0].source is 'x'", "text, words, replay"]),
        ({"stages/second/mix": [{"source": "text"}]}, ["stages.second.mix[0] needs one of ratio", "neither is given"]),
        ({"stages/second/mix": [{"ratio": 1, "per_batch": 1}]}, ["ratio is 1.0 and per_batch 1"]),
        ({"stages/second/mix": [{"ratio": -1}]}, ["stages.second.mix[0].ratio is -1.0", "more than 0"]),
        ({"stages/second/mix": [{"per_batch": 4}]}, ["stages.second.mix[0].per_batch is 4", "less than the batch of 4"]),
        ({"stages/second/mix": [{"per_batch": 2}, {"per_batch": 2}]}, ["per_batch is 2", "less than the batch of 4"]),
        ({"stages/second/mix": [{"ratio": 1, "words": 1}]}, ["stages.second.mix[0].words is 1"]),
        ({"stages/second/mix": [{"ratio": 1, "pool": 0}]}, ["stages.second.mix[0].pool is 0"]),
        ({"stages/second/mix": [{"ratio": 1, "of": ["a"]}]}, ["stages.second.mix[0].of", "only replay"]),
        ({"stages/first/mix": [{"source": "replay", "ratio": 1}]}, ["stages.first.mix[0] is a replay", "no stage before first"]),
        (
            {"stages/first/data": ["places"], "stages/other/mix": [{"source": "replay", "ratio": 1}]},
            ["stages.other.mix[0] is a replay", "no stage before other has learned facts"],
        ),
        ({"stages/other/mix": [{"source": "replay", "ratio": 1, "of": ["places"]}]}, ["holds 'places'", "possible: a"]),
        ({"stages/first/train/held_out_rows": 7}, ["stages.first.train.held_out_rows is 7", "set train.held_out_rows"]),
        (
            {"stages/second/mix": [{"source": "replay", "ratio": 1, "of": ["c"]}]},
            ["stages.second.mix[0].of holds 'c'", "possible: a"],
        ),
        ({"stages/second/penalty": {"kind": "l2"}}, ["stages.second.penalty.kind is 'l2'", "none, ewc, kl"]),
        ({"stages/second/penalty": {"kind": "ewc", "weight": 0}}, ["stages.second.penalty.weight is 0"]),
        ({"stages/second/penalty": {"kind": "ewc", "examples": 0}}, ["stages.second.penalty.examples is 0"]),
        ({"stages/first/penalty": {"kind": "ewc"}}, ["stages.first.penalty.kind is ewc", "no stage before first", "none, kl"]),
        (
            {"stages/second/penalty": {"kind": "kl"}, "stages/second/train/strategy": "zero_3"},
            ["stages.second.penalty.kind is kl", "zero_3", "zero_1"],
        ),
        ({"stages/second/lora": {"rank": -1}}, ["stages.second.lora is rank -1"]),
        ({"stages/second/lora": {"rank": 2}, "stages/second/train/strategy": "zero_3"}, ["stages.second.lora.rank is 2", "zero_3"]),
        (
            {"stages/second/lora": {"rank": 2}, "stages/second/penalty": {"kind": "ewc"}},
            ["stages.second.penalty.kind is ewc", "stages.second.lora.rank = 2", "give one"],
        ),
        ({"stages/places": {"data": ["a"]}}, ["stages.places has the name of an entry of insert"]),
        ({"stages/standard": {"data": ["a"]}}, ["stages.standard", "another name"]),
        ({"stages/a b": {"data": ["a"]}}, ["stages.a b", "letters, digits"]),
        ({"facts/without-x": {"kind": "key_value"}}, ["facts.without-x", "another name"]),
        ({"facts/d": {"kind": "key_values"}}, ["facts.d.kind is 'key_values'", "key_value"]),
        ({"facts/d": {"count": 3}}, ["facts.d needs a kind"]),
        ({"train/models": []}, ["insert holds places", "train.models is empty"]),
        ({"models": ["gpt2"]}, ["models holds 'gpt2'"]),
    ],
)
def test_what_is_impossible_is_refused(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        load(tmp_path, changes)
    for word in words:
        assert word in str(refused.value), str(refused.value)
    assert "\n" not in str(refused.value)
