"""The fields of a table's row, by the names that a recipe gives them, and templates over them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from configs.errors import RecipeError
from inject.items.item import Span, render
from inject.items.rows import Row, list_of, lookup, text_of

_PLACE = re.compile(r"\{([^{}]*)\}")


def check_template(template: str, setting: str) -> None:
    """RecipeError where braces of a template don't pair."""
    if re.search(r"[{}]", _PLACE.sub("", template)):
        raise RecipeError(f"{setting} is {template!r}; each field stands in braces of its own, as {{question}}")


class Fields:
    """The fields of one row: those that `columns` names, and every column by its own name. It remembers which were read."""

    def __init__(self, row: Row, columns: Mapping[str, str]):
        self.row = row
        self._columns = columns
        self._read: dict[str, str] = {}

    def text(self, name: str) -> str:
        """A field as text. UnusableRow where it is missing, empty or no text."""
        self._read[name] = text_of(self.row, self._columns.get(name, name))
        return self._read[name]

    def texts(self, names: str | Sequence[str]) -> list[str]:
        """A field that holds a list, or each of a list of fields."""
        return list_of(self.row, self._columns.get(names, names)) if isinstance(names, str) else [self.text(name) for name in names]

    def fill(self, template: str, value: str = "") -> tuple[str, list[Span]]:
        """A template with its fields filled in, and where they stand; {} becomes `value`."""
        return render(template, {name: self.text(name) if name else value for name in _PLACE.findall(template)})

    def fill_or_text(self, given: str) -> str:
        """A template filled in, or a field."""
        return self.fill(given)[0] if "{" in given else self.text(given)

    def known(self) -> dict[str, str]:
        """Every field of `columns`, lists and mappings as JSON, and those that were read."""
        named = {name: lookup(self.row, column) for name, column in self._columns.items()}
        whole = {name: json.dumps(value, ensure_ascii=False) for name, value in named.items() if isinstance(value, list | dict)}
        return {name: whole.get(name) or self.text(name) for name in named} | self._read
