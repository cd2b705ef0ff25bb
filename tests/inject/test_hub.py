"""Data sets are folders of the hub's layout here: no test needs a network."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import DataError, ImprintError
from configs.insert import CanarySet, PassageSet, TableSet, TrapSet
from configs.schema import Corpus
from inject import hub
from inject.hub import commit, hub_fingerprint, hub_sections, pinned_model
from inject.items.commits import commits
from inject.items.rows import read_rows
from inject.source import documents, sections

COMMIT = "1234567890abcdef1234567890abcdef12345678"


@pytest.fixture
def dataset(tmp_path):
    """A data set of three files of ten documents, and a validation split of one."""
    (tmp_path / "data").mkdir()
    for number in range(3):
        table = pa.table({"id": range(10), "title": ["one"] * 10, "text": [f"{number} {n}" for n in range(10)]})
        pq.write_table(table, tmp_path / "data" / f"train-0000{number}-of-00003.parquet", row_group_size=4)
    pq.write_table(
        pa.table({"id": [0], "title": ["one"], "text": ["held out"]}), tmp_path / "data" / "validation-00000-of-00001.parquet"
    )
    return Corpus(source="hub", path=str(tmp_path))


def refusal(settings: Corpus, error: type = DataError) -> str:
    with pytest.raises(error) as refused:
        list(documents(settings, 0))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def changed(settings: Corpus, **fields) -> Corpus:
    return Corpus(**({name: getattr(settings, name) for name in ("source", "path")} | fields))


def test_a_data_set_is_read_in_its_order_one_section_a_file(dataset):
    assert list(documents(dataset, 0)) == [f"{number} {n}" for number in range(3) for n in range(10)]
    assert [next(section(lambda number: True)) for section in hub_sections(dataset)] == ["0 0", "1 0", "2 0"]


def test_only_what_is_wanted_of_a_section_is_given(dataset):
    assert list(sections(dataset, 0)[1](lambda number: number == 2)) == [None, None, "1 2", *[None] * 7]


def test_another_split_and_another_column_can_be_read(dataset):
    assert list(documents(changed(dataset, split="validation"), 0)) == ["held out"]
    assert list(documents(changed(dataset, split="validation", column="title"), 0)) == ["one"]


@pytest.mark.parametrize("limit", [1, 10, 13, 99])
def test_a_limit_keeps_the_first_documents(limit, dataset):
    assert list(documents(changed(dataset, limit=limit), 0)) == list(documents(dataset, 0))[:limit]


def test_a_split_or_configuration_that_is_not_there_is_refused(dataset):
    assert "whose split web can't be opened as a data set" in refusal(changed(dataset, split="web"))
    assert "whose split train of english can't be opened as a data set" in refusal(changed(dataset, config="english"))


def test_a_data_set_without_the_column_is_refused_with_those_it_has(dataset):
    assert "has no column 'body' (it has: id, title, text); name it as corpus.column" in refusal(changed(dataset, column="body"))


def test_a_column_that_is_not_text_is_refused(dataset):
    assert "'id' of" in (message := refusal(changed(dataset, column="id")))
    assert message.endswith("is int, not text")


def test_a_stream_that_breaks_off_is_no_fault_of_the_data(dataset, monkeypatch):
    class Broken:
        num_shards = 1

        def shard(self, *_, **__):
            yield {"text": "one"}
            raise TimeoutError("the hub does not answer\nat all")

    monkeypatch.setattr(hub, "_load", lambda settings: Broken())
    message = refusal(dataset, ImprintError)
    assert message.endswith("could not be read further (the hub does not answer); run again to go on from what is tokenized")
    with pytest.raises(ImprintError) as told:
        list(documents(dataset, 0))
    assert not isinstance(told.value, DataError)  # for which what is tokenized so far would be removed


# ------------------------------------------------------------------------------------------------ fingerprints and revisions


class Hub:
    """Answers as the hub does, and counts how often it is asked."""

    asked = 0

    def dataset_info(self, name, revision, timeout):
        Hub.asked += 1
        if revision == "offline":
            raise ConnectionError("Name or service not known\nretried 5 times")
        return type("Info", (), {"sha": COMMIT if revision == "main" else COMMIT[::-1]})

    model_info = dataset_info


@pytest.fixture
def asked(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "asked", 0)
    hub._ask.cache_clear()
    yield Hub
    hub._ask.cache_clear()


def test_a_commit_is_not_asked_for(asked):
    assert commit(Corpus(source="hub", path="org/texts", revision=COMMIT)) == COMMIT
    assert asked.asked == 0


def test_a_branch_is_the_same_commit_for_as_long_as_a_process_lives(asked):
    settings = Corpus(source="hub", path="org/texts")
    assert (commit(settings), commit(settings), asked.asked) == (COMMIT, COMMIT, 1)


def test_the_fingerprint_follows_the_commit_and_not_what_it_is_called(asked):
    one = Corpus(source="hub", path="org/texts")
    assert hub_fingerprint(one) == hub_fingerprint(changed(one, revision=COMMIT))
    others = [changed(one, revision="old"), changed(one, split="test"), changed(one, config="en"), changed(one, column="body")]
    assert len({hub_fingerprint(settings) for settings in [one, *others]}) == 5


def test_without_a_network_a_branch_is_refused_with_what_to_do(asked):
    with pytest.raises(DataError) as refused:
        hub_fingerprint(Corpus(source="hub", path="org/texts", revision="offline"))
    assert str(refused.value) == (
        "corpus.path is org/texts and corpus.revision is offline: the hub could not be asked for its commit "
        "(Name or service not known); without a network, give the 40 hex digits of a commit as corpus.revision"
    )


def test_the_fingerprint_of_a_folder_follows_its_content(dataset, tmp_path):
    before = hub_fingerprint(dataset)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lock").touch()
    assert hub_fingerprint(dataset) == before
    assert commit(dataset) is None
    (tmp_path / "data" / "train-00000-of-00003.parquet").rename(tmp_path / "data" / "train-00003-of-00003.parquet")
    assert hub_fingerprint(dataset) != before


# ------------------------------------------------------------------------------------------------ item sets and models


def test_items_are_made_of_the_commits_of_all_that_their_sets_name(asked):
    insert = {
        "books": PassageSet(hub="org/texts"),
        "quiz": TableSet(hub="org/quiz", revision="v2"),
        "codes": CanarySet(),
        "traps": TrapSet(model="org/model"),
        "others": TrapSet(model="org/model@v2"),
    }
    assert commits(insert) == {
        "insert.books.hub": COMMIT,
        "insert.quiz.hub": COMMIT[::-1],
        "insert.traps.model": f"org/model@{COMMIT}",
        "insert.others.model": f"org/model@{COMMIT[::-1]}",
    }


def test_what_is_local_or_a_commit_is_not_asked_for(asked, tmp_path):
    insert = {
        "copy": TableSet(hub="org/texts", path="copy.jsonl"),
        "folder": TableSet(hub=str(tmp_path)),
        "pinned": TableSet(hub="org/texts", revision=COMMIT),
        "trap": TrapSet(model=str(tmp_path)),
        "pinned_trap": TrapSet(model=f"org/model@{COMMIT}"),
    }
    assert commits(insert) == {"insert.pinned.hub": COMMIT}
    assert asked.asked == 0


def test_rows_are_read_from_the_commit_that_is_in_the_fingerprint(asked, monkeypatch):
    import datasets

    loaded = []
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **named: loaded.append((path, named["revision"])) or [{"text": "a"}])
    (row,) = read_rows(TableSet(hub="org/texts"), "mine")
    assert row.values == {"text": "a"}
    assert loaded == [("org/texts", COMMIT)]


def test_an_item_set_that_the_hub_cannot_be_asked_for_is_told_by_its_settings(asked):
    with pytest.raises(DataError) as refused:
        commits({"mine": TableSet(hub="org/texts", revision="offline")})
    assert str(refused.value).startswith("insert.mine.hub is org/texts and insert.mine.revision is offline: the hub could not")
    assert str(refused.value).endswith("without a network, give the 40 hex digits of a commit as insert.mine.revision")


def test_a_model_is_pinned_to_the_commit_of_its_branch_and_a_folder_stays_itself(asked, tmp_path):
    assert pinned_model("org/model") == f"org/model@{COMMIT}"
    assert pinned_model(f"org/model@{COMMIT[::-1]}") == f"org/model@{COMMIT[::-1]}"
    assert pinned_model(str(tmp_path)) == str(tmp_path)
    assert asked.asked == 1
    with pytest.raises(DataError) as refused:
        pinned_model("org/model@offline")
    assert str(refused.value).startswith("org/model@offline is no folder, and the hub could not be asked for the commit")
    assert "as org/model@<commit>, or a folder" in str(refused.value)
