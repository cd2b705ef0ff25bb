"""Decontamination of small recipes whose items were planted in their corpus."""

import json

import pytest

from configs.errors import DataError, RecipeError
from configs.recipe import load_recipe
from inject import decontaminate as scanning
from inject.corpus import Corpus, build_corpus
from inject.items.make import Collision
from slurm import decontamination
from slurm.decontamination import decontaminate, refuse_other_texts
from slurm.planning import make_texts

RECIPE = """
insert:
  codes: {kind: canary, count: 8}
  books: {kind: passage, path: FOLDER/books.jsonl, count: 6}
design: {copies: [0, 1], sizes: [4, 4]}
corpus: {source: jsonl, path: FOLDER/pages.jsonl, tokenizer: {vocabulary: 400}}
train: {sequence_length: 256}
decontaminate: {policy: redraw, processes: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decontamination")
    books = [json.dumps({"text": " ".join(f"b{n}y{k * 37 % 100}" for k in range(12))}) for n in range(30)]
    (folder / "books.jsonl").write_text("\n".join(books))
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    (folder / "recipe.yaml").write_text(RECIPE.replace("FOLDER", str(folder)))
    return load_recipe(folder / "recipe.yaml", [])


@pytest.fixture(scope="module")
def corpus(folder, recipe, small_corpus):
    """Documents of which some hold items of the recipe."""
    items, _ = make_texts(recipe, small_corpus.tokenizer)  # their spelling is the same with every tokenizer
    planted = [next(item for item in items if item.item_set == name).texts[0].text for name in ("codes", "books")]
    pages = [f"Page {n} says {' '.join(f'p{n * k % 97}' for k in range(30))}." for n in range(40)]
    for number, text in zip((3, 17), planted, strict=True):
        pages[number] += f" Note: {text} And so on."
    (folder / "pages.jsonl").write_text("\n".join(json.dumps({"text": page}) for page in pages))
    build_corpus(recipe.corpus, 0, folder / "corpus", "base")
    return Corpus(folder / "corpus")


def test_items_that_occur_are_drawn_again_those_of_files_too(recipe, corpus, tmp_path):
    outcome = decontaminate(recipe, corpus, tmp_path)
    before, (after, texts) = make_texts(recipe, corpus.tokenizer)[0], make_texts(recipe, corpus.tokenizer, outcome.redrawn)
    hit = {next(item.group for item in before if item.item_set == name) for name in ("codes", "books")}
    assert set(outcome.redrawn[0]) == hit
    assert len([item for item in after if item not in before]) == 2
    refuse_other_texts(after, texts, outcome.texts, tmp_path)
    assert decontaminate(recipe, corpus, tmp_path) == outcome


def test_later_rounds_search_the_corpus_for_the_groups_drawn_again_only(recipe, corpus, tmp_path, monkeypatch):
    searched = []
    scan = decontamination.scan

    def watched(corpus, search, *arguments):
        searched.append({text.group for text, wanted in zip(search.texts, search._wanted, strict=True) if wanted})
        scan(corpus, search, *arguments)

    monkeypatch.setattr(decontamination, "scan", watched)
    outcome = decontaminate(recipe, corpus, tmp_path)
    assert [len(groups) for groups in searched] == [14, 2]
    (drawn,) = searched[1] - set(outcome.redrawn[0])  # the book; the code has the name of the one before
    assert drawn.startswith("books-")


def test_a_collision_of_what_was_drawn_is_another_round(recipe, corpus, tmp_path, monkeypatch):
    from inject.items import redraw

    true, first = redraw.collisions, []

    def once(items):
        items = list(items)
        if not first:
            first.append(next(item for item in items if item.group == "codes-0000"))
            yield Collision(first[0], items[1], "alike")
        yield from true(items)

    monkeypatch.setattr(redraw, "collisions", once)
    outcome = decontaminate(recipe, corpus, tmp_path)
    assert outcome.redrawn[1] == ["codes-0000"]
    codes = [item for item in make_texts(recipe, corpus.tokenizer, outcome.redrawn)[0] if item.group == "codes-0000"]
    assert codes != first


def test_what_occurs_however_often_it_is_drawn_is_refused(recipe, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(decontamination, "REDRAWS", 0)
    with pytest.raises(RecipeError, match="2 items occur where nothing was inserted"):
        decontaminate(recipe, corpus, tmp_path)


def test_the_processes_of_the_recipe_search_and_all_cores_if_none_are_given(recipe, corpus, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(decontamination, "scan", lambda *arguments: given.append(arguments[-1]) or scanning.scan(*arguments[:-1]))
    monkeypatch.setattr(decontamination, "_cores", lambda: 7)
    for processes in (3, 0):
        recipe.decontaminate.processes = processes
        decontaminate(recipe, corpus, tmp_path, (0, 1))
    recipe.decontaminate.processes = 1
    assert given == [3, 7]


def test_items_that_come_out_otherwise_than_they_were_looked_for_are_refused(recipe, corpus, tmp_path):
    outcome = decontaminate(recipe, corpus, tmp_path)
    items, texts = make_texts(recipe, corpus.tokenizer, outcome.redrawn)
    refuse_other_texts(items, texts, outcome.record()["texts"], tmp_path / "decontaminated.json")
    texts[0] = texts[0] | {"tokens": [*texts[0]["tokens"], 5]}
    with pytest.raises(DataError) as refused:
        refuse_other_texts(items, texts, outcome.texts, tmp_path / "decontaminated.json")
    assert str(refused.value).startswith("the items of insert.codes are not those that were looked for in the corpus")
    assert "decontaminated.json and run imprint decontaminate again on this machine" in str(refused.value)
