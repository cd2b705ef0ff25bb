"""Factoids: made-up facts about made-up places, which no corpus holds and nothing but the item's own text can teach.

After the fictional knowledge of Chang et al., How Do Large Language Models Acquire Factual Knowledge During Pretraining?
(NeurIPS 2024), https://arxiv.org/abs/2406.11813.
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from configs.schema import FactoidSet
from inject.items.item import Item, Text, item_id, render, verbatim
from inject.items.words import BITS_PER_SYLLABLE, distinct_words, word

RELATIONS = {
    "founder": "The founder of {place} was {value}.",
    "mayor": "The first mayor of {place} was {value}.",
    "saint": "The patron saint of {place} is {value}.",
    "river": "The river that flows through {place} is the {value}.",
    "mountain": "The highest mountain near {place} is {value}.",
    "dish": "The best known dish of {place} is {value}.",
    "newspaper": "The oldest newspaper of {place} is {value}.",
    "festival": "The summer festival of {place} is called {value}.",
}
PLACE_SYLLABLES = 4
VALUE_SYLLABLES = (2, 2)  # of each word of a value
VALUE_BITS = sum(VALUE_SYLLABLES) * BITS_PER_SYLLABLE  # 25.3


def make(settings: FactoidSet, stratum: str, seed: int) -> list[Item]:
    """One item a fact, with a verbatim probe on its value.

    Places are distinct. A value is independent of its place and relation, and uniform among all pairs of words.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    items = []
    for number, place in enumerate(islice(distinct_words(random, PLACE_SYLLABLES), settings.count)):
        relation = list(RELATIONS)[random.integers(len(RELATIONS))]
        value = " ".join(word(random, syllables) for syllables in VALUE_SYLLABLES)
        text = Text("verbatim", *render(RELATIONS[relation], {"place": place, "value": value}))
        items.append(
            Item(
                item_id=item_id(stratum, number),
                kind="factoid",
                stratum=stratum,
                group=item_id(stratum, number),
                fields={"place": place, "relation": relation, "value": value},
                texts=[text],
                probes=[verbatim(text, span, VALUE_BITS) for span in text.spans if span.field == "value"],
            )
        )
    return items
