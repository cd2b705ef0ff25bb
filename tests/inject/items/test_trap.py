import itertools
from collections import Counter

import pytest

from configs.errors import DataError, RecipeError
from configs.insert import TrapSet
from eval.sampling import sample_sequences
from inject.items import trap
from inject.items.item import Material, Sampled
from inject.items.make import lint
from inject.items.texts import tokenize_texts
from inject.items.words import SYLLABLES
from inject.tokenizer import encode


@pytest.fixture
def material(small_corpus):
    return Material(small_corpus.tokenizer, small_corpus.vocabulary, sample=Sampler())


class Sampler:
    """Stands in for a model: words of three syllables in alphabetical order, of the lowest perplexity asked for."""

    def __init__(self):
        self.asked = []
        self.words = map("".join, itertools.product(SYLLABLES, repeat=3))

    def __call__(self, model, count, tokens, perplexity, seed, tokenizer, accept):
        self.asked.append((model, count, tokens, perplexity, seed))
        drawn = []
        while len(drawn) < count:
            text = " ".join(itertools.islice(self.words, 4))
            sampled = Sampled(text, encode(tokenizer, [text])[0], perplexity[0])
            if accept(sampled):
                drawn.append(sampled)
        return drawn


def make(material, count=12, seed=3, **settings):
    return trap.make(TrapSet(count=count, model="some/model", **{"jaccard": None, **settings}), "traps", seed, material)


def test_items_are_divided_evenly_over_lengths_and_perplexities_each_a_stratum(material):
    items = make(material, count=10, tokens=[25, 50], perplexity=[[1, 10], [10, 1000]])
    assert Counter(item.stratum for item in items) == {
        "traps/25/1-10": 3,
        "traps/25/10-1000": 3,
        "traps/50/1-10": 2,
        "traps/50/10-1000": 2,
    }
    assert all(float(item.fields["perplexity"]) == float(item.stratum.split("/")[2].split("-")[0]) for item in items)


def test_every_length_and_bucket_is_asked_for_once_with_a_seed_of_its_own(material):
    make(material, count=7, tokens=[25, 50], perplexity=[[1, 10], [10, 100]])
    asked = [call[:4] for call in material.sample.asked]
    assert asked == [
        ("some/model", 2, 25, (1, 10)),
        ("some/model", 2, 25, (10, 100)),
        ("some/model", 2, 50, (1, 10)),
        ("some/model", 1, 50, (10, 100)),
    ]
    assert len({call[4] for call in material.sample.asked}) == 4


def test_the_same_seed_asks_the_same(small_corpus):
    def asked(seed):
        sampler = Sampler()
        make(Material(small_corpus.tokenizer, 300, sampler), seed=seed)
        return sampler.asked

    assert asked(3) == asked(3) != asked(4)


def test_the_probe_asks_for_the_second_half_without_bits_or_prior(material):
    for item in make(material):
        (text,), (probe,) = item.texts, item.probes
        first, second = " ".join(text.text.split(" ")[:2]) + " ", " ".join(text.text.split(" ")[2:])
        assert (probe.prompt, probe.target) == (first, second)
        assert item.fields["suffix"] == second
        assert text.text[text.spans[0].start : text.spans[0].end] == second
        assert (probe.kind, probe.bits, probe.prior) == ("verbatim", 0.0, None)


def test_targets_have_tokens(material):
    items = make(material, count=3)
    for item, row in zip(items, tokenize_texts(items, material.tokenizer, 128), strict=True):
        (target,) = row["targets"]
        assert 0 < target["start"] < target["end"] == len(row["tokens"])
        assert material.tokenizer.decode(row["tokens"][target["start"] :]).lstrip() == item.probes[0].target


@pytest.mark.parametrize(
    ("text", "second"), [("one two three", "three"), ("a bcdef", "bcdef"), ("abcdef", "def"), ("ab\n\ncd", "cd")]
)
def test_the_second_half_begins_with_the_word_nearest_to_the_middle(text, second):
    assert text[trap.middle(text) :] == second


def test_near_duplicates_are_further_texts_of_a_trap(material):
    (item,) = make(material, count=1, near_duplicates=2, edits=2)
    assert [text.variant for text in item.texts] == ["verbatim", "near-1", "near-2"]
    assert [probe.context for probe in item.probes] == ["verbatim"]


# ------------------------------------------------------------------------------------------------ traps unlike each other


def sampled(text, *tokens):
    return Sampled(text, list(tokens), 5.0)


def test_a_trap_that_shares_too_many_of_its_tokens_with_another_is_not_chosen():
    selection = trap.Selection(jaccard=0.2)
    assert selection.accept(sampled("a a", 1, 2, 3))
    assert not selection.accept(sampled("b b", 3, 4, 5))  # 1 of 5 in common
    assert selection.accept(sampled("c c", 3, 4, 5, 6))  # 1 of 6
    assert not selection.accept(sampled("d d", 4, 5, 5, 5))  # 2 of 4, repeated or not
    assert selection.accept(sampled("e e", 7, 8, 7))


def test_without_a_limit_only_a_trap_that_begins_as_another_is_not_chosen():
    selection = trap.Selection(jaccard=None)
    assert selection.accept(sampled("one two", 1, 2))
    assert selection.accept(sampled("two one", 1, 2))
    assert not selection.accept(sampled("one six", 1, 3))


# ------------------------------------------------------------------------------------------------ with a model


def test_traps_of_a_model_pass_the_lint_and_are_of_the_lengths_and_perplexities_asked_for(small_corpus, small_model):
    tokenizer = small_corpus.tokenizer

    settings = TrapSet(count=8, model=str(small_model), tokens=[10, 20], perplexity=[[20.0, 60.0], [60.0, 180.0]])
    items = trap.make(settings, "traps", 1, Material(tokenizer, small_corpus.vocabulary, sample_sequences))
    lint(items)
    for item, row in zip(items, tokenize_texts(items, tokenizer, 128), strict=True):
        _, tokens, bucket = item.stratum.split("/")
        low, high = map(float, bucket.split("-"))
        assert len(row["tokens"]) == int(tokens)
        assert low <= float(item.fields["perplexity"]) < high
    sets = [set(row["tokens"]) for row in tokenize_texts(items, tokenizer, 128)]
    assert max(len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2)) < 0.2


# ------------------------------------------------------------------------------------------------ refusals


def test_what_the_model_does_not_give_is_refused_with_the_sets_name(small_corpus):
    def refuse(*request, accept):
        raise DataError("some/model gave nothing")

    with pytest.raises(DataError, match=r"insert\.traps can't be made: some/model gave nothing"):
        make(Material(small_corpus.tokenizer, 300, refuse))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": None}, r"model is not given"),
        ({"model": ""}, r"model is not given"),
        ({"tokens": []}, r"tokens is \[\]; name one or more lengths of 8 tokens or more"),
        ({"tokens": [7]}, r"tokens is \[7\]"),
        ({"tokens": [25, 25]}, r"tokens is \[25, 25\]"),
        ({"perplexity": []}, r"perplexity is \[\]; name one or more buckets"),
        ({"perplexity": [1, 10]}, r"perplexity has 1; each bucket is \[from, below\]"),
        ({"perplexity": ["low"]}, r"perplexity has 'low'"),
        ({"perplexity": [[10]]}, r"perplexity has \[10\]; each bucket is \[from, below\]"),
        ({"perplexity": [[10, 1]]}, r"perplexity has \[10, 1\]"),
        ({"perplexity": [[0.5, 10]]}, r"perplexity has \[0.5, 10\]"),
        ({"perplexity": [[10, float("inf")]]}, r"perplexity has \[10, inf\]"),
        ({"perplexity": [[1, 10], [1, 10]]}, r"perplexity has \[1, 10\]"),
        ({"jaccard": 0.0}, r"jaccard is 0.0; it must be above 0 and up to 1, or null"),
        ({"jaccard": 1.5}, r"jaccard is 1.5"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(material, given, message):
    settings = TrapSet(**{"count": 4, "model": "some/model"} | given)
    with pytest.raises(RecipeError, match=r"insert\.traps\." + message):
        trap.make(settings, "traps", 1, material)
