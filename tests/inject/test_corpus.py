import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from configs.layout import read_json
from configs.schema import Corpus as CorpusSettings
from configs.schema import Tokenizer
from inject import corpus as module
from inject import parts, source
from inject.corpus import Corpus, build_corpus, corpus_fingerprint, corpus_tokenizer
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
        patch.setattr(parts, "SHARD_TOKENS", 3000)
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


def test_shards_follow_one_another_and_hold_whole_documents(sharded):
    for number, shard in enumerate(sharded.shards):
        tokens = sharded.open(number)
        assert shard.start == sum(before.tokens for before in sharded.shards[:number])
        assert len(tokens) == shard.tokens
        assert tokens[-1] == sharded.end_of_text
        assert np.array_equal(tokens, everything(sharded)[shard.start : shard.start + shard.tokens])


def test_document_starts_are_those_written_or_those_after_an_end_of_text(sharded, tmp_path):
    copy = shutil.copytree(sharded.folder, tmp_path / "copy")
    for file in copy.glob("documents-*.npy"):
        file.unlink()
    for number in range(len(sharded.shards)):
        assert np.array_equal(Corpus(copy).document_starts(number), sharded.document_starts(number))


def test_files_are_opened_at_first_use_and_only_so_many_stay_open(small_corpus, sharded, monkeypatch):
    monkeypatch.setattr(module, "OPEN_FILES", 3)
    before = len(os.listdir("/dev/fd"))
    corpus = Corpus(sharded.folder)
    assert len(os.listdir("/dev/fd")) == before
    assert np.array_equal(everything(corpus), everything(small_corpus))
    assert len(os.listdir("/dev/fd")) == before + 3
    del corpus
    assert len(os.listdir("/dev/fd")) == before


def test_a_shard_that_is_cut_short_while_the_corpus_is_open_is_told(tmp_path):
    corpus = build(tmp_path, ["one", "two"])
    corpus.read(np.asarray([0]), 1)
    os.truncate(corpus.folder / "tokens-00000.bin", 2)
    with pytest.raises(DataError, match=r"was cut short while it was read; remove .* and run again"):
        corpus.read(np.asarray([0]), 4)


def test_a_corpus_travels_to_another_process_as_its_folder(sharded):
    sharded.open(0)
    sent = pickle.dumps(sharded)
    assert len(sent) < 300
    assert np.array_equal(everything(pickle.loads(sent)), everything(sharded))


# ------------------------------------------------------------------------------------------------ parts


def in_parts(settings, folder, *calls, seed=1):
    """A corpus of parts of 16 documents, made by the calls given (shards, or None for the call that puts all together)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_DOCUMENTS", 16)
        patch.setattr(parts, "SHARD_TOKENS", 9000)
        for shard in calls:
            build_corpus(settings, seed, folder, "identity", shard)
    return folder


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def at_once(small_settings, tmp_path_factory):
    return contents(in_parts(small_settings, tmp_path_factory.mktemp("once") / "corpus", None))


def test_parts_hold_the_documents_in_the_order_of_the_source(small_corpus, small_settings, tmp_path):
    corpus = Corpus(in_parts(small_settings, tmp_path / "corpus", None))
    assert len(corpus.shards) >= 300 / 16
    assert np.array_equal(everything(corpus), everything(small_corpus))
    assert corpus.meta["characters"] == small_corpus.meta["characters"]
    starts = [corpus.document_starts(number) for number in range(len(corpus.shards))]
    assert np.array_equal(np.concatenate(starts), small_corpus.document_starts(0))


@pytest.mark.parametrize(
    "calls",
    [
        [(0, 2), (1, 2), None],
        [(2, 3), (0, 3), None],  # the last call makes what is missing
        [(n, 40) for n in range(40)] + [None],
        [(0, 1), None, None, (0, 2)],
    ],
)
def test_the_bytes_of_a_corpus_do_not_depend_on_how_it_was_shared_out(calls, small_settings, at_once, tmp_path):
    assert contents(in_parts(small_settings, tmp_path / "corpus", *calls)) == at_once
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize(("sizes", "shards"), [([40], 2), ([32], 1), ([32], 3), ([5, 16, 2, 33, 1], 3), ([5, 16, 2, 33, 1], 7)])
def test_every_part_is_made_by_one_shard_and_no_other(sizes, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "SECTION_BYTES", 1)  # every file a section
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, size in enumerate(sizes):
        (texts / f"{number}.jsonl").write_text("".join(json.dumps({"text": f"{number} {n}"}) + "\n" for n in range(size)))
    settings = CorpusSettings(source="jsonl", path=str(texts), tokenizer=Tokenizer(vocabulary=257))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        make = parts._make_part
        patch.setattr(
            parts, "_make_part", lambda texts, tokenizer, path, meter: made.append(path.name) or make(texts, tokenizer, path, meter)
        )
        folder = in_parts(settings, tmp_path / "corpus", *((n, shards) for n in range(shards)))
        assert sorted(made) == [
            f"part-{number:05d}-{part:05d}" for number, size in enumerate(sizes) for part in range(size // 16 + 1)
        ]
        in_parts(settings, folder, None)
    assert len(made) == len(set(made))
    assert texts_of(Corpus(folder)) == [f"{number} {n}" for number, size in enumerate(sizes) for n in range(size)]


def test_a_run_that_is_killed_goes_on_from_its_finished_parts(small_settings, at_once, tmp_path, capsys):
    script = f"""
import os
from configs.schema import Corpus, Tokenizer
from inject import parts, source
from inject.corpus import build_corpus
parts.PART_DOCUMENTS, parts.SHARD_TOKENS = 16, 9000
make = parts._make_part
def killed(texts, tokenizer, folder, meter):
    if folder.name.endswith("00007"):
        list(zip(texts, range(5)))
        os.kill(os.getpid(), 9)
    return make(texts, tokenizer, folder, meter)
parts._make_part = killed
from pathlib import Path
settings = Corpus(source="synthetic", documents=300, tokenizer=Tokenizer(vocabulary=300))
build_corpus(settings, 1, Path({str(tmp_path / "corpus")!r}), "identity")
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(module.__file__).parent.parent).returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.parts"]
    assert contents(in_parts(small_settings, tmp_path / "corpus", None)) == at_once
    assert "7 parts of the corpus are tokenized already" in capsys.readouterr().out


def test_two_processes_that_make_the_same_corpus_get_the_same(small_settings, at_once, tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for folder in pool.map(in_parts, [small_settings] * 2, [tmp_path / "corpus"] * 2, [None] * 2):
            assert contents(folder) == at_once
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_shard_of_a_corpus_alone_is_no_corpus(small_settings, tmp_path):
    in_parts(small_settings, tmp_path / "corpus", (0, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.parts"]


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_that_cannot_be_is_refused(small_settings, shard, tmp_path):
    with pytest.raises(RecipeError, match=rf"--shard is {shard[0]}/{shard[1]}"):
        build_corpus(small_settings, 1, tmp_path / "corpus", "identity", shard)


def test_parts_that_are_missing_when_all_is_put_together_are_no_shorter_corpus(small_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "make_parts", lambda *_: None)
    with pytest.raises(FileNotFoundError, match="does not hold all parts of section 0"):
        build_corpus(small_settings, 1, tmp_path / "corpus", "identity")


# ------------------------------------------------------------------------------------------------ the tokenizer of a corpus


def test_the_tokenizer_is_the_same_before_the_corpus_is_there_and_after(small_corpus, small_settings, tmp_path):
    before = corpus_tokenizer(small_settings, 1, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
    assert before.get_vocab() == small_corpus.tokenizer.get_vocab()
    after = corpus_tokenizer(replace(small_settings, source="none"), 1, small_corpus.folder)  # nothing is read to train it
    assert after.get_vocab() == before.get_vocab()


def test_shards_use_the_tokenizer_that_was_saved_first(small_settings, tmp_path):
    folder = in_parts(small_settings, tmp_path / "corpus", (0, 2))
    other = replace(small_settings, tokenizer=Tokenizer(vocabulary=270))
    assert Corpus(in_parts(other, folder, None)).vocabulary == 300


# ------------------------------------------------------------------------------------------------ tokens that exist already


@pytest.fixture
def arrays(small_corpus, small_settings, tmp_path):
    """The tokens of the small corpus as an array without a header, and the settings that make a corpus of it."""
    everything(small_corpus).astype(np.uint16).tofile(tmp_path / "tokens.npy")
    return CorpusSettings(
        source="npy", path=str(tmp_path / "tokens.npy"), dtype="uint16", tokenizer=Tokenizer(path=str(small_corpus.folder))
    )


def test_a_token_array_is_read_where_it_lies(small_corpus, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_TOKENS", 5000)
    build_corpus(arrays, 0, tmp_path / "corpus", "identity")
    corpus = Corpus(tmp_path / "corpus")
    assert sorted(path.name for path in corpus.folder.iterdir()) == ["meta.json", "tokenizer.json", "tokenizer_config.json"]
    assert len(corpus.shards) > 5
    assert np.array_equal(everything(corpus), everything(small_corpus))
    assert corpus.end_of_text == small_corpus.end_of_text
    starts = np.concatenate([corpus.document_starts(number) for number in range(len(corpus.shards))])
    assert np.array_equal(starts, small_corpus.document_starts(0))


def test_an_array_that_was_changed_in_place_is_refused(arrays, tmp_path):
    build_corpus(arrays, 0, tmp_path / "corpus", "identity")
    tokens = np.memmap(arrays.path, np.uint16, "r+")
    tokens[1000] += 1
    tokens.flush()
    os.utime(arrays.path, ns=(0, 1))  # a clock may be too coarse to tell
    with pytest.raises(DataError, match=r"tokens\.npy was changed since the corpus was made of it; remove .* and run again"):
        Corpus(tmp_path / "corpus").open(0)


def test_token_arrays_need_the_tokenizer_that_made_them(arrays, tmp_path):
    with pytest.raises(RecipeError, match=r"corpus.source is npy, .* as corpus\.tokenizer"):
        build_corpus(replace(arrays, tokenizer=Tokenizer()), 0, tmp_path / "corpus", "identity")


def test_a_shard_of_a_job_array_leaves_token_arrays_to_the_last_call(arrays, tmp_path):
    build_corpus(arrays, 0, tmp_path / "corpus", "identity", (0, 2))
    assert not (tmp_path / "corpus").exists()


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


def test_a_missing_shard_is_refused_with_what_to_do_when_a_corpus_is_opened(tmp_path):
    folder = build(tmp_path, ["one", "two"]).folder
    (folder / "tokens-00000.bin").unlink()
    with pytest.raises(DataError, match=r"tokens-00000\.bin is missing or has the wrong size; remove .* and run again"):
        Corpus(folder)


@pytest.mark.parametrize("change", [lambda data: data[:-2], lambda data: data + data[-2:]])
def test_a_shard_of_the_wrong_size_is_refused_with_what_to_do_when_it_is_first_read(change, tmp_path):
    folder = build(tmp_path, ["one", "two"]).folder
    path = folder / "tokens-00000.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=r"tokens-00000\.bin is missing or has the wrong size; remove .* and run again"):
        Corpus(folder).read(np.asarray([0]), 1)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 0), (1, 0)])
def test_tokens_outside_the_corpus_are_refused(small_corpus, start, length):
    with pytest.raises(IndexError, match=rf"of a corpus of {small_corpus.tokens}"):
        small_corpus.read(np.asarray([0, start]), length or small_corpus.tokens + 1 - start)


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
