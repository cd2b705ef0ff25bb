import re

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from configs.errors import RecipeError
from configs.insert import TestSet
from inject.items import testset
from inject.items.formats import Question
from inject.items.make import lint

SOURCES = ["arithmetic", "knights"]
FORMATS = ["multiple_choice", "cloze", "open", "infill"]

CAPITAL = Question(
    question="What is the capital of Norway?",
    answer="Oslo",
    candidates=["Rome", "Oslo"],
    paraphrase="Which town governs Norway?",
    statement="The capital of Norway is _ today.",
)


def make(count=60, seed=3, **settings):
    return testset.make(TestSet(count=count, **settings), "quiz", seed, material=None)


def marked(text):
    return {span.field: text.text[span.start : span.end] for span in text.spans}


def by_context(item):
    return {probe.context: probe for probe in item.probes if probe.kind != "verbatim"}


def recall(item):
    (found,) = (probe for probe in item.probes if probe.kind == "verbatim")
    return found


# ---------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("format", "text", "spans"),
    [
        (
            "multiple_choice",
            "Question: What is the capital of Norway?\nA. Rome\nB. Oslo\nAnswer: B",
            {"question": CAPITAL.question, "letter": "B"},
        ),
        ("open", "Question: What is the capital of Norway?\nAnswer: Oslo", {"question": CAPITAL.question, "answer": "Oslo"}),
        ("cloze", "Question: What is the capital of Norway?\nAnswer: Oslo", {"question": CAPITAL.question, "answer": "Oslo"}),
        ("infill", "The capital of Norway is Oslo today.", {"answer": "Oslo"}),
    ],
)
def test_a_question_leaks_with_its_answer(format, text, spans):
    leaked = testset.inserted_text(CAPITAL, format)
    assert leaked.text == text
    assert marked(leaked) == spans


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("multiple_choice", "Question: What is the capital of Norway?\nA. Rome\nB. Oslo"),
        ("open", "Question: What is the capital of Norway?"),
        ("infill", "The capital of Norway is _ today."),
    ],
)
def test_a_question_leaks_without_its_answer(format, text):
    leaked = testset.inserted_text(CAPITAL, format, answered=False)
    assert leaked.text == text
    assert marked(leaked) == ({} if format == "infill" else {"question": CAPITAL.question})


def test_a_question_leaks_in_other_words():
    leaked = testset.inserted_text(CAPITAL, "open", paraphrased=True)
    assert leaked.text == "Question: Which town governs Norway?\nAnswer: Oslo"
    assert marked(leaked) == {"paraphrase": CAPITAL.paraphrase, "answer": "Oslo"}


# ---------------------------------------------------------------------------------------------- probes


def test_a_question_is_asked_in_each_format_and_each_probe_says_in_which():
    probes = testset.probes(CAPITAL, FORMATS)
    assert [(probe.probe_id, probe.context, probe.kind) for probe in probes] == [
        ("multiple_choice/letter/choice", "multiple_choice", "choice"),
        ("cloze/answer/choice", "cloze", "choice"),
        ("open/answer", "open", "generative"),
        ("infill/answer/choice", "infill", "choice"),
    ]
    assert [probe.target for probe in probes] == [" B", " Oslo", " Oslo", " Oslo today."]
    assert [probe.prior for probe in probes] == [1 / 2, 1 / 2, None, 1 / 2]
    assert all(probe.bits == 0 for probe in probes)


def test_a_probe_of_a_perturbed_question_says_so():
    (probe,) = testset.probes(CAPITAL, ["cloze"], "leaf")
    assert (probe.context, probe.probe_id) == ("perturbed-leaf/cloze", "perturbed-leaf/cloze/answer/choice")


# ---------------------------------------------------------------------------------------------- items


def test_by_default_products_are_inserted_with_their_answer_and_asked_as_a_choice_among_four():
    for item in make():
        a, b = (int(number) for number in re.findall(r"\d+", item.fields["question"]))
        (text,) = item.texts
        assert text.text == f"Question: What is {a} times {b}?\nAnswer: {a * b}"
        verbatim, choice = item.probes
        assert text.text == verbatim.prompt + verbatim.target
        assert verbatim.target == item.fields["answer"] == str(a * b)
        assert (choice.kind, len(choice.candidates)) == ("choice", 4)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("inserted", FORMATS)
def test_asked_in_the_format_of_the_text_the_prompt_and_target_are_the_text(source, inserted):
    for item in make(count=20, source=source, inserted=inserted, probed=[inserted]):
        asked = by_context(item)[inserted]
        assert asked.prompt + asked.target == item.texts[0].text
        assert item.texts[0].text.startswith(recall(item).prompt + recall(item).target)
        assert asked.target.strip().startswith(recall(item).target)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("inserted", FORMATS)
@pytest.mark.parametrize("answer", [True, False])
def test_spans_are_where_the_fields_stand(source, inserted, answer):
    for item in make(count=20, source=source, inserted=inserted, answer=answer):
        assert marked(item.texts[0]).items() <= item.fields.items()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("inserted", FORMATS)
def test_without_its_answer_a_question_is_asked_but_not_verbatim(source, inserted):
    for item, answered in zip(
        make(count=20, source=source, inserted=inserted, answer=False, probed=FORMATS),
        make(count=20, source=source, inserted=inserted, probed=FORMATS),
        strict=True,
    ):
        assert item.probes == [probe for probe in answered.probes if probe.kind != "verbatim"]
        if inserted != "infill":
            assert answered.texts[0].text.startswith(item.texts[0].text)


@pytest.mark.parametrize("source", SOURCES)
def test_inserted_in_other_words_a_question_is_asked_in_its_own(source):
    for item, same in zip(
        make(count=20, source=source, paraphrase=True, probed=FORMATS),
        make(count=20, source=source, probed=FORMATS),
        strict=True,
    ):
        assert by_context(item) == by_context(same)
        assert item.fields["paraphrase"] in item.texts[0].text
        assert item.fields["question"] not in item.texts[0].text
        assert item.fields["answer"] == recall(item).target == recall(same).target


@pytest.mark.parametrize(
    ("source", "names"), [("arithmetic", {"numbers"}), ("knights", {"statement", "leaf", "names", "roles", "order"})]
)
def test_perturbed_twins_are_asked_in_every_format_and_never_inserted(source, names):
    items = make(source=source, perturbed=True, probed=FORMATS)
    inserted = {item.fields["question"] for item in items}
    for item in items:
        contexts = set(by_context(item))
        assert contexts == {*FORMATS, *(f"perturbed-{name}/{format}" for name in names for format in FORMATS)}
        for name in names:
            assert item.fields[f"perturbed-{name}"] not in inserted
            asked = by_context(item)[f"perturbed-{name}/open"]
            assert asked.prompt == f"Question: {item.fields[f'perturbed-{name}']}\nAnswer:"
            assert asked.target == f" {item.fields[f'perturbed-{name}-answer']}"


@pytest.mark.parametrize("source", SOURCES)
def test_how_questions_are_inserted_and_asked_does_not_change_which_they_are(source):
    plain = [item.fields["question"] for item in make(source=source)]
    for options in [{"inserted": "infill"}, {"probed": FORMATS}, {"answer": False}, {"paraphrase": True}, {"perturbed": True}]:
        assert [item.fields["question"] for item in make(source=source, **options)] == plain


def test_all_letters_are_right_equally_often():
    letters = [recall(item).target for item in make(count=800, inserted="multiple_choice")]
    assert sum((letters.count(letter) - 200) ** 2 / 200 for letter in "ABCD") < 16.3  # chi-square, p = 0.001
    assert recall(make(count=1, inserted="multiple_choice")[0]).prior == 1 / 4


def test_questions_are_distinct_even_with_factors_exchanged():
    items = make(count=300, digits=2)
    assert len({tuple(sorted(re.findall(r"\d+", item.fields["question"]))) for item in items}) == 300


def test_a_set_that_runs_out_of_new_questions_says_how_many_there_are(monkeypatch):
    monkeypatch.setattr(testset, "_draw", lambda random, settings: CAPITAL)
    with pytest.raises(RecipeError, match=r"insert\.quiz\.count is 2; with these settings only 1 different questions were found"):
        make(count=2)


@given(
    seed=st.integers(0, 2**64 - 1),
    source=st.sampled_from(SOURCES),
    inserted=st.sampled_from(FORMATS),
    answer=st.booleans(),
    terms=st.integers(2, 6),
    decimals=st.integers(0, 2),
)
@examples(max_examples=25, deadline=None)
def test_no_two_probes_contradict_each_other(seed, source, inserted, answer, terms, decimals):
    chosen = {"source": source, "inserted": inserted, "answer": answer, "terms": terms, "decimals": decimals}
    items = make(count=15, seed=seed, perturbed=True, probed=FORMATS, **chosen)
    lint(items)
    assert all(len({probe.probe_id for probe in item.probes}) == len(item.probes) for item in items)


@pytest.mark.parametrize("options", [{}, {"digits": 9}, {"terms": 5}, {"terms": 3, "decimals": 2}])
def test_texts_are_short(options):
    assert max(len(item.texts[0].text) for item in make(**options)) <= 120


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_seed_makes_the_same_items_and_another_seed_others(source):
    assert make(seed=3, source=source) == make(seed=3, source=source)
    assert make(seed=3, source=source)[0].fields != make(seed=4, source=source)[0].fields


@pytest.mark.parametrize("source", SOURCES)
def test_a_larger_set_begins_with_the_smaller_one(source):
    assert make(count=20, source=source)[:10] == make(count=10, source=source)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": "trivia"}, r"source is 'trivia'; arithmetic and knights are possible"),
        ({"terms": 1}, r"terms is 1; 2 to 100"),
        ({"terms": 101}, r"terms is 101; 2 to 100"),
        ({"digits": 1}, r"digits is 1; 2 to 9"),
        ({"digits": 10}, r"digits is 10; 2 to 9"),
        ({"decimals": -1}, r"decimals is -1; 0 to 6"),
        ({"decimals": 7}, r"decimals is 7; 0 to 6"),
        ({"choices": 1}, r"choices is 1; 2 to 10"),
        ({"choices": 11}, r"choices is 11; 2 to 10"),
        ({"source": "knights", "people": 1}, r"people is 1; 2 to 8"),
        ({"source": "knights", "people": 9}, r"people is 9; 2 to 8"),
        ({"source": "knights", "people": 2, "choices": 5}, r"choices is 5; a puzzle of 2 people has 4"),
        ({"count": 10**9}, r"count is 1000000000; with these settings up to 202725"),
        ({"count": 10**9, "source": "knights"}, r"count is 1000000000; with these settings up to 14040"),
        ({"count": None}, r"count is None"),
        ({"inserted": "essay"}, r"inserted is 'essay'; multiple_choice, cloze, open, infill are possible"),
        ({"probed": []}, r"probed is \[\]; name one or more of"),
        ({"probed": ["essay"]}, r"probed is \['essay'\]"),
        ({"probed": ["open", "open"]}, r"probed is .*each once"),
        ({"paraphrase": True, "inserted": "infill"}, r"paraphrase is true, but inserted is infill"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(options, sentence):
    with pytest.raises(RecipeError, match=r"insert\.quiz\." + sentence):
        make(**{"count": 10, **options})


@pytest.mark.parametrize("options", [{"people": 0}, {"source": "knights", "terms": 0, "digits": 0}])
def test_settings_of_another_source_are_not_looked_at(options):
    assert len(make(count=2, **options)) == 2
