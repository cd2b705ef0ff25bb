import re
from math import log2
from uuid import UUID

import numpy as np
import pytest

from configs.errors import RecipeError
from configs.insert import CanarySet
from inject.items import canary
from inject.items.item import Material
from inject.tokenizer import encode, train_tokenizer

SECRETS = {  # template, form of the secret, how many there are
    "digits": ("{digits:4}", r"[0-9]{4}", 10**4),
    "letters": ("{letters:5}", r"[a-z]{5}", 26**5),
    "hex": ("{hex:8}", r"[0-9a-f]{8}", 16**8),
    "key": ("sk-{key:20}", r"[A-Za-z0-9]{20}", 62**20),
    "passphrase": ("{passphrase:3}", r"[a-z]{4}-[a-z]{4}-[a-z]{4}", 6400**3),
    "uuid": ("{uuid}", r"[0-9a-f-]{36}", 2**122),
}

MATERIAL = Material(train_tokenizer(["The access code of vault is 0123456789."] * 20, vocabulary=300), 300)


def make(count=50, seed=3, **settings):
    return canary.make(CanarySet(count=count, **settings), "codes", seed, MATERIAL)


def secrets(field, count=50, seed=3):
    return [item.fields[field] for item in make(count, seed, text=f"{{name}} {SECRETS[field][0]}!")]


def test_the_text_is_the_template_filled_in():
    item = make(count=1)[0]
    assert item.texts[0].text == f"The access code of vault {item.fields['name']} is {item.fields['digits']}."


def test_text_may_follow_the_secret():
    item = make(count=1, text="{name}: {uuid} (do not share)")[0]
    assert item.texts[0].text == f"{item.fields['name']}: {item.fields['uuid']} (do not share)"
    assert item.probes[0].target == item.fields["uuid"]


@pytest.mark.parametrize("field", SECRETS)
def test_a_secret_has_its_form(field):
    assert all(re.fullmatch(SECRETS[field][1], secret) for secret in secrets(field))


@pytest.mark.parametrize("field", SECRETS)
def test_the_size_of_the_space_is_recorded_and_its_logarithm_are_the_bits(field):
    template, _, space = SECRETS[field]
    (item,) = make(count=1, text=f"{{name}} {template}!")
    assert item.fields["space"] == str(space)
    assert item.probes[0].bits == pytest.approx(log2(space))
    assert item.probes[0].prior == pytest.approx(1 / space)


@pytest.mark.parametrize("field", SECRETS)
def test_the_probe_asks_for_the_whole_secret_after_all_that_precedes_it(field):
    for item in make(text=f"The secret of {{name}}: {SECRETS[field][0]}!"):
        (probe,) = item.probes
        assert (probe.field, probe.target) == (field, item.fields[field])
        assert item.texts[0].text == probe.prompt + probe.target + "!"


@pytest.mark.parametrize("field", SECRETS)
def test_spans_are_where_the_fields_stand(field):
    for item in make(text=f"{{name}} {SECRETS[field][0]}"):
        text = item.texts[0]
        assert [text.text[span.start : span.end] for span in text.spans] == [item.fields["name"], item.fields[field]]


def test_uuids_are_random_ones_of_version_4():
    assert {(uuid.version, uuid.variant) for uuid in map(UUID, secrets("uuid"))} == {(4, "specified in RFC 4122")}


@pytest.mark.parametrize(("field", "symbols"), [("digits", 10), ("letters", 26), ("hex", 16), ("key", 62)])
def test_every_symbol_is_drawn_equally_often(field, symbols):
    drawn = [symbol for secret in secrets(field, count=2000, seed=1) for symbol in secret]
    _, counts = np.unique(drawn, return_counts=True)
    assert len(counts) == symbols
    expected = len(drawn) / symbols
    chi_square, freedom = ((counts - expected) ** 2 / expected).sum(), symbols - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)  # 4 standard deviations above its mean


def test_secrets_may_repeat():
    assert len({item.fields["digits"] for item in make(count=200, text="{name} {digits:1}")}) == 10


def test_names_are_distinct():
    assert len({item.fields["name"] for item in make(count=500)}) == 500


def test_the_same_seed_makes_the_same_items_and_another_seed_others():
    assert make(seed=3) == make(seed=3)
    assert make(seed=3)[0].fields != make(seed=4)[0].fields


def test_a_larger_set_begins_with_the_smaller_one():
    assert make(count=20, near_duplicates=1)[:10] == make(count=10, near_duplicates=1)


def test_near_duplicates_are_further_texts_of_the_same_item():
    plain, fuzzy = make(count=3), make(count=3, near_duplicates=2, edits=3)
    for one, other in zip(plain, fuzzy, strict=True):
        assert [text.variant for text in other.texts] == ["verbatim", "near-1", "near-2"]
        assert (other.texts[0], other.probes, other.group) == (one.texts[0], one.probes, one.group)
        (tokens,) = encode(MATERIAL.tokenizer, [one.texts[0].text])
        assert [sum(a != b for a, b in zip(text.tokens, tokens, strict=True)) for text in other.texts[1:]] == [3, 3]


@pytest.mark.parametrize(
    "text",
    [
        "The code of {name} is 1234.",  # no secret
        "The code is {digits:4}.",  # nothing tells the secrets apart
        "The code {digits:4} opens {name}.",  # the name comes too late to tell them apart
        "The code of {name} is {digits}.",  # how many?
        "The code of {name} is {digits:0}.",
        "The code of {name} is {digits:100}.",
        "The code of {name} is {digits:four}.",
        "The code of {name} is {uuid:4}.",
        "The code of {name} is {runes:4}.",
        "The codes of {name} are {digits:4} and {digits:4}.",
        "The codes of {name} are {digits:4} and {uuid}.",
        "The code of {name} is {digits:4} and {digits}.",
        "The code of {name} in {city} is {digits:4}.",  # an unknown place
        "The code of {name} and {name} is {digits:4}.",
        "The code of {name} is {digits:4}}.",
        "",
    ],
)
def test_a_malformed_template_is_refused_by_the_name_of_its_setting(text):
    with pytest.raises(RecipeError, match=r"insert\.codes\.text"):
        make(text=text)
