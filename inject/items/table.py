"""Items of one's own, and released ones: each row of a table is an item, by a mapping of its columns.

The texts are templates over the row's fields, or its question in one of the formats of inject/items/formats.py. What is asked
about a row is asked of fields, as the recipe's probes say.
"""

from __future__ import annotations

from collections.abc import Sequence

from configs.errors import RecipeError
from configs.insert import TableSet
from inject.items.draw import draw
from inject.items.fields import Fields, check_template
from inject.items.item import RELEASED_COPIES, RELEASED_MEMBER, VERBATIM, Item, Material, Probe, Text, item_id
from inject.items.rows import Row, UnusableRow, lookup, read_rows
from inject.items.table_probe import Pools, ask, ask_tokens, check_probe, pool, probe_name
from inject.items.table_question import check_question, question_texts
from inject.tokenizer import decode, encode_with_offsets

KINDS = ["canary", "pii", "factoid", "testset", "passage", "table"]
MEMBER = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
DEFAULT_TEXT = "{text}"


def make(settings: TableSet, item_set: str, seed: int, material: Material) -> list[Item]:
    """One item a row, called by the number of the row among all of the table, or as its `id` says.

    Raises RecipeError for impossible settings, and as `draw` does.
    """
    check(settings, item_set)
    rows = list(read_rows(settings, item_set))
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_group_or_number(row, settings, item_set), []).append(row)
    pools = {
        probe.field: pool(rows, settings.columns, probe.field) for probe in settings.probes if isinstance(probe.candidates, int)
    }
    return draw(
        groups, lambda row: [_item(row, settings, item_set, seed, material, pools)], settings, item_set, seed, material.excluded
    )


def check(settings: TableSet, item_set: str) -> None:
    """Raise RecipeError, in one sentence, where no items can be made so, whatever the rows."""
    where = f"insert.{item_set}"
    if settings.text and settings.texts:
        raise RecipeError(f"{where}.text and {where}.texts are both given; one of them says what is inserted")
    if settings.copies and settings.member:
        raise RecipeError(f"{where}.copies and {where}.member are both given; one of them says what was inserted")
    if settings.item_kind is not None and settings.item_kind not in KINDS:
        raise RecipeError(f"{where}.item_kind is {settings.item_kind!r}; possible: {', '.join(KINDS)}")
    if settings.longest is not None and settings.longest < 1:
        raise RecipeError(f"{where}.longest is {settings.longest}; it must be 1 or more")
    for variant, template in _templates(settings).items():
        check_template(template, f"{where}.texts.{variant}" if settings.texts else f"{where}.text")
    if settings.group is not None:
        check_template(settings.group, f"{where}.group")
    if settings.question is not None:
        check_question(settings.question, f"{where}.question")
    names = [probe_name(probe) for probe in settings.probes]
    for number, probe in enumerate(settings.probes):
        check_probe(probe, f"{where}.probes[{number}]")
        if names[number] in names[:number]:
            raise RecipeError(
                f"{where}.probes[{number}] asks for {probe.field} as another does; give each a context of its own, or leave one out"
            )
    if settings.tokens:
        _check_tokens(settings, where)


def _check_tokens(settings: TableSet, where: str) -> None:
    """The same of a set whose texts are given as tokens: no string spells them, so nothing is looked for in one."""
    if settings.text or settings.texts or settings.question:
        raise RecipeError(f"{where}.tokens is {settings.tokens!r}, which says what is inserted; leave out text, texts and question")
    for number, probe in enumerate(settings.probes):
        if probe.kind == VERBATIM and (probe.field != settings.tokens or probe.after < 1):
            raise RecipeError(
                f"{where}.probes[{number}] is verbatim in texts that are given as tokens; set its field to {settings.tokens!r} and "
                "`after` to the tokens that are given away, 1 or more"
            )


def _templates(settings: TableSet) -> dict[str, str]:
    """What is inserted by name of the variant; nothing but the question, of a set of questions without templates."""
    if settings.tokens:
        return {}
    if settings.question is not None and not settings.text:
        return settings.texts
    return settings.texts or {"verbatim": settings.text or DEFAULT_TEXT}


def _item(row: Row, settings: TableSet, item_set: str, seed: int, material: Material, pools: Pools) -> Item:
    fields = Fields(row, settings.columns)
    texts = [Text(variant, *fields.fill(template)) for variant, template in _templates(settings).items()]
    probes: list[Probe] = []
    if settings.question is not None:
        text, probes = question_texts(fields, settings.question)
        if texts:  # the question is asked, not inserted
            probes = [probe for probe in probes if probe.kind != VERBATIM]
        texts = texts or [text]
    if settings.tokens:
        texts = [_given(settings.tokens, row, material)]
    for probe in settings.probes:
        if settings.tokens and probe.kind == VERBATIM:
            probes = [*probes, ask_tokens(probe, texts[0], material, row)]
            continue
        texts, asked = ask(probe, fields, texts, material, pools, seed)
        probes = [*probes, *asked]
    _check_length(texts, settings.longest, row, material)
    said: dict[str, str] = {}
    if settings.copies is not None:
        said[RELEASED_COPIES] = fields.text(settings.copies)
    if settings.member is not None:
        said[RELEASED_MEMBER] = "true" if said_member(fields.text(settings.member), settings.member, row) else "false"
    return Item(
        item_id=_name(fields, settings, item_set),
        item_set=item_set,
        kind=settings.item_kind or ("testset" if settings.question else "table"),
        stratum=item_set if settings.stratum is None else f"{item_set}/{fields.text(settings.stratum)}",
        group=_group(fields, settings, item_set),
        fields=fields.known() | said,
        texts=texts,
        probes=probes,
    )


def _given(column: str, row: Row, material: Material) -> Text:
    """The text that a row gives as token ids. UnusableRow where they are none of the tokenizer."""
    ids = lookup(row, column)
    if not isinstance(ids, list) or not ids:
        raise UnusableRow(f"{column!r} of {row.where} is {str(ids)[:60]!r}; it must be a list of token ids")
    if wrong := [i for i in ids if type(i) is not int or not 0 <= i < material.vocabulary]:
        raise UnusableRow(f"{column!r} of {row.where} holds {wrong[0]!r}; token ids lie between 0 and {material.vocabulary - 1:,}")
    return Text("verbatim", decode(material.tokenizer, ids), tokens=ids)


def said_member(said: str, column: str, row: Row) -> bool:
    """Whether a cell says that a row was inserted. UnusableRow where it says neither."""
    member = MEMBER.get(said.strip().lower().removesuffix(".0"))
    if member is None:
        raise UnusableRow(f"{column!r} of {row.where} is {said!r}; possible: {', '.join(MEMBER)}")
    return member


def _check_length(texts: Sequence[Text], longest: int | None, row: Row, material: Material) -> None:
    for text in texts if longest is not None else []:
        tokens = len(text.tokens or encode_with_offsets(material.tokenizer, text.text)[0])
        if longest is not None and tokens > longest:
            raise UnusableRow(f"{row.where} makes a text of {tokens} tokens, more than the longest, {longest}")


def _name(fields: Fields, settings: TableSet, item_set: str) -> str:
    return item_id(item_set, fields.row.number) if settings.id is None else f"{item_set}-{fields.text(settings.id)}"


def _group(fields: Fields, settings: TableSet, item_set: str) -> str:
    if settings.group is None:
        return _name(fields, settings, item_set)
    return f"{item_set}/{fields.fill_or_text(settings.group)}"


def _group_or_number(row: Row, settings: TableSet, item_set: str) -> str:
    """The group of a row; of one that has none, its number: it can't be used, which shows when an item is made of it."""
    try:
        return _group(Fields(row, settings.columns), settings, item_set)
    except UnusableRow:
        return item_id(item_set, row.number)
