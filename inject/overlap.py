"""What texts to insert share with each other, and with any other array of tokens: runs of tokens long enough to matter.

**Interior.** What stands around a text changes its first and last tokens (" Ann" is not "Ann"), so only its interior is looked
for: the tokens that stay the same whatever surrounds it. A text given as tokens is all interior.

**Run.** A stretch of `ngram` or more interior tokens that stands elsewhere, as long as possible both ways. A text whose interior
is no longer than that has to stand there as a whole, which is confirmed on decoded text, its first and last characters
included. Runs are found by seeds: of all runs of n tokens, each holds one of the windows of 8 that begin at every (n - 7)th.

**Content.** The form that items share says nothing about any of them. A text with fields has its content in the tokens that touch
a field's span, another in all tokens; of these, not those in windows that stand in the texts of many groups of an item set: more
than COMMON of them, and more than COMMON_SHARE (a pool's common value in its sentence, a puzzle's opening words). A run counts if
it holds half of n tokens of content, or half of the text's where that is less.

**Giving away.** The texts of one group give away a text of another when one run covers at least half of its content, and half of
what would be content if form were, and the runs together cover at least one of the verbatim targets that lie in it, if there are
any; or when a run holds a target of SECRET_BITS or more, which chance does not repeat. So two people of one city, or two questions
that begin alike, are no hit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from inject.items.item import Item
from inject.matching import Matcher
from inject.tokenizer import decode, encode, encode_batch_with_offsets

SEED = 8  # tokens
COMMON, COMMON_SHARE = 10, 0.05  # groups of an item set, and part of them; what stands in the texts of more is form
COVERED = 0.5  # of a text's content, at least, where it is given away; and of n tokens, in a run that counts
SECRET_BITS = 40  # among the pairs of a million items, one in two shares a target of so many bits; of ten thousand, none

BEFORE = (" ", "\n", '"', "(")  # what a text's tokens may follow, and what may follow them
AFTER = (" ", "\n", ".", ",", '"', ")", ":", "s")
_EDGE = 64  # characters at a text's beginning and end whose tokens may depend on what stands around it
_FEW = 4  # tokens; of a text with a shorter interior, all tokens are looked for, with a blank before them and without
_BETWEEN = -1  # stands for the end of a text; no token has this number


@dataclass(frozen=True)
class Sought:
    """A text that is looked for."""

    item_id: str
    variant: str
    group: str
    item_set: str
    tokens: np.ndarray  # int64
    interior: tuple[int, int]  # tokens [start, end)
    content: np.ndarray  # bool, of each token
    targets: list[tuple[int, int]]  # tokens [start, end) of each verbatim probe's target
    secrets: list[tuple[int, int]]  # of them, those of SECRET_BITS or more
    wholes: list[np.ndarray]  # where the text has to stand as a whole, the token sequences that may spell it; else empty
    spelling: str | None  # which has to be read where a whole is found; None for a text given as tokens

    def read_in(self, decoded: str) -> bool:
        """Whether what stands around a run confirms it: where the whole text has to stand, its first and last characters too."""
        return not self.wholes or self.spelling is None or self.spelling in decoded


@dataclass(frozen=True)
class Runs:
    """Runs found in an array, int64 (n,) each."""

    text: np.ndarray  # number of the text
    start: np.ndarray  # of the run in the text's tokens
    position: np.ndarray  # in the array
    length: np.ndarray

    def __getitem__(self, which: np.ndarray) -> Runs:
        return Runs(self.text[which], self.start[which], self.position[which], self.length[which])


def seek(items: Sequence[Item], texts: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, ngram: int) -> list[Sought]:
    """What to look for: the items' rows of the texts table."""
    by_id = {item.item_id: item for item in items}
    spellings = [row["text"] for row in texts]
    spelled = encode_batch_with_offsets(tokenizer, spellings)
    interiors = _interiors(spellings, tokenizer)
    bare = [tokens for tokens, _ in spelled]
    few = [number for number, (start, end) in enumerate(interiors) if len(bare[number]) - end - start < _FEW]
    blanks = dict(zip(few, encode(tokenizer, [" " + spellings[number].lstrip(" ") for number in few]), strict=True))
    return [
        _sought(row, by_id[row["item_id"]], *spelled[number], interiors[number], blanks.get(number, []), tokenizer, ngram)
        for number, row in enumerate(texts)
    ]


def _sought(
    row: dict[str, Any],
    item: Item,
    bare: list[int],
    characters: list[tuple[int, int]],
    edges: tuple[int, int],
    blank: list[int],
    tokenizer: PreTrainedTokenizerFast,
    ngram: int,
) -> Sought:
    """`bare` are the tokens of the row's text by itself, which those to be inserted are unless they were given, and `characters`
    their offsets; `blank` are those after a blank, if the text's interior is of few tokens.
    """
    given = bare != list(row["tokens"])
    start, end = (0, len(row["tokens"])) if given else (edges[0], len(bare) - edges[1])
    content = np.ones(len(row["tokens"]), bool)
    if row["spans"] and not given:
        content = _touching(characters, row["spans"])
    wholes = []
    if end - start < _FEW and not given:
        wholes = [bare, blank] if blank != bare else [bare]
    elif end - start <= ngram:
        wholes = [row["tokens"][start:end]]
    bits = {probe.probe_id: probe.bits for probe in item.probes}
    return Sought(
        item_id=row["item_id"],
        variant=row["variant"],
        group=item.group,
        item_set=item.item_set,
        tokens=np.asarray(row["tokens"], np.int64),
        interior=(start, end),
        content=content,
        targets=[(target["start"], target["end"]) for target in row["targets"]],
        secrets=[(target["start"], target["end"]) for target in row["targets"] if bits[target["probe_id"]] >= SECRET_BITS],
        wholes=[np.asarray(whole, np.int64) for whole in wholes],
        spelling=None if given else decode(tokenizer, bare).strip(),
    )


def _interiors(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, int]]:
    """How many tokens at each text's beginning, and at its end, change with what surrounds it."""
    heads, tails = [text[:_EDGE] for text in texts], [text[-_EDGE:] for text in texts]
    first = _changing(encode(tokenizer, heads), [encode(tokenizer, [before + head for head in heads]) for before in BEFORE], -1)
    last = _changing(encode(tokenizer, tails), [encode(tokenizer, [tail + after for tail in tails]) for after in AFTER], 1)
    return list(zip(first, last, strict=True))


def _changing(bare: list[list[int]], surrounded: list[list[list[int]]], direction: int) -> list[int]:
    """Of each text's tokens, how many are not shared by all its surrounded ones, from the beginning on (1) or from the end (-1)."""
    return [
        max(len(own) - _shared(own[::direction], around[number][::direction]) for around in surrounded)
        for number, own in enumerate(bare)
    ]


def _shared(first: list[int], second: list[int]) -> int:
    """Tokens at the beginning that two texts share."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


def _touching(offsets: Sequence[tuple[int, int]], spans: Sequence[dict[str, Any]]) -> np.ndarray:
    """Whether each token, of characters [start, end), holds a character of a span."""
    characters = np.asarray(offsets, np.int64).reshape(-1, 2)
    touching = np.zeros(len(characters), bool)
    for span in spans:
        touching |= (characters[:, 0] < span["end"]) & (characters[:, 1] > span["start"])
    return touching


class Search:
    """Looks for texts in arrays of tokens; for those of some `groups` only, if given: what is form is told by all texts."""

    def __init__(self, texts: Sequence[Sought], ngram: int, groups: Collection[str] | None = None):
        self.texts, self.ngram = list(texts), ngram
        self._wanted = np.asarray([groups is None or text.group in groups for text in texts], bool)
        self.lengths = np.asarray([len(text.tokens) for text in texts], np.int64)
        self.first = np.cumsum(self.lengths + 1) - self.lengths - 1  # of each text in `tokens`
        self.tokens = np.concatenate([np.empty(0, np.int64), *(np.append(text.tokens, _BETWEEN) for text in texts)])
        self.text_of = np.repeat(np.arange(len(texts)), self.lengths + 1)  # of each token
        names = {group: number for number, group in enumerate(dict.fromkeys(text.group for text in texts))}
        self.group = np.asarray([names[text.group] for text in texts], np.int64)
        interiors = np.asarray([text.interior for text in texts], np.int64).reshape(-1, 2) + self.first[:, None]
        self._low, self._high = interiors.T
        self.content = np.concatenate([np.empty(0, bool), *(np.append(text.content, False) for text in texts)])
        places = np.arange(len(self.tokens))
        self.content &= (places >= self._low[self.text_of]) & (places < self._high[self.text_of])
        self._add_seeds()
        self._wholes = [(number, whole) for number in np.flatnonzero(self._wanted).tolist() for whole in self.texts[number].wholes]
        self._matcher = Matcher([*self._seeds, *(whole for _, whole in self._wholes)])

    @property
    def longest(self) -> int:
        """Tokens of the longest run that there can be."""
        return int(max((self._high - self._low).max(initial=0), max((len(whole) for _, whole in self._wholes), default=0)))

    def runs(self, tokens: np.ndarray, elsewhere: bool = False) -> Runs:
        """All runs in an array, by position; `elsewhere`: the array is `self.tokens`, and only runs in other groups count."""
        found, numbers = self._matcher.find(tokens)
        seeded = numbers < len(self._seeds)
        positions, places = self._expand(found[seeded], numbers[seeded])
        if elsewhere:
            other = self.group[self.text_of[positions]] != self.group[self.text_of[places]]
            positions, places = positions[other], places[other]
        extended = self._extend(tokens, positions, places)
        whole = np.asarray([number for number, _ in self._wholes], np.int64)[numbers[~seeded] - len(self._seeds)]
        at, length = found[~seeded], self._matcher.lengths[numbers[~seeded]]
        runs = Runs(*map(np.concatenate, zip(extended, (whole, 0 * whole, at, length), strict=True)))
        if elsewhere:
            runs = runs[self.group[self.text_of[runs.position]] != self.group[runs.text]]
        return runs[np.lexsort((runs.start, runs.text, runs.position))]

    def given_away(self, runs: Runs) -> Iterator[Runs]:
        """Of runs in other groups' texts, those of each text and each group that gives it away."""
        group = self.group[self.text_of[runs.position]]
        order = np.lexsort((group, runs.text))
        runs, group = runs[order], group[order]
        first = np.flatnonzero((np.diff(runs.text, prepend=-1) != 0) | (np.diff(group, prepend=-1) != 0))
        longest = np.maximum.reduceat(runs.length, first) if len(first) else first
        secret = np.asarray([bool(text.secrets) for text in self.texts], bool)
        likely = (longest >= COVERED * self._content_of(runs.text[first])) | secret[runs.text[first]]  # a quick look
        for start, end in zip(first[likely], np.append(first[1:], len(group))[likely], strict=True):
            if self._tells(runs[np.arange(start, end)]):
                yield runs[np.arange(start, end)]

    def _tells(self, runs: Runs) -> bool:
        """Whether runs of one text give it away."""
        text, first = self.texts[runs.text[0]], self.first[runs.text[0]]
        if text.wholes:
            return True
        low, high = text.interior
        spans = [slice(start, start + length) for start, length in zip(runs.start, runs.length, strict=True)]
        if any(span.start <= max(start, low) and min(end, high) <= span.stop for start, end in text.secrets for span in spans):
            return True
        covered = np.zeros(len(text.tokens), bool)
        for span in spans:
            covered[span] = True
        kinds = (text.content, self.content[first : first + len(text.tokens)])  # with form, and without
        half = any(all(kind[span].sum() >= COVERED * kind[low:high].sum() for kind in kinds) for span in spans)
        return half and (not text.targets or any(covered[max(start, low) : min(end, high)].all() for start, end in text.targets))

    def _content_of(self, texts: np.ndarray) -> np.ndarray:
        """How many tokens of content each of some texts has."""
        return self._contents[self.first[texts] + self.lengths[texts]] - self._contents[self.first[texts]]

    def _add_seeds(self) -> None:
        """Choose the windows that are looked for: `_seeds`, and where in `tokens` each stands (`_places`, `_begin`, `_count`)."""
        size = min(SEED, 2 ** (self.ngram.bit_length() - 1))
        stride = self.ngram - size + 1
        long = [number for number, text in enumerate(self.texts) if not text.wholes]
        ranges = [np.arange(self._low[number], self._high[number] - size + 1, stride) for number in long]
        places = np.concatenate([np.empty(0, np.int64), *ranges])
        seeds, which = np.unique(self.tokens[places[:, None] + np.arange(size)], axis=0, return_inverse=True)
        which = which.reshape(-1)

        positions, numbers = Matcher(list(seeds)).find(self.tokens)
        common = self._common(numbers, self.text_of[positions], len(seeds))
        form = positions[common[numbers]]
        edges = np.bincount(form, minlength=len(self.tokens) + size) - np.bincount(form + size, minlength=len(self.tokens) + size)
        self.content &= np.cumsum(edges)[: len(self.tokens)] == 0

        self._contents = np.concatenate([[0], np.cumsum(self.content)])  # content tokens before each place
        first, last = np.maximum(places + size - self.ngram, 0), np.minimum(places + self.ngram, len(self.tokens))
        useful = ~common[which] & (self._contents[last] > self._contents[first]) & self._wanted[self.text_of[places]]
        kept, which = np.unique(which[useful], return_inverse=True)
        self._seeds = seeds[kept]
        self._places = places[useful][np.argsort(which, kind="stable")]
        self._count = np.bincount(which, minlength=len(kept))
        self._begin = np.cumsum(self._count) - self._count

    def _common(self, seeds: np.ndarray, texts: np.ndarray, count: int) -> np.ndarray:
        """Whether each of `count` seeds is form, given in which texts they stand."""
        sets = {name: number for number, name in enumerate(dict.fromkeys(text.item_set for text in self.texts))}
        set_of = np.zeros(self.group.max(initial=0) + 1, np.int64)  # of each group
        set_of[self.group] = [sets[text.item_set] for text in self.texts]
        standing = np.unique(np.stack([seeds, self.group[texts]]), axis=1)
        found, groups = np.unique(np.stack([standing[0], set_of[standing[1]]]), axis=1, return_counts=True)
        limit = np.maximum(COMMON, COMMON_SHARE * np.bincount(set_of[np.unique(self.group)], minlength=len(sets)))
        common = np.zeros(count, bool)
        common[found[0][groups > limit[found[1]]]] = True
        return common

    def _expand(self, positions: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each position with each of the places where its seed stands."""
        counts = self._count[seeds]
        each = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(self._begin[seeds], counts)
        return np.repeat(positions, counts), self._places[each]

    def _extend(self, tokens: np.ndarray, positions: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, ...]:
        """Seeds made as long as possible both ways: text, start, position, length of each distinct run that is long enough."""
        text = self.text_of[places]
        steps_back = np.minimum(places - self._low[text], positions)
        steps_on = np.minimum(self._high[text] - places, len(tokens) - positions)
        back = self._equal(tokens, positions, places, steps_back, -1)
        on = self._equal(tokens, positions - 1, places - 1, steps_on, 1)
        start, length = places - back, back + on
        held = self._contents[start + length] - self._contents[start]
        needed = COVERED * np.minimum(self.ngram, self._content_of(text))
        counts = (length >= self.ngram) & (held > 0) & (held >= needed)
        distinct = np.unique(np.stack([positions[counts] - back[counts], start[counts], length[counts]]), axis=1)
        text = self.text_of[distinct[1]]
        return text, distinct[1] - self.first[text], distinct[0], distinct[2]

    def _equal(self, tokens: np.ndarray, positions: np.ndarray, places: np.ndarray, most: np.ndarray, direction: int) -> np.ndarray:
        """How many tokens after (or before) each position equal those after (or before) its place, up to `most`."""
        equal = np.zeros(len(positions), np.int64)
        alive = np.flatnonzero(most > 0)
        while len(alive):
            equal[alive] += 1
            reach = direction * equal[alive]
            same = tokens[positions[alive] + reach] == self.tokens[places[alive] + reach]
            equal[alive[~same]] -= 1
            alive = alive[same]
            alive = alive[equal[alive] < most[alive]]
        return equal
