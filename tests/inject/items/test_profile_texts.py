"""Templates: each tells any choice of fields, and asks for one field at a time."""

import re

import pytest

from inject.items.item import Span
from inject.items.profile import FIELDS, REFERENCE_YEAR
from inject.items.profile_texts import TEMPLATES, Template

ALL = [pytest.param(template, id=f"{name}-{n}") for name, of in TEMPLATES.items() for n, template in enumerate(of, start=1)]


def leads(template):
    return {field: clause.partition("{")[0].rstrip() for field, clause in template.clauses.items()}


def test_clauses_stand_between_opening_and_closing_in_the_order_asked_for():
    template = Template("{name}: ", {"a": "A is {a}", "b": "B is {b}", "c": "C is {c}"}, between=", ", closing=". Bye, {name}.")
    text, spans = template.render(["c", "a"], {"name": "Ann", "a": "1", "b": "2", "c": "3"})
    assert text == "Ann: C is 3, A is 1. Bye, Ann."
    assert spans == [Span("name", 0, 3), Span("c", 10, 11), Span("a", 18, 19), Span("name", 26, 29)]


def test_fields_are_told_in_the_order_of_the_template():
    assert Template("{name}", {"a": "{a}", "b": "{b}", "c": "{c}"}).order({"c", "a"}) == ["a", "c"]


def test_there_are_eight_contexts_of_two_templates_or_more():
    assert list(TEMPLATES) == ["biography", "encyclopedia", "social", "forum", "review", "comment", "advertisement", "chat"]
    assert all(len(templates) >= 2 for templates in TEMPLATES.values())


@pytest.mark.parametrize("template", ALL)
def test_a_template_has_a_clause_for_every_field_with_that_field_alone(template):
    assert set(template.clauses) == set(FIELDS)
    assert all(re.findall(r"{(.*?)}", clause) == [field] for field, clause in template.clauses.items())


@pytest.mark.parametrize("template", ALL)
def test_the_name_stands_in_the_opening(template):
    assert template.opening.count("{name}") == 1
    assert template.opening.endswith(" ")


@pytest.mark.parametrize("template", ALL)
def test_what_asks_for_a_field_says_something_and_begins_no_other_clause(template):
    found = leads(template)
    for field, lead in found.items():
        assert len(lead) >= 4
        assert not any(template.clauses[other].startswith(lead) for other in found if other != field)


@pytest.mark.parametrize("template", ALL)
def test_a_blank_stands_before_every_value(template):
    assert all(" {" in clause for clause in template.clauses.values())


@pytest.mark.parametrize("template", ALL)
def test_an_age_is_told_with_the_year_it_holds_for(template):
    assert f"end of {REFERENCE_YEAR}" in template.clauses["age"]


@pytest.mark.parametrize("template", ALL)
def test_all_fields_together_make_plain_sentences(template):
    text, _ = template.render(template.order(FIELDS), {"name": "Ann B Lee"} | dict.fromkeys(FIELDS, "X"))
    assert not re.search(r"  |\.\.|[{}]|\s[.,]|\n", text)
    assert text[-1] in ".!"


def test_templates_of_a_context_differ_in_order_and_words():
    for first, second in TEMPLATES.values():
        assert list(first.clauses) != list(second.clauses)
        differing = [field for field in FIELDS if first.clauses[field] != second.clauses[field]]
        assert len(differing) >= len(FIELDS) - 1
