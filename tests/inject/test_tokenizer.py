from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from configs.errors import DataError
from configs.schema import Tokenizer as TokenizerSettings
from inject.tokenizer import (
    END_OF_TEXT,
    decode,
    encode,
    encode_batches,
    encode_with_offsets,
    load_tokenizer,
    ordinary_tokens,
    tokenizer_fingerprint,
    train_tokenizer,
)

quick = settings(max_examples=60, deadline=None)  # shared machines stall
TEXTS = ["the quick brown fox jumps over the lazy dog in 1999 and 2024", "wörter, 日本語 and 😀"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocabulary=300)


def saved(tokenizer, folder, prepare=lambda bare: None):
    bare = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    prepare(bare)
    bare.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_a_trained_vocabulary_has_the_size_asked_for(tokenizer):
    assert len(tokenizer) == 300


def test_the_smallest_vocabulary_is_every_byte_and_the_end_of_text():
    tokenizer = train_tokenizer(TEXTS, vocabulary=257)
    (tokens,) = encode(tokenizer, ["the 😀"])
    assert len(tokenizer) == 257
    assert len(tokens) == len("the 😀".encode())


def test_frequent_text_takes_fewer_tokens_than_bytes(tokenizer):
    (tokens,) = encode(tokenizer, [TEXTS[0]])
    assert len(tokens) < len(TEXTS[0]) * 0.7


def test_every_digit_is_a_token_of_its_own(tokenizer):
    ids, offsets = encode_with_offsets(tokenizer, "in 1999, x2024y")
    digits = [(3, 4), (4, 5), (5, 6), (6, 7), (10, 11), (11, 12), (12, 13), (13, 14)]
    assert [offset for offset in offsets if offset in digits] == digits
    assert len({ids[offsets.index((place, place + 1))] for place in (4, 5, 6)}) == 1  # the three nines


def test_no_token_of_the_vocabulary_holds_a_digit_and_anything_else(tokenizer):
    assert [token for token in tokenizer.get_vocab() if len(token) > 1 and any(c in "0123456789" for c in token)] == []


@quick
@given(text=st.text())
def test_any_text_is_recovered_from_its_tokens(tokenizer, text):
    (tokens,) = encode(tokenizer, [text])
    assert decode(tokenizer, tokens) == text


def test_ordinary_tokens_are_all_but_the_end_of_text(tokenizer):
    assert ordinary_tokens(tokenizer) == [token for token in range(300) if token != tokenizer.eos_token_id]


def test_reserved_tokens_without_a_role_are_not_ordinary_but_added_words_are(tokenizer, tmp_path):
    def reserve(bare):
        bare.add_special_tokens(["<|reserved|>"])
        bare.add_tokens(["xyzzy"])

    loaded = load_tokenizer(saved(tokenizer, tmp_path, reserve))
    vocabulary, ordinary = loaded.get_vocab(), ordinary_tokens(loaded)
    assert vocabulary["<|reserved|>"] not in ordinary
    assert vocabulary["xyzzy"] in ordinary


@quick
@given(text=st.text(min_size=1))
def test_offsets_cover_every_character_in_order(tokenizer, text):
    ids, offsets = encode_with_offsets(tokenizer, text)
    assert ids == encode(tokenizer, [text])[0]
    assert offsets[0][0] == 0
    assert offsets[-1][1] == len(text)
    assert all(before[1] >= after[0] for before, after in pairwise(offsets))


@pytest.mark.parametrize("text", [END_OF_TEXT, f"before{END_OF_TEXT}after"])
def test_a_text_that_spells_the_end_of_text_does_not_become_it(tokenizer, text):
    (tokens,) = encode(tokenizer, [text])
    assert tokenizer.eos_token_id not in tokens
    assert tokenizer.eos_token_id not in encode_with_offsets(tokenizer, text)[0]
    assert tokenizer.decode(tokens) == text


def test_the_same_texts_train_the_same_tokenizer(tokenizer):
    assert train_tokenizer(TEXTS, vocabulary=300).get_vocab() == tokenizer.get_vocab()


@quick
@given(lists=st.lists(st.lists(st.text(max_size=20), min_size=1, max_size=5), max_size=6))
def test_batches_are_encoded_end_to_end_with_an_end_of_text_after_each_text(tokenizer, lists):
    encoded = list(encode_batches(tokenizer, iter(lists), np.dtype(np.uint16)))
    assert [size for size, _, _ in encoded] == [sum(map(len, texts)) for texts in lists]
    for texts, (_, tokens, ends) in zip(lists, encoded, strict=True):
        assert tokens.dtype == np.uint16
        pieces = np.split(tokens, ends)
        assert pieces.pop().tolist() == []
        assert [piece.tolist() for piece in pieces] == [[*each, tokenizer.eos_token_id] for each in encode(tokenizer, texts)]


def test_an_error_of_what_is_encoded_or_of_where_it_comes_from_is_told(tokenizer):
    def broken():
        yield ["one"]
        raise DataError("line 2")

    with pytest.raises(DataError, match="line 2"):
        list(encode_batches(tokenizer, broken(), np.dtype(np.uint16)))
    with pytest.raises(TypeError):
        list(encode_batches(tokenizer, [[b"bytes"]], np.dtype(np.uint16)))


# ------------------------------------------------------------------------------------------------ loading


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_saved_tokenizer_gives_the_same_tokens(tokenizer, as_folder, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path if as_folder else tmp_path / "tokenizer.json")
    texts = [*TEXTS[:2], END_OF_TEXT, " a  b\n"]
    assert encode(loaded, texts) == encode(tokenizer, texts)
    assert loaded.eos_token_id == tokenizer.eos_token_id


def test_the_end_of_text_of_a_bare_file_is_known_by_its_name(tokenizer, tmp_path):
    assert load_tokenizer(saved(tokenizer, tmp_path)).eos_token == END_OF_TEXT


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path):
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="has no end-of-text token; give it an eos_token"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "prepare", [lambda bare: bare.enable_truncation(3), lambda bare: bare.enable_padding(length=50)], ids=["truncation", "padding"]
)
@pytest.mark.parametrize("as_folder", [True, False])
def test_a_tokenizer_that_would_cut_or_pad_texts_does_not(tokenizer, prepare, as_folder, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    file = saved(tokenizer, tmp_path, prepare)
    loaded = load_tokenizer(tmp_path if as_folder else file)
    assert encode(loaded, [TEXTS[0], "a"]) == encode(tokenizer, [TEXTS[0], "a"])


def test_a_tokenizer_that_would_add_tokens_does_not(tokenizer, tmp_path):
    from tokenizers.processors import TemplateProcessing

    def add(bare):
        bare.post_processor = TemplateProcessing(single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)])

    assert encode(load_tokenizer(saved(tokenizer, tmp_path, add)), ["a"]) == encode(tokenizer, ["a"])


@pytest.mark.parametrize("content", ["{}", "hello", ""])
def test_a_file_that_is_no_tokenizer_is_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json, which is no tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match="no tokenizer file or folder"):
        load_tokenizer(tmp_path)


# ------------------------------------------------------------------------------------------------ fingerprints


def test_the_fingerprint_of_a_tokenizer_follows_its_content_wherever_it_lies(tokenizer, tmp_path):
    prints = []
    for number, trained in enumerate([tokenizer, tokenizer, train_tokenizer(TEXTS, vocabulary=301)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        prints += [tokenizer_fingerprint(TokenizerSettings(path=str(saved(trained, folder))))]
        assert tokenizer_fingerprint(TokenizerSettings(path=str(folder))) == prints[-1]
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_of_a_tokenizer_to_be_trained_follows_its_vocabulary():
    assert tokenizer_fingerprint(TokenizerSettings(vocabulary=300)) != tokenizer_fingerprint(TokenizerSettings(vocabulary=301))


def test_a_tokenizer_of_the_hub_may_be_had_at_a_revision_without_running_its_code(tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *name, **how: asked.append((*name, how)) or tokenizer)
    for where in ("org/model@abc", "org/model"):
        load_tokenizer(where)
    assert asked == [("org/model", {"revision": revision, "trust_remote_code": False}) for revision in ("abc", "main")]
