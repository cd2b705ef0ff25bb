"""Facts: questions with one answer each, taken from items; how they are written, and which of their tokens are learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configs.errors import DataError, RecipeError
from configs.stage_checks import check_format
from configs.stages import ANSWER, PLAIN, QUESTION
from inject.items.item import CHOICE, Item
from inject.tokenizer import encode_batch_with_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Fact:
    """A question with one answer."""

    item_id: str
    item_set: str
    question: str  # without blanks at its end
    answer: str  # with the blank that parts it from the question, if one does
    asked: str = ""  # the question in its data, where the one above has other words around it


def facts_of(items: Iterable[Item]) -> list[Fact]:
    """One fact of each item of sets of `facts`, in order. RecipeError for the first item that asks no question of this kind."""
    facts = []
    for item in items:
        if (fact := fact_of(item)) is None:
            raise RecipeError(
                f"facts.{item.item_set} (kind {item.kind}) can't be learned as questions: {item.item_id} has no prompt in words "
                "that an answer continues; possible are items with a verbatim or generative probe, as of kind key_value, factoid "
                "and canary, or of kind table with a question or such probes"
            )
        facts.append(fact)
    return facts


def fact_of(item: Item) -> Fact | None:
    """An item's first verbatim or generative probe as a fact: the prompt is the question, the target the answer.

    None where there is none, and where question or answer is empty or, being given as tokens, spelled by no string. A choice
    is no fact: its answer is the most probable of some candidates, and need not be what the model would say.
    """
    probe = next((probe for probe in item.probes if probe.kind != CHOICE), None)
    if probe is None or probe.tokens is not None or not probe.prompt.strip() or not probe.target.strip():
        return None
    question = probe.prompt.rstrip()
    answer = probe.prompt[len(question) :] + probe.target
    return Fact(item.item_id, item.item_set, question, answer, item.fields.get("question", ""))


def refuse_overlap(sets: Mapping[str, Sequence[Fact]]) -> None:
    """RecipeError where two sets ask the same question, or one asks it twice with different answers.

    What was learned of one set would be measured as kept or lost in the other, and no model can give two answers. Questions are
    the same if they are so in lower case, with runs of blanks as one.
    """
    asked: dict[str, tuple[str, Fact]] = {}
    for name, facts in sets.items():
        for fact in facts:
            other_name, other = asked.setdefault(" ".join((fact.asked or fact.question).lower().split()), (name, fact))
            if other_name != name:
                raise RecipeError(
                    f"the sets {other_name} and {name} both ask {fact.question!r} ({other.item_id} and {fact.item_id}); leave it "
                    "out of one of them, so that what is learned of one says nothing about the other"
                )
            if other.answer.strip() != fact.answer.strip():
                raise RecipeError(
                    f"the set {name} asks {fact.question!r} twice, with the answers {other.answer.strip()!r} ({other.item_id}) and "
                    f"{fact.answer.strip()!r} ({fact.item_id}); leave one of them out, as no model can know both"
                )


# ------------------------------------------------------------------------------------------------ how a fact is written


@dataclass(frozen=True)
class Example:
    """A question with its answer as token ids, without end-of-text tokens around them."""

    tokens: list[int]
    answer: slice  # of the tokens that are learned: from the first that holds a character of the answer to the last of all


@dataclass(frozen=True)
class Format:
    r"""How a fact is written: a template with {question} and, at its end, {answer}; all else in it is literal.

    With nothing between the two places, the answer keeps the blank that parts it from the question; else what is between parts
    them, and the answer's blank is left out.

    >>> Format("{question}{answer}").write("Two plus two is", " four")
    ('Two plus two is', ' four')
    >>> Format("<|user|>\n{question}\n<|assistant|>\n{answer}").write("Two plus two is", " four")
    ('<|user|>\nTwo plus two is\n<|assistant|>\n', 'four')
    """

    template: str = PLAIN
    setting: str = "format"  # what names the template in the recipe

    def __post_init__(self) -> None:
        """RecipeError, in one sentence, for a template of another form."""
        check_format(self.template, self.setting)

    def write(self, question: str, answer: str) -> tuple[str, str]:
        """What stands before the answer, and the answer."""
        before, between = self.template.removesuffix(ANSWER).split(QUESTION)
        return before + question + between, answer.lstrip() if between else answer

    def example(self, tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> Example:
        """A question with its answer as tokens; see `examples`."""
        return self.examples(tokenizer, [(question, answer)])[0]

    def examples(self, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[Example]:
        """Each (question, answer) as tokens: tokenized as one string, as a text that is inserted would be.

        The answer begins with the first token that holds a character of it, which may also hold some of what precedes it; the
        question's own tokens are those before. DataError for an answer without tokens, or of blanks alone.
        """
        written = [self.write(question, answer) for question, answer in pairs]
        encoded = encode_batch_with_offsets(tokenizer, [prompt + answer for prompt, answer in written])
        examples = []
        for (prompt, answer), (tokens, offsets) in zip(written, encoded, strict=True):
            # Tokenizers that trim their offsets leave a blank to no token: the answer begins in the first token that ends in it.
            first = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(tokens))
            if not answer.strip() or first == len(tokens):
                raise DataError(f"the answer to {prompt!r} is {answer!r}, in which there is nothing to learn")
            examples.append(Example(tokens, slice(first, len(tokens))))
        return examples
