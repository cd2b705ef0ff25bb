"""Whether all trainings of a recipe can have their models: told before anything is trained, of models without weights."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from configs.schema import Recipe
from configs.stage_checks import settings_of
from train.lora import expandable
from train.model import check_model


def check_starts(recipe: Recipe, vocabulary: int = 1, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """RecipeError, which names the setting, for a model that can't be built or started from, that can't be given rows as long as
    those of pretraining, of the held-out loss or of a stage, or that can't be expanded as a stage's `lora` says.

    `vocabulary` and `tokenizer` are the corpus's; if they are not given, whether the model fits them is left open.
    """
    if recipe.train.models or recipe.train.held_out_rows:
        check_model(recipe.model, vocabulary, recipe.train.sequence_length, tokenizer)
    checked = set()
    for name, stage in recipe.stages.items():
        asked = stage.train.sequence_length, stage.lora.rank
        if asked in checked:
            continue
        checked.add(asked)
        with settings_of(name):
            model = check_model(recipe.model, vocabulary, stage.train.sequence_length, tokenizer)
            if stage.lora.rank:
                expandable(model, stage.lora.rank)
