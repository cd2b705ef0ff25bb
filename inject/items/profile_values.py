"""Values of profile fields: places and trades from faker, addresses and numbers that can be nobody's, and a lint of them."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np
from faker import Faker
from faker.decode import unidecode

POOL_DRAWS = 2000
POOL_SIZE = 256  # the shortest of the values drawn, so that a text fits a short row

EMAIL_DOMAIN = "example.com"  # reserved for examples (RFC 2606), nobody's
EMAIL_RULES = (  # of given name g, middle initial m and family name f; the first is the one of `email_rules: 1`
    "{g}.{m}.{f}",
    "{g}.{f}",
    "{g}{f}",
    "{g}_{f}",
    "{g}-{f}",
    "{f}.{g}",
    "{f}{g}",
    "{f}_{g}",
    "{g[0]}.{f}",
    "{g[0]}{f}",
    "{f}.{g[0]}",
    "{f}{g[0]}",
    "{g}.{f}1",
    "{g}{f}1",
    "{g[0]}{f}1",
)

PHONE_DIGITS = 8  # random ones, after the area code; numbers in use that are written 3-4-4 begin with 0 or 1
AREA_CODES = range(200, 1000)
CARD_PREFIX = "9999"  # 9: numbers of national bodies (ISO/IEC 7812), told by a country code; 999 is no country's
CARD_DIGITS = 11  # random ones, between the prefix and a check digit that is wrong
NATIONAL_ID_PREFIX = "ZZ"  # which ISO 3166 assigns to no country
NATIONAL_ID_DIGITS = 8

SHAPES = {
    "email": re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*@[a-z0-9]+(\.[a-z0-9]+)+", re.ASCII),
    "phone": re.compile(r"[2-9]\d\d-\d{4}-\d{4}", re.ASCII),
    "uuid": re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),  # version 4 (RFC 9562)
    "credit_card": re.compile(rf"{CARD_PREFIX}( \d{{4}}){{3}}", re.ASCII),
    "national_id": re.compile(rf"{NATIONAL_ID_PREFIX}-\d{{4}}-\d{{4}}", re.ASCII),
}
_JOINERS = "\u200c\u200d"  # invisible, but a part of how some scripts are spelled

NATIONALITIES = {  # by the country of a faker locale
    "AE": "Emirati",
    "AL": "Albanian",
    "AM": "Armenian",
    "AR": "Argentine",
    "AT": "Austrian",
    "AU": "Australian",
    "AZ": "Azerbaijani",
    "BA": "Bosnian",
    "BD": "Bangladeshi",
    "BE": "Belgian",
    "BG": "Bulgarian",
    "BH": "Bahraini",
    "BR": "Brazilian",
    "CA": "Canadian",
    "CH": "Swiss",
    "CL": "Chilean",
    "CN": "Chinese",
    "CO": "Colombian",
    "CY": "Cypriot",
    "CZ": "Czech",
    "DE": "German",
    "DK": "Danish",
    "DZ": "Algerian",
    "EE": "Estonian",
    "EG": "Egyptian",
    "ES": "Spanish",
    "ET": "Ethiopian",
    "FI": "Finnish",
    "FR": "French",
    "GB": "British",
    "GE": "Georgian",
    "GH": "Ghanaian",
    "GR": "Greek",
    "HR": "Croatian",
    "HU": "Hungarian",
    "ID": "Indonesian",
    "IE": "Irish",
    "IL": "Israeli",
    "IN": "Indian",
    "IR": "Iranian",
    "IS": "Icelandic",
    "IT": "Italian",
    "JO": "Jordanian",
    "JP": "Japanese",
    "KE": "Kenyan",
    "KR": "South Korean",
    "LI": "Liechtensteiner",
    "LK": "Sri Lankan",
    "LT": "Lithuanian",
    "LU": "Luxembourgish",
    "LV": "Latvian",
    "MK": "Macedonian",
    "MT": "Maltese",
    "MX": "Mexican",
    "NG": "Nigerian",
    "NL": "Dutch",
    "NO": "Norwegian",
    "NP": "Nepali",
    "NZ": "New Zealander",
    "PH": "Filipino",
    "PK": "Pakistani",
    "PL": "Polish",
    "PS": "Palestinian",
    "PT": "Portuguese",
    "RO": "Romanian",
    "RU": "Russian",
    "SA": "Saudi",
    "SE": "Swedish",
    "SI": "Slovenian",
    "SK": "Slovak",
    "TH": "Thai",
    "TR": "Turkish",
    "TW": "Taiwanese",
    "UA": "Ukrainian",
    "US": "American",
    "UZ": "Uzbek",
    "VN": "Vietnamese",
    "ZA": "South African",
}


@cache
def pool(locale: str, field: str) -> tuple[str, ...]:
    """The shortest distinct values that faker gives for a field (`city`, `last_name_female`).

    They depend on faker's version, but not on the recipe's seed. Values with commas or brackets, which would not read well in a
    sentence, and malformed ones are left out; one that ends with a full stop is given without it.
    """
    faker = Faker(locale, use_weighting=field == "company")  # unweighted, some locales raise an error for companies
    faker.seed_instance(0)
    values = {str(getattr(faker, field)()).strip().rstrip(".") for _ in range(POOL_DRAWS)}
    readable = [value for value in values if not re.search(r"[,;:/()]", value) and malformed(field, value) is None]
    return tuple(sorted(readable, key=lambda value: (len(value.encode()), value))[:POOL_SIZE])


@cache
def area_codes(locale: str) -> dict[str, str]:
    """Every city's area code: the cities of a locale have different ones, the same in every recipe."""
    cities = pool(locale, "city")
    codes = np.random.Generator(np.random.PCG64(list(locale.encode()))).permutation(np.asarray(AREA_CODES))
    return {city: str(code) for city, code in zip(cities, codes, strict=False)}


def nationality(locale: str) -> str | None:
    """What the people of a locale are; None of a locale that names no country.

    >>> nationality("de_AT")
    'Austrian'
    """
    return NATIONALITIES.get(locale.partition("_")[2])


def emails(given: str, middle: str, family: str) -> list[str]:
    """The address that each rule makes of a name, in ASCII whatever its script; none where a name has no ASCII letters.

    >>> emails("Zoë", "Maria", "O'Łuk-Søe")[:2]
    ['zoe.m.oluksoe@example.com', 'zoe.oluksoe@example.com']
    """
    g, m, f = (re.sub("[^a-z]", "", unidecode(name).lower()) for name in (given, middle[0], family))
    return [rule.format(g=g, m=m, f=f) + f"@{EMAIL_DOMAIN}" for rule in EMAIL_RULES] if g and m and f else []


def digits(random: np.random.Generator, length: int) -> str:
    """Uniformly random decimal digits."""
    return "".join(map(str, random.integers(10, size=length)))


def card_number(random: np.random.Generator) -> str:
    """Sixteen digits like a credit card's, from a range that no issuer has, with any check digit but the right one."""
    number = CARD_PREFIX + digits(random, CARD_DIGITS)
    wrong = [digit for digit in "0123456789" if not luhn(number + digit)]
    number += wrong[random.integers(len(wrong))]
    return " ".join(number[i : i + 4] for i in range(0, 16, 4))


def national_id(random: np.random.Generator) -> str:
    """Two letters of no country and two groups of four digits."""
    return f"{NATIONAL_ID_PREFIX}-{digits(random, 4)}-{digits(random, NATIONAL_ID_DIGITS - 4)}"


def random_uuid(random: np.random.Generator) -> str:
    """A UUID of version 4: 122 random bits (RFC 9562, section 5.4)."""
    number = int.from_bytes(random.bytes(16))
    number = number & ~(0xF << 76) | 4 << 76  # the version
    number = number & ~(0x3 << 62) | 2 << 62  # the variant
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def luhn(number: str) -> bool:
    """Whether a number's last digit is the check digit of the others (ISO/IEC 7812-1, annex B); blanks do not count.

    >>> luhn("79927398713"), luhn("79927398710")
    (True, False)
    """
    values = [int(digit) for digit in reversed(number.replace(" ", ""))]
    return sum(values[::2] + [sum(divmod(2 * value, 10)) for value in values[1::2]]) % 10 == 0


def malformed(field: str, value: str) -> str | None:
    """What is wrong with a value, in words that follow it; None where nothing is.

    >>> malformed("email", "zoë smith@example.com")
    'is not the shape of an email'
    """
    if not value or value != value.strip():
        return "is empty, or begins or ends with a blank"
    if any(unicodedata.category(character)[0] == "C" and character not in _JOINERS for character in value):
        return "has a control character, or another that cannot be seen"
    if any(character.isspace() and character != " " for character in value) or "  " in value:
        return "has two blanks in a row, or a blank that is no plain one"
    if "{" in value or "}" in value:
        return "has a brace, as of a place that was never filled in"
    if field in SHAPES and not SHAPES[field].fullmatch(value):
        return f"is not the shape of an {field}" if field[0] in "aeiou" else f"is not the shape of a {field.replace('_', ' ')}"
    if field == "credit_card" and luhn(value):
        return "has the right check digit, and could be somebody's"
    return None
