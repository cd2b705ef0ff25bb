import re
from datetime import datetime
from math import log2

import numpy as np
import pytest

from configs.errors import RecipeError
from configs.schema import ProfileSet
from inject.items import pii


def make(count=50, seed=3, contexts=("biography", "forum"), locale="en_US"):
    return pii.make(ProfileSet(count=count, contexts=list(contexts), locale=locale), "people", seed)


def test_a_person_has_one_text_a_context():
    assert [text.variant for text in make(count=1, contexts=["forum", "biography"])[0].texts] == ["forum", "biography"]


def test_spans_are_where_the_fields_stand():
    for item in make():
        for text in item.texts:
            assert {span.field: text.text[span.start : span.end] for span in text.spans} == item.fields


def test_every_field_but_the_name_is_asked_for_in_every_context():
    item = make(count=1)[0]
    asked = {(probe.context, probe.field) for probe in item.probes}
    assert asked == {(context, field) for context in ("biography", "forum") for field in set(item.fields) - {"name"}}


def test_a_prompt_and_its_target_are_the_beginning_of_the_text():
    for item in make():
        texts = {text.variant: text.text for text in item.texts}
        for probe in item.probes:
            assert probe.target == item.fields[probe.field]
            assert texts[probe.context].startswith(probe.prompt + probe.target)


def test_the_name_comes_before_every_probe():
    """The email follows from the name, and has no bits only if the name is in its prompt."""
    for item in make():
        assert all(item.fields["name"] in probe.prompt for probe in item.probes)


def test_bits_are_the_logarithm_of_how_many_values_are_equally_likely():
    bits = {probe.field: probe.bits for probe in make(count=1)[0].probes}
    assert bits["phone"] == pytest.approx(log2(10**8))
    assert bits["birth_date"] == pytest.approx(log2(50 * 365 + 12))  # 1950 to 1999: 12 leap years
    assert bits["email"] == 0
    assert bits["city"] == log2(len(set(pii.pool("en_US", "city"))))
    assert bits["occupation"] == log2(len(set(pii.pool("en_US", "job"))))


def test_cities_are_uniform_over_their_pool():
    cities = [item.fields["city"] for item in make(count=1500, contexts=["biography"])]
    pool = list(pii.pool("en_US", "city"))
    counts = np.bincount([pool.index(city) for city in cities], minlength=len(pool))
    expected = len(cities) / len(pool)
    degrees = len(pool) - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 4 * np.sqrt(2 * degrees)


def test_birth_dates_lie_in_their_range():
    dates = [datetime.strptime(item.fields["birth_date"], "%d %B %Y").date() for item in make(count=500)]
    assert pii.BORN_FROM <= min(dates) <= max(dates) < pii.BORN_BEFORE


def test_a_phone_number_cannot_be_real():
    assert all(re.fullmatch(r"555-\d{4}-\d{4}", item.fields["phone"]) for item in make())


def test_names_are_distinct():
    assert len({item.fields["name"] for item in make(count=800)}) == 800


def test_an_email_follows_from_the_name():
    for item in make():
        given, middle, family = item.fields["name"].lower().split()
        assert item.fields["email"] == f"{given}.{middle[0]}.{family}@example.com"


@pytest.mark.parametrize("locale", ["cs_CZ", "ru_RU", "ja_JP"])
def test_an_email_is_ascii_whatever_the_script_of_the_name(locale):
    for item in make(locale=locale):
        assert re.fullmatch(r"[a-z]+(\.[a-z]+)+@example\.com", item.fields["email"])


def test_texts_are_short_enough_for_a_short_row():
    assert max(len(text.text) for item in make(count=500) for text in item.texts) <= 200


def test_the_same_seed_makes_the_same_items_and_another_seed_others():
    assert make(seed=3) == make(seed=3)
    assert make(seed=3)[0].fields != make(seed=4)[0].fields


def test_a_pool_is_the_same_when_made_again():
    before = pii.pool("en_US", "city")
    pii.pool.cache_clear()
    assert pii.pool("en_US", "city") == before


def test_a_larger_set_begins_with_the_smaller_one():
    assert make(count=20)[:10] == make(count=10)


def test_adding_a_context_leaves_the_people_as_they_are():
    assert [item.fields for item in make(contexts=["biography"])] == [item.fields for item in make()]


def test_an_unknown_locale_is_refused_with_some_that_are_known():
    with pytest.raises(RecipeError, match=r"insert\.people\.locale is 'en_UK'.*en_US"):
        make(locale="en_UK")


@pytest.mark.parametrize("contexts", [["obituary"], [], ["forum", "forum"]])
def test_impossible_contexts_are_refused_with_those_that_are_known(contexts):
    with pytest.raises(RecipeError, match=r"insert\.people\.contexts.*biography, forum"):
        make(contexts=contexts)


def test_more_people_than_a_locale_has_names_for_are_refused():
    with pytest.raises(RecipeError, match=r"insert\.people\.count"):
        make(count=10**8)
