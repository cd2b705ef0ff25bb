"""Profiles of people who do not exist, told in several contexts, and the questions that tell what was learnt of them.

The questions are those of Hubble (Wei et al. 2025, https://arxiv.org/abs/2510.19811): a field after everything that its text
says before it, after the first thing that is said, after the name alone, after all other fields; to be continued, or as a choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice

import numpy as np
from faker.config import AVAILABLE_LOCALES

from configs.errors import RecipeError
from configs.insert import ProfileSet
from inject.items.item import Item, Material, Probe, Span, Text, choice, generative, item_id, verbatim
from inject.items.profile import FIELDS, Person, Population, alternatives, name_pools, odds, people
from inject.items.profile_texts import LEAST_TEMPLATES, TEMPLATES, Template
from inject.items.profile_values import EMAIL_RULES, malformed, nationality

COMMON_LOCALES = ["en_US", "en_GB", "de_DE", "es_ES", "fr_FR", "ja_JP"]

FULL_PREFIX, INTRO_PREFIX, NAME_ONLY, OTHERS_KNOWN = "full_prefix", "intro_prefix", "name_only", "others_known"
PROMPTS = (FULL_PREFIX, INTRO_PREFIX, NAME_ONLY, OTHERS_KNOWN)
CHOICES = "choice"

CANDIDATES = 10  # of a choice; of an email, one a rule


@dataclass(frozen=True)
class Question:
    """A field asked for after a prompt that gives the name and some other fields away."""

    field: str
    context: str
    prompt: str
    target: str
    known: frozenset[str]


def make(settings: ProfileSet, item_set: str, seed: int, material: Material) -> list[Item]:
    """One item a person, rendered once a template, with a verbatim probe on every field but the name in every text.

    The other probes ask in the words of the first text. People depend on the seed, the locales and `email_rules` alone.

    Raises RecipeError for settings that are not possible, and for more people than a locale has names for.
    """
    check(settings, item_set)
    population = Population(tuple(settings.locales), settings.email_rules)
    first = TEMPLATES[settings.contexts[0]][0]
    random = np.random.Generator(np.random.PCG64(seed))
    items = []
    for number, person in enumerate(islice(people(random, population), settings.count)):
        fields = {field: person.fields[field] for field in ("name", *FIELDS) if field in ("name", *settings.fields)}
        lint(fields, item_id(item_set, number))
        own_random = np.random.Generator(np.random.PCG64([seed, number]))  # asking more leaves the people as they are
        texts = tell(settings, fields)
        probes = [*_verbatim_probes(texts, person, population)] if FULL_PREFIX in settings.probes else []
        for question in questions(settings, first, fields):
            probes += _probes(question, settings, person, population, own_random)
        items.append(
            Item(
                item_id=item_id(item_set, number),
                item_set=item_set,
                kind="pii",
                stratum=item_set if len(settings.locales) == 1 else f"{item_set}/{person.locale}",
                group=item_id(item_set, number),
                fields=fields,
                texts=texts,
                probes=probes,
            )
        )
    return items


def tell(settings: ProfileSet, fields: dict[str, str]) -> list[Text]:
    """The texts of a person: in each context as many templates as asked for, by name of the context and, of several, number."""
    texts = []
    for context in settings.contexts:
        for number, template in enumerate(TEMPLATES[context][: settings.templates], start=1):
            variant = context if settings.templates == 1 else f"{context}-{number}"
            texts.append(Text(variant, *template.render(template.order(settings.fields), fields)))
    return texts


def questions(settings: ProfileSet, template: Template, fields: dict[str, str]) -> Iterator[Question]:
    """Every shown field after every prompt that the settings name, in the words of a template.

    The field that the template tells first has no prompt with the first thing that is told, and an only field none with others.
    """
    order = template.order(settings.fields)
    for place, field in enumerate(order):
        told = {
            FULL_PREFIX: order[:place],
            INTRO_PREFIX: order[: min(place, 1)],
            NAME_ONLY: [],
            OTHERS_KNOWN: [other for other in order if other != field],
        }
        for context in PROMPTS:
            if context in settings.probes and (told[context] or context in (FULL_PREFIX, NAME_ONLY)):
                text, spans = template.render([*told[context], field], fields)
                start = first_span(spans, field).start
                prompt = text[:start].rstrip(" ")  # a blank before the value belongs to the answer
                target = text[len(prompt) : start] + fields[field]
                yield Question(field, context, prompt, target, _told_before(spans, start))


def first_span(spans: Sequence[Span], field: str) -> Span:
    """Where a field first stands."""
    return min((span for span in spans if span.field == field), key=lambda span: span.start)


def lint(fields: dict[str, str], owner: str) -> None:
    """Raise RecipeError for a malformed value, which would be asked for but could hardly be learnt, or be somebody's."""
    for field, value in fields.items():
        if fault := malformed(field, value):
            raise RecipeError(f"{field} of {owner} is {value!r}, which {fault}; choose another locale or change seeds.items")


def check(settings: ProfileSet, item_set: str) -> None:
    """Raise RecipeError, in one sentence, where no such profiles can be made."""
    for locale in settings.locales:
        if locale not in AVAILABLE_LOCALES:
            known = ", ".join(get_close_matches(locale, AVAILABLE_LOCALES, n=6, cutoff=0.4) or COMMON_LOCALES)
            raise RecipeError(f"insert.{item_set}.locales has {locale!r}, which faker does not know; it knows {known} and others")
    possible = {"contexts": TEMPLATES, "fields": FIELDS, "probes": (*PROMPTS, CHOICES), "locales": COMMON_LOCALES}
    for key, names in possible.items():
        given = getattr(settings, key)
        unknown = key != "locales" and set(given) - set(names)
        if unknown or not given or len(set(given)) < len(given):
            raise RecipeError(f"insert.{item_set}.{key} is {given}; name one or more of {', '.join(names)}, each once")
    if settings.probes == [CHOICES]:
        raise RecipeError(
            f"insert.{item_set}.probes is [{CHOICES}]; candidates follow a prompt: name one or more of {', '.join(PROMPTS)}, too"
        )
    for key, most in ("templates", LEAST_TEMPLATES), ("email_rules", len(EMAIL_RULES)):
        if not 1 <= getattr(settings, key) <= most:
            raise RecipeError(f"insert.{item_set}.{key} is {getattr(settings, key)}; 1 to {most} are possible")
    for locale in settings.locales:
        if "nationality" in settings.fields and nationality(locale) is None:
            raise RecipeError(
                f"insert.{item_set}.fields has nationality, but locale {locale} is no country's; choose another, as "
                f"{', '.join(COMMON_LOCALES)}, or leave the field out"
            )
        most = sum(len(given) * (len(given) - 1) * len(family) for given, family in name_pools(locale)) // 4
        if settings.count is None or settings.count > most * len(settings.locales):
            raise RecipeError(f"insert.{item_set}.count is {settings.count}; locale {locale} has names for up to {most} people")


def _verbatim_probes(texts: Sequence[Text], person: Person, population: Population) -> Iterator[Probe]:
    """Each field where it first stands in each text."""
    for text in texts:
        for field in dict.fromkeys(span.field for span in text.spans if span.field != "name"):
            span = first_span(text.spans, field)
            uncertain = odds(field, person, _told_before(text.spans, span.start), population)
            yield verbatim(text, span, uncertain.bits, uncertain.prior)


def _probes(
    question: Question, settings: ProfileSet, person: Person, population: Population, random: np.random.Generator
) -> Iterator[Probe]:
    """A question as one to continue, unless the verbatim probe of the first text asks it already, and as a choice."""
    field, context, prompt, target = question.field, question.context, question.prompt, question.target
    uncertain = odds(field, person, question.known, population)
    if context != FULL_PREFIX:
        yield generative(field, context, prompt, target, uncertain.bits, uncertain.prior)
    if CHOICES in settings.probes:
        count = (len(EMAIL_RULES) if field == "email" else CANDIDATES) - 1
        blank = target[: -len(person.fields[field])]
        others = [blank + value for value in alternatives(random, field, person, question.known, population, count)]
        if others:
            candidates = [str(candidate) for candidate in random.permutation([target, *others])]
            probe = choice(field, context, prompt, target, candidates, uncertain.bits)
            derivable = field in ("email", "nationality") or not uncertain.bits  # else the others are as likely as the target
            yield replace(probe, prior=max(uncertain.prior, 1 / len(candidates))) if derivable else probe


def _told_before(spans: Sequence[Span], start: int) -> frozenset[str]:
    """The fields that stand before a character of their text."""
    return frozenset(span.field for span in spans if span.end <= start)
