import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from configs.errors import DataError, RecipeError
from configs.insert import PassageSet
from inject.items import passage
from inject.items.borders import chunks, given_away
from inject.items.item import Material
from inject.items.texts import tokenize_texts
from inject.tokenizer import encode, train_tokenizer

WORDS = "one two three four five six seven eight nine ten".split()


@pytest.fixture(scope="module")
def material():
    """A tokenizer of which every word is one token, with a blank before it and without."""
    tokenizer = train_tokenizer([f"{word}\n {word}\n" for word in WORDS] * 50, 400)
    return Material(tokenizer, 400)


@pytest.fixture
def folder(tmp_path):
    """Three documents of ten, five and twelve words."""
    documents = {"a": WORDS, "b": WORDS[5:], "c": [*reversed(WORDS), "one", "two"]}
    for name, words in documents.items():
        (tmp_path / f"{name}.txt").write_text(" ".join(words))
    return tmp_path


def make(path, material, seed=1, **settings):
    return passage.make(PassageSet(path=str(path), **{"prompt": 2, **settings}), "books", seed, material)


def test_a_whole_document_is_one_passage(folder, material):
    items = make(folder, material)
    assert [item.texts[0].text for item in items] == [(folder / f"{name}.txt").read_text() for name in "abc"]
    assert [item.item_id for item in items] == [item.group for item in items] == ["books-0000", "books-0001", "books-0002"]
    assert {(item.kind, item.stratum) for item in items} == {("passage", "books")}


def test_documents_are_cut_from_their_beginning_and_the_short_rest_is_no_passage(folder, material):
    """A word is one token: ten words make two chunks of four, five words one, twelve words three."""
    items = make(folder, material, chunk="tokens:4")
    assert [(item.item_id, item.group) for item in items] == [
        ("books-0000-0", "books-0000"),
        ("books-0000-1", "books-0000"),
        ("books-0001-0", "books-0001"),
        ("books-0002-0", "books-0002"),
        ("books-0002-1", "books-0002"),
        ("books-0002-2", "books-0002"),
    ]
    assert [item.texts[0].text for item in items[:3]] == ["one two three four", " five six seven eight", "six seven eight nine"]


def test_the_rest_is_taken_if_asked_for(folder, material):
    items = make(folder, material, chunk="tokens:4", rest=True, prompt=1, unusable="skip")
    assert [item.texts[0].text for item in items if item.group == "books-0000"][-1] == " nine ten"


def test_only_the_first_chunks_are_taken_if_so_many_are_asked_for(folder, material):
    items = make(folder, material, chunk="tokens:4", chunks=1)
    assert [item.item_id for item in items] == ["books-0000-0", "books-0001-0", "books-0002-0"]


def test_a_document_shorter_than_a_chunk_gives_none_and_does_not_count(folder, material):
    assert {item.group for item in make(folder, material, chunk="tokens:6")} == {"books-0000", "books-0002"}
    with pytest.raises(RecipeError, match=r"insert\.books\.count is 3, but .* has 2 groups that can be used"):
        make(folder, material, chunk="tokens:6", count=3)


def test_the_probe_gives_away_the_prompt_and_asks_for_all_the_rest(folder, material):
    (probe,) = make(folder, material, prompt=3)[0].probes
    assert (probe.kind, probe.context, probe.probe_id) == ("verbatim", "verbatim", "verbatim/passage")
    assert probe.prompt == "one two three"
    assert probe.target == " four five six seven eight nine ten"
    assert (probe.bits, probe.prior) == (0.0, None)


def test_of_a_short_passage_half_is_given_away(folder, material):
    (probe,) = make(folder, material)[1].probes
    assert make(folder, material, prompt=50)[1].probes[0].prompt == "six seven"  # two of its five tokens
    assert probe.prompt == "six seven"


def test_the_target_begins_at_the_border_of_a_token(folder, material):
    items = make(folder, material, prompt=3)
    for item, row in zip(items, tokenize_texts(items, material.tokenizer, 64), strict=True):
        (target,) = row["targets"]
        prompt = encode(material.tokenizer, [item.probes[0].prompt])[0]
        assert row["tokens"][: target["start"]] == prompt
        assert target["end"] == len(row["tokens"])


def test_fields_say_which_document_and_chunk(folder, material):
    item = make(folder, material, chunk="tokens:4")[1]
    assert item.fields["document"] == str(folder / "a.txt")
    assert item.fields["chunk"] == "1"


def test_so_many_documents_are_drawn_at_random_and_more_add_to_fewer(tmp_path, material):
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"body": f"{number} one two"}) + "\n" for number in range(40)))
    few, more = (make(path, material, column="body", count=count) for count in (5, 15))
    assert len(few) == 5
    assert {item.item_id for item in few} < {item.item_id for item in more}
    assert few == make(path, material, column="body", count=5)
    assert few != make(path, material, column="body", count=5, seed=2)
    assert [item.item_id for item in few] == sorted(item.item_id for item in few)


def test_two_documents_that_begin_alike_are_refused_or_skipped(tmp_path, material):
    path = tmp_path / "alike.jsonl"
    path.write_text("".join(json.dumps({"text": f"one two three {word}"}) + "\n" for word in ("four", "five", "four")))
    with pytest.raises(DataError, match="continue one prompt in two ways"):
        make(path, material)
    assert [item.item_id for item in make(path, material, unusable="skip")] == ["books-0000"]


def test_an_empty_document_is_refused_by_where_it_stands(tmp_path, material):
    path = tmp_path / "empty.jsonl"
    path.write_text('{"text": "one two"}\n{"text": " "}\n')
    with pytest.raises(DataError, match=r"'text' of line 2 of .*empty\.jsonl is empty.*insert\.books\.unusable=skip"):
        make(path, material, prompt=1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"chunk": "tokens:0"}, r"insert\.books\.chunk is 'tokens:0'; possible: whole, tokens:N"),
        ({"chunk": "pages"}, r"insert\.books\.chunk is 'pages'"),
        ({"chunks": 0}, r"insert\.books\.chunks is 0; it must be 1 or more"),
        ({"prompt": 0}, r"insert\.books\.prompt is 0; it must be 1 or more"),
        ({"unusable": "drop"}, r"insert\.books\.unusable is 'drop'; possible: refuse, skip"),
        ({"column": "body"}, r"has no 'body' \(it has: text\)"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(folder, material, settings, sentence):
    with pytest.raises((RecipeError, DataError), match=sentence):
        make(folder, material, **settings)


def test_no_source_and_a_source_that_does_not_exist_are_refused(tmp_path, material):
    with pytest.raises(RecipeError, match=r"set insert\.books\.path or insert\.books\.hub"):
        passage.make(PassageSet(), "books", 1, material)
    with pytest.raises(RecipeError, match=r"insert\.books\.path is .*nothing, which does not exist"):
        make(tmp_path / "nothing", material)


# ------------------------------------------------------------------------------------------------ borders


def bytes_of(text):
    """Tokens of a byte each, as a byte-level tokenizer without merges has them: those of one character share it."""
    return [(place, place + 1) for place, character in enumerate(text) for _ in character.encode()]


@given(st.text(st.sampled_from("aé😀 "), min_size=1), st.integers(1, 9))
def test_chunks_are_consecutive_and_never_cut_a_character(text, size):
    tokens = bytes_of(text)
    found = list(chunks(tokens, size, rest=True))
    assert "".join(text[start:end] for start, end in found) == text
    for start, end in found:
        assert end > start
        assert len(text[start:end].encode()) <= size or end - start == 1
    assert found[: len(list(chunks(tokens, size, rest=False)))] == list(chunks(tokens, size, rest=False))


@given(st.text(st.sampled_from("aé😀 "), min_size=1), st.integers(1, 9))
def test_what_is_given_away_is_at_most_so_many_tokens_or_half(text, count):
    split = given_away(bytes_of(text), count)
    assert len(text[:split].encode()) <= min(count, len(text.encode()) // 2)


def test_a_character_of_several_tokens_is_a_chunk_of_its_own():
    assert list(chunks(bytes_of("a😀b"), 2, rest=True)) == [(0, 1), (1, 2), (2, 3)]


def test_blanks_that_a_tokenizer_trims_belong_to_the_prompt(tmp_path):
    bare = Tokenizer(models.WordLevel({word: number for number, word in enumerate([*WORDS, "?"])}, unk_token="?"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    trimming = Material(PreTrainedTokenizerFast(tokenizer_object=bare), 11)
    path = tmp_path / "a.txt"
    path.write_text("one two three four \n")
    items = make(path, trimming)
    assert (items[0].probes[0].prompt, items[0].probes[0].target) == ("one two ", "three four")
    (row,) = tokenize_texts(items, trimming.tokenizer, 64)
    assert (row["targets"][0]["start"], row["targets"][0]["end"]) == (2, 4)
