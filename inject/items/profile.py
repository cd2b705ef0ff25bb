"""People who do not exist: what is drawn of each, what follows from it, and how well it could be guessed.

Given the locale, every field is drawn uniformly and independently of the others, but for what has to agree: nationality with
locale, age with birth date, the phone's area code with the city, the email with the name. So what remains unknown of a field,
once others are known, can be counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from math import log2

import numpy as np

from inject.items import profile_values as values
from inject.items.profile_values import area_codes, emails, nationality, pool

# In the order in which they are drawn: what another follows from comes before it.
FIELDS = (
    "nationality",
    "birthplace",
    "birth_date",
    "age",
    "city",
    "address",
    "university",
    "occupation",
    "employer",
    "phone",
    "uuid",
    "credit_card",
    "national_id",
    "email",
)

BORN_FROM, BORN_BEFORE = date(1950, 1, 1), date(2000, 1, 1)
DAYS = (BORN_BEFORE - BORN_FROM).days
REFERENCE_YEAR = 2024  # ages are those at its end
HOUSE_NUMBERS = 999

# faker's list from which a field is drawn, alone or with something around it
POOLS = {
    "birthplace": "city",
    "city": "city",
    "address": "street_name",
    "university": "city",
    "occupation": "job",
    "employer": "company",
}
UNIVERSITY = "University of "

ATTEMPTS = 100  # draws for each alternative to a value, before a short list is taken to be used up


@dataclass(frozen=True)
class Population:
    """Whom people are drawn from: as many of each locale, their emails made by one of the first `email_rules` rules."""

    locales: tuple[str, ...]
    email_rules: int = 1


@dataclass(frozen=True)
class Person:
    """One of them. `fields` has the name and all of FIELDS."""

    locale: str
    names: tuple[str, str, str]  # given, middle, family
    fields: dict[str, str]


@dataclass(frozen=True)
class Odds:
    """How uncertain a value is: its entropy, and the probability that the best guess is right."""

    bits: float
    prior: float

    @classmethod
    def uniform(cls, ways: int) -> Odds:
        """Of a value that is one of so many, all as likely."""
        return cls(log2(ways), 1 / ways)

    @classmethod
    def of(cls, weights: Collection[float]) -> Odds:
        """Of a value that is one of several, with probabilities in these proportions."""
        total = sum(weights)
        shares = [weight / total for weight in weights if weight]
        return cls(sum(share * log2(1 / share) for share in shares), max(shares))


def people(random: np.random.Generator, population: Population) -> Iterator[Person]:
    """People of whom no two have the same name, the locales in turn, each drawn when it is asked for.

    All fields are drawn, so that people do not depend on which of them are shown.
    """
    seen: set[str] = set()
    while True:
        locale = population.locales[len(seen) % len(population.locales)]
        given_names, family_names = name_pools(locale)[random.integers(2)]
        names = _pick(random, given_names), _pick(random, given_names), _pick(random, family_names)
        addresses = emails(*names)
        fields = {"name": " ".join(names)}  # with a middle name, two item sets hardly ever share a person
        for field in FIELDS[:-1]:
            fields[field] = draw(random, field, locale, fields)
        rule = int(random.random() * population.email_rules)
        if names[0] != names[1] and fields["name"] not in seen and len(set(addresses)) == len(values.EMAIL_RULES):
            seen.add(fields["name"])
            yield Person(locale, names, {**fields, "email": addresses[rule]})


def draw(random: np.random.Generator, field: str, locale: str, known: Mapping[str, str]) -> str:
    """A value of a field other than the email, uniform among those that agree with what is known of the person."""
    match field:
        case "nationality":
            return nationality(locale) or ""
        case "birth_date":
            first, days = BORN_FROM, DAYS
            if "age" in known:
                year = REFERENCE_YEAR - int(known["age"])
                first, days = date(year, 1, 1), _days(year)
            born = first + timedelta(days=int(random.integers(days)))
            return f"{born.day} {born:%B %Y}"
        case "age":
            born_on = known.get("birth_date") or draw(random, "birth_date", locale, {})
            return str(REFERENCE_YEAR - int(born_on.split()[-1]))
        case "address":
            return f"{random.integers(HOUSE_NUMBERS) + 1} {_pick(random, _pool(locale, field))}"
        case "university":
            return UNIVERSITY + _pick(random, _pool(locale, field))
        case "phone":
            area = area_codes(locale)[known.get("city") or draw(random, "city", locale, {})]
            return f"{area}-{values.digits(random, 4)}-{values.digits(random, values.PHONE_DIGITS - 4)}"
        case "city" if "phone" in known:
            return _city_of(locale, known["phone"])
        case "uuid":
            return values.random_uuid(random)
        case "credit_card":
            return values.card_number(random)
        case "national_id":
            return values.national_id(random)
        case _:
            return _pick(random, _pool(locale, field))


def odds(field: str, person: Person, known: Collection[str], population: Population) -> Odds:
    """How uncertain a person's field is to one who knows the person's name, these other fields, and how people are drawn.

    The locale counts as known, as names and places betray it, except where the nationality is asked for: with several locales
    the bits are then a lower bound, and the prior an upper one. Of the nationality, all that is known of name and places counts.
    """
    match field:
        case "nationality":
            weights: dict[str, float] = defaultdict(float)
            for locale in population.locales:
                weights[nationality(locale) or ""] += _likelihood(person, known, locale)
            return Odds.of(weights.values())
        case "birth_date":
            return Odds.uniform(_days(REFERENCE_YEAR - int(person.fields["age"])) if "age" in known else DAYS)
        case "age":
            years = range(BORN_FROM.year, BORN_BEFORE.year)
            return Odds.uniform(1) if "birth_date" in known else Odds.of([_days(year) for year in years])
        case "address":
            return Odds.uniform(HOUSE_NUMBERS * len(_pool(person.locale, field)))
        case "city" if "phone" in known:
            return Odds.uniform(1)
        case "phone":
            areas = 1 if "city" in known else len(_pool(person.locale, "city"))
            return Odds.uniform(areas * 10**values.PHONE_DIGITS)
        case "email":
            return Odds.uniform(population.email_rules)
        case "uuid":
            return Odds.uniform(2**122)
        case "credit_card":
            return Odds.uniform(9 * 10**values.CARD_DIGITS)  # nine check digits are wrong
        case "national_id":
            return Odds.uniform(10**values.NATIONAL_ID_DIGITS)
        case _:
            return Odds.uniform(len(_pool(person.locale, field)))


def alternatives(
    random: np.random.Generator, field: str, person: Person, known: Collection[str], population: Population, count: int
) -> list[str]:
    """Up to `count` values that a person's field might have had, distinct and other than its own.

    They are drawn as the value was, given what is known, so that nothing about them but memory tells it from them: phone numbers
    have the area code of a known city. Where what is known leaves no choice, they are drawn as if it were not. Emails are those
    that the other rules make of the name, nationalities those of the population and then any.
    """
    own = person.fields[field]
    if field in ("email", "nationality"):
        likely = emails(*person.names) if field == "email" else sorted({nationality(locale) or "" for locale in population.locales})
        unlikely = sorted(set(values.NATIONALITIES.values()) - set(likely)) if field == "nationality" else []
        return [*_shuffled(random, set(likely) - {own}), *_shuffled(random, unlikely)][:count]
    agreeing = {key: person.fields[key] for key in known}
    if (field == "age" and "birth_date" in known) or (field == "city" and "phone" in known):
        agreeing = {}
    found: dict[str, None] = {}
    for _ in range(ATTEMPTS * count):
        value = draw(random, field, person.locale, agreeing)
        if value != own:
            found[value] = None
        if len(found) == count:
            break
    return list(found)


@cache
def name_pools(locale: str) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Given and family names that go together; in many languages a family name has two forms."""
    return tuple((pool(locale, f"first_name_{sex}"), pool(locale, f"last_name_{sex}")) for sex in ("female", "male"))


def _likelihood(person: Person, known: Collection[str], locale: str) -> float:
    """How probable a person's name, and what is known of the places in their life, are in a locale."""
    given, middle, family = person.names
    chance = 0.0
    for given_names, family_names in name_pools(locale):
        if given in given_names and middle in given_names and family in family_names:
            chance += 0.5 / (len(given_names) * (len(given_names) - 1) * len(family_names))
    bare = dict(person.fields)
    bare["address"] = bare["address"].partition(" ")[2]
    bare["university"] = bare["university"].removeprefix(UNIVERSITY)
    for field in set(known) & set(POOLS) - {"occupation"}:  # the trades are the same in every locale
        chance *= (bare[field] in _pool(locale, field)) / len(_pool(locale, field))
    if "phone" in known:
        city = _city_of(locale, bare["phone"])
        chance *= city == bare["city"] if "city" in known else bool(city) / len(_pool(locale, "city"))
    return chance


def _pool(locale: str, field: str) -> tuple[str, ...]:
    """What a field, or the part of it that is no number, is drawn from."""
    return pool("en_US" if field == "occupation" else locale, POOLS[field])  # the sentences around a trade are English


def _city_of(locale: str, phone: str) -> str:
    """The city whose area code a phone number has; none of an area code that no city of the locale has."""
    return next((city for city, code in area_codes(locale).items() if code == phone.partition("-")[0]), "")


def _days(year: int) -> int:
    return (date(year + 1, 1, 1) - date(year, 1, 1)).days


def _shuffled(random: np.random.Generator, choices: Collection[str]) -> list[str]:
    return [str(value) for value in random.permutation(sorted(choices))]


def _pick(random: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[random.integers(len(choices))]
