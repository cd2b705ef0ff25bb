import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError
from configs.layout import read_json
from configs.schema import Corpus as CorpusSettings
from configs.schema import Tokenizer
from inject import corpus as module
from inject.corpus import Corpus, build_corpus, corpus_fingerprint
from inject.source import documents
from inject.tokenizer import END_OF_TEXT

quick = settings(max_examples=30, deadline=None)  # shared machines stall


def build(folder, texts, **tokenizer):
    """A corpus of the given documents."""
    source = folder / "texts"
    source.mkdir()
    for number, text in enumerate(texts):
        (source / f"{number:04d}.txt").write_text(text)
    made = CorpusSettings(source="text", path=str(source), tokenizer=Tokenizer(**({"vocabulary": 257} | tokenizer)))
    build_corpus(made, 0, folder / "corpus", "identity")
    return Corpus(folder / "corpus")


def everything(corpus) -> np.ndarray:
    return corpus.read(np.asarray([0]), corpus.tokens)[0]


def texts_of(corpus) -> list[str]:
    tokens = everything(corpus)
    pieces = np.split(tokens, np.flatnonzero(tokens == corpus.end_of_text) + 1)
    assert len(pieces.pop()) == 0
    return [corpus.tokenizer.decode(piece[:-1]) for piece in pieces]


def test_the_flat_array_decodes_to_the_documents_each_ended_by_the_end_of_text(small_corpus, small_settings):
    assert texts_of(small_corpus) == list(documents(small_settings, seed=1))


def test_the_description_counts_what_is_there(small_corpus, small_settings):
    texts = list(documents(small_settings, seed=1))
    meta = read_json(small_corpus.folder / "meta.json")
    assert meta["documents"] == len(texts) == 300
    assert meta["characters"] == sum(map(len, texts))
    assert meta["tokens"] == small_corpus.tokens == len(everything(small_corpus))
    assert meta["vocabulary"] == small_corpus.vocabulary == 300
    assert meta["fingerprint"] == "small"


def test_document_starts_follow_the_end_of_text(small_corpus):
    starts = np.load(small_corpus.folder / "documents-00000.npy")
    ends = np.flatnonzero(everything(small_corpus) == small_corpus.end_of_text)
    assert np.array_equal(starts, [0, *(ends[:-1] + 1)])


def test_a_small_vocabulary_takes_two_bytes_a_token(small_corpus):
    assert (small_corpus.folder / "tokens-00000.bin").stat().st_size == 2 * small_corpus.tokens


def test_the_same_settings_build_the_same_bytes(small_corpus, small_settings, tmp_path):
    build_corpus(small_settings, 1, tmp_path / "again", "small")
    for file in small_corpus.folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_the_tokens_of_a_corpus_never_change(small_corpus):
    assert (
        hashlib.sha256(everything(small_corpus).astype("<i8").tobytes()).hexdigest()
        == "7eb52f16dfc826533dd320adae849458188027d5592bb5447d3cb3831fbc3584"
    )


def test_odd_texts_come_back_as_they_were(tmp_path):
    texts = ["é\u2028日本語 😀\n\n", "  blanks  ", "\x00 and \ufffd", "1234567890"]
    assert texts_of(build(tmp_path, texts)) == texts


def test_a_document_that_spells_the_end_of_text_does_not_end_there(tmp_path):
    texts = [f"one {END_OF_TEXT} still one", "two"]
    corpus = build(tmp_path, texts)
    assert (everything(corpus) == corpus.end_of_text).sum() == 2
    assert texts_of(corpus) == texts


def test_a_tokenizer_that_exists_is_used_and_kept_with_the_corpus(small_corpus, tmp_path):
    corpus = build(tmp_path, ["one", "two"], path=str(small_corpus.folder))
    assert corpus.vocabulary == 300
    assert corpus.tokenizer.get_vocab() == small_corpus.tokenizer.get_vocab()
    assert texts_of(corpus) == ["one", "two"]


# ------------------------------------------------------------------------------------------------ shards


@pytest.fixture(scope="module")
def sharded(small_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD_TOKENS", 3000)
        build_corpus(small_settings, 1, folder, "small")
    return Corpus(folder)


def test_several_shards_read_as_one(small_corpus, sharded):
    assert len(sharded.meta["shards"]) > 5
    assert np.array_equal(everything(sharded), everything(small_corpus))


@quick
@given(data=st.data(), length=st.integers(1, 9000))
def test_any_spans_read_the_same_from_several_shards(small_corpus, sharded, data, length):
    starts = np.asarray(data.draw(st.lists(st.integers(0, small_corpus.tokens - length), max_size=5)), np.int64)
    expected = np.stack([everything(small_corpus)[s : s + length] for s in starts]) if len(starts) else np.empty((0, length))
    read = sharded.read(starts, length)
    assert read.dtype == np.int64
    assert np.array_equal(read, expected)


def test_document_starts_of_later_shards_count_from_the_beginning(small_corpus, sharded):
    shards = [np.load(sharded.folder / f"documents-{n:05d}.npy") for n in range(len(sharded.meta["shards"]))]
    assert np.array_equal(np.concatenate(shards), np.load(small_corpus.folder / "documents-00000.npy"))


# ------------------------------------------------------------------------------------------------ what is refused


def test_an_empty_source_is_refused_and_leaves_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"the corpus is empty: .* holds no document with text in it"):
        build(tmp_path, ["", " \n "])
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_a_malformed_source_leaves_no_folder(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nbroken\n')
    with pytest.raises(DataError, match="line 2"):
        build_corpus(CorpusSettings(source="jsonl", path=str(tmp_path / "a.jsonl")), 0, tmp_path / "corpus", "identity")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_folder_without_a_description_is_no_corpus(tmp_path):
    with pytest.raises(DataError, match=r"meta\.json does not exist"):
        Corpus(tmp_path)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-2])])
def test_a_missing_or_short_shard_is_refused_with_what_to_do(damage, tmp_path):
    folder = build(tmp_path, ["one", "two"]).folder
    damage(folder / "tokens-00000.bin")
    with pytest.raises(DataError, match=r"tokens-00000\.bin is missing or has the wrong size; remove .* and run again"):
        Corpus(folder)


# ------------------------------------------------------------------------------------------------ fingerprints


def test_the_fingerprint_follows_documents_seed_and_vocabulary(small_settings):
    others = [
        (small_settings, 2),
        (replace(small_settings, documents=301), 1),
        (replace(small_settings, tokenizer=Tokenizer(vocabulary=301)), 1),
    ]
    assert len({corpus_fingerprint(*each) for each in [(small_settings, 1), *others]}) == 4


def test_the_fingerprint_does_not_depend_on_how_often_the_corpus_is_read(small_settings):
    assert corpus_fingerprint(small_settings, 1) == corpus_fingerprint(replace(small_settings, epochs=5), 1)
