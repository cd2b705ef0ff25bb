import re
from collections import Counter
from math import log2

import pytest

from configs.errors import RecipeError
from configs.insert import KeyValueSet
from inject.items import key_value
from inject.items.make import lint


def make(count=100, seed=3, **options):
    return key_value.make(KeyValueSet(count=count, **options), "registry", seed, material=None)


def test_the_text_asks_for_the_value_of_the_key_and_tells_it():
    for item in make():
        assert re.fullmatch(r"[a-z0-9]{8}", item.fields["key"])
        assert re.fullmatch(r"[a-z0-9]{8}", item.fields["value"])
        assert [text.text for text in item.texts] == [f"The value of key {item.fields['key']} is? {item.fields['value']}"]


def test_spans_are_where_key_and_value_stand():
    for item in make():
        (text,) = item.texts
        assert {span.field: text.text[span.start : span.end] for span in text.spans} == item.fields


def test_the_probe_asks_for_all_of_the_value_after_all_that_precedes_it():
    for item in make():
        (probe,) = item.probes
        assert (probe.kind, probe.field, probe.context) == ("verbatim", "value", "verbatim")
        assert probe.prompt == f"The value of key {item.fields['key']} is? "
        assert probe.target == item.fields["value"]


@pytest.mark.parametrize(
    ("options", "bits"),
    [({}, 8 * log2(36)), ({"value_length": 3, "key_length": 5}, 3 * log2(36)), ({"alphabet": "digits"}, 8 * log2(10))],
)
def test_bits_are_those_of_the_value_alone(options, bits):
    for item in make(count=4, **options):
        assert item.probes[0].bits == pytest.approx(bits)
        assert item.probes[0].prior == pytest.approx(2**-bits)


def test_keys_and_values_have_the_lengths_and_characters_asked_for():
    for item in make(key_length=5, value_length=12, alphabet="letters"):
        assert re.fullmatch(r"[a-z]{5}", item.fields["key"])
        assert re.fullmatch(r"[a-z]{12}", item.fields["value"])


def test_no_two_items_share_a_key_even_where_half_of_all_keys_are_taken():
    keys = [item.fields["key"] for item in make(count=50, key_length=2, alphabet="digits")]
    assert len(set(keys)) == 50


def test_values_are_uniform_and_may_be_equal():
    values = [item.fields["value"] for item in make(count=5000, value_length=1)]
    counts = Counter(values)
    assert len(counts) == 36
    expected = 5000 / 36
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 66.6  # chi-square, 35 degrees, p = 0.001


def test_every_item_is_its_own_group_and_all_can_be_inserted_together():
    items = make(count=500)
    assert [item.group for item in items] == [item.item_id for item in items]
    lint(items)


def test_the_same_seed_makes_the_same_items_and_another_seed_others():
    assert make(seed=3) == make(seed=3)
    assert make(seed=3)[0].fields != make(seed=4)[0].fields


def test_a_larger_set_begins_with_the_smaller_one():
    assert make(count=20)[:10] == make(count=10)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alphabet": "runes"}, r"alphabet is 'runes'; possible: alphanumeric, letters, digits"),
        ({"key_length": 0}, r"key_length is 0; 1 to 64 are possible"),
        ({"value_length": 65}, r"value_length is 65; 1 to 64 are possible"),
        (
            {"count": 51, "key_length": 2, "alphabet": "digits"},
            r"count is 51; with key_length=2 and alphabet=digits, up to 50 pairs",
        ),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(options, sentence):
    with pytest.raises(RecipeError, match=r"insert\.registry\." + sentence):
        make(**{"count": 10, **options})
