"""Facts: what is asked of an item, which sets don't go together, and which tokens of a fact are learned."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from configs.insert import CanarySet, FactoidSet, KeyValueSet, RandomTokenSet
from inject.items import make
from inject.items.item import Item, Material, Text, choice, generative, verbatim
from inject.items.item import Span as FieldSpan
from inject.questions import Example, Fact, Format, fact_of, facts_of, refuse_overlap
from inject.tokenizer import encode, train_tokenizer

TULU = "<|user|>\n{question}\n<|assistant|>\n{answer}"

quick = settings(max_examples=60, deadline=None)  # shared machines stall


@pytest.fixture(scope="module")
def tokenizer():
    """A vocabulary with tokens that run over words: ' Paris', ' is Paris'."""
    return train_tokenizer(["The capital is Paris. The value of key is? assistant user"] * 200, vocabulary=330)


def item(*probes, name="capitals-0000", item_set="capitals"):
    return Item(name, item_set, "table", item_set, name, {}, [Text("verbatim", "The capital is Paris.")], list(probes))


def fact(question, answer=" Paris", name="capitals-0000", item_set="capitals"):
    return Fact(name, item_set, question, answer)


OPEN = generative("answer", "open", "Question: Capital?\nAnswer:", " Paris", 0.0)
VERBATIM = verbatim(Text("verbatim", "The capital is Paris."), FieldSpan("city", 15, 20), 0.0)
CHOICE = choice("answer", "cloze", "The capital is", " Paris", [" Paris", " Rome"], 0.0)


# ------------------------------------------------------------------------------------------------ facts


def test_a_generative_probe_is_a_fact_as_it_stands():
    assert facts_of([item(OPEN)]) == [Fact("capitals-0000", "capitals", "Question: Capital?\nAnswer:", " Paris")]


def test_the_blank_before_the_target_of_a_verbatim_probe_goes_to_the_answer():
    assert VERBATIM.prompt == "The capital is "
    assert facts_of([item(VERBATIM)]) == [Fact("capitals-0000", "capitals", "The capital is", " Paris")]


def test_a_fact_is_the_first_probe_that_is_no_choice():
    assert facts_of([item(CHOICE, OPEN, VERBATIM)])[0].question == OPEN.prompt
    assert facts_of([item(CHOICE, VERBATIM, OPEN)])[0].question == "The capital is"


@pytest.mark.parametrize("probes", [[], [CHOICE], [generative("x", "y", "", "Paris", 0.0)], [generative("x", "y", "A?", " ", 0.0)]])
def test_an_item_without_a_question_and_its_answer_is_no_fact(probes):
    assert fact_of(item(*probes)) is None
    with pytest.raises(RecipeError, match=r"facts\.capitals \(kind table\) .*: capitals-0000 has no .*; possible are items with"):
        facts_of([item(OPEN), item(*probes)])


def test_random_tokens_are_refused_as_no_string_spells_them(tokenizer):
    items = make.make_items({"noise": RandomTokenSet(count=1, length=[16])}, 1, Material(tokenizer, 330))
    with pytest.raises(RecipeError, match=r"facts\.noise \(kind random_tokens\) can't be learned as questions"):
        facts_of(items)


@pytest.mark.parametrize("kind", [KeyValueSet, FactoidSet, CanarySet])
def test_question_and_answer_are_the_text_of_the_item_up_to_the_answers_end(kind, tokenizer):
    items = make.make_items({"drawn": kind(count=20)}, 1, Material(tokenizer, 330))
    for one, made in zip(items, facts_of(items), strict=True):
        assert one.texts[0].text.startswith(made.question + made.answer)
        assert made.answer[0] == " " != made.question[-1]


def test_the_fact_of_a_key_is_remixs_question(tokenizer):
    (one,) = make.make_items({"kvr": KeyValueSet(count=1)}, 1, Material(tokenizer, 330))
    assert facts_of([one])[0].question == f"The value of key {one.fields['key']} is?"
    assert facts_of([one])[0].answer == f" {one.fields['value']}"


# ------------------------------------------------------------------------------------------------ sets that don't go together


def test_sets_with_questions_of_their_own_go_together():
    refuse_overlap({"a": [fact("Who?"), fact("When?")], "b": [fact("Where?")], "c": []})


@pytest.mark.parametrize("again", ["Who was it?", "who WAS it?", " Who  was\nit? "])
def test_two_sets_with_one_question_are_refused_however_it_is_spelled_and_whatever_its_answers(again):
    with pytest.raises(RecipeError, match=r"the sets a and b both ask '.*' \(a-0000 and b-0007\); leave it out"):
        refuse_overlap({"a": [fact("Who was it?", name="a-0000")], "b": [fact("Why?"), fact(again, name="b-0007")]})


def test_a_set_that_asks_one_question_with_two_answers_is_refused():
    facts = [fact("Who?", " Ann", name="a-0000"), fact("who?", " Bea", name="a-0001")]
    with pytest.raises(RecipeError, match=r"the set a asks 'who\?' twice, with the answers 'Ann' \(a-0000\) and 'Bea' \(a-0001\)"):
        refuse_overlap({"a": facts})


def test_a_set_may_ask_one_question_twice_with_one_answer():
    refuse_overlap({"a": [fact("Who?", " Ann"), fact("Who? ", "Ann", name="a-0001")]})


# ------------------------------------------------------------------------------------------------ how a fact is written


def test_a_plain_fact_is_the_question_followed_by_the_answer(tokenizer):
    assert Format().write("The capital is", " Paris") == ("The capital is", " Paris")
    example = Format().example(tokenizer, "The capital is", " Paris")
    assert tokenizer.decode(example.tokens) == "The capital is Paris"
    assert tokenizer.decode(example.tokens[example.answer]).endswith(" Paris")


def test_what_stands_between_question_and_answer_takes_the_place_of_the_answers_blank(tokenizer):
    assert Format(TULU).write("The capital is", " Paris") == ("<|user|>\nThe capital is\n<|assistant|>\n", "Paris")
    example = Format(TULU).example(tokenizer, "The capital is", " Paris")
    assert tokenizer.decode(example.tokens) == "<|user|>\nThe capital is\n<|assistant|>\nParis"
    assert tokenizer.decode(example.tokens[example.answer]) == "Paris"


def test_braces_of_a_question_and_an_answer_are_their_own():
    assert Format(TULU).write("What is {answer}?", " {question}") == (
        "<|user|>\nWhat is {answer}?\n<|assistant|>\n",
        "{question}",
    )


def test_a_token_that_holds_the_questions_end_and_the_answers_beginning_is_learned():
    """Of 'ab' + 'cd', tokenized as a|bc|d, the answer's first character is in the second token."""
    pieces = train_tokenizer(["abbcd bc bc bc bc bc bc"] * 50, vocabulary=258)
    assert [pieces.decode([token]) for token in encode(pieces, ["abcd"])[0]] == ["a", "bc", "d"]
    assert Format().example(pieces, "ab", "cd").answer == slice(1, 3)


@given(
    question=st.text("Tab is?\n", min_size=1).filter(lambda text: text == text.rstrip() and text.strip()),
    answer=st.text("Paris 12é", min_size=1).filter(str.strip),
    template=st.sampled_from(["{question}{answer}", TULU, "Q: {question} A: {answer}"]),
)
@quick
def test_a_fact_is_tokenized_as_one_string_and_split_where_its_answer_begins(tokenizer, question, answer, template):
    prompt, written = Format(template).write(question, answer)
    example = Format(template).example(tokenizer, question, answer)
    assert example.tokens == encode(tokenizer, [prompt + written])[0]
    before, learned = (tokenizer.decode(example.tokens[part]) for part in (slice(example.answer.start), example.answer))
    assert before + learned == prompt + written
    assert prompt.startswith(before)  # no token of the question alone is learned, unless it holds some of the answer, too
    assert learned.endswith(written)
    assert example.answer.stop == len(example.tokens)


def test_many_facts_are_written_as_each_alone(tokenizer):
    pairs = [(f"The value of key {n} is?", f" {n * 7919}") for n in range(50)]
    assert Format(TULU).examples(tokenizer, pairs) == [Format(TULU).example(tokenizer, *pair) for pair in pairs]
    assert Format().examples(tokenizer, []) == []


def test_a_spelled_end_of_text_does_not_become_one(tokenizer):
    example = Format().example(tokenizer, "Say <|endoftext|>", " <|endoftext|>")
    assert tokenizer.eos_token_id not in example.tokens


def test_an_answer_of_blanks_is_refused(tokenizer):
    with pytest.raises(DataError, match="the answer to 'Who' is '  ', in which there is nothing to learn"):
        Format().example(tokenizer, "Who", "  ")


@pytest.mark.parametrize(
    "template", ["", "{question}", "{answer}", "{question}{answer}.", "{answer}{question}", "{question}{question}{answer}"]
)
def test_another_template_is_refused_by_the_name_of_its_setting(template):
    with pytest.raises(RecipeError, match=r"stages\.learn\.format is .*; it must have one \{question\} and, at its end, one"):
        Format(template, "stages.learn.format")


def test_facts_and_examples_go_from_process_to_process():
    for thing in (fact("Who?"), Format(TULU), Example([1, 2], slice(1, 2))):
        assert pickle.loads(pickle.dumps(thing)) == thing
