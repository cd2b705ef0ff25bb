"""Values that read well and can be nobody's."""

import re
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inject.items import profile_values as values

seeds = st.integers(0, 2**64 - 1)
quick = settings(max_examples=100, deadline=None)  # shared machines stall


def generator(seed):
    return np.random.Generator(np.random.PCG64(seed))


# ------------------------------------------------------------------------------------------------ places and trades


def test_a_pool_is_the_same_when_made_again():
    before = values.pool("en_US", "city")
    values.pool.cache_clear()
    assert values.pool("en_US", "city") == before


@pytest.mark.parametrize("locale", ["en_US", "fr_FR", "hu_HU", "ja_JP"])
@pytest.mark.parametrize("field", ["city", "company", "street_name"])
def test_a_pool_has_distinct_values_that_read_well_in_a_sentence(locale, field):
    pool = values.pool(locale, field)
    assert 10 <= len(pool) == len(set(pool)) <= values.POOL_SIZE
    assert not any(re.search(r"[,;:/()\n]|\.$|^\s|\s$", value) for value in pool)


@pytest.mark.parametrize("locale", ["en_US", "ja_JP"])
def test_every_city_has_an_area_code_of_its_own(locale):
    codes = values.area_codes(locale)
    assert list(codes) == list(values.pool(locale, "city"))
    assert len(set(codes.values())) == len(codes)
    assert all(re.fullmatch(r"[2-9]\d\d", code) for code in codes.values())


def test_area_codes_are_the_same_when_made_again():
    before = values.area_codes("en_US")
    values.area_codes.cache_clear()
    assert values.area_codes("en_US") == before


def test_a_locale_without_a_country_has_no_nationality():
    assert [values.nationality(locale) for locale in ("la", "ar_AA", "pt_BR")] == [None, None, "Brazilian"]


# ------------------------------------------------------------------------------------------------ emails


def test_rules_make_fifteen_emails_of_a_name():
    assert values.emails("Ann", "Beth", "Lee") == [
        f"{user}@example.com"
        for user in (
            *("ann.b.lee", "ann.lee", "annlee", "ann_lee", "ann-lee", "lee.ann", "leeann", "lee_ann"),
            *("a.lee", "alee", "lee.a", "leea", "ann.lee1", "annlee1", "alee1"),
        )
    ]


@pytest.mark.parametrize("name", [("Jiří", "Šimon", "Dvořák"), ("Пётр", "Иван", "Щукин"), ("花子", "美", "鈴木")])
def test_an_email_is_ascii_whatever_the_script_of_the_name(name):
    for email in values.emails(*name):
        assert re.fullmatch(r"[a-z0-9._-]+@example\.com", email)
        assert values.malformed("email", email) is None


def test_a_name_without_letters_makes_no_email():
    assert values.emails("--", "B", "Lee") == []


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("number", "right"),
    [("4111 1111 1111 1111", True), ("4111 1111 1111 1112", False), ("1111 1111 1111 1114", False), ("0", True), ("18", True)],
)
def test_the_luhn_check_knows_test_numbers(number, right):
    assert values.luhn(number) is right


@quick
@given(st.text("0123456789", min_size=1, max_size=19))
def test_of_ten_check_digits_one_is_right(number):
    assert sum(values.luhn(f"{number}{digit}") for digit in range(10)) == 1


@quick
@given(seeds)
def test_a_card_number_fails_the_luhn_check_and_is_of_no_issuer(seed):
    number = values.card_number(generator(seed))
    assert re.fullmatch(r"9999( \d{4}){3}", number)
    assert not values.luhn(number)


def test_every_wrong_check_digit_is_as_likely():
    random = generator(1)
    counts = np.zeros(10, int)
    for number in (values.card_number(random) for _ in range(900)):
        right = next(digit for digit in range(10) if values.luhn(f"{number[:-1]}{digit}"))
        counts[(int(number[-1]) - right) % 10] += 1
    assert counts[0] == 0
    assert ((counts[1:] - 100) ** 2 / 100).sum() < 8 + 4 * np.sqrt(2 * 8)


@quick
@given(seeds)
def test_a_uuid_is_of_version_4(seed):
    text = values.random_uuid(generator(seed))
    assert str(uuid.UUID(text)) == text
    assert (uuid.UUID(text).version, uuid.UUID(text).variant) == (4, uuid.RFC_4122)


def test_all_other_bits_of_a_uuid_are_random():
    random = generator(1)
    numbers = [uuid.UUID(values.random_uuid(random)).int for _ in range(200)]
    changing = np.bitwise_or.reduce([number ^ numbers[0] for number in numbers])
    assert changing.bit_count() == 122


@quick
@given(seeds)
def test_a_national_id_begins_with_no_countrys_letters(seed):
    assert re.fullmatch(r"ZZ-\d{4}-\d{4}", values.national_id(generator(seed)))


# ------------------------------------------------------------------------------------------------ lint


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("email", "antoine philoctète@example.com", "shape of an email"),
        ("email", "zoë@example.com", "shape of an email"),
        ("email", "ann..lee@example.com", "shape of an email"),
        ("city", "", "empty"),
        ("city", " Oslo", "begins or ends with a blank"),
        ("city", "Oslo ", "begins or ends with a blank"),
        ("city", "New  York", "two blanks"),
        ("city", "New\u00a0York", "no plain one"),
        ("city", "New\nYork", "control character"),
        ("city", "Os\u200blo", "cannot be seen"),
        ("employer", "{company} Ltd", "brace"),
        ("phone", "055-1234-5678", "shape of a phone"),
        ("phone", "٥٥٥-1234-5678", "shape of a phone"),
        ("credit_card", "4111 1111 1111 1111", "shape of a credit card"),
        ("credit_card", "9999 0000 0000 0004", "right check digit"),
        ("national_id", "078-05-1120", "shape of a national id"),
        ("uuid", "0" * 36, "shape of an uuid"),
    ],
)
def test_a_malformed_value_is_told_with_its_fault(field, value, fault):
    assert fault in values.malformed(field, value)


@pytest.mark.parametrize(
    ("field", "value"), [("city", "São Paulo"), ("city", "川崎市"), ("name", "می\u200cنا"), ("email", "ann.b-c_d1@example.com")]
)
def test_a_well_formed_value_has_no_fault(field, value):
    assert values.malformed(field, value) is None
