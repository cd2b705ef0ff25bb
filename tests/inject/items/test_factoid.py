from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import RecipeError
from configs.insert import FactoidSet
from inject.items import factoid
from inject.items.make import lint

EVERY_RELATION = {**factoid.PLACES, **factoid.PEOPLE, **factoid.KEYS}
DEPTHS = ["memorization", "paraphrase", "composition"]


def make(count=100, seed=3, **options):
    return factoid.make(FactoidSet(count=count, **options), "geography", seed, material=None)


def probe(item, context):
    (found,) = (probe for probe in item.probes if probe.context == context)
    return found


def told(item, wording):
    return wording.format(subject=item.fields["subject"], value=item.fields["value"])


@pytest.mark.parametrize("relation", EVERY_RELATION)
def test_every_wording_of_a_relation_differs_and_ends_with_the_value_after_the_subject(relation):
    wordings = EVERY_RELATION[relation]
    assert len(set(wordings)) == factoid.WORDINGS
    for wording in wordings:
        assert wording.count("{subject}") == wording.count("{value}") == 1
        assert wording.index("{subject}") < wording.index("{value}")
        assert wording.endswith(" {value}.")


def test_no_two_wordings_of_all_relations_are_the_same():
    assert max(Counter(chain.from_iterable(EVERY_RELATION.values())).values()) == 1


def test_a_person_who_is_the_answer_of_a_first_fact_is_described_by_it():
    for relation, description in factoid.DESCRIPTIONS.items():
        assert factoid.PLACES[relation][0].startswith(description.format("{subject}"))


def test_the_text_states_the_value_of_the_subject():
    for item in make():
        assert [text.text for text in item.texts] == [told(item, EVERY_RELATION[item.fields["relation"]][0])]


def test_paraphrases_state_it_in_other_wordings_and_the_first_is_the_same():
    for item, alone in zip(make(paraphrases=5), make(), strict=True):
        assert [text.variant for text in item.texts] == ["verbatim", *(f"paraphrase-{i}" for i in (1, 2, 3, 4))]
        assert [text.text for text in item.texts] == [told(item, w) for w in EVERY_RELATION[item.fields["relation"]][:5]]
        assert item.texts[0] == alone.texts[0]


@pytest.mark.parametrize("options", [{}, {"paraphrases": 5}, {"style": "key_value"}, {"linked": True}])
def test_spans_are_where_the_fields_stand(options):
    for item in make(**options):
        for text in item.texts:
            assert {span.field: text.text[span.start : span.end] for span in text.spans} == {
                "subject": item.fields["subject"],
                "value": item.fields["value"],
            }


def test_memorization_asks_for_the_value_after_all_that_precedes_it_in_every_inserted_wording():
    for item in make(paraphrases=3):
        assert [probe.context for probe in item.probes] == [text.variant for text in item.texts]
        for asked, text in zip(item.probes, item.texts, strict=True):
            assert asked.kind == "verbatim"
            assert text.text == asked.prompt + item.fields["value"] + "."


def test_paraphrase_asks_in_a_wording_that_no_item_of_its_relation_is_inserted_in():
    for item in make(paraphrases=5, probes=["paraphrase"]):
        (asked,) = item.probes
        held_out = EVERY_RELATION[item.fields["relation"]][-1]
        assert (asked.kind, asked.context) == ("generative", "paraphrase")
        assert asked.prompt + asked.target + "." == told(item, held_out)
        assert not any(text.text.startswith(asked.prompt) for text in item.texts)


def test_the_blank_between_prompt_and_target_belongs_to_the_target():
    for item in make(linked=True, probes=DEPTHS):
        for asked in item.probes:
            if asked.kind == "generative":
                assert asked.prompt == asked.prompt.strip()
                assert asked.target == f" {asked.target.strip()}"


def test_a_value_of_words_is_one_of_80_to_the_4():
    for item in make(count=4, linked=True, probes=DEPTHS):
        assert [probe.bits for probe in item.probes] == pytest.approx([25.2877] * len(item.probes), abs=1e-4)
        assert item.probes[0].prior == pytest.approx(80**-4)


@pytest.mark.parametrize("length", [1, 8, 64])
def test_a_key_has_as_many_hexadecimal_digits_as_asked_each_worth_4_bits(length):
    for item in make(count=20, style="key_value", length=length):
        assert len(item.fields["value"]) == length
        assert set(item.fields["value"]) <= set("0123456789abcdef")
        assert item.probes[0].bits == 4 * length


def test_hexadecimal_digits_are_uniform():
    counts = Counter("".join(item.fields["value"] for item in make(count=1000, style="key_value")))
    assert len(counts) == 16
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 37.7  # chi-square, 15 degrees of freedom, p = 0.001


@pytest.mark.parametrize("options", [{}, {"style": "key_value"}, {"linked": True}])
def test_subjects_are_distinct(options):
    subjects = [item.fields["subject"] for item in make(count=500, **options)]
    assert len(set(subjects)) == len(subjects)


def test_every_relation_occurs():
    assert {item.fields["relation"] for item in make()} == set(factoid.PLACES)
    assert {item.fields["relation"] for item in make(linked=True)} == set(factoid.DESCRIPTIONS) | set(factoid.PEOPLE)


def test_linked_facts_share_a_group_and_the_person_between_them():
    items = make(count=50, linked=True)
    assert len(items) == 100
    assert len({item.item_id for item in items}) == 100
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert first.group == second.group == first.item_id
        assert first.fields["value"] == second.fields["subject"]
        assert first.fields["relation"] in factoid.DESCRIPTIONS
        assert second.fields["relation"] in factoid.PEOPLE


def test_composition_asks_for_the_second_value_and_names_the_first_subject_alone():
    items = make(count=50, linked=True, probes=DEPTHS)
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert not any(probe.context == "composition" for probe in first.probes)
        asked = probe(second, "composition")
        assert asked.target == " " + second.fields["value"]
        assert first.fields["subject"] in asked.prompt
        assert second.fields["subject"] not in asked.prompt


def test_composition_reads_as_both_facts_together():
    first, second = factoid.Fact("Tila", "mayor", "Bo", 1.0, ()), factoid.Fact("Bo", "grave", "Zuni", 2.0, factoid.PEOPLE["grave"])
    asked = factoid.composition(first, second)
    assert asked.prompt + asked.target == "The first mayor of Tila is buried in Zuni"
    assert asked.bits == 2.0


@given(
    seed=st.integers(0, 2**64 - 1),
    linked=st.booleans(),
    paraphrases=st.integers(1, 5),
    depths=st.sets(st.sampled_from(DEPTHS[:2]), min_size=1),
)
@settings(max_examples=25, deadline=None)
def test_no_two_probes_contradict_each_other(seed, linked, paraphrases, depths):
    probes = [*sorted(depths), *(["composition"] if linked else [])]
    items = make(count=20, seed=seed, linked=linked, paraphrases=paraphrases, probes=probes)
    lint(items)
    assert all(len({probe.probe_id for probe in item.probes}) == len(item.probes) for item in items)


@pytest.mark.parametrize(
    "options", [{"paraphrases": 5}, {"paraphrases": 5, "linked": True}, {"paraphrases": 5, "style": "key_value"}]
)
def test_texts_are_short(options):
    assert max(len(text.text) for item in make(count=500, **options) for text in item.texts) <= 120


@pytest.mark.parametrize("options", [{}, {"style": "key_value"}, {"linked": True, "probes": DEPTHS}])
def test_the_same_seed_makes_the_same_items_and_another_seed_others(options):
    assert make(seed=3, **options) == make(seed=3, **options)
    assert make(seed=3, **options)[0].fields != make(seed=4, **options)[0].fields


@pytest.mark.parametrize(("options", "items"), [({}, 10), ({"linked": True}, 20)])
def test_a_larger_set_begins_with_the_smaller_one(options, items):
    assert make(count=20, **options)[:items] == make(count=10, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"style": "poem"}, r"style is 'poem'; relations and key_value are possible"),
        ({"length": 0}, r"length is 0; 1 to 64"),
        ({"length": 65}, r"length is 65; 1 to 64"),
        ({"paraphrases": 0}, r"paraphrases is 0; 1 to 5"),
        ({"paraphrases": 6}, r"paraphrases is 6; 1 to 5"),
        ({"probes": []}, r"probes is \[\]; name one or more of memorization, paraphrase, composition"),
        ({"probes": ["recall"]}, r"probes is \['recall'\]"),
        ({"probes": ["paraphrase", "paraphrase"]}, r"probes is .*each once"),
        ({"probes": ["composition"]}, r"probes asks for composition.*set insert\.geography\.linked=true"),
        ({"linked": True, "style": "key_value"}, r"linked is true, but its style is key_value"),
        ({"count": 20_480_001}, r"count is 20480001; up to 20480000 are possible"),
        ({"count": None}, r"count is None"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(options, sentence):
    with pytest.raises(RecipeError, match=r"insert\.geography\." + sentence):
        make(**{"count": 10, **options})
