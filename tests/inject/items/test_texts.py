"""Texts as tokens: what is inserted, which tokens a target is, and where a probe's prompt ends."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from configs.errors import DataError, RecipeError
from inject.items.item import Item, Span, Text
from inject.items.texts import field_copies, split_probe, target_tokens, texts_fingerprints, tokenize_texts
from inject.tokenizer import END_OF_TEXT, encode, encode_with_offsets, train_tokenizer

quick = settings(max_examples=60, deadline=None)  # shared machines stall

# "The code is 4821." as The| code| is| 48|21.
OFFSETS = [(0, 3), (3, 8), (8, 11), (11, 14), (14, 17)]


@pytest.fixture(scope="module")
def tokenizer():
    """A vocabulary with tokens that run over word pieces: ' Paris', ' Paraguay', ' Pa'."""
    return train_tokenizer([" Paris Paraguay Pa the answer is: the capital of"] * 200, vocabulary=320)


def item(name: str, *texts: str) -> Item:
    return Item(
        name, "codes", "canary", "codes", name, {}, [Text(f"v{n}", text, [Span("x", 0, 1)]) for n, text in enumerate(texts)], []
    )


# ------------------------------------------------------------------------------------------------ texts


def test_every_text_of_every_item_is_a_row_with_its_tokens(tokenizer):
    rows = tokenize_texts([item("a", "one", "two"), item("b", "three")], tokenizer, 20)
    assert [(row["item_id"], row["variant"], row["text"]) for row in rows] == [
        ("a", "v0", "one"),
        ("a", "v1", "two"),
        ("b", "v0", "three"),
    ]
    assert [row["tokens"] for row in rows] == encode(tokenizer, ["one", "two", "three"])
    assert rows[0]["spans"] == [{"field": "x", "start": 0, "end": 1}]


def test_an_items_tokens_hold_no_end_of_text_even_where_it_is_spelled(tokenizer):
    (row,) = tokenize_texts([item("a", f"one {END_OF_TEXT} two")], tokenizer, 50)
    assert tokenizer.eos_token_id not in row["tokens"]


def test_no_items_make_no_rows(tokenizer):
    assert tokenize_texts([], tokenizer, 20) == []


def test_the_longest_text_fills_a_row_between_two_ends_of_text(tokenizer):
    (row,) = tokenize_texts([item("a", "0123456789")], tokenizer, sequence_length=11)
    assert len(row["tokens"]) == 10  # and two ends of text: the 12 tokens of a row


def test_a_text_longer_than_a_row_is_refused_with_the_length_it_takes(tokenizer):
    with pytest.raises(
        RecipeError, match=r"item b \(v1\) has 11 tokens, but .* items of up to 10; set train\.sequence_length=12 or"
    ) as refused:
        tokenize_texts([item("a", "0123456789"), item("b", "1", "01234567890")], tokenizer, sequence_length=11)
    assert "train.sequence_length = 11" in str(refused.value)
    tokenize_texts([item("b", "01234567890")], tokenizer, sequence_length=12)


def test_each_item_sets_texts_have_a_fingerprint_that_follows_their_tokens(tokenizer):
    def fingerprints(*texts):
        items = [replace(item(name, text), item_set=name) for name, text in zip("ab", texts, strict=True)]
        return texts_fingerprints(items, tokenize_texts(items, tokenizer, 64))

    before, after = fingerprints("12", "34"), fingerprints("12", "35")
    assert set(before) == {"a", "b"}
    assert before == fingerprints("12", "34")
    assert (before["a"] == after["a"], before["b"] == after["b"]) == (True, False)


# ------------------------------------------------------------------------------------------------ copies of a field


def spans_of(name: str, variant: str, *fields: str) -> dict:
    return {"item_id": name, "variant": variant, "spans": [{"field": field, "start": 0, "end": 1} for field in fields]}


def test_a_field_is_seen_as_often_as_it_stands_in_the_copies_of_the_texts():
    texts = [spans_of("a", "v0", "name", "phone", "name"), spans_of("a", "v1", "name"), spans_of("b", "v0", "name")]
    assert field_copies(texts, {("a", "v0"): 3, ("a", "v1"): 2}) == {("a", "name"): 8, ("a", "phone"): 3, ("b", "name"): 0}


def test_copies_of_a_text_that_is_not_there_are_refused():
    with pytest.raises(DataError, match="a v7 has copies"):
        field_copies([spans_of("a", "v0", "name")], {("a", "v7"): 1})


# ------------------------------------------------------------------------------------------------ the target's tokens


def test_a_target_within_tokens_takes_the_whole_tokens():
    assert target_tokens(OFFSETS, 12, 16) == slice(3, 5)


def test_a_target_on_token_edges_takes_no_neighbour():
    assert target_tokens(OFFSETS, 3, 8) == slice(1, 2)


def test_a_target_of_one_character_takes_the_token_that_holds_it():
    assert target_tokens(OFFSETS, 13, 14) == slice(3, 4)


def test_tokens_that_share_a_character_all_belong_to_the_target():
    emoji = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]  # the emoji at character 1 is three tokens of bytes
    assert target_tokens(emoji, 1, 2) == slice(1, 4)


def test_a_blank_that_the_offsets_leave_out_belongs_to_the_token_after_it():
    assert target_tokens([(0, 3), (4, 8)], 3, 8) == slice(1, 2)


@pytest.mark.parametrize(("start", "end"), [(5, 5), (6, 5), (-1, 2)])
def test_a_target_without_characters_is_refused(start, end):
    with pytest.raises(DataError, match="must have characters"):
        target_tokens(OFFSETS, start, end)


@pytest.mark.parametrize("offsets", [OFFSETS, []])
def test_a_target_beyond_the_text_is_refused(offsets):
    with pytest.raises(DataError, match="reaches beyond"):
        target_tokens(offsets, 14, 18)


def test_a_target_that_no_token_holds_is_refused():
    with pytest.raises(DataError, match="no token holds"):
        target_tokens([(0, 3), (4, 8)], 3, 4)


@quick
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.data())
def test_the_targets_tokens_are_the_shortest_run_that_covers_it(lengths, data):
    ends = np.cumsum(lengths)
    offsets = list(zip(ends - lengths, ends, strict=True))
    start = data.draw(st.integers(0, int(ends[-1]) - 1))
    end = data.draw(st.integers(start + 1, int(ends[-1])))
    target = target_tokens(offsets, start, end)
    first, last = offsets[target.start], offsets[target.stop - 1]
    assert first[0] <= start < first[1]
    assert last[0] < end <= last[1]


# ------------------------------------------------------------------------------------------------ a probe's prompt and candidates


def test_prompt_and_candidate_split_where_a_token_begins(tokenizer):
    prompt, (candidate,) = split_probe(tokenizer, "the answer is:", [" Paris"])
    assert prompt == encode(tokenizer, ["the answer is:"])[0]
    assert candidate == encode(tokenizer, [" Paris"])[0]


def test_a_token_that_touches_the_candidate_belongs_to_it(tokenizer):
    assert len(encode(tokenizer, [" Paris"])[0]) == 1
    prompt, (candidate,) = split_probe(tokenizer, "the answer is: Pa", ["ris"])
    assert prompt == encode(tokenizer, ["the answer is:"])[0]
    assert candidate == encode(tokenizer, [" Paris"])[0]


def test_all_candidates_follow_the_same_prompt_though_only_one_needs_it_shorter(tokenizer):
    prompt, (paris, other) = split_probe(tokenizer, "the answer is: Pa", ["ris", "7"])
    assert prompt == encode(tokenizer, ["the answer is:"])[0]
    assert paris == encode(tokenizer, [" Paris"])[0]
    assert other == encode(tokenizer, [" Pa7"])[0]


def test_a_digit_before_and_a_digit_in_the_candidate_are_split_between_them(tokenizer):
    prompt, candidates = split_probe(tokenizer, "3 x 4 = 1", ["2", "35"])
    assert prompt == encode(tokenizer, ["3 x 4 = 1"])[0]
    assert candidates == encode(tokenizer, ["2", "35"])


def test_without_a_prompt_the_whole_text_is_the_candidate(tokenizer):
    assert split_probe(tokenizer, "", [" Paris", "7"]) == ([], encode(tokenizer, [" Paris", "7"]))


def test_a_candidate_without_characters_is_refused(tokenizer):
    with pytest.raises(DataError, match="no characters"):
        split_probe(tokenizer, "the answer is:", [""])


PIECES = st.sampled_from([" ", "P", "a", "ri", "s", "guay", "4", "é", "😀"])
CANDIDATES = st.lists(st.lists(PIECES, min_size=1, max_size=4).map("".join), min_size=1, max_size=3)


@quick
@given(prompt=st.lists(PIECES, max_size=5).map("".join), candidates=CANDIDATES)
def test_prompt_and_candidate_are_their_joint_tokens_and_no_prompt_reaches_into_a_candidate(tokenizer, prompt, candidates):
    tokens, answers = split_probe(tokenizer, prompt, candidates)
    for answer, candidate in zip(answers, candidates, strict=True):
        joint, offsets = encode_with_offsets(tokenizer, prompt + candidate)
        assert tokens + answer == joint
        assert all(end <= len(prompt) for _, end in offsets[: len(tokens)])


def test_a_tokenizer_that_trims_its_offsets_splits_before_the_candidate(tokenizer):
    trimming = copy.deepcopy(tokenizer)
    trimming.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    prompt, candidates = split_probe(trimming, "answer:", [" 12", " 3"])
    assert trimming.decode([*prompt, *candidates[0]]) == "answer: 12"
    assert trimming.decode([*prompt, *candidates[1]]) == "answer: 3"
