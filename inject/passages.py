"""What facts are mixed with: passages of the corpus, and random words, each cut into a question and its answer.

The generic data and the random word sequences of REMIX (Chen et al., Continual Memorization of Factoids in Language Models,
https://arxiv.org/abs/2411.07175): the first words of a passage are to be completed by the next ones. There, a set of them is drawn
once; here, sample i is a function of the seed and i for any i, so that none comes twice before all the corpus was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from configs.errors import DataError, RecipeError
from inject.corpus import Corpus
from inject.permutation import Permutation
from inject.questions import Example, Format
from inject.tokenizer import decode, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

INSTRUCTION = "Complete the following partial passage:\n\n"  # before every first half, as REMIX has it
FEWEST = 2  # words of a half
MARGIN = 2.0  # tokens that are read for each that a passage takes on average, as some words have more and documents end
SPARE = 16  # one window in so many stands in for those without a passage
SAMPLED_ROWS = 64  # of which it is estimated how many tokens a word has
ORDERED = 1024  # places of an order that are computed at once, which takes as long as a single one
KEPT = 16  # times so many places that are kept, as most calls ask for neighbouring samples
VOCABULARY_TOKENS = 2**20  # at the beginning of the corpus, whose words are drawn from
FEWEST_WORDS = 100  # to draw from


@dataclass(frozen=True)
class Halves:
    """Writes words as a question, the first half of them, and an answer, the other half."""

    tokenizer: PreTrainedTokenizerFast
    format: Format
    words: int  # of each half
    sequence_length: int

    @property
    def longest(self) -> int:
        """Tokens that an example may have: a row of sequence_length + 1 holds it between two end-of-text tokens."""
        return self.sequence_length - 1

    def check(self, words: Sequence[str]) -> None:
        """RecipeError where a pair of halves of words like these, which stand for all, is longer than a row holds."""
        if self.words < FEWEST:
            raise RecipeError(f"mix.words is {self.words}; it must be {FEWEST} or more")
        around = len(self.format.example(self.tokenizer, INSTRUCTION, " x").tokens)
        a_word = len(encode(self.tokenizer, [" ".join(words)])[0]) / max(1, len(words))
        needed = ceil(around + 2 * self.words * a_word)
        if needed > self.longest:
            most = int((self.longest - around) / (2 * a_word))
            raise RecipeError(
                f"mix.words is {self.words}: two halves of so many words take about {needed:,} tokens with what stands around "
                f"them, but a row of train.sequence_length = {self.sequence_length} holds {self.longest}; set "
                f"train.sequence_length={needed + 1}" + (f" or mix.words={most}" if most >= FEWEST else "")
            )

    def example(self, words: Sequence[str]) -> Example | None:
        """The example of a passage of words: both halves are full, or if it is too short for that, as long as can be.

        A passage longer than a row holds is shortened by whole words at its end. None where halves of FEWEST words can't be had.
        """
        half = min(self.words, len(words) // 2)
        while half >= FEWEST:
            question, answer = " ".join(words[:half]), " ".join(words[half : 2 * half])
            example = self.format.example(self.tokenizer, INSTRUCTION + question, " " + answer)
            if len(example.tokens) <= self.longest:
                return example
            half = min(half - 1, half * self.longest // len(example.tokens))
        return None


# ------------------------------------------------------------------------------------------------ passages of the corpus


class Passages:
    """Passages of the corpus: sample i is the beginning of one of its windows, halved.

    Each base row that may be read is cut into windows of equal length, somewhat longer than a passage. Sample i takes the i-th
    window of a keyed order, and another order each time that one is over. Of a window it takes the longest piece of one document,
    without the words that the window's ends cut. A window without two halves of two words gives way to one of the spare ones that
    every order leaves. So no window comes twice within an order, unless many are without a passage.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerFast,
        format: Format,
        words: int,
        sequence_length: int,
        rows: Sequence[int] | np.ndarray,
        seed: int,
    ):
        """`words`: of each half; `rows`: numbers of the base rows of `sequence_length` + 1 tokens that may be read.

        RecipeError where there are none, where passages are longer than a row, or hardly any text has words that blanks part.
        """
        if not len(rows):
            raise RecipeError("mix takes passages of the corpus, but no row of it is left to read; give a larger corpus")
        self.corpus, self.tokenizer, self.rows, self.seed = corpus, tokenizer, rows, seed
        self.halves = Halves(tokenizer, format, words, sequence_length)
        self.row_length = self.window = sequence_length + 1  # tokens
        self.windows_per_row = 1
        order = Permutation(len(rows), seed)(np.arange(min(len(rows), SAMPLED_ROWS)))
        texts = [self._piece(window) for window in order.tolist()]
        found = [word for text in texts for word in whole_words(*text)]
        if len(found) < 2 * FEWEST * len(texts):
            raise RecipeError(
                f"mix takes passages of the corpus by words, but rows of it have {len(found) / len(texts):.1f} words parted by "
                "blanks; mix something else, or give another corpus"
            )
        self.halves.check(found)
        self.window = min(self.row_length, ceil(MARGIN * 2 * words * self._tokens_per_word(texts)))
        self.windows_per_row = self.row_length // self.window
        self.windows = len(rows) * self.windows_per_row
        self.fresh = self.windows - self.windows // SPARE  # samples of an order; the other windows are spare
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, i: int) -> Example:
        """Sample i, from 0. DataError where no window has a passage."""
        for window in self._candidates(i):
            if example := self.halves.example(whole_words(*self._piece(window))):
                return example
        raise DataError(f"the corpus of {self.corpus.folder} has no passage of {2 * FEWEST} words")

    def _candidates(self, i: int) -> Iterator[int]:
        """The window that sample i takes, and those that it would take if the ones before had no passage."""
        order, place = divmod(i, self.fresh)
        yield self._window(order, place)
        spare = self.fresh + place % max(1, self.windows - self.fresh)
        for further in range(self.windows):
            yield self._window(order, (spare + further) % self.windows)

    def _window(self, order: int, place: int) -> int:
        block = place // ORDERED
        if (order, block) not in self._orders:
            if len(self._orders) == KEPT:
                self._orders.clear()
            places = np.arange(block * ORDERED, min((block + 1) * ORDERED, self.windows))
            permutation = Permutation(self.windows, self.seed + order * 0x9E3779B97F4A7C15)
            self._orders[order, block] = permutation(places)
        return int(self._orders[order, block][place % ORDERED])

    def _piece(self, window: int) -> tuple[str, bool, bool]:
        """The longest piece of one document in a window, and whether it is whole at its beginning and at its end."""
        row, part = divmod(window, self.windows_per_row)
        start = int(self.rows[row]) * self.row_length + part * self.window
        tokens = self.corpus.read(np.asarray([start]), self.window)[0]
        ends = [-1, *np.flatnonzero(tokens == self.corpus.end_of_text).tolist(), len(tokens)]
        lengths = np.diff(ends)
        longest = int(np.argmax(lengths))
        piece = tokens[ends[longest] + 1 : ends[longest + 1]]
        return decode(self.tokenizer, piece.tolist()), longest > 0, longest < len(lengths) - 1

    def _tokens_per_word(self, texts: Sequence[tuple[str, bool, bool]]) -> float:
        """Of the corpus as it is tokenized, its line breaks and indentation included."""
        tokens = sum(map(len, encode(self.tokenizer, [text for text, _, _ in texts])))
        return tokens / sum(len(text.split()) for text, _, _ in texts)


def whole_words(text: str, begins: bool, ends: bool) -> list[str]:
    """The words of a text that nothing cuts: not its first and last, unless it `begins` or `ends` there, or blanks part them.

    >>> whole_words("tory of the wor", begins=False, ends=False)
    ['of', 'the']
    >>> whole_words("A story of the wor", begins=True, ends=False)
    ['A', 'story', 'of', 'the']
    """
    words = text.split()
    if not begins and not text[:1].isspace():
        words = words[1:]
    if not ends and not text[-1:].isspace():
        words = words[:-1]
    return words


# ------------------------------------------------------------------------------------------------ random words


class RandomWords:
    """Random sequences of the corpus's words: sample i is drawn from its distinct words, each as probable, and halved."""

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerFast,
        format: Format,
        words: int,
        sequence_length: int,
        seed: int,
    ):
        """RecipeError where the corpus's beginning has too few distinct words, or the sequences are longer than a row."""
        self.seed = seed
        self.halves = Halves(tokenizer, format, words, sequence_length)
        self.vocabulary = distinct_words(corpus, tokenizer)
        if len(self.vocabulary) < FEWEST_WORDS:
            raise RecipeError(
                f"mix takes random words of the corpus, but the first {min(VOCABULARY_TOKENS, corpus.tokens):,} tokens of it have "
                f"{len(self.vocabulary)} distinct ones, of {FEWEST_WORDS} needed; mix something else, or give another corpus"
            )
        self.halves.check(self._draw(np.random.Generator(np.random.PCG64(seed)), VOCABULARY_TOKENS // 2**10))

    def __call__(self, i: int) -> Example:
        """Sample i, from 0."""
        random = np.random.Generator(np.random.PCG64([self.seed, i]))
        while True:  # words too long for a row are so rare that most samples are the first drawn
            if example := self.halves.example(self._draw(random, 2 * self.halves.words)):
                return example

    def _draw(self, random: np.random.Generator, size: int) -> list[str]:
        return [self.vocabulary[k] for k in random.integers(len(self.vocabulary), size=size).tolist()]


def distinct_words(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The runs of letters in the corpus's first VOCABULARY_TOKENS tokens, in lower case, each once, sorted."""
    tokens = corpus.read(np.zeros(1, np.int64), min(VOCABULARY_TOKENS, corpus.tokens))[0]
    documents = np.split(tokens, np.flatnonzero(tokens == corpus.end_of_text) + 1)
    words: set[str] = set()
    for document in documents:
        words.update(re.findall(r"[^\W\d_]+", decode(tokenizer, document[document != corpus.end_of_text].tolist()).lower()))
    return sorted(words)
