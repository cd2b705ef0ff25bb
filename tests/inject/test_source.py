import gzip
import hashlib
import json
import sysconfig
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice, pairwise
from math import log2
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError
from configs.schema import Corpus
from inject import source
from inject.source import PAGE, documents, pages, source_fingerprint, split_docstrings, synthetic, synthetic_entropy, valid_unicode

quick = settings(max_examples=60, deadline=None)  # shared machines stall
UNICODE = ["plain", "é ü ß", "日本語", "😀👩‍👩‍👧", "a\u2028b\x0cc\x85d", "\ufeffmark"]


def read(path: Path, form: str = "files", column: str = "text") -> list[str]:
    return list(documents(Corpus(source=form, path=str(path), column=column), seed=0))


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    return pa.compress(data, codec="zstd", asbytes=True) if suffix == ".zst" else data


def refusal(path: Path, form: str = "files", column: str = "text") -> str:
    with pytest.raises(DataError) as refused:
        read(path, form, column)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ------------------------------------------------------------------------------------------------ files that are read


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_every_line_of_jsonl_is_a_document(suffix, tmp_path):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(jsonl(UNICODE), suffix))
    assert read(path) == read(path, "jsonl") == UNICODE


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_text_file_is_one_document(suffix, tmp_path):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress("one\n\ntwo é\r\n".encode(), suffix))
    assert read(path) == ["one\n\ntwo é\r\n"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_row_of_parquet_is_a_document(kind, tmp_path):
    pq.write_table(pa.table({"other": range(len(UNICODE)), "text": pa.array(UNICODE).cast(kind)}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == UNICODE


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_that_were_joined_are_read_to_the_end(suffix, tmp_path):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(jsonl(["one"]), suffix) + compress(jsonl(["two"]), suffix))
    assert read(path) == ["one", "two"]


def test_another_column_can_be_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one", "text": "two"}\n')
    assert read(tmp_path / "a.jsonl", column="body") == ["one"]


def test_a_folder_is_read_in_the_order_of_its_names_each_file_by_its_suffix(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "a.jsonl").write_bytes(jsonl(["first"]))
    (tmp_path / "deep" / "c.txt.gz").write_bytes(gzip.compress(b"third"))
    (tmp_path / "ignored.csv").write_text("x")
    assert read(tmp_path) == ["first", "second", "third"]


def test_of_a_folder_only_the_files_of_the_format_asked_for_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.ndjson").write_bytes(jsonl(["jsonl"]))
    assert read(tmp_path, "jsonl") == ["jsonl"]


def test_a_file_of_any_suffix_is_read_in_the_format_that_is_named(tmp_path):
    (tmp_path / "data.dump").write_bytes(jsonl(["one"]))
    assert read(tmp_path / "data.dump", "jsonl") == ["one"]


def test_blank_lines_and_empty_documents_are_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n  \n{"text": ""}\n{"text": " \\n"}\n{"text": null}\n{"text": "two"}')
    assert read(tmp_path / "a.jsonl") == ["one", "two"]


# ------------------------------------------------------------------------------------------------ odd characters


def test_a_byte_order_mark_is_no_part_of_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read(tmp_path / "a.txt") == ["hello"]


def test_a_byte_order_mark_before_jsonl_is_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl(["hello"]))
    assert read(tmp_path / "a.jsonl") == ["hello"]


def test_bytes_that_are_not_utf8_are_replaced_in_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 \xff!")
    assert read(tmp_path / "a.txt") == ["caf\ufffd \ufffd!"]


def test_a_lone_surrogate_is_replaced_and_a_pair_becomes_its_character(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude00 \\udc00"}\n')
    assert read(tmp_path / "a.jsonl") == ["a\ufffdb 😀 \ufffd"]


@quick
@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_becomes_valid_unicode(text):
    valid = valid_unicode(text)
    assert valid.encode().decode() == valid
    assert "".join(valid.split("\ufffd")) == "".join(
        c for c in text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore") if c != "\ufffd"
    )


@quick
@given(st.text())
def test_valid_unicode_stays_as_it_is(text):
    assert valid_unicode(text) == text


# ------------------------------------------------------------------------------------------------ files that are refused


@pytest.mark.parametrize("line", ["{not json", '{"text": "cut', "[" * 100_000, '{"text": ' + "1" * 5000 + "}"])
def test_a_malformed_line_is_named_with_its_file(line, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n' + line + "\n")
    assert refusal(tmp_path / "a.jsonl").startswith(f"line 3 of {tmp_path / 'a.jsonl'} is not JSON")


def test_a_line_that_is_not_utf8_is_named_with_its_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    assert refusal(tmp_path / "a.jsonl").startswith(f"line 1 of {tmp_path / 'a.jsonl'} is not JSON")


@pytest.mark.parametrize(
    ("line", "has"), [('{"body": "one", "id": 1}', "it has: body, id"), ("[1]", "it has: list"), ("3", "it has: int")]
)
def test_a_line_without_the_column_is_refused_with_what_it_has(line, has, tmp_path):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    message = refusal(tmp_path / "a.jsonl")
    assert "line 1 of" in message
    assert "no 'text'" in message
    assert has in message
    assert "corpus.column" in message


def test_parquet_without_the_column_is_refused_with_those_it_has(tmp_path):
    pq.write_table(pa.table({"body": ["one"], "id": [1]}), tmp_path / "a.parquet")
    assert "has no column 'text' (it has: body, id); name it as corpus.column" in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize(("value", "name"), [(3, "int"), (["a"], "list")])
def test_a_column_that_is_not_text_is_refused(value, name, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": value}) + "\n")
    assert refusal(tmp_path / "a.jsonl") == f"'text' of line 1 of {tmp_path / 'a.jsonl'} is {name}, not text"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_short_is_refused(suffix, tmp_path):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress(bytes(range(256)) * 4000, suffix)[:-20])
    assert refusal(path).startswith(f"{path} can't be read to its end")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_what_is_not_compressed_though_its_name_says_so_is_refused(suffix, tmp_path):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(b"plain text, as long as it may be")
    assert refusal(path).startswith(f"{path} can't be read to its end")


@pytest.mark.parametrize("place", range(100, 1600, 100))
def test_a_damaged_gzip_file_is_refused(place, tmp_path):
    path = tmp_path / "a.txt.gz"
    data = bytearray(gzip.compress(hashlib.shake_256(b"").hexdigest(1500).encode()))
    data[place] ^= 0xFF
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path} can't be read to its end")


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("hello")
    assert "a.parquet is not a readable parquet file" in refusal(tmp_path / "a.parquet")


def test_parquet_with_damaged_pages_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [str(n) for n in range(1000)]}), path)
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path} can't be read to its end")


def test_a_missing_path_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none")


def test_a_folder_without_files_of_the_format_is_refused_with_the_suffixes(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    assert "holds no parquet file (.parquet; also .gz, .zst)" in refusal(tmp_path, "parquet")


def test_a_file_whose_format_cannot_be_told_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    assert "name its format as corpus.source" in refusal(tmp_path / "a.csv")


# ------------------------------------------------------------------------------------------------ sections


@pytest.fixture
def of_every_format(tmp_path):
    """Files of three documents each but for the text files, which are one."""
    (tmp_path / "a.jsonl").write_bytes(jsonl(["a0", "", "a2"]))
    (tmp_path / "b.txt").write_text("b0")
    (tmp_path / "c.txt").write_text("c0")
    pq.write_table(pa.table({"text": ["d0", "d1", "d2", "d3"]}), tmp_path / "d.parquet", row_group_size=2)
    return Corpus(source="files", path=str(tmp_path))


@pytest.mark.parametrize(("size", "count"), [(1, 4), (2**28, 1)])
def test_the_sections_of_a_source_are_the_source_one_after_another(size, count, of_every_format, monkeypatch):
    monkeypatch.setattr(source, "SECTION_BYTES", size)
    found = source.sections(of_every_format, 0)
    assert len(found) == count
    texts = [text for section in found for text in section(lambda number: True)]
    assert (
        [text for text in texts if text] == list(documents(of_every_format, 0)) == ["a0", "a2", "b0", "c0", "d0", "d1", "d2", "d3"]
    )


@quick
@given(wanted=st.sets(st.integers(0, 8)))
def test_wanted_documents_keep_their_numbers_and_no_other_is_read(wanted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wanted")
    (folder / "a.jsonl").write_bytes(b"".join(jsonl([f"a{n}"]) if n in wanted else b"not JSON\n" for n in range(3)))
    if 3 in wanted:
        (folder / "b.txt").write_text("b0")
    else:
        (folder / "b.txt.gz").write_bytes(b"not compressed")
    pq.write_table(pa.table({"text": [f"c{n}" for n in range(5)]}), folder / "c.parquet", row_group_size=2)
    (section,) = source.sections(Corpus(source="files", path=str(folder)), 0)
    texts = list(section(lambda number: number in wanted))
    assert len(texts) == 9
    assert [texts[n] for n in sorted(wanted)] == [["a0", "a1", "a2", "b0", "c0", "c1", "c2", "c3", "c4"][n] for n in sorted(wanted)]


def test_groups_of_parquet_rows_of_which_none_is_wanted_are_not_read(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": [str(n) for n in range(6)]}), tmp_path / "a.parquet", row_group_size=2)
    read = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, **asked: read.append(asked["row_groups"]) or original(self, **asked)
    )
    (section,) = source.sections(Corpus(source="parquet", path=str(tmp_path)), 0)
    assert list(section(lambda number: number == 3)) == [None, None, "2", "3", None, None]
    assert read == [[1]]


def test_synthetic_sections_are_ranges_of_documents(monkeypatch):
    monkeypatch.setattr(source, "SECTION_DOCUMENTS", 7)
    found = source.sections(Corpus(source="synthetic", documents=20), 3)
    assert [len(list(section(lambda number: True))) for section in found] == [7, 7, 6]
    assert list(documents(Corpus(source="synthetic", documents=20), 3)) == list(synthetic(20, seed=3))


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 6, 100])
def test_a_limit_keeps_the_first_documents_blank_ones_counted(limit, of_every_format, monkeypatch):
    monkeypatch.setattr(source, "SECTION_BYTES", 1)
    limited = replace(of_every_format, limit=limit)
    everything = ["a0", "", "a2", "b0", "c0", "d0", "d1", "d2", "d3"]
    assert list(documents(limited, 0)) == [text for text in everything[:limit] if text]
    assert source_fingerprint(limited, 0) != source_fingerprint(of_every_format, 0)


# ------------------------------------------------------------------------------------------------ fingerprints


def test_the_fingerprint_of_files_follows_their_content_column_and_name(tmp_path):
    path = tmp_path / "a.jsonl"
    seen = []
    for content, column in [("one", "text"), ("two", "text"), ("one", "body")]:
        path.write_text(content)
        seen.append(source_fingerprint(Corpus(source="jsonl", path=str(path), column=column), 0))
    path.write_text("one")
    moved = path.rename(tmp_path / "b.jsonl")
    seen.append(source_fingerprint(Corpus(source="jsonl", path=str(moved)), 0))
    assert len(set(seen)) == 4


def test_the_fingerprint_of_files_does_not_depend_on_the_seed_or_their_folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("x")
    first, second = (Corpus(source="text", path=str(tmp_path / name)) for name in ("one", "two"))
    assert source_fingerprint(first, 0) == source_fingerprint(second, 1)


def test_the_fingerprint_of_the_synthetic_source_follows_seed_and_documents():
    settings = [(Corpus(source="synthetic", documents=count), seed) for count in (10, 11) for seed in (0, 1)]
    assert len({source_fingerprint(*setting) for setting in settings}) == 4


# ------------------------------------------------------------------------------------------------ the standard library

MODULE = '''"""Of the module,
in two lines."""
x = "not a docstring"
class A:
    """Of the class."""
    def f(self):
        """Of the
        method."""
        "not a docstring either"
        return 1
    async def g(self):
        "Of the coroutine."
if x:
    def h():
        r"""Of the function."""
'''


def test_docstrings_are_found_at_every_depth_and_dedented():
    docstrings, _ = split_docstrings(MODULE)
    assert docstrings == [
        "Of the module,\nin two lines.",
        "Of the class.",
        "Of the\nmethod.",
        "Of the coroutine.",
        "Of the function.",
    ]


def test_docstrings_do_not_stand_in_the_code_and_all_else_does():
    _, code = split_docstrings(MODULE)
    kept = ['x = "not a docstring"', "class A:", "    def f(self):", '        "not a docstring either"', "        return 1"]
    kept += ["    async def g(self):", "if x:", "    def h():"]
    assert [line for line in code.splitlines() if line] == kept


@pytest.mark.parametrize("character", ["\x0c", "\x1c", "\u2028", "\x85"])
def test_a_character_that_only_python_takes_for_the_end_of_a_line_moves_nothing(character):
    source_text = f"x = 1  # {character} a comment\ny = 2\n\ndef f():\n    'The docstring.'\n    return 3\n"
    docstrings, code = split_docstrings(source_text)
    assert docstrings == ["The docstring."]
    assert "The docstring." not in code
    assert "return 3" in code


def test_source_that_does_not_parse_is_kept_as_it_is():
    assert split_docstrings("print 'hello'") == ([], "print 'hello'")


def test_docstrings_of_real_modules_are_nowhere_in_their_code():
    for name in ("json/decoder.py", "argparse.py", "textwrap.py"):
        text = (Path(sysconfig.get_paths()["stdlib"]) / name).read_text()
        docstrings, code = split_docstrings(text)
        assert len(docstrings) > 3
        assert not [line for text in docstrings for line in text.splitlines() if len(line) > 50 and line in code]


@quick
@given(st.lists(st.text(st.characters(codec="ascii"), max_size=80), max_size=150).map("\n".join))
def test_pages_hold_every_line_of_a_text_in_order_but_blank_ones(text):
    lines = [line for page in pages(text) for line in page.splitlines() if line.strip()]
    assert lines == [line.rstrip() for line in text.splitlines() if line.strip()]


@quick
@given(st.lists(st.sampled_from(["", "x" * 70, "y" * 10]), max_size=300))
def test_a_page_is_two_pages_and_a_line_at_most(lines):
    assert max(map(len, pages("\n".join(lines))), default=0) <= 2 * PAGE + 71


def test_a_page_ends_at_the_first_blank_line_after_its_size():
    text = "\n".join(["x" * 99] * 20 + [""] + ["y" * 99] * 3)
    assert list(pages(text)) == ["\n".join(["x" * 99] * 20), "\n".join(["y" * 99] * 3)]


def test_the_documents_of_the_standard_library_are_pages_of_text(monkeypatch):
    few = [path for path in source._library_files() if path.name in ("textwrap.py", "bisect.py")]
    monkeypatch.setattr(source, "_library_files", lambda: few)
    texts = list(documents(Corpus(), seed=0))
    assert any("def wrap(self, text):" in text for text in texts)
    assert any(text.startswith("Text wrapping and filling.") for text in texts)
    assert max(map(len, texts)) < 2 * PAGE + 500


def test_tests_and_installed_packages_are_no_part_of_the_standard_library():
    parts = {part for path in source._library_files() for part in path.parts[len(Path(sysconfig.get_paths()["stdlib"]).parts) :]}
    assert "json" in parts
    assert not {"site-packages", "test", "idle_test", "__pycache__"} & parts


# ------------------------------------------------------------------------------------------------ the synthetic language


def test_the_synthetic_language_never_changes():
    text = "\n".join(synthetic(20, seed=7))
    assert text.startswith("Slarpres veest halthest goanthosgound. J")
    assert hashlib.sha256(text.encode()).hexdigest() == "4f365a2cdb5332ab5ac05a755a7460889d2d30c607cac934396e4ff89d1a05c5"


def test_more_synthetic_documents_begin_with_the_fewer():
    assert list(islice(synthetic(1000, seed=1), 5)) == list(synthetic(5, seed=1))


def test_another_seed_makes_other_documents():
    assert not set(synthetic(20, seed=1)) & set(synthetic(20, seed=2))


def test_synthetic_documents_differ():
    assert len(set(synthetic(500, seed=1))) == 500


def test_every_word_has_its_own_followers():
    followers = defaultdict(set)
    words = " ".join(synthetic(400, seed=1)).lower().replace(".", "").split()
    assert len(set(words)) > 4000
    for document in synthetic(400, seed=1):
        words = document.lower().replace(".", "").split()
        for word, follower in pairwise(words):
            followers[word].add(follower)
    assert max(map(len, followers.values())) <= source.FOLLOWERS


def test_the_entropy_of_the_synthetic_language_is_what_it_says(monkeypatch):
    monkeypatch.setattr(source, "WORDS", 32)  # so few that all that can happen happens often
    monkeypatch.setattr(source, "FOLLOWERS", 8)
    counts = defaultdict(Counter)
    for document in synthetic(500, seed=3):
        words = document.lower().split()
        for word, follower in pairwise(words):
            counts[word.rstrip(".")][follower.rstrip("."), word.endswith(".")] += 1
    total = sum(sum(each.values()) for each in counts.values())
    bits = -sum(n * log2(n / sum(each.values())) for each in counts.values() for n in each.values()) / total
    assert bits == pytest.approx(synthetic_entropy(), abs=0.02)


def test_the_entropy_of_the_synthetic_language_by_hand(monkeypatch):
    monkeypatch.setattr(source, "FOLLOWERS", 2)  # 2/3 and 1/3; a sentence ends with 1/8
    assert synthetic_entropy() == pytest.approx(0.918296 + 0.543564, abs=1e-6)
