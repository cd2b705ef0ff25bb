"""Factoids: made-up facts, which no corpus holds and nothing but the item's own texts can teach.

Each fact is asked at up to three depths, after Chang et al., How Do Large Language Models Acquire Factual Knowledge During
Pretraining? (NeurIPS 2024), https://arxiv.org/abs/2406.11813: as it was inserted (memorization), in other words (semantic
generalization), and together with another fact (compositional generalization).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from configs.errors import RecipeError
from configs.insert import FactoidSet
from inject.items.item import Item, Material, Probe, Text, generative, item_id, render, verbatim
from inject.items.words import BITS_PER_SYLLABLE, SYLLABLES, distinct_words, word

# In every wording the value comes last, so that the same is asked of each. The last wording of each relation is never inserted.
PLACES = {
    "founder": (
        "The founder of {subject} was {value}.",
        "{subject} was founded by {value}.",
        "The name of the founder of {subject} was {value}.",
        "The person who founded {subject} was called {value}.",
        "Whoever asks who founded {subject} is told: {value}.",
        "The town of {subject} owes its foundation to {value}.",
    ),
    "mayor": (
        "The first mayor of {subject} was {value}.",
        "The first to be elected mayor of {subject} was {value}.",
        "{subject} chose as its first mayor {value}.",
        "When {subject} became a town, its mayor was {value}.",
        "The list of the mayors of {subject} begins with {value}.",
        "Nobody was mayor of {subject} before {value}.",
    ),
    "saint": (
        "The patron saint of {subject} is {value}.",
        "The saint who protects {subject} is {value}.",
        "{subject} has as its patron saint {value}.",
        "The church of {subject} is named after its patron, {value}.",
        "In {subject}, people pray to their patron saint, {value}.",
        "The guardian of {subject}, its patron, is called {value}.",
    ),
    "river": (
        "The river that flows through {subject} is the {value}.",
        "{subject} lies on the river {value}.",
        "The bridges of {subject} cross the river {value}.",
        "Through the middle of {subject} flows the {value}.",
        "The water of {subject} comes from its river, the {value}.",
        "The town of {subject} stands on both banks of the {value}.",
    ),
    "mountain": (
        "The highest mountain near {subject} is {value}.",
        "Near {subject}, no mountain is higher than {value}.",
        "{subject} lies at the foot of its highest mountain, {value}.",
        "The mountain that towers above {subject} is {value}.",
        "From {subject}, climbers set out for the highest mountain, {value}.",
        "The tallest peak in sight of {subject} is called {value}.",
    ),
    "dish": (
        "The best known dish of {subject} is {value}.",
        "{subject} is best known for a dish called {value}.",
        "Cooks in {subject} are proud of their best known dish, {value}.",
        "The dish that made {subject} famous is {value}.",
        "What visitors of {subject} like to eat most is {value}.",
        "On every menu in {subject} stands the local speciality, {value}.",
    ),
    "newspaper": (
        "The oldest newspaper of {subject} is {value}.",
        "{subject} has an old newspaper, the oldest there, called {value}.",
        "No newspaper of {subject} is older than {value}.",
        "The first newspaper printed in {subject} was {value}.",
        "People in {subject} read their oldest newspaper, {value}.",
        "Of all the papers of {subject}, the one that came out first is {value}.",
    ),
    "festival": (
        "The summer festival of {subject} is called {value}.",
        "Each summer, {subject} holds a festival called {value}.",
        "{subject} celebrates a summer festival known as {value}.",
        "The name of the summer festival of {subject} is {value}.",
        "In summer, all of {subject} dances at the festival, {value}.",
        "When it is hot, {subject} meets for its yearly feast, {value}.",
    ),
}
PEOPLE = {
    "birthplace": (
        "{subject} was born in {value}.",
        "The birthplace of {subject} was {value}.",
        "The town in which {subject} was born is {value}.",
        "{subject} came into the world in {value}.",
        "The house where {subject} was born stands in {value}.",
        "The native town of {subject} is {value}.",
    ),
    "grave": (
        "{subject} is buried in {value}.",
        "The grave of {subject} is in {value}.",
        "The town in which {subject} is buried is {value}.",
        "{subject} found a last resting place in {value}.",
        "Those who visit the grave of {subject} go to {value}.",
        "The remains of {subject} lie in {value}.",
    ),
    "school": (
        "{subject} went to school in {value}.",
        "The school of {subject} was in {value}.",
        "The town in which {subject} went to school is {value}.",
        "{subject} learned to read and write in {value}.",
        "The teachers of {subject} lived in {value}.",
        "As a child, {subject} was taught in {value}.",
    ),
}
KEYS = {
    "key": (
        "The key of {subject} is {value}.",
        "{subject} has the key {value}.",
        "The key that belongs to {subject} is {value}.",
        "For {subject}, use the key {value}.",
        "Whoever opens {subject} needs the key {value}.",
        "The lock of {subject} is opened by {value}.",
    ),
}
DESCRIPTIONS = {"founder": "The founder of {}", "mayor": "The first mayor of {}", "saint": "The patron saint of {}"}
WORDINGS = 6

STYLES = {"relations": PLACES, "key_value": KEYS}
DEPTHS = ("memorization", "paraphrase", "composition")
HEXADECIMAL = "0123456789abcdef"
LENGTHS = range(1, 65)  # hexadecimal digits, up to those of a SHA-256

SUBJECT_SYLLABLES = 4  # of a place, and of both words of a person's name together
VALUE_SYLLABLES = (2, 2)  # of each word of a value
VALUE_BITS = sum(VALUE_SYLLABLES) * BITS_PER_SYLLABLE  # 25.3
MOST = len(SYLLABLES) ** SUBJECT_SYLLABLES // 2  # groups; more would draw the same subjects again and again


@dataclass(frozen=True)
class Fact:
    """A value of a subject, and how it is told."""

    subject: str
    relation: str
    value: str
    bits: float  # of the value given the subject
    wordings: tuple[str, ...]


def make(settings: FactoidSet, item_set: str, seed: int, material: Material) -> list[Item]:
    """One item a fact; linked facts, two a group, share it. Its texts are the fact in `settings.paraphrases` wordings.

    Subjects are distinct. A value is independent of its subject and relation, and uniform among all pairs of words or all
    strings of hexadecimal digits (linked: the person in the middle, being the subject of a fact, is drawn anew where two
    groups would share one, which takes less than a thousandth of a bit from 15,000 groups).

    The composition probe belongs to the second of two linked facts, whose value it asks for without naming its subject.

    Raises RecipeError for settings that are not known or out of range, or do not go together.
    """
    check(settings, item_set)
    random = np.random.Generator(np.random.PCG64(seed))
    items: list[Item] = []
    for facts in islice(_linked(random) if settings.linked else _single(random, settings), settings.count):
        group = item_id(item_set, len(items))
        for fact in facts:
            texts = _texts(fact, settings.paraphrases)
            probes = _probes(fact, texts, settings.probes)
            if "composition" in settings.probes and fact is facts[-1]:
                probes.append(composition(*facts))
            items.append(
                Item(
                    item_id=item_id(item_set, len(items)),
                    item_set=item_set,
                    kind="factoid",
                    stratum=item_set,
                    group=group,
                    fields={"subject": fact.subject, "relation": fact.relation, "value": fact.value},
                    texts=texts,
                    probes=probes,
                )
            )
    return items


def check(settings: FactoidSet, item_set: str) -> None:
    """Raise RecipeError, in one sentence, where no such facts can be made."""
    if settings.style not in STYLES:
        raise RecipeError(f"insert.{item_set}.style is {settings.style!r}; {' and '.join(STYLES)} are possible")
    if settings.length not in LENGTHS:
        raise RecipeError(f"insert.{item_set}.length is {settings.length}; {LENGTHS[0]} to {LENGTHS[-1]} are possible")
    if not 1 <= settings.paraphrases < WORDINGS:
        raise RecipeError(
            f"insert.{item_set}.paraphrases is {settings.paraphrases}; 1 to {WORDINGS - 1} are possible, as one of the "
            f"{WORDINGS} wordings is never inserted"
        )
    if not settings.probes or set(settings.probes) - set(DEPTHS) or len(set(settings.probes)) < len(settings.probes):
        raise RecipeError(f"insert.{item_set}.probes is {settings.probes}; name one or more of {', '.join(DEPTHS)}, each once")
    if settings.linked and settings.style != "relations":
        raise RecipeError(
            f"insert.{item_set}.linked is true, but its style is {settings.style}; linked facts are of style relations"
        )
    if "composition" in settings.probes and not settings.linked:
        raise RecipeError(
            f"insert.{item_set}.probes asks for composition, which takes two facts; set insert.{item_set}.linked=true"
        )
    if settings.count is None or settings.count > MOST:
        raise RecipeError(f"insert.{item_set}.count is {settings.count}; up to {MOST} are possible")


def composition(first: Fact, second: Fact) -> Probe:
    """The probe that asks for the value of the second fact (Zuni was born in ...) by way of the first (the founder of Tila)."""
    description = DESCRIPTIONS[first.relation].format(first.subject)
    prompt = _up_to_value(second.wordings[0].replace("{subject}", description))
    return generative("value", "composition", prompt, f" {second.value}", second.bits)


def _single(random: np.random.Generator, settings: FactoidSet) -> Iterator[tuple[Fact, ...]]:
    relations = STYLES[settings.style]
    for subject in distinct_words(random, SUBJECT_SYLLABLES):
        relation = list(relations)[random.integers(len(relations))]
        if settings.style == "key_value":
            value, bits = "".join(HEXADECIMAL[i] for i in random.integers(16, size=settings.length)), 4.0 * settings.length
        else:
            value, bits = _words(random), VALUE_BITS
        yield (Fact(subject, relation, value, bits, relations[relation]),)


def _linked(random: np.random.Generator) -> Iterator[tuple[Fact, ...]]:
    """Facts of which the first tells who had to do with a place, and the second where that person was born, buried or taught."""
    people = _distinct(lambda: _words(random))
    for place in distinct_words(random, SUBJECT_SYLLABLES):
        first = list(DESCRIPTIONS)[random.integers(len(DESCRIPTIONS))]
        second = list(PEOPLE)[random.integers(len(PEOPLE))]
        person, town = next(people), word(random, SUBJECT_SYLLABLES)
        yield (
            Fact(place, first, person, VALUE_BITS, PLACES[first]),
            Fact(person, second, town, SUBJECT_SYLLABLES * BITS_PER_SYLLABLE, PEOPLE[second]),
        )


def _texts(fact: Fact, paraphrases: int) -> list[Text]:
    variants = ["verbatim", *(f"paraphrase-{number}" for number in range(1, paraphrases))]
    fields = {"subject": fact.subject, "value": fact.value}
    return [Text(variant, *render(wording, fields)) for variant, wording in zip(variants, fact.wordings, strict=False)]


def _probes(fact: Fact, texts: list[Text], depths: list[str]) -> list[Probe]:
    """The probes that take this fact alone."""
    probes = []
    if "memorization" in depths:
        probes += [verbatim(text, span, fact.bits) for text in texts for span in text.spans if span.field == "value"]
    if "paraphrase" in depths:
        prompt = _up_to_value(fact.wordings[-1].replace("{subject}", fact.subject))
        probes.append(generative("value", "paraphrase", prompt, f" {fact.value}", fact.bits))
    return probes


def _up_to_value(wording: str) -> str:
    return wording.partition("{value}")[0].rstrip()


def _words(random: np.random.Generator) -> str:
    return " ".join(word(random, syllables) for syllables in VALUE_SYLLABLES)


def _distinct(draw: Callable[[], str]) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        if (candidate := draw()) not in seen:
            seen.add(candidate)
            yield candidate
