"""Settings of what is inserted, how often, when and where: the kinds of item sets, and the design.

Each item set of a recipe is checked against the dataclass of its kind. Its `design` is the recipe's, with what the set says
itself laid over it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from configs.setting import setting

# ------------------------------------------------------------------------------------------------ design


@dataclass
class Phase:
    """A rate in a part of training. The rate is one of `copies`, `every` and `share`."""

    copies: int | None = setting(None, "copies of each item", "copies")
    every: int | None = setting(None, "each item once in every so many rows of the window", "rows")
    share: float | None = setting(None, "part of the window's tokens that all items of the arm take together", "fraction")
    window: list[float] | None = setting(None, "part of training in which the copies fall", "fractions of training")
    steps: list[int] | None = setting(None, "the same in steps: from the first to before the last", "steps")
    spacing: str | None = setting(None, "how an item's copies are spread over the window: see design.spacing")


@dataclass
class Arm(Phase):
    """One cell of the design; what it does not say is as in the design."""

    size: int | None = setting(None, "groups of each item set assigned to the arm; it has to be given", "groups")
    placement: str | None = setting(None, "where in a row a copy lies: see design.placement")
    mode: str | None = setting(None, "overwrite or splice: see design.mode")
    variants: str | None = setting(None, "which texts of an item are inserted: see design.variants")
    phases: list[Phase] = setting([], "rates by part of training, in place of one rate and window")
    places: Any = setting(
        None, "explicit places, dealt to the arm's items in turn: a list of [row, offset], or a CSV, JSONL or parquet file of them"
    )


@dataclass
class Design:
    """The arms to which groups of items are assigned at random, within each stratum."""

    copies: list[int] = setting([0, 1, 4, 16, 64, 256], "copies of each item, an arm each; 0 is held out", "copies")
    sizes: list[int] = setting([24, 12, 12, 8, 6, 4], "groups of each item set in each of these arms", "groups")
    window: list[float] = setting([0.0, 1.0], "part of training in which copies fall", "fractions of training")
    steps: list[int] | None = setting(None, "the same in steps: from the first to before the last; in place of window", "steps")
    spacing: str = setting(
        "uniform",
        "how an item's copies are spread over the window: uniform (at random), even, expanding (gaps grow by a constant factor), "
        "massed (in neighbouring rows), bursts:N (N at a time in neighbouring rows)",
    )
    placement: str = setting(
        "anywhere",
        "where in a row a copy lies: anywhere, start, boundary (after a document of the row), offset:N (at token N), "
        "stratified:N (an item's copies in turn in each of N equal parts of the row)",
    )
    mode: str = setting(
        "overwrite", "overwrite (base tokens are replaced in place) or splice (inserted at a boundary, the row's tail makes room)"
    )
    variants: str = setting(
        "rotate",
        "which texts of an item are inserted: rotate (copies take turns), verbatim (the first), one (one of them, at random)",
    )
    cross: dict[str, list[Any]] = setting(
        {}, "further factors, each with its levels: window, steps, spacing, placement, mode, variants; an arm for each combination"
    )
    arms: dict[str, Arm] = setting({}, "further arms by name, each with its own size and rate, window, spacing, placement ...")
    reference: str | None = setting(
        None, "a causal language model (folder or hub name) whose loss of each item the balance table compares"
    )


# ------------------------------------------------------------------------------------------------ item sets


@dataclass
class ItemSet:
    """What every kind of item set has."""

    kind: str = setting("???", "kind of item")
    count: int | None = setting(66, "groups of items to make; of a set read from files, all that there are if not given", "groups")
    design: Any = setting(None, "settings of the design in which this set differs; resolved into a Design")


@dataclass
class FuzzySet(ItemSet):
    """What item sets have whose items may also be inserted in near-duplicates of their text."""

    near_duplicates: int = setting(
        0, "fuzzy variants of each item besides the verbatim one; design.variants says which are inserted"
    )
    edits: int = setting(1, "tokens in which a near-duplicate differs from the verbatim text", "tokens")
    edit: str = setting(
        "substitute",
        "how a near-duplicate differs: substitute (tokens at random places are replaced by random others), insert (random tokens "
        "are inserted at random places), shuffle (tokens at random places are permuted)",
    )


@dataclass
class CanarySet(FuzzySet):
    """Secrets with a known randomness space, so that exposure is exact."""

    kind: str = setting("canary", "kind of item")
    text: str = setting(
        "The access code of vault {name} is {digits:4}.",
        "template; {name} becomes a made-up name, and the one secret after it N random digits {digits:N}, letters a to z "
        "{letters:N}, hexadecimal digits {hex:N}, letters and digits as of an API key {key:N}, words joined by hyphens "
        "{passphrase:N}, or a random UUID {uuid}",
    )


@dataclass
class RandomTokenSet(FuzzySet):
    """Uniformly random token sequences, whose entropy is known."""

    kind: str = setting("random_tokens", "kind of item")
    length: list[int] = setting([64], "tokens of a sequence; the items are divided evenly over these lengths", "tokens")
    prefix: int = setting(8, "tokens at the beginning of a sequence that a probe gives away; no two items share them", "tokens")
    vocabulary: int | None = setting(
        None, "tokens to draw from, those of the lowest ids; all but the special ones if not given", "token ids"
    )


@dataclass
class TrapSet(FuzzySet):
    """Copyright traps: sequences sampled from a language model at a target perplexity."""

    kind: str = setting("trap", "kind of item")
    model: str | None = setting(None, "the causal language model to sample from: a folder or hub name; it has to be given")
    tokens: list[int] = setting(
        [25, 50, 100],
        "lengths of a trap; the items are divided evenly over lengths and perplexities",
        "tokens of the run's tokenizer",
    )
    perplexity: list[Any] = setting(
        [[1.0, 10.0], [10.0, 100.0]], "perplexities of a trap under the model, each a bucket [from, below]", "perplexity"
    )
    jaccard: float | None = setting(
        0.2, "two traps have less than this part of their distinct tokens in common (Jaccard index); no limit if null", "fraction"
    )


@dataclass
class ProfileSet(ItemSet):
    """Personal profiles of people who do not exist (faker)."""

    kind: str = setting("pii", "kind of item")
    contexts: list[str] = setting(
        ["biography"],
        "where a profile is told: biography, encyclopedia, social, forum, review, comment, advertisement, chat",
    )
    templates: int = setting(1, "texts in each context, told in different order and words: 1 or 2", "texts")
    fields: list[str] = setting(
        ["birth_date", "city", "occupation", "phone", "email"],
        "what is told besides the name: nationality, birthplace, birth_date, age, city, address, university, occupation, employer, "
        "phone, uuid, credit_card, national_id, email",
    )
    locales: list[str] = setting(["en_US"], "faker locales of names and places; as many people of each, and a stratum each")
    email_rules: int = setting(
        1, "rules that make an email of a name, each as likely, from 1 (so the name tells the email) to 15", "rules"
    )
    probes: list[str] = setting(
        ["full_prefix"],
        "what is known where a field is asked for: full_prefix (all that its text says before it), intro_prefix (the name and what "
        "the first text says first), name_only, others_known (all other fields told); choice asks there among candidates, too",
    )


@dataclass
class FactoidSet(ItemSet):
    """Made-up facts about made-up places, or values of made-up keys."""

    kind: str = setting("factoid", "kind of item")
    style: str = setting(
        "relations", "relations (the founder, mayor, river ... of a place) or key_value (a key and a random hexadecimal value)"
    )
    length: int = setting(8, "of each value of style key_value; a digit is worth 4 bits", "hexadecimal digits")
    linked: bool = setting(False, "two facts a group: the founder of a place, and where that founder was born; of style relations")
    paraphrases: int = setting(1, "wordings in which each fact is inserted, 1 to 5; one more is never inserted", "texts")
    probes: list[str] = setting(
        ["memorization"],
        "how deep to ask: memorization (the value, in each wording inserted), paraphrase (the value, in a wording never inserted), "
        "composition (where the founder of a place was born, which takes both facts; of linked facts)",
    )


@dataclass
class KeyValueSet(ItemSet):
    """Random values of random keys, each asked for by its key: the key-value recall of REMIX (https://arxiv.org/abs/2411.07175)."""

    kind: str = setting("key_value", "kind of item")
    key_length: int = setting(8, "of each key; no two items share one", "characters")
    value_length: int = setting(8, "of each value", "characters")
    alphabet: str = setting(
        "alphanumeric", "what keys and values are made of: alphanumeric (letters a to z and digits), letters or digits"
    )


@dataclass
class TestSet(ItemSet):
    """Questions with candidate answers, as in a contaminated benchmark."""

    __test__ = False  # not a test class for pytest

    kind: str = setting("testset", "kind of item")
    source: str = setting("arithmetic", "where questions come from: arithmetic or knights (Knights and Knaves puzzles)")
    terms: int = setting(2, "numbers in each arithmetic question: of two the product, of more an expression", "numbers")
    digits: int = setting(3, "digits of each number", "digits")
    decimals: int = setting(0, "decimal places of the results; with 0 all are whole, and nothing is divided", "digits")
    people: int = setting(2, "people in each puzzle, 2 to 8", "people")
    choices: int = setting(4, "candidate answers of each question, the right one included", "candidates")
    inserted: str = setting(
        "open",
        "how a question is written in the text that is inserted: multiple_choice (candidates by letter), open (question and "
        "answer; the same as cloze), infill (a sentence with the answer in it)",
    )
    probed: list[str] = setting(
        ["cloze"],
        "how a question is asked, in the prompts of lm-evaluation-harness: multiple_choice (which letter?), cloze (which candidate "
        "is the most probable?), open (does the model continue with the answer?), infill (which candidate fills the blank best?)",
    )
    answer: bool = setting(True, "insert each question with its answer")
    paraphrase: bool = setting(False, "insert each question in other words than those in which it is asked")
    perturbed: bool = setting(
        False,
        "also ask perturbed twins, which are never inserted: arithmetic with other numbers; puzzles with another statement or part "
        "of one, and so another answer, or with other names, words for the roles or order, and the same answer",
    )


@dataclass
class RowSet(ItemSet):
    """What item sets have that are read from files, or from the hub."""

    count: int | None = setting(None, "groups to take, at random; all if not given", "groups")
    path: str | None = setting(
        None, "a JSONL, parquet, CSV, TSV or text file, or a folder of them; of text each file is a row; in place of hub"
    )
    hub: str | None = setting(None, "a data set of the Hugging Face hub, or a folder laid out as one")
    config: str | None = setting(None, "configuration of the hub data set, where it has several")
    split: str = setting("train", "split of the hub data set; several joined by +, as train+test")
    revision: str | None = setting(None, "branch, tag or commit of the hub data set")
    where: dict[str, Any] = setting({}, "rows to read: the value of a column, or a list of values that it may have")
    limit: int | None = setting(None, "read only so many of the first rows, before `where`; all if not given", "rows")
    unusable: str = setting(
        "refuse",
        "what to do about a row that can't be used (a field is missing or empty, an earlier row has the same text, or continues "
        "the same prompt otherwise ...): refuse it, or skip it and draw another",
    )
    ambiguous: str = setting(
        "refuse",
        "what to do about a prompt that rows continue otherwise, as texts that begin alike: refuse such a row, or leave the prompt "
        "unasked and keep the rows",
    )


@dataclass
class PassageSet(RowSet):
    """Passages of any text, whole documents or consecutive chunks of them. A document is a group."""

    kind: str = setting("passage", "kind of item")
    column: str = setting("text", "column that holds a document's text")
    chunk: str = setting(
        "whole",
        "passages of a document: whole (one, all of it) or tokens:N (it is cut from its beginning into N tokens each; a rest of "
        "fewer is no passage)",
    )
    chunks: int | None = setting(None, "passages to take of each document, the first ones; all if not given", "passages")
    rest: bool = setting(False, "take the rest of a document, too, that is shorter than the other chunks")
    prompt: int = setting(
        50, "tokens of a passage that its probe gives away; half of a passage of fewer than twice as many", "tokens"
    )


@dataclass
class TableProbe:
    """A question about each row of a table. With nothing but a field: the field, in every text in which it stands."""

    field: str = setting("", "what is asked for: a field, that is a name of `columns` or a column")
    kind: str = setting(
        "verbatim",
        "verbatim (where the field stands in a text: the field after all before it), generative (does the model continue the "
        "prompt with the target?) or choice (which candidate is the most probable?)",
    )
    after: int = setting(
        0, "of a verbatim field, tokens that are given away; half of a field of fewer than twice as many", "tokens"
    )
    prompt: str | None = setting(None, "of the other kinds, the prompt: a template with fields in braces")
    target: str = setting("{}", "what continues the prompt: a template in which {} is the field; a blank parts it from the prompt")
    context: str = setting("question", "name of the prompt, which tells several probes of a field apart")
    candidates: Any = setting(
        None, "of a choice: a field that holds a list, a list of fields, or how many, the others being the field of rows at random"
    )
    bits: float | None = setting(None, "entropy of the target given the prompt, where it is known", "bits")


@dataclass
class TableQuestion:
    """Which columns hold a question, its candidates and its answer, and how it is inserted and asked: see testset."""

    question: str = setting("question", "the question: a field, or a template with fields in braces")
    choices: Any = setting(None, "candidate answers: a field that holds a list, or a list of fields; none if not given")
    answer: str = setting("answer", "a field that tells the right answer")
    answer_is: str | None = setting(
        None, "how it does: index (of the choices, from 0), number (from 1), letter or text; index if there are choices, else text"
    )
    inserted: str | None = setting(
        None, "format of the inserted text: multiple_choice, cloze, open or infill; multiple_choice if there are choices, else open"
    )
    probed: list[str] = setting([], "formats in which it is asked; the inserted one if none is given")
    with_answer: bool = setting(True, "insert each question with its answer")


@dataclass
class TableSet(RowSet):
    """Items of one's own, or released ones: the rows of a table, by a mapping of columns.

    A column may hold columns: `answer.value`, `answers.0`; text that holds JSON is read as such on the way.
    """

    kind: str = setting("table", "kind of item")
    item_kind: str | None = setting(
        None, "what the items count as: canary, pii, factoid, testset, passage or table; testset if question is given, else table"
    )
    columns: dict[str, str] = setting({}, "fields by name, each a column; every column is a field by its own name, too")
    text: str | None = setting(None, "what is inserted: a template with fields in braces; {text} if nothing else is said")
    texts: dict[str, str] = setting({}, "several templates, by name of the variant")
    tokens: str | None = setting(
        None,
        "column that holds what is inserted as token ids of the tokenizer in use, in place of text and texts; a verbatim probe of "
        "it asks for what follows its first tokens",
    )
    question: TableQuestion | None = setting(
        None, "what is asked, of a set of questions; inserted, too, unless text or texts is given"
    )
    probes: list[TableProbe] = setting([], "what is asked about each row")
    id: str | None = setting(None, "field that names an item; the number of its row, from 0, if not given")
    group: str | None = setting(
        None, "field, or template with fields in braces, that rows of one group share; each its own if not given"
    )
    stratum: str | None = setting(None, "field by which the set is stratified")
    copies: str | None = setting(None, "field that holds how often a released item was inserted; kept as released_copies")
    member: str | None = setting(
        None,
        "field that says whether a released item was inserted at all (true or false, 1 or 0, yes or no), in place of copies; kept "
        "as released_member",
    )
    longest: int | None = setting(None, "tokens that a text may have; a row with a longer one can't be used", "tokens")


@dataclass
class RecordedSet(ItemSet):
    """The items of a run that is there, as they are: kinds, groups, texts and probes; tokenized anew for another tokenizer."""

    kind: str = setting("run", "kind of item")
    count: int | None = setting(None, "groups to take, at random; all if not given", "groups")
    run: str | None = setting(None, "the folder of the run; it has to be given")
    sets: list[str] = setting([], "item sets of the run to take; all if none is named")
    copies: str | None = setting(
        None, "field that holds how often an item was inserted, as released_copies; the copies that the run planned if not given"
    )


ITEM_SETS: dict[str, type[ItemSet]] = {
    str(next(f.default for f in fields(kind) if f.name == "kind")): kind
    for kind in (
        CanarySet,
        RandomTokenSet,
        TrapSet,
        ProfileSet,
        FactoidSet,
        KeyValueSet,
        TestSet,
        PassageSet,
        TableSet,
        RecordedSet,
    )
}
