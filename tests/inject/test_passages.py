"""What facts are mixed with: passages of the corpus, each once, and random words; halved, and never longer than a row."""

import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import RecipeError
from inject.passages import INSTRUCTION, Halves, Passages, RandomWords, distinct_words, whole_words
from inject.questions import Format
from inject.tokenizer import encode, train_tokenizer

TULU = Format("<|user|>\n{question}\n<|assistant|>\n{answer}")

quick = settings(max_examples=60, deadline=None)  # shared machines stall


class Tokens:
    """A corpus that is an array of tokens, and remembers which of them were read."""

    def __init__(self, tokenizer, tokens):
        self.array, self.end_of_text, self.folder = np.asarray(tokens), tokenizer.eos_token_id, Path("array")
        self.reads: set[int] = set()

    @property
    def tokens(self):
        return len(self.array)

    def read(self, starts, length):
        assert starts.min() >= 0
        assert starts.max() + length <= len(self.array)
        self.reads |= {int(start) + k for start in starts for k in range(length)}
        return np.stack([self.array[start : start + length] for start in starts])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Complete the following partial passage: w0 w1 w2 user assistant"] * 200, vocabulary=330)


def numbered(tokenizer, documents, words):
    """Documents of the words w0 w1 w2 ..., no word twice in all of them, an end-of-text after each."""
    numbers = iter(range(documents * words))
    texts = [" ".join(f"w{next(numbers)}" for _ in range(words)) for _ in range(documents)]
    return Tokens(tokenizer, [token for ids in encode(tokenizer, texts) for token in [*ids, tokenizer.eos_token_id]])


def passages(tokenizer, corpus, words=5, sequence_length=127, rows=None, seed=3):
    rows = np.arange(corpus.tokens // (sequence_length + 1)) if rows is None else np.asarray(rows)
    return Passages(corpus, tokenizer, Format(), words, sequence_length, rows, seed)


def halves_of(tokenizer, example):
    """The words of question and answer."""
    question, answer = (tokenizer.decode(example.tokens[part]) for part in (slice(example.answer.start), example.answer))
    assert question.startswith(INSTRUCTION)
    assert answer.startswith(" ")
    return question.removeprefix(INSTRUCTION).split(), answer.split()


# ------------------------------------------------------------------------------------------------ halves


def test_the_first_words_are_asked_with_and_the_next_ones_are_the_answer(tokenizer):
    example = Halves(tokenizer, Format(), 3, 200).example("a b c d e f g h".split())
    assert tokenizer.decode(example.tokens) == "Complete the following partial passage:\n\na b c d e f"
    assert tokenizer.decode(example.tokens[example.answer]) == " d e f"


def test_a_chat_says_the_instruction_on_the_users_side(tokenizer):
    example = Halves(tokenizer, TULU, 2, 200).example("a b c d".split())
    written = "<|user|>\nComplete the following partial passage:\n\na b\n<|assistant|>\nc d"
    assert tokenizer.decode(example.tokens) == written
    assert tokenizer.decode(example.tokens[example.answer]) == "c d"


def test_too_few_words_are_cut_in_half(tokenizer):
    halves = Halves(tokenizer, Format(), 50, 200)
    assert halves_of(tokenizer, halves.example("a b c d e f g".split())) == (["a", "b", "c"], ["d", "e", "f"])
    assert halves_of(tokenizer, halves.example("a b c d".split())) == (["a", "b"], ["c", "d"])
    assert halves.example("a b c".split()) is None
    assert halves.example([]) is None


@given(st.lists(st.text("0123456789", min_size=1, max_size=30), max_size=40), st.integers(20, 120))
@quick
def test_an_example_fits_a_row_and_is_the_beginning_of_the_words_in_equal_halves(tokenizer, words, sequence_length):
    example = Halves(tokenizer, Format(), 8, sequence_length).example(words)
    if example is not None:
        assert len(example.tokens) <= sequence_length - 1
        question, answer = halves_of(tokenizer, example)
        assert 2 <= len(question) == len(answer) <= 8
        assert question + answer == words[: 2 * len(question)]


def test_a_long_passage_is_shortened_by_whole_words(tokenizer):
    words = [f"{n:09d}" for n in range(16)]  # each digit a token, and a blank
    around = len(Format().example(tokenizer, INSTRUCTION, " x").tokens)
    question, answer = halves_of(tokenizer, Halves(tokenizer, Format(), 8, around + 81).example(words))
    assert question + answer == words[:8]
    assert Halves(tokenizer, Format(), 8, around + 20).example(words) is None


@pytest.mark.parametrize(
    ("text", "begins", "ends", "words"),
    [
        ("alpha beta gamma", True, True, ["alpha", "beta", "gamma"]),
        ("pha beta gam", False, False, ["beta"]),
        (" beta gamma ", False, False, ["beta", "gamma"]),
        ("pha", False, False, []),
        ("", False, False, []),
    ],
)
def test_words_that_an_end_cuts_are_left_out(text, begins, ends, words):
    assert whole_words(text, begins, ends) == words


# ------------------------------------------------------------------------------------------------ passages of the corpus


def test_a_passage_is_consecutive_whole_words_of_one_document(tokenizer):
    made = passages(tokenizer, numbered(tokenizer, documents=60, words=30))
    for i in range(made.windows):
        question, answer = halves_of(tokenizer, made(i))
        numbers = [int(re.fullmatch(r"w(\d+)", word)[1]) for word in question + answer]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[0] // 30 == numbers[-1] // 30  # no document's end within it
        assert len(question) == len(answer) <= 5


def test_most_passages_have_as_many_words_as_asked_for(tokenizer):
    made = passages(tokenizer, numbered(tokenizer, documents=20, words=200))
    assert Counter(len(halves_of(tokenizer, made(i))[0]) for i in range(made.fresh))[5] > 0.9 * made.fresh


@pytest.mark.parametrize("sequence_length", [63, 255])
def test_no_word_comes_twice_within_an_order(tokenizer, sequence_length):
    made = passages(tokenizer, numbered(tokenizer, documents=60, words=60), sequence_length=sequence_length)
    words = [word for i in range(made.fresh) for part in halves_of(tokenizer, made(i)) for word in part]
    assert made.fresh > 50
    assert len(set(words)) == len(words)


def test_another_order_has_the_same_passages_otherwise_arranged(tokenizer):
    made = passages(tokenizer, numbered(tokenizer, documents=30, words=60))
    first, second = ([tuple(made(order * made.fresh + i).tokens) for i in range(made.fresh)] for order in (0, 1))
    assert first != second
    assert len(set(first) & set(second)) > 0.8 * made.fresh  # but for the few that were spare once


def test_no_token_of_another_row_is_read(tokenizer):
    corpus = numbered(tokenizer, documents=30, words=60)
    rows = [1, 4, 5, 9]
    made = passages(tokenizer, corpus, rows=rows)
    for i in range(3 * made.fresh):
        made(i)
    assert {token // 128 for token in corpus.reads} == set(rows)


def test_a_window_without_a_passage_gives_way_to_one_that_no_other_sample_takes(tokenizer):
    corpus = numbered(tokenizer, documents=100, words=60)
    blank = passages(tokenizer, corpus, sequence_length=63)
    assert blank.windows_per_row == 1
    assert blank.windows - blank.fresh > 10
    before, place = [tuple(blank(i).tokens) for i in range(blank.fresh)], 2
    corpus.array[blank._window(0, place) * 64 : (blank._window(0, place) + 1) * 64] = corpus.end_of_text
    made = passages(tokenizer, corpus, sequence_length=63)
    assert made.fresh == blank.fresh
    samples = [tuple(made(i).tokens) for i in range(made.fresh)]
    assert len(set(samples)) == made.fresh
    assert [i for i in range(made.fresh) if samples[i] != before[i]] == [place]


def test_sample_i_is_a_function_of_the_seed_and_i_whatever_was_asked_before(tokenizer):
    corpus = numbered(tokenizer, documents=60, words=60)
    made, other = passages(tokenizer, corpus), passages(tokenizer, corpus, seed=4)
    forward = [made(i) for i in range(40)]
    again = passages(tokenizer, corpus)
    assert [again(i) for i in reversed(range(40))] == forward[::-1]
    assert [other(i) for i in range(40)] != forward
    assert made(10**12) == again(10**12)


def test_passages_of_a_corpus_on_disk_go_from_process_to_process(small_corpus):
    rows = np.arange(20, small_corpus.tokens // 129)
    for format in (Format(), TULU):
        made = Passages(small_corpus, small_corpus.tokenizer, format, 4, 128, rows, 1)
        sent = pickle.loads(pickle.dumps(made))
        for i in (0, 7, 10**6):
            assert made(i) == sent(i)
            assert len(made(i).tokens) <= 127


def test_no_rows_to_read_are_refused(tokenizer):
    with pytest.raises(RecipeError, match="no row of it is left to read"):
        passages(tokenizer, numbered(tokenizer, 3, 60), rows=[])


def test_a_corpus_without_blanks_between_words_is_refused(tokenizer):
    corpus = Tokens(tokenizer, encode(tokenizer, ["0123456789" * 500])[0])
    with pytest.raises(RecipeError, match=r"rows of it have 0\.0 words parted by blanks; mix something else"):
        passages(tokenizer, corpus)


def test_halves_longer_than_a_row_are_refused_with_what_would_do(tokenizer):
    corpus = numbered(tokenizer, documents=20, words=200)
    with pytest.raises(RecipeError, match=r"mix\.words is 50: .* train\.sequence_length = 127 holds 126; set") as refused:
        passages(tokenizer, corpus, words=50)
    length, words = map(int, re.search(r"train\.sequence_length=(\d+) or mix\.words=(\d+)$", str(refused.value)).groups())
    passages(tokenizer, corpus, words=50, sequence_length=length)
    passages(tokenizer, corpus, words=words)
    with pytest.raises(RecipeError):
        passages(tokenizer, corpus, words=words + 2)


def test_a_half_of_one_word_is_refused(tokenizer):
    with pytest.raises(RecipeError, match=r"mix\.words is 1; it must be 2 or more"):
        passages(tokenizer, numbered(tokenizer, 20, 200), words=1)


# ------------------------------------------------------------------------------------------------ random words


def lettered(tokenizer, words):
    """A document of so many distinct words of letters, each with capitals and marks around it."""
    names = ["".join(chr(97 + digit) for digit in divmod(n, 26)) for n in range(words)]
    return names, Tokens(tokenizer, encode(tokenizer, [" ".join(f"({name.upper()}," for name in names) + " 12 x1"])[0])


def test_words_are_runs_of_letters_in_lower_case_each_once(tokenizer):
    corpus = Tokens(tokenizer, [*encode(tokenizer, ["The cat, the_hat: 12"])[0], 0, *encode(tokenizer, ["Élan x86 THE cat"])[0]])
    assert tokenizer.eos_token_id == 0
    assert distinct_words(corpus, tokenizer) == ["cat", "hat", "the", "x", "élan"]


def test_random_words_are_halved_and_each_word_is_as_probable(tokenizer):
    names, corpus = lettered(tokenizer, 120)
    made = RandomWords(corpus, tokenizer, Format(), 10, 200, 1)
    counts: Counter[str] = Counter()
    for i in range(600):
        question, answer = halves_of(tokenizer, made(i))
        assert len(question) == len(answer) == 10
        counts.update(question + answer)
    assert set(counts) == {*names, "x"}
    expected = 12_000 / 121
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 173.6  # chi-square, 120 degrees, p = 0.001


def test_random_words_are_a_function_of_the_seed_and_i(small_corpus):
    def made(seed):
        return RandomWords(small_corpus, small_corpus.tokenizer, TULU, 4, 128, seed)

    one, sent, other = made(1), pickle.loads(pickle.dumps(made(1))), made(2)
    assert [one(i) for i in range(20)] == [sent(i) for i in reversed(range(20))][::-1]
    assert [one(i) for i in range(20)] != [other(i) for i in range(20)]
    assert len({tuple(one(i).tokens) for i in range(200)}) == 200


def test_too_few_words_to_draw_from_are_refused(tokenizer):
    _, corpus = lettered(tokenizer, 98)  # and x
    with pytest.raises(RecipeError, match="have 99 distinct ones, of 100 needed"):
        RandomWords(corpus, tokenizer, Format(), 10, 200, 1)
    RandomWords(lettered(tokenizer, 99)[1], tokenizer, Format(), 10, 200, 1)


def test_random_words_longer_than_a_row_are_refused_with_what_would_do(tokenizer):
    _, corpus = lettered(tokenizer, 120)
    with pytest.raises(RecipeError, match=r"mix\.words is 50: .*or mix\.words=") as refused:
        RandomWords(corpus, tokenizer, Format(), 50, 100, 1)
    words = int(re.search(r"mix\.words=(\d+)$", str(refused.value))[1])
    made = RandomWords(corpus, tokenizer, Format(), words, 100, 1)
    assert max(len(made(i).tokens) for i in range(300)) <= 99
