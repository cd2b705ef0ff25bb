import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import DataError
from inject.items.formats import FORMATS, Rendered, parts_of_blank, render_question, unanswered

CANDIDATES = ["Paris", "Rome", "Oslo"]
QUESTION = "What is the capital of Norway?"
BLANK = "The capital of Norway is _ in the north."


def test_multiple_choice_lists_candidates_and_asks_for_a_letter():
    assert render_question("multiple_choice", QUESTION, CANDIDATES, "Oslo") == Rendered(
        prompt=f"Question: {QUESTION}\nA. Paris\nB. Rome\nC. Oslo\nAnswer:", target=" C", candidates=[" A", " B", " C"]
    )


def test_cloze_hides_the_candidates_and_scores_each():
    assert render_question("cloze", QUESTION, CANDIDATES, "Oslo") == Rendered(
        prompt=f"Question: {QUESTION}\nAnswer:", target=" Oslo", candidates=[" Paris", " Rome", " Oslo"]
    )


def test_an_open_question_has_the_prompt_and_target_of_cloze_and_no_candidates():
    cloze = render_question("cloze", QUESTION, CANDIDATES, "Oslo")
    assert render_question("open", QUESTION, [], "Oslo") == Rendered(cloze.prompt, cloze.target, [])
    assert render_question("open", QUESTION, CANDIDATES, "Oslo").candidates == []


def test_infill_fills_the_blank_and_scores_the_rest_of_the_sentence_too():
    assert render_question("infill", BLANK, CANDIDATES, "Oslo") == Rendered(
        prompt="The capital of Norway is",
        target=" Oslo in the north.",
        candidates=[" Paris in the north.", " Rome in the north.", " Oslo in the north."],
    )


def test_a_blank_at_the_end_makes_endings_of_a_context():
    assert render_question("infill", "She opened the door and _", ["left.", "ate it."], "left.") == Rendered(
        prompt="She opened the door and", target=" left.", candidates=[" left.", " ate it."]
    )


def test_a_blank_at_the_beginning_leaves_an_empty_prompt():
    rendered = render_question("infill", "_ is the capital of Norway.", CANDIDATES, "Oslo")
    assert (rendered.prompt, rendered.target) == ("", "Oslo is the capital of Norway.")


def test_a_blank_in_brackets_needs_no_space():
    rendered = render_question("infill", "Norway (capital: “_”) is cold.", CANDIDATES, "Oslo")
    assert (rendered.prompt, rendered.target) == ("Norway (capital: “", "Oslo”) is cold.")


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("a _ b", ("a ", " b")),
        ("snake_case is _'s style", ("snake_case is ", "'s style")),
        ("sign here ______ and _", ("sign here ______ and ", "")),
    ],
)
def test_a_blank_is_a_single_underscore_that_ends_no_word(sentence, parts):
    assert parts_of_blank(sentence) == parts


@pytest.mark.parametrize("sentence", ["no blank", "_ and _", "snake_case", "______", ""])
def test_a_sentence_without_exactly_one_blank_is_refused(sentence):
    with pytest.raises(DataError, match="a question to fill in has one"):
        render_question("infill", sentence, CANDIDATES, "Oslo")


@pytest.mark.parametrize("format", ["multiple_choice", "cloze", "infill"])
@pytest.mark.parametrize("candidates", [[], ["Oslo"], ["Paris", "Rome"], ["Oslo", "Rome", "Oslo"]])
def test_a_question_without_one_right_answer_among_several_is_refused(format, candidates):
    with pytest.raises(DataError, match=r"needs two or more, of which one is its answer 'Oslo'"):
        render_question(format, BLANK, candidates, "Oslo")


def test_more_candidates_than_letters_are_refused():
    with pytest.raises(DataError, match="27 candidates; letters stand for up to 26"):
        render_question("multiple_choice", QUESTION, [str(number) for number in range(27)], "3")


def test_without_its_answer_a_question_is_the_prompt_that_does_not_yet_ask_for_it():
    assert unanswered("cloze", QUESTION, CANDIDATES) == unanswered("open", QUESTION, []) == f"Question: {QUESTION}"
    assert unanswered("multiple_choice", QUESTION, CANDIDATES) == f"Question: {QUESTION}\nA. Paris\nB. Rome\nC. Oslo"
    assert unanswered("infill", BLANK, CANDIDATES) == BLANK


WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@given(
    format=st.sampled_from(sorted(FORMATS)),
    before=st.sampled_from(["", "It is ", "Say: ", "("]),
    after=st.sampled_from(["", ".", " of them."]),
    candidates=st.lists(WORDS, min_size=2, max_size=6, unique=True),
    data=st.data(),
)
def test_the_target_is_one_candidate_and_no_prompt_ends_in_a_blank(format, before, after, candidates, data):
    answer = data.draw(st.sampled_from(candidates))
    rendered = render_question(format, f"{before}_{after}", candidates, answer)
    assert rendered.prompt == rendered.prompt.rstrip()
    assert len(rendered.candidates) == (0 if format == "open" else len(candidates))
    if rendered.candidates:
        assert rendered.candidates.index(rendered.target) == candidates.index(answer)
    if format == "infill":
        assert rendered.prompt + rendered.target == f"{before}{answer}{after}"
