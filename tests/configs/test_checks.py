import copy

import pytest
import yaml

from configs.checks import check
from configs.errors import RecipeError
from configs.insert import CanarySet
from configs.schema import Recipe


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    made = Recipe(name="small", insert={"codes": CanarySet(count=10)})
    made.train.steps, made.train.global_batch = 400, 8
    return made


def with_values(recipe: Recipe, values: list[str]) -> Recipe:
    """The recipe with some dotted keys set to other values of the right type: what resolving would make, but fast."""
    recipe = copy.deepcopy(recipe)
    for key, value in (value.split("=") for value in values):
        *sections, last = key.split(".")
        place = recipe
        for part in sections:
            place = getattr(place, part)
        setattr(place, last, yaml.safe_load(value))
    return recipe


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.steps=0"], ["train.steps is 0", "more than 0"]),
        (["train.learning_rate=.nan"], ["train.learning_rate is nan", "more than 0"]),
        (["train.learning_rate=.inf"], ["train.learning_rate is inf"]),
        (["train.checkpoints.every=-1"], ["train.checkpoints.every is -1", "more than 0"]),
        (["train.clip=-1"], ["train.clip is -1", "0 or more"]),
        (["train.decay=1.5"], ["train.decay is 1.5", "between 0 and 1"]),
        (["eval.min_k=-0.1"], ["eval.min_k is -0.1", "more than 0"]),
        (["train.betas=[0.9]"], ["train.betas is [0.9]", "two numbers"]),
        (["train.betas=[0.9, 1.0]"], ["train.betas is [0.9, 1.0]", "less than 1"]),
        (["train.warmup=401"], ["train.warmup is 401", "train.steps = 400"]),
        (["train.warmup=-1"], ["train.warmup is -1"]),
        (["train.schedule=linear"], ["train.schedule is 'linear'", "wsd, cosine, constant"]),
        (["train.models=[]"], ["train.models is empty", "perturbed, standard"]),
        (["train.models=[best]"], ["train.models holds 'best'", "perturbed, standard"]),
        (["train.models=[standard, standard]"], ["train.models holds 'standard' more than once"]),
        (["eval.membership=[luck]"], ["eval.membership holds 'luck'", "loss, zlib, min_k"]),
        (
            ["train.micro_batch=3"],
            ["train.micro_batch = 3", "train.global_batch = 8", "1 x 8 x 1, 1 x 4 x 2, 1 x 2 x 4, 1 x 1 x 8"],
        ),
        (["train.micro_batch=0"], ["train.micro_batch is 0", "1 or more"]),
        (["train.devices=3"], ["train.devices = 3", "train.global_batch = 8", "1 x 8 x 1", "2 x 4 x 1"]),
        (["train.accumulation=2", "train.micro_batch=8"], ["train.accumulation = 2", "train.micro_batch = 8"]),
        (["train.strategy=single", "train.devices=2"], ["train.strategy is single", "zero_1"]),
        (["train.strategy=zero2"], ["train.strategy is 'zero2'", "zero_2"]),
        (["train.offload=true", "train.strategy=ddp"], ["train.offload is true", "zero_1"]),
        (["train.compile=true", "train.strategy=zero_3"], ["train.compile is true", "zero_1 or zero_2"]),
        (["train.precision=fp32", "train.attention=flash_attention_2"], ["flash_attention_2", "bf16"]),
        (["train.checkpoints.steps=[5,9999999]"], ["train.checkpoints.steps holds 9999999", "between 0 and"]),
        (["train.checkpoints.resumable=some"], ["'some'", "first_exposure, all, none"]),
        (["train.probes.items=-1"], ["train.probes.items is -1", "0 or more"]),
        (["train.probes.sets=[poems]"], ["train.probes.sets holds 'poems'", "possible: codes"]),
        (["train.probes.arms=[4x,4x]"], ["train.probes.arms holds '4x' more than once"]),
        (["train.probes.exposures=1"], ["train.probes.exposures is 1", "2 or more"]),
        (["train.probes.after=[0,10]"], ["train.probes.after holds 0", "1 or more"]),
        (["train.probes.after=[]"], ["train.probes.after is empty", "1 or more"]),
        (["train.probes.after=[10,10]"], ["train.probes.after holds 10 more than once"]),
        (["train.probes.budget=0"], ["train.probes.budget is 0", "at most 1", "train.probes.items=0"]),
        (["train.probes.budget=1.5"], ["train.probes.budget is 1.5", "at most 1"]),
        (["train.spikes.window=1"], ["train.spikes.window is 1", "at least 2"]),
        (["train.spikes.policy=ignore"], ["'ignore'", "skip, stop"]),
        (["train.loss.kind=goldfisch"], ["train.loss.kind is 'goldfisch'", "full, goldfish, random"]),
        (["train.loss.k=1"], ["train.loss.k is 1", "2 or more"]),
        (["train.loss.context=0"], ["train.loss.context is 0", "1 token or more"]),
        (["train.loss.kind=goldfish", "train.loss.context=129"], ["train.loss.context is 129", "between 1 and", "128"]),
        (["train.warmup_tokens=999999999"], ["train.warmup_tokens is 999,999,999", "tokens of training"]),
        (["train.warmup=7", "train.warmup_tokens=10"], ["train.warmup is 7", "one of the two"]),
        (["train.loggers=[mlflow]"], ["'mlflow'", "tensorboard, wandb"]),
        (["train.peak_tflops=0"], ["train.peak_tflops is 0", "more than 0"]),
        (["model.start=somewhere", "model.layers=7"], ["model.start is somewhere", "model.layers"]),
        (["model.width=130"], ["model.width is 130", "model.heads = 4"]),
        (["model.feed_forward=0"], ["model.feed_forward is 0"]),
        (["seed=-1"], ["seed is -1", "from 0"]),
        (["seeds.placement=-1"], ["seeds.placement is -1", "from 0"]),
        (["seeds.items=9223372036854775808"], ["seeds.items is 9223372036854775808", "2^63 - 1"]),
        (["train.precision=fp8"], ["train.precision is 'fp8'", "auto, fp32, bf16"]),
        (["eval.context=none at all"], ["eval.context is 'none at all'", "eot, none"]),
        (["eval.peakedness=-1"], ["eval.peakedness is -1", "0 or more"]),
        (["eval.orders=25"], ["eval.orders is 25", "`models` that exist"]),
        (["decontaminate.policy=hope"], ["decontaminate.policy is 'hope'", "fail, report, documents, redraw, none"]),
        (["decontaminate.ngram=0"], ["decontaminate.ngram is 0", "more than 0"]),
        (["train.models=[without-people]"], ["train.models holds 'without-people'", "perturbed, standard, without-codes"]),
        (["name=a/b"], ["name is 'a/b'", "names a folder"]),
        (["insert={}"], ["insert is empty; name at least one item set, each with a kind: canary, "]),
        (["corpus.source=web"], ["corpus.source is 'web'", "possible: stdlib, synthetic, "]),
        (["corpus.source=jsonl"], ["corpus.source is jsonl", "needs corpus.path"]),
        (["corpus.limit=0"], ["corpus.limit is 0", "1 or more"]),
        (["corpus.path=my.jsonl"], ["corpus.path is my.jsonl", "corpus.source is stdlib", "corpus.source=files"]),
        (["corpus.tokenizer.vocabulary=256"], ["corpus.tokenizer.vocabulary is 256", "at least 257"]),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_possible(recipe, overrides, words):
    with pytest.raises(RecipeError) as refused:
        check(with_values(recipe, overrides))
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("name", ["a/b", "a b", "", "ä:"])
def test_an_item_set_has_a_name_of_which_files_and_settings_can_be_made(recipe, name):
    named = copy.deepcopy(recipe)
    named.insert = {name: CanarySet()}
    with pytest.raises(RecipeError, match="the name of an item set is made of letters, digits, dots, dashes and underscores"):
        check(named)


@pytest.mark.parametrize(
    "override", ["train.warmup=400", "train.warmup=0", "train.clip=0", "corpus.tokenizer.vocabulary=257", "seeds.items=0"]
)
def test_a_value_at_the_edge_of_what_is_possible_is_allowed(recipe, override):
    check(with_values(recipe, [override]))
