"""What can be seen to be impossible about a recipe's stages from its settings alone, each told in a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf

from configs.errors import RecipeError
from configs.schema import Recipe, Train
from configs.stages import ANSWER, CORPUS, PLAIN, QUESTION, START, Mix, Stage

RESERVED = ["perturbed", "standard", "report", "overview", "jobs", "slurm", "scores", "all", "nothing", CORPUS, START]
SOURCES, KINDS, KNOWN = ["text", "words", "replay"], ["none", "ewc", "kl"], ["drop", "keep"]


def parent_of(recipe: Recipe, name: str) -> str:
    """The model that a stage starts from: a stage, a model of train.models, or `start`."""
    names, given = list(recipe.stages), recipe.stages[name].after
    if given is not None:
        return str(given)
    place = names.index(name)
    return names[place - 1] if place else next(iter(recipe.train.models), START)


def lineage(recipe: Recipe, name: str) -> list[str]:
    """The models that led to one, the model before all stages first, the model itself last."""
    models = [name]
    while models[0] in recipe.stages:
        models.insert(0, parent_of(recipe, models[0]))
    return models


def trainings(recipe: Recipe) -> list[Train]:
    """The settings of every training of a recipe: of pretraining, if there is any, and of each stage."""
    return [*([recipe.train] if recipe.train.models else []), *(stage.train for stage in recipe.stages.values())]


def longest_row(recipe: Recipe) -> int:
    """Tokens for which new weights have positions: those of the longest rows of the recipe, of held-out ones, too."""
    held_out = [recipe.train] if recipe.train.held_out_rows else []
    return max((settings.sequence_length for settings in [*held_out, *trainings(recipe)]), default=0)


@contextmanager
def settings_of(stage: str) -> Iterator[None]:
    """A RecipeError of the block that speaks of `train` or `lora` is raised as one that speaks of the stage's."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(re.sub(r"(?<![\w./-])(train|lora)\.", rf"stages.{stage}.\1.", str(error))) from error


def learned_before(recipe: Recipe, name: str) -> list[str]:
    """The data of the stages before one in its lineage, in their order."""
    earlier = [one for one in lineage(recipe, name)[:-1] if one in recipe.stages]
    return list(dict.fromkeys(data for one in earlier for data in recipe.stages[one].data))


def replayed(recipe: Recipe, name: str, mix: Mix) -> list[str]:
    """The sets of facts that a stage replays: those named, or those that the stage before it has learned."""
    parent = parent_of(recipe, name)
    own = recipe.stages[parent].data if parent in recipe.stages else []
    return list(mix.of or [data for data in own if data in recipe.facts])


def check_format(template: str, setting: str) -> None:
    """RecipeError, in one sentence, for a template in which a fact can't be written; `setting` is what names it in the recipe."""
    if template.count(QUESTION) != 1 or template.count(ANSWER) != 1 or not template.endswith(ANSWER):
        raise RecipeError(
            f"{setting} is {template!r}; it must have one {QUESTION} and, at its end, one {ANSWER}: an end-of-text follows the "
            f"answer, and nothing else can, as in {PLAIN!r}"
        )


def check_stages(recipe: Recipe, check_training: Callable[[Recipe], None]) -> None:
    """Refuse impossible stages. `check_training` refuses a recipe's settings of training."""
    if not recipe.stages:
        if recipe.facts:
            raise RecipeError(f"facts holds {', '.join(recipe.facts)}, which stages learn, but the recipe has no stages; add some")
        return
    if recipe.models:
        raise RecipeError(f"models holds {recipe.models[0]!r}, which is scored as it is; stages train, from model.start")
    if recipe.insert and not recipe.train.models:
        raise RecipeError(
            f"insert holds {', '.join(recipe.insert)}, but train.models is empty, so nothing is pretrained into which it could be "
            "inserted; leave it out, or set train.models=[perturbed]"
        )
    if recipe.eval.harness and not (recipe.insert and recipe.train.models):
        raise RecipeError(
            f"eval.harness holds {', '.join(recipe.eval.harness)}, but tasks are run on pretrained models in which something is "
            "inserted, and not on stages; leave it out, and run lm_eval itself on a checkpoint of a stage, which is a folder that "
            "it reads"
        )
    for name, facts in recipe.facts.items():
        if facts.design != recipe.design:
            raise RecipeError(
                f"facts.{name}.design is given, but a design says how often items are inserted into pretraining, and facts are "
                "learned by stages; leave it out"
            )
    _check_names(recipe)
    for place, (name, stage) in enumerate(recipe.stages.items()):
        if stage.train.steps < 1:
            raise RecipeError(f"stages.{name}.train.steps is {stage.train.steps}; it must be more than 0")
        _check_parent(recipe, name, list(recipe.stages)[:place])
        _check_data(recipe, name, stage)
        for number, mix in enumerate(stage.mix):
            _check_mix(recipe, name, mix, f"stages.{name}.mix[{number}]")
        _check_rest(recipe, name, stage)
        if stage.train.held_out_rows != recipe.train.held_out_rows:
            raise RecipeError(
                f"stages.{name}.train.held_out_rows is {stage.train.held_out_rows}; all models have the same held-out rows: set "
                "train.held_out_rows"
            )
        if stage.train.models != Train().models:
            raise RecipeError(f"stages.{name}.train.models is {stage.train.models}; a stage trains one model, itself: leave it out")
        if stage.train.probes.items:
            raise RecipeError(
                f"stages.{name}.train.probes.items is {stage.train.probes.items}, but probes follow copies that are placed in "
                "pretraining; leave it out"
            )
        with settings_of(name):
            check_training(replace(recipe, train=stage.train, stages={}))
    roots: dict[str, str] = {}
    for name in recipe.stages:
        roots.setdefault(lineage(recipe, name)[0], name)
    if len(roots) > 1:
        (first, one), (second, other), *_ = roots.items()
        raise RecipeError(
            f"stages.{one} goes back to {first} and stages.{other} to {second}; the stages of a run have one model before them, "
            "so that what it knew is the same for all: make two runs"
        )


def _check_names(recipe: Recipe) -> None:
    taken = {**dict.fromkeys(recipe.insert, "insert"), **dict.fromkeys(recipe.train.models, "train.models")}
    for section in ("facts", "stages"):
        for name in getattr(recipe, section):
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name, re.ASCII):
                raise RecipeError(
                    f"{section}.{name}: a name is made of letters, digits, dashes and underscores, a letter or digit first"
                )
            if name in RESERVED or name.startswith("without-"):
                raise RecipeError(f"{section}.{name}: {name} means something else already; give it another name")
            if name in taken:
                raise RecipeError(f"{section}.{name} has the name of an entry of {taken[name]}; give it one of its own")
            taken[name] = section


def _check_parent(recipe: Recipe, name: str, before: list[str]) -> None:
    possible = [*before, *recipe.train.models, START]
    if (parent := parent_of(recipe, name)) not in possible:
        later = ", which comes later in the recipe; a stage follows one before it" if parent in recipe.stages else ""
        raise RecipeError(f"stages.{name}.after is {parent!r}{later}; possible: {', '.join(possible)}")


def _check_data(recipe: Recipe, name: str, stage: Stage) -> None:
    possible = [*recipe.facts, *recipe.insert, CORPUS]
    if not stage.data:
        raise RecipeError(f"stages.{name}.data is empty, so there is nothing to learn; possible: {', '.join(possible)}")
    for data in stage.data:
        if data not in possible:
            raise RecipeError(f"stages.{name}.data holds {data!r}; possible: {', '.join(possible)}")
        if stage.data.count(data) > 1:
            raise RecipeError(f"stages.{name}.data holds {data!r} more than once; once is enough")
        if data != CORPUS and data in learned_before(recipe, name):
            [earlier] = [one for one in lineage(recipe, name)[:-1] if one in recipe.stages and data in recipe.stages[one].data]
            raise RecipeError(
                f"stages.{name}.data holds {data}, which {earlier} before it has learned: what a stage makes a model forget can't "
                f"be told of facts that it repeats. Give other facts, or repeat some with mix: [{{source: replay, of: [{data}]}}]"
            )


def _check_mix(recipe: Recipe, name: str, mix: Mix, key: str) -> None:
    if mix.source not in SOURCES:
        raise RecipeError(f"{key}.source is {mix.source!r}; possible: {', '.join(SOURCES)}")
    if (mix.ratio is None) == (mix.per_batch is None):
        given = "neither is given" if mix.ratio is None else f"ratio is {mix.ratio} and per_batch {mix.per_batch}"
        raise RecipeError(f"{key} needs one of ratio (rows for each row of the data) and per_batch (rows of every batch); {given}")
    if mix.ratio is not None and not 0 < mix.ratio < inf:
        raise RecipeError(f"{key}.ratio is {mix.ratio}; it must be more than 0")
    batch = recipe.stages[name].train.global_batch
    taken = sum(each.per_batch or 0 for each in recipe.stages[name].mix)
    if mix.per_batch is not None and not (mix.per_batch > 0 and taken < batch):
        raise RecipeError(
            f"{key}.per_batch is {mix.per_batch}; it must be 1 or more, and what all of the mix take less than the batch of "
            f"{batch} rows"
        )
    if mix.words < 2:
        raise RecipeError(f"{key}.words is {mix.words}; a half has 2 words or more")
    if mix.pool is not None and mix.pool < 1:
        raise RecipeError(f"{key}.pool is {mix.pool}; it must be 1 sample or more, or left out for fresh ones every time")
    if mix.source != "replay":
        if mix.of:
            raise RecipeError(f"{key}.of is {mix.of}, but its source is {mix.source}; only replay is of facts")
        return
    before = [data for data in learned_before(recipe, name) if data in recipe.facts]
    if not before or not replayed(recipe, name, mix):
        named = f"; name some with of, possible: {', '.join(before)}" if before else "; leave it out"
        where = f"{parent_of(recipe, name)}, after which {name} comes, has" if before else f"no stage before {name} has"
        raise RecipeError(f"{key} is a replay, but {where} {'no facts' if before else 'learned facts'}{named}")
    for data in replayed(recipe, name, mix):
        if data not in before:
            raise RecipeError(f"{key}.of holds {data!r}, which no stage before {name} has learned; possible: {', '.join(before)}")


def _check_rest(recipe: Recipe, name: str, stage: Stage) -> None:
    key, until, facts = f"stages.{name}", stage.until, [data for data in stage.data if data in recipe.facts]
    check_format(stage.format, f"{key}.format")
    if stage.known not in KNOWN:
        raise RecipeError(f"{key}.known is {stage.known!r}; possible: {', '.join(KNOWN)}")
    if until.loss is not None and not 0 < until.loss < inf:
        raise RecipeError(f"{key}.until.loss is {until.loss}; it must be more than 0, or left out")
    if until.exact_match is not None and not 0 < until.exact_match <= 1:
        raise RecipeError(f"{key}.until.exact_match is {until.exact_match}; it must be more than 0 and at most 1, or left out")
    if until.exact_match is not None and not facts:
        raise RecipeError(f"{key}.until.exact_match is {until.exact_match}, but {', '.join(stage.data)} ask nothing; leave it out")
    for what in ("times", "every"):
        if getattr(until, what) < 1:
            raise RecipeError(f"{key}.until.{what} is {getattr(until, what)}; it must be 1 or more")
    if stage.penalty.kind not in KINDS:
        raise RecipeError(f"{key}.penalty.kind is {stage.penalty.kind!r}; possible: {', '.join(KINDS)}")
    if not 0 < stage.penalty.weight < inf:
        raise RecipeError(f"{key}.penalty.weight is {stage.penalty.weight}; it must be more than 0")
    if stage.penalty.examples < 1:
        raise RecipeError(f"{key}.penalty.examples is {stage.penalty.examples}; it must be 1 fact or more")
    if stage.penalty.kind == "ewc":
        if not any(data in recipe.facts for data in learned_before(recipe, name)):
            raise RecipeError(
                f"{key}.penalty.kind is ewc, which holds what facts learned before depend on, but no stage before {name} has "
                "learned any; possible: none, kl"
            )
        if stage.lora.rank:
            raise RecipeError(
                f"{key}.penalty.kind is ewc, which holds weights that {key}.lora.rank = {stage.lora.rank} doesn't train; give one"
            )
    if stage.lora.rank < 0 or not 0 < stage.lora.alpha < inf:
        raise RecipeError(f"{key}.lora is rank {stage.lora.rank}, alpha {stage.lora.alpha}; a rank is 0 or more, alpha more than 0")
    needing = f"{key}.penalty.kind is {stage.penalty.kind}" if stage.penalty.kind != "none" else ""
    needing = needing or (f"{key}.lora.rank is {stage.lora.rank}" if stage.lora.rank else "")
    if needing and stage.train.strategy == "zero_3":
        raise RecipeError(
            f"{needing}, which needs all weights on each device, and train.strategy = zero_3 parts them; possible: single, ddp, "
            "zero_1, zero_2"
        )
