"""The models of all trainings of a recipe are checked before any is trained, and what refuses one names the stage's setting."""

from pathlib import Path

import pytest

from configs.errors import RecipeError
from configs.recipe import load_recipe
from train.starts import check_starts

RECIPE = """
corpus: {source: synthetic, documents: 200, tokenizer: {vocabulary: 400}}
train: {models: [], sequence_length: 48, threads: 1}
facts: {a: {kind: key_value, count: 6, key_length: 4, value_length: 2}}
stages: {first: {data: [a], train: {steps: 2}}, second: {after: start, data: [a], train: {steps: 2}}}
"""


def check(folder: Path, *settings: str) -> None:
    (folder / "r.yaml").write_text(RECIPE)
    check_starts(load_recipe(folder / "r.yaml", list(settings)))


def test_lengths_that_a_released_model_can_be_given_are_accepted(small_model: Path, tmp_path: Path) -> None:
    check(tmp_path, f"model.start={small_model}", "stages.second.train.sequence_length=30")


@pytest.mark.parametrize("key", ["train", "stages.second.train"])
def test_rows_longer_than_a_released_model_can_be_given_are_refused(small_model: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(RecipeError, match=rf"^{key}\.sequence_length is 49, but model.start = .* up to 48 tokens$"):
        check(tmp_path, f"model.start={small_model}", f"{key}.sequence_length=49", "stages.first.train.sequence_length=48")


def test_positions_that_the_recipe_itself_gives_and_a_stage_exceeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"which is less than the 65 tokens of a row, stages.second.train.sequence_length$"):
        check(tmp_path, "model.options={max_position_embeddings: 64}", "stages.second.train.sequence_length=65")


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama", "olmo2", "qwen3"])
def test_a_rank_is_refused_where_no_layer_has_it(tmp_path: Path, architecture: str) -> None:
    shape = f"model={{architecture: {architecture}, layers: 1, width: 32, heads: 2}}"
    check(tmp_path, shape, "stages.second.lora.rank=32")
    with pytest.raises(RecipeError, match=r"^stages.second.lora.rank is 33; possible: 1 to 32"):
        check(tmp_path, shape, "stages.second.lora.rank=33")


def test_a_released_model_that_has_no_layer_of_such_a_rank_is_refused(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^stages.first.lora.rank is 999; possible: 1 to"):
        check(tmp_path, f"model.start={small_model}", "stages.first.lora.rank=999")


def test_an_architecture_that_reads_the_weights_of_its_layers_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^stages.second.lora.rank is above 0, but MambaForCausalLM reads the weight of"):
        check(tmp_path, "model={architecture: mamba, layers: 1, width: 32, heads: 2}", "stages.second.lora.rank=4")


def test_a_mixture_of_experts_which_takes_tokens_by_their_values_is_accepted(tmp_path: Path) -> None:
    check(tmp_path, "model={architecture: mixtral, layers: 1, width: 32, heads: 2}", "stages.second.lora.rank=4")
