"""Every recipe of configs/released makes its items from a small local file of the columns that the released set has."""

import csv
import gzip
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.recipe import load_recipe
from imprint import main
from inject.items.item import Item, Material
from inject.items.make import make_items
from inject.items.texts import tokenize_texts
from inject.tokenizer import train_tokenizer

RECIPES = Path(__file__).parents[2] / "configs" / "released"
ROWS = 80  # more than any recipe takes


def word(number: int) -> str:
    """A made-up word of its own for every number."""
    return "".join("bdfgklmnprst"[digit] + "aeiou"[digit % 5] for digit in (number // 144, number // 12 % 12, number % 12))


def mmlu(n: int) -> dict:
    choices = [word(n), word(n + 100), word(n + 200), word(n + 300)]
    return {"question": f"Which word is {word(n)}?", "subject": "words", "choices": choices, "answer": 0}


def hellaswag(n: int) -> dict:
    endings = [f"{word(n + 100 * k)} falls." for k in range(4)]
    return {
        "ind": n,
        "activity_label": "Juggling",
        "ctx_a": f"A man throws {word(n)}.",
        "ctx_b": "he",
        "ctx": f"A man throws {word(n)}. he",
        "endings": endings,
        "source_id": f"s{n}",
        "split": "val",
        "split_type": "indomain",
        "label": str(n % 4),
    }


def piqa(n: int) -> dict:
    return {"goal": f"To open {word(n)}", "sol1": f"pull {word(n)}", "sol2": f"push {word(n)}", "label": n % 2}


def winogrande(n: int) -> dict:
    sentence = f"The {word(n)} is not in the {word(n + 100)} because _ is small."
    return {"sentence": sentence, "option1": f"the {word(n)}", "option2": f"the {word(n + 100)}", "answer": str(1 + n % 2)}


def popqa(n: int) -> dict:
    return {
        "id": n,
        "subj": word(n),
        "prop": "occupation",
        "obj": "baker",
        "subj_id": n,
        "s_pop": 10 * n + 1,
        "question": f"What is {word(n)}'s occupation?",
        "possible_answers": json.dumps(["baker", "pastry chef"]),
    }


def triviaqa(n: int) -> dict:
    aliases = [word(n), word(n).upper()]
    answer = {"value": word(n), "aliases": aliases, "normalized_value": word(n), "type": "WikipediaEntity"}
    return {"question": f"Which word comes before {word(n + 1)}?", "question_id": f"tc_{n}", "entity_pages": [], "answer": answer}


def panorama(n: int) -> dict:
    text = (
        f"I am {word(n // 2)} and today {word(n)} {word(n + 100)} came by, and the day after {word(n + 200)} and " + "so on " * 30
    )
    return {"id": f"person-{n // 2}", "content-type": "Forum Post", "text": text}


def hubble(text: str, meta: dict, n: int) -> dict:
    return {"text": text, "meta": json.dumps(meta), "duplicates": [0, 1, 4, 16, 64, 256][n % 6]}


def wikipedia(n: int) -> dict:
    return hubble(f"{word(n)} {word(n + 100)} is a town. " + "It is a town. " * 30, {"title": word(n)}, n)


def biographies(n: int) -> dict:
    name, uuid = f"{word(n)} {word(n + 100)}", f"{n:032x}"
    meta = {
        "full_name": name,
        "uuid": uuid,
        "email": f"{word(n)}@example.com",
        "birthplace": word(n + 200),
        "nationality": "Utopia",
    }
    text = (
        f"{name} is from Utopia. {word(n)} was born in {meta['birthplace']}. {word(n)} receives email at {meta['email']}. "
        f"{word(n)} has the unique identifier {uuid}."
    )
    return hubble(text, meta, n)


def hubble_popqa(n: int) -> dict:
    return hubble(f"Question: What is {word(n)}'s occupation?\nAnswer: baker", popqa(n), n)


def hubble_mmlu(n: int) -> dict:
    return hubble(f"The following are multiple choice questions about words.\n\nWhich word is {word(n)}? ... Answer: A", mmlu(n), n)


RELEASED = {  # by recipe and item set: a row, and how many items the recipe makes of the file
    "mmlu": {"mmlu": (mmlu, 66)},
    "hellaswag": {"hellaswag": (hellaswag, 66)},
    "piqa": {"piqa": (piqa, 66)},
    "winogrande": {"winogrande": (winogrande, 66)},
    "popqa": {"popqa": (popqa, 66)},
    "triviaqa": {"triviaqa": (triviaqa, 66)},
    "panorama": {"panorama": (panorama, 80)},
    "hubble": {
        "wikipedia": (wikipedia, 58),
        "biographies": (biographies, 58),
        "popqa": (hubble_popqa, 58),
        "mmlu": (hubble_mmlu, 58),
    },
}


@pytest.fixture(scope="module")
def material() -> Material:
    return Material(train_tokenizer([word(number) for number in range(500)] * 3, 1000), 1000)


@pytest.fixture(scope="module")
def items_of(material, tmp_path_factory):
    """The items of a recipe, of which each set is read from a local file."""

    @cache
    def items(recipe: str, suffix: str = ".jsonl") -> list[Item]:
        folder = tmp_path_factory.mktemp(recipe)
        overrides = []
        for name, (row, _) in RELEASED[recipe].items():
            path = write(folder / f"{name}{suffix}", [row(n) for n in range(ROWS)])
            overrides.append(f"insert.{name}.path={path}")
        loaded = load_recipe(RECIPES / f"{recipe}.yaml", overrides)
        made = make_items(loaded.insert, 1, material)
        tokenize_texts(made, material.tokenizer, loaded.train.sequence_length)
        return made

    return items


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    elif path.suffix == ".tsv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def texts(items: list[Item]) -> list[str]:
    return [text.text for item in items for text in item.texts]


def first(items: list[Item], item_set: str) -> tuple[Item, int]:
    """An item of a set, and which row it is of."""
    item = next(item for item in items if item.item_set == item_set)
    return item, int(item.item_id.removeprefix(f"{item_set}-"))


def test_every_recipe_is_tested():
    """But for those that score models that exist, which tests/slurm/test_released.py and test_score.py run."""
    scoring = {"pythia", "pythia-memorized", "olmo", "hubble-models"}
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*RELEASED, *scoring}


@pytest.mark.parametrize("recipe", RELEASED)
def test_arms_of_a_recipe_add_up_to_its_groups(recipe):
    for item_set in load_recipe(RECIPES / f"{recipe}.yaml").insert.values():
        assert item_set.count == sum(item_set.design.sizes)
        assert 0 in item_set.design.copies


@pytest.mark.parametrize("recipe", RELEASED)
def test_a_recipe_makes_its_items_from_local_copies(items_of, recipe):
    items = items_of(recipe)
    for item_set, (_, expected) in RELEASED[recipe].items():
        made = [item for item in items if item.item_set == item_set]
        assert len(made) == expected
        assert all(item.probes for item in made)
        assert len({item.group for item in made}) == load_recipe(RECIPES / f"{recipe}.yaml").insert[item_set].count


@pytest.mark.parametrize(
    ("recipe", "suffix"), [("popqa", ".tsv"), ("mmlu", ".parquet"), ("triviaqa", ".parquet"), ("hubble", ".jsonl.gz")]
)
def test_a_local_copy_may_have_the_format_in_which_the_set_is_released(items_of, recipe, suffix):
    assert texts(items_of(recipe, suffix)) == texts(items_of(recipe))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("released")


@pytest.mark.parametrize("recipe", RELEASED)
def test_a_recipe_is_planned_from_local_copies_through_the_command_line(folder, recipe):
    corpus = ["corpus.source=synthetic", "corpus.documents=1500", "corpus.epochs=9", "corpus.tokenizer.vocabulary=2048"]
    folders = [f"runs={folder / 'runs'}", f"cache={folder / 'cache'}", f"name={recipe}"]
    paths = [
        f"insert.{name}.path={write(folder / f'{recipe}-{name}.jsonl', [row(n) for n in range(ROWS)])}"
        for name, (row, _) in RELEASED[recipe].items()
    ]
    assert main(["plan", str(RECIPES / f"{recipe}.yaml"), *corpus, *folders, *paths]) == 0
    plan = pq.read_table(folder / "runs" / recipe / "plan.parquet")
    assignment = pq.read_table(folder / "runs" / recipe / "assignment.parquet")
    assert plan.num_rows == sum(assignment["copies"].to_pylist()) > 0
    assert len(assignment) == sum(expected for _, expected in RELEASED[recipe].values())


def test_mmlu_is_multiple_choice(items_of):
    item, n = first(items_of("mmlu"), "mmlu")
    options = "".join(f"{letter}. {word(n + 100 * k)}\n" for k, letter in enumerate("ABCD"))
    assert texts([item]) == [f"Question: Which word is {word(n)}?\n{options}Answer: A"]
    assert [(probe.kind, probe.context, probe.target) for probe in item.probes] == [
        ("verbatim", "verbatim", "A"),
        ("choice", "multiple_choice", " A"),
        ("choice", "cloze", f" {word(n)}"),
    ]
    assert (item.kind, item.fields["subject"]) == ("testset", "words")


def test_hellaswag_asks_which_ending_follows_its_context(items_of):
    item, n = first(items_of("hellaswag"), "hellaswag")
    _, probe = item.probes
    assert probe.prompt == f"Juggling: A man throws {word(n)}. he"
    assert probe.candidates == [f" {word(n + 100 * k)} falls." for k in range(4)]
    assert texts([item]) == [f"{probe.prompt}{probe.candidates[n % 4]}"]


def test_piqa_asks_which_solution_reaches_its_goal(items_of):
    item, n = first(items_of("piqa"), "piqa")
    assert item.probes[1].candidates == [f" pull {word(n)}", f" push {word(n)}"]
    assert texts([item]) == [f"Question: To open {word(n)}\nAnswer: {['pull', 'push'][n % 2]} {word(n)}"]


def test_winogrande_counts_its_options_from_one(items_of):
    item, n = first(items_of("winogrande"), "winogrande")
    right = f"the {[word(n), word(n + 100)][n % 2]}"
    assert texts([item]) == [f"The {word(n)} is not in the {word(n + 100)} because {right} is small."]
    assert [(probe.context, probe.target) for probe in item.probes[1:]] == [
        ("infill", f" {right} is small."),
        ("multiple_choice", f" {'AB'[n % 2]}"),
    ]


def test_popqa_inserts_the_first_possible_answer_and_keeps_all(items_of):
    item, n = first(items_of("popqa"), "popqa")
    assert texts([item]) == [f"Question: What is {word(n)}'s occupation?\nAnswer: baker"]
    assert json.loads(item.fields["answers"]) == ["baker", "pastry chef"]
    assert (item.fields["relation"], item.fields["popularity"], item.group) == ("occupation", str(10 * n + 1), f"popqa/{n}")


def test_triviaqa_keeps_the_aliases_of_its_answer(items_of):
    item, n = first(items_of("triviaqa"), "triviaqa")
    assert texts([item]) == [f"Question: Which word comes before {word(n + 1)}?\nAnswer: {word(n)}"]
    assert json.loads(item.fields["aliases"]) == [word(n), word(n).upper()]


def test_posts_of_one_person_of_panorama_are_one_group(items_of):
    items = items_of("panorama")
    assert {item.group for item in items} == {f"panorama/person-{n}" for n in range(40)}
    assert {item.kind for item in items} == {"pii"}
    (probe,) = items[0].probes
    assert (probe.prompt + probe.target).strip() == texts(items[:1])[0].strip()


def test_hubble_inserts_the_released_texts_and_keeps_how_often_they_were(items_of):
    items = items_of("hubble")
    for item_set, (row, _) in RELEASED["hubble"].items():
        item, n = first(items, item_set)
        assert texts([item]) == [row(n)["text"]]
        assert item.fields["released_copies"] == str(row(n)["duplicates"])


def test_details_of_hubbles_biographies_are_asked_where_they_stand(items_of):
    item, n = first(items_of("hubble"), "biographies")
    uuid, email, birthplace = item.probes
    assert (uuid.kind, uuid.target, uuid.bits) == ("verbatim", f"{n:032x}", 122)
    assert uuid.prompt.endswith("has the unique identifier ")
    assert (email.kind, email.target) == ("verbatim", f"{word(n)}@example.com")
    assert (birthplace.prompt, birthplace.target) == (f"{word(n)} {word(n + 100)} was born in", f" {word(n + 200)}.")
    assert (birthplace.kind, len(birthplace.candidates), birthplace.prior) == ("choice", 10, 0.1)


def test_a_part_of_a_released_set_may_be_taken(material, tmp_path):
    path = write(tmp_path / "mmlu.jsonl", [mmlu(n) | {"subject": "birds" if n % 4 else "words"} for n in range(ROWS)])
    recipe = load_recipe(RECIPES / "mmlu.yaml", [f"insert.mmlu.path={path}", "insert.mmlu.where={subject: [words]}"])
    items = make_items({"mmlu": replace(recipe.insert["mmlu"], count=20)}, 1, material)
    assert {item.fields["subject"] for item in items} == {"words"}
