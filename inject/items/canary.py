"""Canaries: random secrets in a fixed sentence, whose exposure is exact because the space they come from is known.

Carlini et al., The Secret Sharer (USENIX Security 2019), https://arxiv.org/abs/1802.08232, section 4.
"""

from __future__ import annotations

import re
from itertools import islice
from math import log2

import numpy as np

from configs.errors import RecipeError
from configs.schema import CanarySet
from inject.items.item import Item, Text, item_id, render, verbatim
from inject.items.words import distinct_words

NAME_SYLLABLES = 4  # 41 million names, so that two sets of canaries hardly ever share one

_NAME = "{name}"
_DIGITS = re.compile(r"\{digits:([1-9]\d?)\}")


def make(settings: CanarySet, stratum: str, seed: int) -> list[Item]:
    """One item a secret, with a verbatim probe on its digits.

    Names are distinct. Secrets are independent and uniform over all strings of N digits, so two of them may be equal.

    Raises RecipeError where the template has not one {name} and, after it, one {digits:N}.
    """
    template, length = parse(settings.text, stratum)
    random = np.random.Generator(np.random.PCG64(seed))
    items = []
    for number, name in enumerate(islice(distinct_words(random, NAME_SYLLABLES), settings.count)):
        secret = "".join(str(digit) for digit in random.integers(10, size=length))
        text = Text("verbatim", *render(template, {"name": name, "digits": secret}))
        items.append(
            Item(
                item_id=item_id(stratum, number),
                kind="canary",
                stratum=stratum,
                group=item_id(stratum, number),
                fields={"name": name, "digits": secret, "space": str(10**length)},
                texts=[text],
                probes=[verbatim(text, span, length * log2(10)) for span in text.spans if span.field == "digits"],
            )
        )
    return items


def parse(text: str, stratum: str) -> tuple[str, int]:
    """A canary's template with the place {digits}, and how many digits that stands for.

    >>> parse("Vault {name}: {digits:4}.", "codes")
    ('Vault {name}: {digits}.', 4)
    """
    digits = _DIGITS.findall(text)
    template = _DIGITS.sub("{digits}", text)
    unknown = re.search(r"[{}]", template.replace(_NAME, "").replace("{digits}", ""))
    well_formed = len(digits) == 1 and text.count(_NAME) == 1 and template.find(_NAME) < template.find("{digits}")
    if unknown or not well_formed or "{digits}" in text:
        raise RecipeError(
            f"insert.{stratum}.text is {text!r}; it must have one {{name}}, after it one {{digits:N}} with N from 1 to 99, "
            "and no other braces"
        )
    return template, int(digits[0])
