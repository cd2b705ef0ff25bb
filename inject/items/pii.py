"""Profiles of people who do not exist: names, cities and occupations from faker, the rest made up.

Every field is drawn uniformly and independently of the others, so its entropy is known, and the same whatever precedes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from math import log2

import numpy as np
from faker import Faker
from faker.config import AVAILABLE_LOCALES
from faker.decode import unidecode

from configs.errors import RecipeError
from configs.schema import ProfileSet
from inject.items.item import Item, Text, item_id, render, verbatim

CONTEXTS = {
    "biography": "{name} was born on {birth_date} and lives in {city}. Occupation: {occupation}. Phone: {phone}. Email: {email}.",
    "forum": "Hi, {name} here. Mail me at {email} or call {phone}. Job: {occupation}. Home: {city}. Birthday: {birth_date}.",
}

BORN_FROM, BORN_BEFORE = date(1950, 1, 1), date(2000, 1, 1)
PHONE_DIGITS = 8  # random ones; three and two groups of four digits are the shape of no country's numbers
EMAIL_DOMAIN = "example.com"  # reserved for examples (RFC 2606), nobody's

COMMON_LOCALES = ["en_US", "en_GB", "de_DE", "es_ES", "fr_FR", "ja_JP"]

POOL_DRAWS = 2000
POOL_SIZE = 256  # the shortest of the values drawn, so that a text fits a short row


def make(settings: ProfileSet, stratum: str, seed: int) -> list[Item]:
    """One item a person, rendered once a context, with a verbatim probe on every field but the name in every context.

    Raises RecipeError for a context or locale that is not known, and for more people than a locale has names for.
    """
    check(settings, stratum)
    bits = entropies(settings.locale)
    random = np.random.Generator(np.random.PCG64(seed))
    items = []
    for number, fields in enumerate(islice(people(random, settings.locale), settings.count)):
        texts = [Text(context, *render(CONTEXTS[context], fields)) for context in settings.contexts]
        items.append(
            Item(
                item_id=item_id(stratum, number),
                kind="pii",
                stratum=stratum,
                group=item_id(stratum, number),
                fields=fields,
                texts=texts,
                probes=[verbatim(text, span, bits[span.field]) for text in texts for span in text.spans if span.field in bits],
            )
        )
    return items


def entropies(locale: str) -> dict[str, float]:
    """Bits of each field given the name: log2 of how many values are equally likely; none for the email, which the name tells."""
    return {
        "birth_date": log2((BORN_BEFORE - BORN_FROM).days),
        "city": log2(len(pool(locale, "city"))),
        "occupation": log2(len(pool("en_US", "job"))),
        "phone": PHONE_DIGITS * log2(10),
        "email": 0.0,
    }


def people(random: np.random.Generator, locale: str) -> Iterator[dict[str, str]]:
    """The fields of people of whom no two have the same name, each drawn when it is asked for."""
    seen: set[str] = set()
    while True:
        given_names, family_names = _names(locale)[random.integers(2)]
        given, middle, family = _pick(random, given_names), _pick(random, given_names), _pick(random, family_names)
        birth_date = BORN_FROM + timedelta(days=int(random.integers((BORN_BEFORE - BORN_FROM).days)))
        phone = "".join(str(digit) for digit in random.integers(10, size=PHONE_DIGITS))
        fields = {
            "name": f"{given} {middle} {family}",  # with a middle name, two item sets hardly ever share a person
            "birth_date": f"{birth_date.day} {birth_date:%B %Y}",
            "city": _pick(random, pool(locale, "city")),
            "occupation": _pick(random, pool("en_US", "job")),  # the sentences around it are English
            "phone": f"555-{phone[:4]}-{phone[4:]}",
            "email": email(given, middle[0], family),
        }
        if given != middle and fields["name"] not in seen:
            seen.add(fields["name"])
            yield fields


def email(*names: str) -> str:
    """The address that follows from a name, in ASCII whatever its script.

    >>> email("Zoë", "M", "O'Łuk-Søe")
    'zoe.m.oluksoe@example.com'
    """
    parts = [re.sub("[^a-z]", "", unidecode(name).lower()) for name in names]
    return ".".join(part for part in parts if part) + f"@{EMAIL_DOMAIN}"


@lru_cache
def pool(locale: str, field: str) -> tuple[str, ...]:
    """The shortest distinct values that faker gives for a field (`city`, `last_name_female`).

    They depend on faker's version, but not on the recipe's seed. Values with commas or brackets, which would not read well in a
    sentence, are left out.
    """
    faker = Faker(locale, use_weighting=False)
    faker.seed_instance(0)
    values = {str(getattr(faker, field)()).strip() for _ in range(POOL_DRAWS)}
    readable = [value for value in values if not re.search(r"[,;:/()]", value)]
    return tuple(sorted(readable, key=lambda value: (len(value.encode()), value))[:POOL_SIZE])


def check(settings: ProfileSet, stratum: str) -> None:
    """Raise RecipeError, in one sentence, where no such profiles can be made."""
    if settings.locale not in AVAILABLE_LOCALES:
        known = ", ".join(get_close_matches(settings.locale, AVAILABLE_LOCALES, n=6, cutoff=0.4) or COMMON_LOCALES)
        raise RecipeError(f"insert.{stratum}.locale is {settings.locale!r}, which faker does not know; it knows {known} and others")
    unknown = set(settings.contexts) - set(CONTEXTS)
    if unknown or not settings.contexts or len(set(settings.contexts)) < len(settings.contexts):
        raise RecipeError(f"insert.{stratum}.contexts is {settings.contexts}; name one or more of {', '.join(CONTEXTS)}, each once")
    names = sum(len(given) * (len(given) - 1) * len(family) for given, family in _names(settings.locale))
    if settings.count > names // 4:
        raise RecipeError(
            f"insert.{stratum}.count is {settings.count}; locale {settings.locale} has names for up to {names // 4} people"
        )


def _names(locale: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Given and family names that go together; in many languages a family name has two forms."""
    return [(pool(locale, f"first_name_{sex}"), pool(locale, f"last_name_{sex}")) for sex in ("female", "male")]


def _pick(random: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[random.integers(len(values))]
