import pytest

from configs.schema import FactoidSet
from inject.items import factoid


def make(count=100, seed=3):
    return factoid.make(FactoidSet(count=count), "geography", seed)


def test_the_text_states_the_value_of_the_place():
    for item in make():
        template = factoid.RELATIONS[item.fields["relation"]]
        assert item.texts[0].text == template.format(place=item.fields["place"], value=item.fields["value"])


def test_spans_are_where_the_fields_stand():
    for item in make():
        text = item.texts[0]
        assert {span.field: text.text[span.start : span.end] for span in text.spans} == {
            "place": item.fields["place"],
            "value": item.fields["value"],
        }


def test_the_probe_asks_for_the_value_after_all_that_precedes_it():
    for item in make():
        (probe,) = item.probes
        assert probe.target == item.fields["value"]
        assert item.texts[0].text == probe.prompt + probe.target + "."
        assert item.fields["place"] in probe.prompt


def test_a_value_is_one_of_80_to_the_4():
    assert make(count=1)[0].probes[0].bits == pytest.approx(25.2877, abs=1e-4)


def test_places_are_distinct():
    assert len({item.fields["place"] for item in make(count=500)}) == 500


def test_every_relation_occurs():
    assert {item.fields["relation"] for item in make()} == set(factoid.RELATIONS)


def test_texts_are_short():
    assert max(len(item.texts[0].text) for item in make(count=500)) <= 120


def test_the_same_seed_makes_the_same_items_and_another_seed_others():
    assert make(seed=3) == make(seed=3)
    assert make(seed=3)[0].fields != make(seed=4)[0].fields


def test_a_larger_set_begins_with_the_smaller_one():
    assert make(count=20)[:10] == make(count=10)
