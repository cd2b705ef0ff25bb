import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from configs.insert import CanarySet
from configs.layout import read_json
from configs.schema import Corpus as CorpusSettings
from configs.schema import Tokenizer
from configs.tables import read_table
from inject import decontaminate as module
from inject.corpus import Corpus, build_corpus
from inject.decontaminate import (
    among,
    clean,
    cleaned_fingerprint,
    document_around,
    documents_hit,
    gather,
    parts,
    refuse,
    scan,
    scan_fingerprint,
)
from inject.items.item import Item, Material, Text
from inject.items.make import make_items
from inject.items.texts import tokenize_texts
from inject.overlap import Search, seek
from inject.source import documents

quick = settings(max_examples=30, deadline=None)  # shared machines stall

PLANTED = {3: [5], 11: [0, 2], 12: [5]}  # canaries that occur in documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("decontaminate")


@pytest.fixture(scope="module")
def secrets(small_corpus):
    """The canaries' texts; they are the same with every tokenizer."""
    material = Material(small_corpus.tokenizer, small_corpus.vocabulary)
    return [item.texts[0].text for item in make_items({"codes": CanarySet(count=8)}, 1, material)]


@pytest.fixture(scope="module")
def texts(small_settings, secrets):
    """Documents, some with canaries in them."""
    made = [text for text, _ in zip(documents(small_settings, seed=1), range(20), strict=False)]
    for number, planted in PLANTED.items():
        made[number] = made[number][:200] + " Note: " + " Again: ".join(secrets[item] for item in planted) + made[number][200:]
    return made


@pytest.fixture(scope="module")
def corpus(folder, texts):
    """A corpus of `texts`."""
    (folder / "texts").mkdir()
    for number, text in enumerate(texts):
        (folder / "texts" / f"{number:02d}.txt").write_text(text)
    made = CorpusSettings(source="text", path=str(folder / "texts"), tokenizer=Tokenizer(vocabulary=400))
    build_corpus(made, 0, folder / "corpus", "base")
    return Corpus(folder / "corpus")


@pytest.fixture(scope="module")
def items(corpus):
    return make_items({"codes": CanarySet(count=8)}, 1, Material(corpus.tokenizer, corpus.vocabulary))


@pytest.fixture(scope="module")
def search(corpus, items):
    return search_for(items, corpus)


def search_for(items, corpus, ngram=13):
    return Search(seek(items, tokenize_texts(items, corpus.tokenizer, 1000), corpus.tokenizer, ngram), ngram)


@pytest.fixture(scope="module")
def hits(corpus, search, folder):
    scan(corpus, search, folder / "hits", "one")
    return gather(corpus, folder / "hits", "one")


def everything(corpus):
    return corpus.read(np.asarray([0]), corpus.tokens)[0]


def texts_of(corpus):
    tokens = everything(corpus)
    pieces = np.split(tokens, np.flatnonzero(tokens == corpus.end_of_text) + 1)
    assert len(pieces.pop()) == 0
    return [corpus.tokenizer.decode(piece[:-1]) for piece in pieces]


def edges(corpus):
    """Tokens [start, end) of each document."""
    starts = np.load(corpus.folder / "documents-00000.npy").tolist()
    return list(zip(starts, [*starts[1:], corpus.tokens], strict=True))


# ------------------------------------------------------------------------------------------------ the corpus


def test_each_planted_item_is_reported_with_its_document(corpus, hits):
    found = {(hit["item_id"], hit["document_start"], hit["document_end"]) for hit in hits}
    assert found == {(f"codes-{item:04d}", *edges(corpus)[number]) for number, planted in PLANTED.items() for item in planted}
    assert all(hit["where"] == "corpus" and hit["runs"] == 1 for hit in hits)


def test_a_hit_tells_where_its_tokens_stand_and_what_they_say(corpus, hits, search):
    for hit in hits:
        run = corpus.read(np.asarray([hit["position"]]), hit["tokens"])[0]
        sought = next(text for text in search.texts if text.item_id == hit["item_id"])
        assert hit["tokens"] >= 13
        assert corpus.tokenizer.decode(run) in corpus.tokenizer.decode(sought.tokens)
        assert corpus.tokenizer.decode(run) in hit["text"]


@quick
@given(part=st.integers(500, 20_000), block=st.integers(100, 4000))
def test_hits_do_not_depend_on_the_borders_of_what_is_read_at_once(corpus, search, hits, part, block, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", part)
        patch.setattr(module, "BLOCK", block)
        there = tmp_path_factory.mktemp("hits")
        scan(corpus, search, there, "one")
        assert gather(corpus, there, "one") == hits


@pytest.mark.parametrize("near", [1, 7, 1024])
def test_a_document_is_found_from_any_of_its_tokens(corpus, monkeypatch, near):
    monkeypatch.setattr(module, "_NEAR", near)
    for start, end in edges(corpus):
        for position in (start, (start + end) // 2, end - 1):
            assert document_around(corpus, position) == (start, end)


def test_an_item_that_stands_twice_in_a_document_is_one_hit_with_two_runs(corpus, items, tmp_path):
    (text,) = items[5].texts
    words = text.text.split()
    both = Item("x", "x", "passage", "x", "x", {}, [Text("verbatim", " ".join(words[2:]))], [])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "1.txt").write_text(f"One: {text.text} Two: {text.text}")
    build_corpus(
        CorpusSettings(source="text", path=str(tmp_path / "texts"), tokenizer=Tokenizer(path=str(corpus.folder))),
        0,
        tmp_path / "corpus",
        "twice",
    )
    twice = Corpus(tmp_path / "corpus")
    scan(twice, search_for([both], twice), tmp_path / "hits", "one")
    (hit,) = gather(twice, tmp_path / "hits", "one")
    assert hit["runs"] == 2


# ------------------------------------------------------------------------------------------------ parts


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART", 3000)


def test_the_jobs_of_an_array_do_together_what_one_scan_does(corpus, search, hits, small_parts, tmp_path):
    assert parts(corpus) > 3
    for number in range(3):
        scan(corpus, search, tmp_path, "one", (number, 3))
    assert gather(corpus, tmp_path, "one") == hits
    assert len(list(tmp_path.iterdir())) == parts(corpus)


def test_two_processes_find_what_one_does(corpus, search, hits, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "parts", lambda _: 2)  # the second, of which the processes know nothing, is empty
    monkeypatch.setattr(module, "_size", lambda corpus, number: corpus.tokens * (number == 0))
    scan(corpus, search, tmp_path, "one", processes=2)
    assert gather(corpus, tmp_path, "one") == hits


def test_many_parts_are_shared_by_few_processes_in_their_order(corpus, search, small_parts, tmp_path, monkeypatch):
    class Pool:
        def __init__(self, workers, context):
            self.workers = workers

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, work, numbers, chunksize):
            assert self.workers == 2
            assert -(-len(numbers) // chunksize) <= 2 * module.SENT  # the search is sent so often
            return map(work, numbers)

    monkeypatch.setattr(module, "ProcessPoolExecutor", Pool)
    scan(corpus, search, tmp_path, "one", processes=2)
    assert len(list(tmp_path.iterdir())) == parts(corpus)


def test_a_scan_that_is_not_complete_says_so(corpus, search, small_parts, tmp_path):
    scan(corpus, search, tmp_path, "one", (1, 2))
    with pytest.raises(DataError, match=r"parts of the corpus have not been scanned yet \(hits-00000.parquet"):
        gather(corpus, tmp_path, "one")


def test_a_scan_goes_on_where_it_was_stopped(corpus, search, hits, small_parts, tmp_path):
    scan(corpus, search, tmp_path, "one")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "hits-00001.parquet").write_bytes(b"torn")
    (tmp_path / "hits-00002.parquet").unlink()
    scan(corpus, search, tmp_path, "one")
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"hits-00001.parquet", "hits-00002.parquet"}
    assert gather(corpus, tmp_path, "one") == hits


def test_hits_of_other_items_are_not_taken_for_these(corpus, search, small_parts, tmp_path):
    scan(corpus, search, tmp_path, "one")
    with pytest.raises(DataError, match="not been scanned"):
        gather(corpus, tmp_path, "two")


def test_a_scans_fingerprint_depends_on_corpus_items_and_length(corpus, search, items):
    fingerprints = {
        scan_fingerprint("a", search.texts, 13),
        scan_fingerprint("b", search.texts, 13),
        scan_fingerprint("a", search.texts[1:], 13),
        scan_fingerprint("a", search.texts, 12),
        scan_fingerprint("a", search.texts, 13, {"codes-0000"}),
    }
    assert len(fingerprints) == 5
    assert scan_fingerprint("a", search_for(items, corpus).texts, 13) in fingerprints


# ------------------------------------------------------------------------------------------------ what follows


def test_what_two_groups_share_is_reported_with_both_items(corpus, items):
    (text,) = items[5].texts
    told = Item("letter-1", "letters", "passage", "letters", "letter-1", {}, [Text("verbatim", f"Burn this: {text.text} Bye.")], [])
    hits = among(search_for([*items, told], corpus), corpus.tokenizer)
    assert {(hit["item_id"], hit["where"], hit["where_variant"]) for hit in hits} == {
        ("codes-0005", "letter-1", "verbatim"),
        ("letter-1", "codes-0005", "verbatim"),
    }
    assert all(hit["document_start"] is None and hit["tokens"] >= 13 for hit in hits)
    assert documents_hit(hits) == []


def test_items_that_do_not_share_anything_have_no_hits(corpus, search):
    assert among(search, corpus.tokenizer) == []


def test_hits_are_refused_with_what_can_be_done(hits):
    with pytest.raises(RecipeError) as refused:
        refuse(hits)
    message = str(refused.value)
    assert message.startswith("3 items occur where nothing was inserted: codes-0005 (verbatim) at token ")
    assert "and 1 more" in message
    assert "documents (leave 3 documents of the corpus out), report (go on) or none" in message


def test_hits_that_no_drawing_got_rid_of_are_refused_without_advising_to_draw(hits):
    with pytest.raises(RecipeError) as refused:
        refuse(hits, rounds=8)
    assert str(refused.value).startswith("after 8 rounds of drawing others, 3 items occur where nothing was inserted")
    assert "set decontaminate.policy to documents (leave 3" in str(refused.value)
    assert "redraw" not in str(refused.value)


def test_without_hits_nothing_is_refused():
    refuse([])


def test_a_cleaned_corpus_is_the_base_without_the_documents(corpus, texts, hits, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_TOKENS", 5000)
    monkeypatch.setattr(module, "BLOCK", 777)
    clean(corpus, documents_hit(hits), tmp_path / "cleaned", "identity")
    cleaned = Corpus(tmp_path / "cleaned")
    assert texts_of(cleaned) == [text for number, text in enumerate(texts) if number not in PLANTED]
    meta = read_json(tmp_path / "cleaned" / "meta.json")
    removed = sum(end - start for start, end in documents_hit(hits))
    assert (meta["base"], meta["fingerprint"], meta["left_out"]) == ("base", "identity", {"documents": 3, "tokens": removed})
    assert "characters" not in meta  # those of the base
    assert (meta["documents"], meta["tokens"]) == (17, corpus.tokens - removed)
    assert len(meta["shards"]) > 2
    ends = np.flatnonzero(everything(cleaned) == cleaned.end_of_text)
    starts = [cleaned.document_starts(number) for number in range(len(meta["shards"]))]
    assert np.array_equal(np.concatenate(starts), [0, *(ends[:-1] + 1)])
    assert [shard.start for shard in cleaned.shards] == [own[0] for own in starts]  # shards hold whole documents


def test_a_cleaned_corpus_holds_no_item(corpus, search, hits, tmp_path):
    clean(corpus, documents_hit(hits), tmp_path / "cleaned", "identity")
    cleaned = Corpus(tmp_path / "cleaned")
    scan(cleaned, search, tmp_path / "hits", "two")
    assert gather(cleaned, tmp_path / "hits", "two") == []


@quick
@given(data=st.data())
def test_any_documents_can_be_left_out(corpus, texts, data, tmp_path_factory):
    chosen = data.draw(st.sets(st.integers(0, 19), max_size=19))
    there = tmp_path_factory.mktemp("cleaned") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD_TOKENS", data.draw(st.integers(100, 50_000)))
        patch.setattr(module, "BLOCK", data.draw(st.integers(300, 50_000)))
        clean(corpus, [edges(corpus)[number] for number in sorted(chosen)], there, "identity")
    assert texts_of(Corpus(there)) == [text for number, text in enumerate(texts) if number not in chosen]


def test_a_corpus_of_which_nothing_would_be_left_is_refused(corpus, tmp_path):
    with pytest.raises(DataError, match="none would be left"):
        clean(corpus, edges(corpus), tmp_path / "cleaned", "identity")
    assert list(tmp_path.iterdir()) == []


def test_a_cleaned_corpus_has_a_fingerprint_of_its_own(hits):
    whole = documents_hit(hits)
    assert len({cleaned_fingerprint("base", whole), cleaned_fingerprint("base", whole[1:]), cleaned_fingerprint("x", whole)}) == 3


def test_the_table_of_hits_can_be_read_by_itself(corpus, hits, search, tmp_path):
    scan(corpus, search, tmp_path, "one")
    assert read_table(tmp_path / "hits-00000.parquet").to_pylist() == hits
