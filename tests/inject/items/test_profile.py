"""People: what agrees in them, how they are spread, and what is left to guess."""

from collections import Counter
from datetime import datetime
from itertools import islice
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inject.items import profile
from inject.items.profile import (
    BORN_BEFORE,
    BORN_FROM,
    FIELDS,
    REFERENCE_YEAR,
    Odds,
    Person,
    Population,
    alternatives,
    draw,
    odds,
    people,
)
from inject.items.profile_values import area_codes, emails, malformed, pool

AMERICANS = Population(("en_US",))
TWO_COUNTRIES = Population(("en_US", "de_DE"))
quick = settings(max_examples=60, deadline=None)  # shared machines stall


def generator(seed=3):
    return np.random.Generator(np.random.PCG64(seed))


def some(count, population=AMERICANS, seed=3):
    return list(islice(people(generator(seed), population), count))


PEOPLE = some(500)
PERSON = PEOPLE[0]


# ------------------------------------------------------------------------------------------------ what agrees


def test_a_person_has_a_name_and_every_field():
    assert set(PERSON.fields) == {"name", *FIELDS}


def test_an_email_follows_from_the_name():
    for person in PEOPLE:
        given_name, middle, family = person.fields["name"].lower().split()
        assert person.fields["email"] == f"{given_name}.{middle[0]}.{family}@example.com"


def test_with_several_rules_each_makes_as_many_emails():
    population = Population(("en_US",), email_rules=5)
    rules = Counter(emails(*person.names).index(person.fields["email"]) for person in some(1000, population))
    assert set(rules) == set(range(5))
    assert max(rules.values()) < 200 + 4 * np.sqrt(1000 * 0.2 * 0.8)


def test_an_age_follows_from_the_birth_date():
    for person in PEOPLE:
        born = datetime.strptime(person.fields["birth_date"], "%d %B %Y").date()
        assert int(person.fields["age"]) == REFERENCE_YEAR - born.year


def test_an_area_code_follows_from_the_city():
    for person in some(300, TWO_COUNTRIES):
        assert person.fields["phone"].split("-")[0] == area_codes(person.locale)[person.fields["city"]]


def test_nationality_and_places_follow_from_the_locale():
    for person in some(100, TWO_COUNTRIES):
        cities = pool(person.locale, "city")
        assert person.fields["nationality"] == {"en_US": "American", "de_DE": "German"}[person.locale]
        assert person.fields["birthplace"] in cities
        assert person.fields["city"] in cities
        assert person.fields["university"].removeprefix("University of ") in cities


def test_locales_take_turns():
    assert [person.locale for person in some(5, TWO_COUNTRIES)] == ["en_US", "de_DE", "en_US", "de_DE", "en_US"]


def test_names_are_distinct_and_so_are_the_given_names_of_one():
    assert len({person.fields["name"] for person in PEOPLE}) == len(PEOPLE)
    assert all(person.names[0] != person.names[1] for person in PEOPLE)


@pytest.mark.parametrize("locale", ["en_US", "de_DE", "cs_CZ", "ru_RU", "ja_JP", "hu_HU", "es_CL", "ar_EG"])
def test_no_value_is_malformed_whatever_the_script(locale):
    for person in some(20, Population((locale,), email_rules=15)):
        assert [(field, value) for field, value in person.fields.items() if malformed(field, value)] == []


# ------------------------------------------------------------------------------------------------ how they are spread


def test_cities_are_uniform_over_their_pool():
    cities = [person.fields["city"] for person in some(1500)]
    choices = list(pool("en_US", "city"))
    counts = np.bincount([choices.index(city) for city in cities], minlength=len(choices))
    expected = len(cities) / len(choices)
    degrees = len(choices) - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 4 * np.sqrt(2 * degrees)


def test_birth_dates_lie_in_their_range():
    dates = [datetime.strptime(person.fields["birth_date"], "%d %B %Y").date() for person in PEOPLE]
    assert BORN_FROM <= min(dates) <= max(dates) < BORN_BEFORE


@quick
@given(st.integers(25, 74), st.integers(0, 2**32))
def test_a_birth_date_drawn_for_an_age_agrees_with_it(age, seed):
    born = draw(generator(seed), "birth_date", "en_US", {"age": str(age)})
    assert draw(generator(seed), "age", "en_US", {"birth_date": born}) == str(age)


def test_a_city_drawn_for_a_phone_number_has_its_area_code():
    assert draw(generator(), "city", "en_US", PERSON.fields) == PERSON.fields["city"]


# ------------------------------------------------------------------------------------------------ what is left to guess


def test_of_equally_likely_values_a_guess_is_right_once_in_their_number():
    assert Odds.uniform(8) == Odds(3.0, 0.125)


def test_of_unequal_values_the_likeliest_is_the_best_guess():
    assert Odds.of([2, 1, 1, 0]) == Odds(1.5, 0.5)


@pytest.mark.parametrize(
    ("field", "known", "ways"),
    [
        ("birth_date", (), 18262),  # 50 years, 12 of them leap years
        ("age", ("birth_date",), 1),
        ("city", ("phone",), 1),
        ("city", ("birthplace", "university"), 256),
        ("phone", ("city",), 10**8),
        ("phone", (), 256 * 10**8),
        ("address", ("city",), 999 * 256),
        ("email", (), 1),
        ("uuid", FIELDS, 2**122),
        ("credit_card", FIELDS, 9 * 10**11),
        ("national_id", FIELDS, 10**8),
        ("employer", FIELDS, 256),
    ],
)
def test_odds_count_what_may_still_be(field, known, ways):
    found = odds(field, PERSON, set(known) - {field}, AMERICANS)
    assert (found.bits, found.prior) == (log2(ways), 1 / ways)


@pytest.mark.parametrize(("age", "days"), [(24, 366), (25, 365), (28, 366)])
def test_an_age_leaves_the_days_of_one_year(age, days):
    person = next(iter(some(1)))
    person.fields["age"] = str(age)
    assert odds("birth_date", person, {"age"}, AMERICANS).prior == 1 / days


def test_an_age_is_a_little_likelier_where_its_year_is_a_leap_year():
    found = odds("age", PERSON, set(), AMERICANS)
    share, leap_share = 365 / 18262, 366 / 18262
    assert found.prior == pytest.approx(leap_share)
    assert found.bits == pytest.approx(-(38 * share * log2(share) + 12 * leap_share * log2(leap_share)))


def test_the_nationality_of_a_population_of_one_locale_is_known():
    assert odds("nationality", PERSON, set(), AMERICANS) == Odds(0, 1)


def test_a_name_that_two_locales_have_leaves_the_nationality_open_until_a_place_is_known(monkeypatch):
    names = {"en_US": (("Ann", "Beth"), ("Lee",)), "de_DE": (("Ann", "Beth", "Cleo", "Dora"), ("Lee",))}
    monkeypatch.setattr(profile, "name_pools", lambda locale: (names[locale], names[locale]))
    person = Person("en_US", ("Ann", "Beth", "Lee"), PERSON.fields)
    guess = odds("nationality", person, set(), TWO_COUNTRIES)
    assert guess.prior == pytest.approx(6 / 7)  # one in 2 of the Americans is called so, and one in 4 * 3 of the Germans
    assert guess.bits == pytest.approx(6 / 7 * log2(7 / 6) + 1 / 7 * log2(7))
    assert odds("nationality", person, {"employer"}, TWO_COUNTRIES) == Odds(0, 1)


# ------------------------------------------------------------------------------------------------ alternatives


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("known", [(), FIELDS])
def test_alternatives_are_distinct_well_formed_and_never_the_persons_own(field, known):
    found = alternatives(generator(), field, PERSON, set(known) - {field}, AMERICANS, 9)
    assert len(set(found)) == len(found) == 9
    assert PERSON.fields[field] not in found
    assert all(malformed(field, value) is None for value in found)


def test_alternative_phone_numbers_have_the_area_code_of_a_known_city():
    code = area_codes("en_US")[PERSON.fields["city"]]
    with_city = alternatives(generator(), "phone", PERSON, {"city"}, AMERICANS, 9)
    without = alternatives(generator(), "phone", PERSON, set(), AMERICANS, 9)
    assert {phone[:3] for phone in with_city} == {code}
    assert {phone[:3] for phone in without} != {code}


def test_alternative_birth_dates_agree_with_a_known_age():
    year = PERSON.fields["birth_date"][-4:]
    assert {born[-4:] for born in alternatives(generator(), "birth_date", PERSON, {"age"}, AMERICANS, 9)} == {year}


def test_alternative_emails_are_those_of_the_other_rules():
    found = alternatives(generator(), "email", PERSON, set(), AMERICANS, 14)
    assert {*found, PERSON.fields["email"]} == set(emails(*PERSON.names))


def test_nationalities_of_the_population_come_first():
    assert alternatives(generator(), "nationality", PERSON, set(), TWO_COUNTRIES, 9)[0] == "German"


def test_a_short_list_gives_what_it_has():
    assert len(alternatives(generator(), "age", PERSON, set(), AMERICANS, 60)) == 49  # of 50
