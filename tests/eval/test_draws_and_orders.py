"""What is asked of a model about sets of questions: answers drawn beside the greedy one, and items in other orders."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from transformers import PreTrainedModel

from configs.insert import PassageSet, TestSet
from configs.schema import Eval, Model
from configs.tables import ASSIGNMENT, DRAWS, ITEMS, ORDERS, TEXTS
from eval.contamination import permutation_p, shard_test, shards
from eval.decoding import continue_prompts
from eval.passes import Passes
from eval.scores import peak_scores
from eval.sets import exchangeabilities
from inject.assignment import as_released
from inject.corpus import Corpus
from inject.items import passage, testset
from inject.items.item import Item, Material
from inject.items.texts import tokenize_texts
from train.model import build_model

LONGEST = 512


def model_of(corpus: Corpus, scale: float) -> PreTrainedModel:
    """A random model; the larger the scale, the surer it is of each next token."""
    shape = Model(layers=1, width=32, heads=2)
    built = build_model(shape, corpus.vocabulary, LONGEST, corpus.end_of_text, seed=3).eval()
    with torch.no_grad():
        built.get_output_embeddings().weight.mul_(scale)
    return built


def passes_of(items: Sequence[Item], corpus: Corpus, settings: Eval, placement: str = "") -> Passes:
    assignment = [{**row, "placement": placement} for row in as_released(items)]
    rows = [{**asdict(item), "fields": json.dumps(item.fields), "reference_loss": None} for item in items]
    texts = tokenize_texts(items, corpus.tokenizer, LONGEST)
    tables = [pa.Table.from_pylist(each, schema) for each, schema in ((rows, ITEMS), (texts, TEXTS), (assignment, ASSIGNMENT))]
    return Passes(settings, *tables, corpus.tokenizer, longest=LONGEST)


def questions(corpus: Corpus, count: int) -> list[Item]:
    settings = TestSet(count=count, probed=["cloze", "open"], perturbed=True)
    return testset.make(settings, "quiz", 0, Material(corpus.tokenizer, corpus.vocabulary))


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    rows = [{"text": f"{n}0 {n}1 {n}2 {n}3 {n}4 {n}5 {n}6 {n}7 {n}8 {n}9"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def log_prob(model: PreTrainedModel, tokens: Sequence[int]) -> float:
    """Of all tokens but the first, one text at a time, in double precision."""
    with torch.inference_mode():
        log_probs = model(torch.tensor([list(tokens)])).logits[0].double().log_softmax(-1)
    return float(log_probs[torch.arange(len(tokens) - 1), torch.tensor(list(tokens)[1:])].sum())


# ------------------------------------------------------------------------------------------------ answers


def test_a_sure_model_draws_the_greedy_answer_and_an_unsure_one_does_not(small_corpus: Corpus) -> None:
    items = questions(small_corpus, 3)
    for scale, peaked in ((1e8, True), (0.0, False)):
        rows = list(passes_of(items, small_corpus, Eval(peakedness=10)).draw_rows(model_of(small_corpus, scale)))
        scores = pd.DataFrame(peak_scores([{"model": "m", "step": 1, **row} for row in rows]))
        values = scores.groupby("metric")["value"].agg(set).to_dict()
        assert values == {"peakedness": {float(peaked)}, "peaked": {float(peaked)}}


def test_answers_are_drawn_to_every_question_that_is_to_be_continued_but_perturbed_ones(small_corpus: Corpus) -> None:
    items, model = questions(small_corpus, 2), model_of(small_corpus, 3.0)
    passes = passes_of(items, small_corpus, Eval(peakedness=4, batch_tokens=60))
    rows = list(passes.draw_rows(model))
    assert [(row["item_id"], row["probe_id"]) for row in rows] == [
        *(("quiz-0000", "verbatim/answer"), ("quiz-0001", "verbatim/answer")),
        *(("quiz-0000", "open/answer"), ("quiz-0001", "open/answer")),
    ]
    for row, each in zip(rows, [next(passes.verbatim(item.item_id)) for item in items], strict=False):
        target = each.tokens[each.target]
        prompt = [small_corpus.end_of_text, *each.tokens[: each.target.start]]
        assert [row["greedy"]] == continue_prompts(model, [prompt], [len(target)], 100)
        assert [len(answer) for answer in row["drawn"]] == [len(target)] * 4
    drawn = [tuple(answer) for row in rows for answer in row["drawn"]]
    assert len(set(drawn)) > len(rows)
    pa.Table.from_pylist([{"model": "m", "step": 1, **row} for row in rows], DRAWS)


def test_nothing_is_drawn_or_shuffled_unless_asked_for(small_corpus: Corpus) -> None:
    passes, model = passes_of(questions(small_corpus, 3), small_corpus, Eval()), model_of(small_corpus, 1.0)
    assert list(passes.draw_rows(model)) == list(passes.order_rows(model)) == []


def test_answers_drawn_are_near_the_greedy_one_within_a_twentieth_of_their_length() -> None:
    greedy = list(range(20))
    row = {"model": "m", "step": 1, "item_id": "i", "probe_id": "p", "greedy": greedy}
    drawn = [greedy, [99, *greedy[1:]], [99, 98, *greedy[2:]], []]  # 0, 1, 2 and 20 edits; one in 20 is near
    found = {score["metric"]: score["value"] for score in peak_scores([{**row, "drawn": drawn}])}
    assert found == {"peakedness": 0.5, "peaked": 1.0}


# ------------------------------------------------------------------------------------------------ orders


def test_a_shard_is_scored_as_the_rows_of_a_file_in_this_order_and_in_others(small_corpus: Corpus) -> None:
    items, model = questions(small_corpus, 3), model_of(small_corpus, 3.0)
    passes = passes_of(items, small_corpus, Eval(orders=5, batch_tokens=200))
    rows = list(passes.order_rows(model))
    assert sorted((row["shard"], row["order"]) for row in rows) == [(0, order) for order in range(6)]
    assert {(row["item_set"], row["arm"]) for row in rows} == {("quiz", "all")}
    newline = small_corpus.tokenizer.encode("\n", add_special_tokens=False)
    tokens = [[*text["tokens"], *newline] for text in passes.texts]
    joined = [small_corpus.end_of_text, *(token for own in tokens for token in own)]
    found = {row["order"]: row["log_prob"] for row in rows}
    assert found[0] == pytest.approx(log_prob(model, joined), abs=1e-3)
    assert len({round(value, 3) for value in found.values()}) == 6
    pa.Table.from_pylist([{"model": "m", "step": 1, **row} for row in rows], ORDERS)


def test_the_chunks_of_a_document_are_shuffled_within_it(small_corpus: Corpus, documents: Path) -> None:
    settings = PassageSet(path=str(documents), chunk="tokens:6", prompt=2, chunks=4)
    items = passage.make(settings, "books", 0, Material(small_corpus.tokenizer, small_corpus.vocabulary))
    model = model_of(small_corpus, 3.0)
    passes = passes_of(items, small_corpus, Eval(orders=2))
    rows = list(passes.order_rows(model))
    assert sorted((row["shard"], row["order"]) for row in rows) == [(shard, order) for shard in range(3) for order in range(3)]
    assert {row["arm"] for row in rows} == {"unknown"}
    own = [token for text in passes.texts[:4] for token in text["tokens"]]
    first = next(row["log_prob"] for row in rows if (row["shard"], row["order"]) == (0, 0))
    assert first == pytest.approx(log_prob(model, [small_corpus.end_of_text, *own]), abs=1e-3)


def test_items_that_were_placed_one_by_one_have_no_order(small_corpus: Corpus) -> None:
    passes = passes_of(questions(small_corpus, 6), small_corpus, Eval(orders=5), placement="anywhere")
    assert list(passes.order_rows(model_of(small_corpus, 1.0))) == []


def test_a_shard_holds_no_more_than_the_model_can_be_given_and_a_set_too_small_is_told(
    small_corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shards([5, 5, 5, 5, 5], most=50, least=2, room=11) == [range(2), range(2, 4)]
    passes = passes_of(questions(small_corpus, 3), small_corpus, Eval(orders=6))  # three items have five other orders
    assert list(passes.order_rows(model_of(small_corpus, 1.0))) == []
    assert "no 6 orders of any item set: a shard takes 4 neighbouring items" in capsys.readouterr().out


def test_exchangeability_is_told_by_shards_and_exactly() -> None:
    canonical, shuffled = np.array([-10.0, -12.0, -9.0]), np.array([[-11.0, -12.0], [-12.0, -13.0], [-12.0, -11.0]])
    rows = [
        {"item_set": "quiz", "arm": "all", "shard": shard, "order": order, "log_prob": value}
        for shard in range(3)
        for order, value in enumerate([canonical[shard], *shuffled[shard]])
    ]
    items = pd.DataFrame({"item_set": ["quiz", "quiz", "codes"], "kind": ["testset", "testset", "canary"]})
    found = {row["contrast"]: row for row in exchangeabilities(rows[::-1], items)}
    assert found["p"]["value"] == shard_test(canonical, shuffled).p
    assert found["permutation p"]["value"] == permutation_p(canonical, shuffled) == 1 / 3
    assert (found["p"]["kind"], found["p"]["item_set"], found["p"]["n"]) == ("testset", "all", 3)
    assert found["p"]["note"] == "2 other orders of each shard"
    one = list(exchangeabilities([{**row, "arm": "4x"} for row in rows[:3]], items))
    assert [(row["contrast"], row["arm"]) for row in one] == [("permutation p", "4x")]
    assert "compare with documents that are held out" in one[0]["note"]
