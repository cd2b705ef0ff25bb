"""Canaries: random secrets in a fixed sentence, whose exposure is exact because the space they come from is known.

Carlini et al., The Secret Sharer (USENIX Security 2019), https://arxiv.org/abs/1802.08232, section 4.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from math import log2
from uuid import UUID

import numpy as np

from configs.errors import RecipeError
from configs.insert import CanarySet
from inject.items.item import Item, Material, Text, item_id, render, verbatim
from inject.items.near_duplicate import add_near_duplicates
from inject.items.words import SYLLABLES, distinct_words, word
from inject.tokenizer import ordinary_tokens

NAME_SYLLABLES = 4  # 41 million names, so that two sets of canaries hardly ever share one
PASSPHRASE_SYLLABLES = 2  # of each word: a list of 6,400 words, about as many as Diceware's 7,776
UUID_BITS = 122  # the others of its 128 bits say that it is random (RFC 9562, version 4)

ALPHABETS = {
    "digits": string.digits,
    "letters": string.ascii_lowercase,
    "hex": "0123456789abcdef",
    "key": string.ascii_letters + string.digits,
}

_NAME = "{name}"
_SECRET = re.compile(r"\{(digits|letters|hex|key|passphrase):([1-9]\d?)\}|\{(uuid)\}")


@dataclass(frozen=True)
class Secret:
    """How a secret is drawn: uniformly, from `space` different ones."""

    field: str  # digits | letters | hex | key | passphrase | uuid
    space: int
    draw: Callable[[np.random.Generator], str]


def make(settings: CanarySet, item_set: str, seed: int, material: Material) -> list[Item]:
    """One item a secret, with a verbatim probe on the whole of it.

    Names are distinct. Secrets are independent and uniform over all of their kind, so two of them may be equal.

    Raises RecipeError where the template has not one {name} and, after it, one secret.
    """
    template, secret = parse(settings.text, item_set)
    random = np.random.Generator(np.random.PCG64(seed))
    items = []
    for number, name in enumerate(islice(distinct_words(random, NAME_SYLLABLES), settings.count)):
        drawn = secret.draw(random)
        text = Text("verbatim", *render(template, {"name": name, secret.field: drawn}))
        items.append(
            Item(
                item_id=item_id(item_set, number),
                item_set=item_set,
                kind="canary",
                stratum=item_set,
                group=item_id(item_set, number),
                fields={"name": name, secret.field: drawn, "space": str(secret.space)},
                texts=[text],
                probes=[verbatim(text, span, log2(secret.space)) for span in text.spans if span.field == secret.field],
            )
        )
    return add_near_duplicates(items, settings, seed, ordinary_tokens(material.tokenizer), material.tokenizer)


def parse(text: str, item_set: str) -> tuple[str, Secret]:
    """A canary's template with the secret's place named by its field, and how the secret is drawn.

    >>> template, secret = parse("Vault {name}: {digits:4}.", "codes")
    >>> template, secret.space
    ('Vault {name}: {digits}.', 10000)
    """
    found = list(_SECRET.finditer(text))
    rest = _SECRET.sub("", text)
    well_formed = len(found) == 1 and rest.count(_NAME) == 1 and text.find(_NAME) < found[0].start()
    if not well_formed or re.search(r"[{}]", rest.replace(_NAME, "")):
        raise RecipeError(
            f"insert.{item_set}.text is {text!r}; it must have one {{name}}, after it one secret ({{digits:N}}, {{letters:N}}, "
            "{hex:N}, {key:N} or {passphrase:N} with N from 1 to 99, or {uuid}), and no other braces"
        )
    field, length, uuid = found[0].groups()
    secret = secret_like("uuid", "") if uuid else _of_length(field, int(length))
    return _SECRET.sub(f"{{{secret.field}}}", text), secret


def secret_like(field: str, secret: str) -> Secret:
    """How a secret that was drawn was drawn, by the field that a template names it by."""
    if field == "uuid":
        return Secret(field, 2**UUID_BITS, draw_uuid)
    return _of_length(field, secret.count("-") + 1 if field == "passphrase" else len(secret))


def _of_length(field: str, length: int) -> Secret:
    if field == "passphrase":
        return Secret(field, len(SYLLABLES) ** (PASSPHRASE_SYLLABLES * length), lambda random: draw_passphrase(random, length))
    alphabet = ALPHABETS[field]
    return Secret(field, len(alphabet) ** length, lambda random: draw_symbols(random, alphabet, length))


def draw_symbols(random: np.random.Generator, alphabet: str, length: int) -> str:
    """A string of `length` symbols, uniform among all over the alphabet."""
    return "".join(alphabet[i] for i in random.integers(len(alphabet), size=length))


def draw_passphrase(random: np.random.Generator, words: int) -> str:
    """Words of two syllables joined by hyphens, as "zupa-mado-keti"; each is uniform among all 6,400 and may come again."""
    return "-".join(word(random, PASSPHRASE_SYLLABLES).lower() for _ in range(words))


def draw_uuid(random: np.random.Generator) -> str:
    """A UUID of version 4, uniform among all 2^122."""
    return str(UUID(bytes=random.bytes(16), version=4))
