from math import log2

import numpy as np
import pytest

from configs.errors import RecipeError
from configs.schema import CanarySet
from inject.items import canary


def make(count=50, seed=3, **settings):
    return canary.make(CanarySet(count=count, **settings), "codes", seed)


def test_the_text_is_the_template_filled_in():
    item = make(count=1)[0]
    assert item.texts[0].text == f"The access code of vault {item.fields['name']} is {item.fields['digits']}."


def test_spans_are_where_the_fields_stand():
    for item in make():
        text = item.texts[0]
        assert [text.text[span.start : span.end] for span in text.spans] == [item.fields["name"], item.fields["digits"]]


def test_the_probe_asks_for_all_digits_after_all_that_precedes_them():
    for item in make():
        (probe,) = item.probes
        assert probe.target == item.fields["digits"]
        assert item.texts[0].text == probe.prompt + probe.target + "."


def test_a_secret_of_six_digits_is_one_of_a_million():
    item = make(count=1, text="Key of {name}: {digits:6}")[0]
    assert len(item.fields["digits"]) == 6
    assert item.fields["space"] == "1000000"
    assert item.probes[0].bits == pytest.approx(log2(1_000_000))


def test_secrets_are_uniform_and_may_repeat():
    secrets = [item.fields["digits"] for item in make(count=2000, text="{name} {digits:1}")]
    counts = np.bincount([int(secret) for secret in secrets], minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_names_are_distinct():
    assert len({item.fields["name"] for item in make(count=500)}) == 500


def test_the_same_seed_makes_the_same_items_and_another_seed_others():
    assert make(seed=3) == make(seed=3)
    assert make(seed=3)[0].fields != make(seed=4)[0].fields


def test_a_larger_set_begins_with_the_smaller_one():
    assert make(count=20)[:10] == make(count=10)


@pytest.mark.parametrize(
    "text",
    [
        "The code of {name} is 1234.",  # no secret
        "The code is {digits:4}.",  # nothing tells the secrets apart
        "The code {digits:4} opens {name}.",  # the name comes too late to tell them apart
        "The code of {name} is {digits}.",  # how many?
        "The code of {name} is {digits:0}.",
        "The code of {name} is {digits:four}.",
        "The codes of {name} are {digits:4} and {digits:4}.",
        "The code of {name} is {digits:4} and {digits}.",
        "The code of {name} in {city} is {digits:4}.",  # an unknown place
        "The code of {name} is {digits:4}}.",
        "",
    ],
)
def test_a_malformed_template_is_refused_by_the_name_of_its_setting(text):
    with pytest.raises(RecipeError, match=r"insert\.codes\.text"):
        make(text=text)
