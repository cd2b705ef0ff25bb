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
from inject.items.item import VERBATIM, Item, Material, Probe, Text, item_id
from inject.items.rows import Row, UnusableRow, read_rows
from inject.items.table_probe import Pools, ask, check_probe, pool, probe_name
from inject.items.table_question import check_question, question_texts
from inject.tokenizer import encode_with_offsets

KINDS = ["canary", "pii", "factoid", "testset", "passage", "table"]
RELEASED_COPIES = "released_copies"
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


def _templates(settings: TableSet) -> dict[str, str]:
    """What is inserted by name of the variant; nothing but the question, of a set of questions without templates."""
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
    for probe in settings.probes:
        texts, asked = ask(probe, fields, texts, material, pools, seed)
        probes = [*probes, *asked]
    _check_length(texts, settings.longest, row, material)
    copies = {RELEASED_COPIES: fields.text(settings.copies)} if settings.copies is not None else {}
    return Item(
        item_id=_name(fields, settings, item_set),
        item_set=item_set,
        kind=settings.item_kind or ("testset" if settings.question else "table"),
        stratum=item_set if settings.stratum is None else f"{item_set}/{fields.text(settings.stratum)}",
        group=_group(fields, settings, item_set),
        fields=fields.known() | copies,
        texts=texts,
        probes=probes,
    )


def _check_length(texts: Sequence[Text], longest: int | None, row: Row, material: Material) -> None:
    for text in texts if longest is not None else []:
        tokens = len(encode_with_offsets(material.tokenizer, text.text)[0])
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
