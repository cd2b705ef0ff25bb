import struct
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from configs.schema import Corpus
from inject import token_arrays as module
from inject.source import source_fingerprint
from inject.token_arrays import arrays_fingerprint, describe_arrays, token_arrays

quick = settings(max_examples=60, deadline=None)  # shared machines stall
DOCUMENTS = [[5, 6, 0], [7, 0], [8, 9, 10, 11, 0]]  # the end of text is 0
TOKENS = [token for document in DOCUMENTS for token in document]


def megatron(prefix: Path, documents=DOCUMENTS, code=8, dtype=np.uint16) -> Path:
    """PREFIX.bin and PREFIX.idx as Megatron-LM and GPT-NeoX write them, one sequence a document."""
    sizes = np.asarray([len(document) for document in documents], np.int32)
    positions = (np.cumsum(sizes) - sizes).astype(np.int64) * np.dtype(dtype).itemsize
    prefix.with_name(prefix.name + ".bin").write_bytes(np.asarray([t for d in documents for t in d], dtype).tobytes())
    header = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code) + struct.pack("<QQ", len(sizes), len(sizes) + 1)
    of_documents = np.arange(len(sizes) + 1, dtype=np.int64)
    index = header + sizes.tobytes() + positions.tobytes() + of_documents.tobytes()
    prefix.with_name(prefix.name + ".idx").write_bytes(index)
    return prefix


def opened(source: str, path: Path, dtype: str | None = None) -> list[module.TokenArray]:
    return token_arrays(Corpus(source=source, path=str(path), dtype=dtype))


def refusal(source: str, path: Path, dtype: str | None = None, error: type = DataError) -> str:
    with pytest.raises(error) as refused:
        opened(source, path, dtype)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ------------------------------------------------------------------------------------------------ Megatron-LM, GPT-NeoX


@pytest.mark.parametrize("given", ["pile_text_document", "pile_text_document.bin", "pile_text_document.idx", "."])
def test_bin_and_idx_are_found_by_their_prefix_either_file_or_their_folder(given, tmp_path):
    megatron(tmp_path / "pile_text_document")
    (array,) = opened("megatron", tmp_path / given)
    assert array.open().tolist() == TOKENS
    assert (array.dtype, array.documents) == (np.uint16, 3)


def test_a_prefix_with_a_dot_in_it_keeps_it(tmp_path):
    megatron(tmp_path / "pile.v1")
    assert opened("megatron", tmp_path / "pile.v1")[0].tokens == len(TOKENS)


@pytest.mark.parametrize(("code", "dtype"), [(1, np.uint8), (4, np.int32), (5, np.int64), (8, np.uint16)])
def test_the_index_tells_the_type_of_the_tokens(code, dtype, tmp_path):
    (array,) = opened("megatron", megatron(tmp_path / "a", code=code, dtype=dtype))
    assert array.dtype == dtype
    assert array.open().tolist() == TOKENS


def test_the_header_of_an_index_is_34_bytes_and_its_layout_that_of_megatron():
    index = bytes.fromhex("4d4d4944494458 0000 0100000000000000 08 0300000000000000 0400000000000000".replace(" ", ""))
    assert module.MEGATRON_HEADER.unpack(index) == (b"MMIDIDX\x00\x00", 1, 8, 3, 4)


def test_the_arrays_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    megatron(tmp_path / "b", [[2, 0]])
    megatron(tmp_path / "a", [[1, 0]])
    assert [array.open().tolist() for array in opened("megatron", tmp_path)] == [[1, 0], [2, 0]]


def test_what_is_no_index_is_refused(tmp_path):
    prefix = megatron(tmp_path / "a")
    (tmp_path / "a.idx").write_bytes(b"TNTIDX\x00\x00" + bytes(50))
    assert refusal("megatron", prefix).endswith("a.idx is no index of Megatron-LM or GPT-NeoX: it does not begin with MMIDIDX")


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_missing_half_is_named(suffix, tmp_path):
    prefix = megatron(tmp_path / "a")
    (tmp_path / f"a{suffix}").unlink()
    assert refusal("megatron", prefix).startswith(f"{prefix}{suffix} does not exist")


def test_a_bin_that_is_not_that_of_the_index_is_refused(tmp_path):
    prefix = megatron(tmp_path / "a")
    with (tmp_path / "a.bin").open("ab") as file:
        file.write(b"\x01\x00")
    assert "a.bin has 22 bytes, but" in (message := refusal("megatron", prefix))
    assert "tells of 20: they do not belong together" in message


def test_an_index_that_is_cut_short_is_refused(tmp_path):
    prefix = megatron(tmp_path / "a")
    index = tmp_path / "a.idx"
    index.write_bytes(index.read_bytes()[:-1])
    assert "a.idx is cut short: its 3 sequences are not all listed" in refusal("megatron", prefix)


@pytest.mark.parametrize(("at", "value"), [(9, 2), (17, 6), (17, 77)])
def test_another_version_or_a_type_that_is_no_whole_number_is_refused(at, value, tmp_path):
    prefix = megatron(tmp_path / "a")
    index = bytearray((tmp_path / "a.idx").read_bytes())
    index[at] = value
    (tmp_path / "a.idx").write_bytes(index)
    assert "not of version 1 and a type of whole numbers" in refusal("megatron", prefix)


def test_a_folder_without_an_index_is_refused(tmp_path):
    assert "which holds no .idx file" in refusal("megatron", tmp_path)


# ------------------------------------------------------------------------------------------------ .npy


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_an_array_without_a_header_has_the_type_that_is_given(dtype, tmp_path):
    np.asarray(TOKENS, dtype).tofile(tmp_path / "part-00-00000.npy")
    (array,) = opened("npy", tmp_path / "part-00-00000.npy", dtype)
    assert (array.offset, array.dtype.name, array.open().tolist()) == (0, dtype, TOKENS)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_an_array_with_a_header_tells_its_type_by_itself(version, tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, np.asarray(TOKENS, np.uint32), version)
    (array,) = opened("npy", tmp_path)
    assert array.offset > 0
    assert (array.dtype, array.open().tolist()) == (np.uint32, TOKENS)
    assert "but the header of" in refusal("npy", tmp_path, "uint16", RecipeError)


def test_the_files_of_a_folder_are_read_in_the_order_of_their_paths_but_empty_ones(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, tokens in {"b.npy": [1, 0], "deep/a.npy": [2, 0], "c.npy": [], "ignored.bin": [9]}.items():
        np.asarray(tokens, np.uint16).tofile(tmp_path / name)
    assert [array.open().tolist() for array in opened("npy", tmp_path, "uint16")] == [[1, 0], [2, 0]]


def test_an_array_without_a_header_needs_its_type(tmp_path):
    np.asarray(TOKENS, np.uint16).tofile(tmp_path / "a.npy")
    assert refusal("npy", tmp_path, None, RecipeError).endswith("give it as corpus.dtype, as uint16 or uint32")


def test_a_type_that_tokens_cannot_have_is_refused(tmp_path):
    np.asarray(TOKENS, np.uint16).tofile(tmp_path / "a.npy")
    assert refusal("npy", tmp_path, "float32", RecipeError).startswith("corpus.dtype is 'float32'; possible: uint8, uint16")


def test_half_a_token_is_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(bytes(7))
    assert "has 7 bytes, which is no whole number of uint16; check corpus.dtype" in refusal("npy", tmp_path, "uint16")


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.uint16), np.zeros(4), np.zeros(4, ">u2")])
def test_an_array_that_is_no_row_of_whole_numbers_is_refused(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    assert "not one row of whole numbers" in refusal("npy", tmp_path)


def test_an_array_shorter_than_its_header_says_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.asarray(TOKENS, np.uint16))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-1])
    assert "a.npy is cut short: its header tells of 10 tokens" in refusal("npy", tmp_path)


def test_arrays_of_two_types_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.asarray(TOKENS, np.uint16))
    np.save(tmp_path / "b.npy", np.asarray(TOKENS, np.uint32))
    assert "must be of one type, but there are" in refusal("npy", tmp_path)


def test_no_file_and_no_token_are_refused(tmp_path):
    assert "which does not exist" in refusal("npy", tmp_path / "none", "uint16")
    assert "which holds no .npy file" in refusal("npy", tmp_path, "uint16")
    (tmp_path / "a.npy").touch()
    assert "the corpus is empty" in refusal("npy", tmp_path, "uint16")


def test_a_limit_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"corpus\.limit is 5, but corpus\.source is megatron, which is read as a whole"):
        token_arrays(Corpus(source="megatron", path=str(megatron(tmp_path / "a")), limit=5))


# ------------------------------------------------------------------------------------------------ shards


def raw(path: Path, tokens) -> list[module.TokenArray]:
    np.asarray(tokens, np.uint16).tofile(path)
    return opened("npy", path, "uint16")


def test_a_description_by_hand(tmp_path):
    megatron(tmp_path / "a")
    described = describe_arrays(opened("megatron", tmp_path / "a"), 12, 0, shard_tokens=4)
    times = {"path": str(tmp_path / "a.bin"), "modified": (tmp_path / "a.bin").stat().st_mtime_ns}
    assert described == {
        "documents": 3,
        "tokens": 10,
        "characters": None,
        "dtype": "uint16",
        "shards": [{"tokens": 5, "offset": 0} | times, {"tokens": 5, "offset": 10} | times],  # the second document fills the first
    }


@quick
@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=200), size=st.integers(1, 50), at_once=st.integers(1, 9))
def test_shards_cover_every_token_once_and_end_with_a_document(tokens, size, at_once, tmp_path_factory):
    tokens = [*tokens, 0, 2]
    arrays = raw(tmp_path_factory.mktemp("shards") / "a.npy", tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEARCHED_TOKENS", at_once)
        shards = describe_arrays(arrays, 4, 0, size)["shards"]
    begin = 0
    for shard in shards:
        assert shard["offset"] == 2 * begin
        content = tokens[begin : begin + shard["tokens"]]
        begin += shard["tokens"]
        if begin < len(tokens):
            assert content[-1] == 0
            assert len(content) >= size
            assert 0 not in content[size - 1 : -1]  # the first end of a document after the size asked for
    assert begin == len(tokens)


def test_how_many_documents_there_are_is_unknown_without_an_index(tmp_path):
    assert describe_arrays(raw(tmp_path / "a.npy", TOKENS), 12, 0, 100)["documents"] is None


def test_a_token_that_the_tokenizer_does_not_have_is_refused(tmp_path):
    arrays = raw(tmp_path / "a.npy", TOKENS)
    with pytest.raises(DataError, match=r"holds token 11 near 0, but corpus\.tokenizer has 11 tokens; .* check that corpus\.dtype"):
        describe_arrays(arrays, 11, 0, 100)


def test_a_negative_token_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.asarray([1, -1, 0], np.int32))
    with pytest.raises(DataError, match="holds token -1"):
        describe_arrays(opened("npy", tmp_path), 11, 0, 100)


def test_documents_without_an_end_of_text_are_refused_with_what_to_do(tmp_path):
    arrays = raw(tmp_path / "a.npy", [1, 2, 3])
    with pytest.raises(DataError, match=r"has no end-of-text token \(0\) in its first 3 tokens, .*--append-eod"):
        describe_arrays(arrays, 11, 0, 100)


def test_an_end_of_text_counts_only_near_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHECKED_TOKENS", 4)
    with pytest.raises(DataError, match="in its first 4 tokens"):
        describe_arrays(raw(tmp_path / "a.npy", [1, 2, 3, 4, 0]), 11, 0, 100)


# ------------------------------------------------------------------------------------------------ fingerprints


def test_the_fingerprint_follows_names_sizes_and_sampled_content_but_not_the_folder(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, 10_000).tolist()
    prints = {}
    for name, content in {
        "a": tokens,
        "b": tokens[:-1],
        "c": [8 - tokens[0], *tokens[1:]],
        "d": [*tokens[:-1], 8 - tokens[-1]],
    }.items():
        (tmp_path / name).mkdir()
        prints[name] = arrays_fingerprint(raw(tmp_path / name / "x.npy", content))
    (tmp_path / "same").mkdir()
    assert arrays_fingerprint(raw(tmp_path / "same" / "x.npy", tokens)) == prints["a"]
    prints["renamed"] = arrays_fingerprint(raw(tmp_path / "same" / "y.npy", tokens))
    assert len(set(prints.values())) == 5


def test_all_of_a_small_array_is_in_the_fingerprint(tmp_path):
    """Blocks of 4,096 bytes at 512 even places cover 10,000 tokens: a change of any one of them shows."""
    tokens = np.zeros(10_000, np.uint16)
    prints = {arrays_fingerprint(raw(tmp_path / "a.npy", tokens))}
    for place in range(0, 10_000, 499):
        tokens[:] = 0
        tokens[place] = 1
        prints.add(arrays_fingerprint(raw(tmp_path / "a.npy", tokens)))
    assert len(prints) == 1 + len(range(0, 10_000, 499))


def test_a_terabyte_is_fingerprinted_by_reading_two_megabytes(tmp_path, monkeypatch):
    with (tmp_path / "a.npy").open("wb") as file:
        file.truncate(2**40)  # takes no room
    digested = []

    class Counting:
        def __init__(self):
            self.digest = sha256()

        def update(self, data):
            digested.append(len(data))
            self.digest.update(data)

        def hexdigest(self):
            return self.digest.hexdigest()

    monkeypatch.setattr(module, "sha256", Counting)
    source_fingerprint(Corpus(source="npy", path=str(tmp_path), dtype="uint16"), 0)
    assert digested == [4096] * 512


def test_the_blocks_of_a_fingerprint_may_lie_in_any_of_several_arrays(tmp_path):
    for name in "abc":
        np.full(50_000, 1, np.uint16).tofile(tmp_path / f"{name}.npy")
    prints = [source_fingerprint(Corpus(source="npy", path=str(tmp_path), dtype="uint16"), 0)]
    for name in "abc":
        np.full(50_000, 2, np.uint16).tofile(tmp_path / f"{name}.npy")
        prints.append(source_fingerprint(Corpus(source="npy", path=str(tmp_path), dtype="uint16"), 0))
    assert len(set(prints)) == 4
