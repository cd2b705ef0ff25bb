from collections import Counter
from math import log2

import numpy as np
import pytest

from configs.errors import RecipeError
from configs.insert import RandomTokenSet
from inject.items import random_tokens
from inject.items.item import Material
from inject.items.make import lint
from inject.items.texts import tokenize_texts


@pytest.fixture(scope="module")
def material(small_corpus):
    return Material(small_corpus.tokenizer, small_corpus.vocabulary)


@pytest.fixture
def make(material):
    def make(count=30, seed=3, **settings):
        return random_tokens.make(RandomTokenSet(count=count, **settings), "noise", seed, material)

    return make


def tokens(items):
    return [item.texts[0].tokens for item in items]


def test_items_are_divided_evenly_over_the_lengths_each_a_stratum(make):
    items = make(count=12, length=[16, 32, 64])
    assert Counter(item.stratum for item in items) == {"noise/16": 4, "noise/32": 4, "noise/64": 4}
    assert all(item.stratum == f"noise/{len(item.texts[0].tokens)}" for item in items)


def test_every_token_but_the_special_ones_is_drawn_equally_often(make, material):
    drawn = np.concatenate(tokens(make(count=300, length=[100])))
    counts = np.bincount(drawn, minlength=material.vocabulary)
    special = material.tokenizer.all_special_ids
    assert counts[special].sum() == 0
    ordinary = np.delete(counts, special)
    expected, freedom = ordinary.mean(), len(ordinary) - 1
    assert ((ordinary - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)  # chi-square, 4 deviations


def test_neighbouring_tokens_are_independent(make):
    """Pairs of a vocabulary of 3 are equally frequent: chi-square of 8 degrees of freedom, p = 0.001."""
    pairs = Counter(
        pair for ids in tokens(make(count=200, length=[80], vocabulary=3)) for pair in zip(ids[::2], ids[1::2], strict=True)
    )
    expected = sum(pairs.values()) / 9
    assert len(pairs) == 9
    assert sum((count - expected) ** 2 / expected for count in pairs.values()) < 26.1


def test_a_vocabulary_are_the_lowest_ids_that_are_not_special(make, material):
    ordinary = [token for token in range(material.vocabulary) if token not in material.tokenizer.all_special_ids]
    assert {token for ids in tokens(make(vocabulary=5)) for token in ids} == set(ordinary[:5])


def test_the_entropy_is_that_of_the_tokens(make):
    item = make(count=1, length=[20], prefix=4, vocabulary=8)[0]
    (probe,) = item.probes
    assert item.fields == {"length": "20", "vocabulary": "8", "space_bits": "60"}
    assert probe.bits == 48
    assert probe.prior == 2.0**-48


def test_by_default_all_but_the_end_of_text_can_be_drawn(make):
    item = make(count=1, length=[64], prefix=8)[0]
    assert item.fields["vocabulary"] == "299"
    assert item.probes[0].bits == pytest.approx(56 * log2(299))


def test_the_probe_asks_for_the_tokens_after_the_prefix(make, material):
    items = make(length=[16, 32], prefix=5)
    for item, row in zip(items, tokenize_texts(items, material.tokenizer, sequence_length=128), strict=True):
        assert row["tokens"] == item.texts[0].tokens
        assert row["targets"] == [{"probe_id": "verbatim/suffix", "start": 5, "end": len(row["tokens"])}]


def test_texts_prompts_and_targets_are_decoded_for_people(make, material):
    item = make(count=1, prefix=4)[0]
    (text,), (probe,) = item.texts, item.probes
    decode = material.tokenizer.decode
    assert (text.text, probe.prompt, probe.target) == (decode(text.tokens), decode(text.tokens[:4]), decode(text.tokens[4:]))


def test_no_two_items_share_a_prefix_however_few_there_are(make):
    items = make(count=32, length=[8, 12], prefix=3, vocabulary=4)
    assert len({tuple(ids[:3]) for ids in tokens(items)}) == 32
    lint(items)  # though many of these tokens, being parts of characters, look alike


def test_near_duplicates_stay_within_the_vocabulary(make):
    for item in make(count=5, length=[12], vocabulary=6, near_duplicates=2, edits=4):
        assert [text.variant for text in item.texts] == ["verbatim", "near-1", "near-2"]
        assert {token for text in item.texts for token in text.tokens} <= {1, 2, 3, 4, 5, 6}
        assert [probe.context for probe in item.probes] == ["verbatim"]


def test_the_same_seed_makes_the_same_items_and_another_seed_others(make):
    assert make(seed=3) == make(seed=3)
    assert tokens(make(seed=3)) != tokens(make(seed=4))


def test_a_larger_set_begins_with_the_smaller_one(make):
    settings = {"length": [10, 20], "near_duplicates": 1}
    assert make(count=20, **settings)[:10] == make(count=10, **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"length": []}, r"length is \[\]; name one or more lengths of 2 tokens or more, each once"),
        ({"length": [64, 1]}, r"length is \[64, 1\]"),
        ({"length": [64, 64]}, r"length is \[64, 64\]"),
        ({"prefix": 0}, r"prefix is 0; of sequences of 64 tokens it can be 1 to 63"),
        ({"length": [64, 8], "prefix": 8}, r"prefix is 8; of sequences of 8 tokens it can be 1 to 7"),
        ({"vocabulary": 1}, r"vocabulary is 1; the tokenizer has 299 tokens that are not special, of which 2 to 299"),
        ({"vocabulary": 300}, r"vocabulary is 300; the tokenizer has 299 tokens"),
        ({"vocabulary": 2, "prefix": 3, "count": 5}, r"count is 5; with prefix=3 of 2 tokens, sequences up to 4 can be told apart"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(make, given, message):
    with pytest.raises(RecipeError, match=r"insert\.noise\." + message):
        make(**given)
