"""`imprint score`: a model that exists on texts of one's own, or on the items of a run, without a recipe.

One is composed here of the command line, with one item set called `items`, and done as any recipe with `models` is
(slurm/released.py): cached, resumed, reported and refused in the same way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from configs.checks import check
from configs.errors import DataError, RecipeError
from configs.insert import TableSet
from configs.layout import RunLayout
from configs.recipe import differences, load_recipe, parse_override, resolve_named, result_settings
from configs.schema import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from inject.items.rows import Row

ITEMS = "items"  # what the item set is called: insert.items.limit=1000
NONE = "none"  # in place of a column that is there: it is not looked at
PROMPT_TOKENS = 50
SHARES = ["extracted", "secret_extracted", "answered", "correct", "emitted_untargeted"]  # of the summary, as are all attacks
MEANS = ["log_prob", "exposure"]
CONTRASTS = {"auc": "AUC", "tpr at 1.0%": "TPR at 1% FPR", "rate": "rate", "mean": "mean"}


@dataclass(frozen=True)
class Columns:
    """What the command line says of a table's columns; None is left to what the table holds."""

    text: str | None = None
    member: str | None = None
    copies: str | None = None
    prompt_tokens: int | None = None


def compose(model: str, items: str, columns: Columns, output: Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that scores a model on items: an entry of `models`; a table, or the folder of a run.

    RecipeError or DataError, before anything is written, where the table has not what is asked for, all its rows are members or
    none is, or `output` holds something else.
    """
    settings = _recorded(model, items, columns) if _is_run(Path(items)) else _tabled(items, columns)
    written: dict[str, Any] = {"models": [str(Path(model)) if Path(model).exists() else model], "insert": {ITEMS: settings}}
    layers = [parse_override(override) for override in overrides]
    if output is not None:
        if fixed := [layer.said for layer in layers if {"name", "runs"} & set(layer.settings)]:
            raise RecipeError(f"{fixed[0]} and -o {output} both say where the scores go; give one of them")
        written |= {"name": output.name, "runs": str(output.parent)}
    recipe = resolve_named(OmegaConf.create(written), layers, f"score-{_short(model)}-{_short(Path(items).name.partition('.')[0])}")
    if output is not None:
        recipe.name = output.name
    if recipe.sweep:
        raise RecipeError("sweep is for recipes, but imprint score has none; give several models as a glob, or write a recipe")
    check(recipe)
    _refuse_other(recipe.folder, recipe)
    if isinstance(table := recipe.insert.get(ITEMS), TableSet):
        _check_rows(table, items)
    return recipe


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").exists() or (path / "items.parquet").exists()


def _short(name: str) -> str:
    """The last two parts of a name, safe for a file.

    >>> _short("EleutherAI/pythia-160m@step*"), _short("runs/x/perturbed/checkpoints/step-00003000")
    ('EleutherAI-pythia-160m-step', 'perturbed-step-00003000')
    """
    parts = [part for part in name.split("/") if part not in ("", ".", "..", "checkpoints")]
    return re.sub(r"[^\w.-]+", "-", "-".join(parts[-2:]), flags=re.ASCII).strip("-.")


def _refuse_other(folder: Path, recipe: Recipe) -> None:
    """Scores of other models or items, and files of other kinds, are not written over."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; the scores go to a folder: name one with -o")
    if not folder.exists() or not any(folder.iterdir()):
        return
    run = RunLayout(folder)
    if not run.config.exists():
        raise RecipeError(f"{folder} holds files, but no scores; name a folder of their own with -o")
    old, new = ({"models": each.models, "insert": result_settings(each.insert)} for each in (load_recipe(run.config), recipe))
    if changed := list(differences(old, new)):
        raise RecipeError(
            f"{folder} holds scores of other models or items ({', '.join(changed[:4])}); name a folder for these with -o"
        )


# ------------------------------------------------------------------------------------------------ the items of a run


def _recorded(model: str, items: str, columns: Columns) -> dict[str, Any]:
    """The item set of a run's items, with the copies that it planned; for a model that others trained, those they are released
    with, where they are.
    """
    given = {"--text": columns.text, "--member": columns.member, "--prompt-tokens": columns.prompt_tokens}
    if unfit := [option for option, value in given.items() if value is not None]:
        raise RecipeError(f"{items} is a run, whose items have their texts, probes and copies; leave out {unfit[0]}")
    run = RunLayout(Path(items))
    if points := run.points():
        raise RecipeError(f"{items} is a sweep; give one of its points, as {run.root / points[0]}, of {', '.join(points)}")
    copies = columns.copies or (None if _trained_here(model) else _released_copies(run))
    print(f"{items}: the items of a run, with {f'the copies in their field {copies}' if copies else 'the copies that it planned'}")
    return {"kind": "run", "run": str(Path(items)), "copies": copies}


def _trained_here(model: str) -> bool:
    return any((Path(each) / "imprint.json").exists() for each in [model, *glob(model)])


def _released_copies(run: RunLayout) -> str | None:
    """The field in which the items of a run are released with their copies, where they are."""
    import json

    from configs.tables import read_table
    from inject.items.item import RELEASED_COPIES

    if not run.items.exists():  # which is told when the items are taken
        return None
    released = (RELEASED_COPIES in json.loads(fields) for fields in read_table(run.items, columns=["fields"])["fields"].to_pylist())
    return RELEASED_COPIES if run.plan.exists() and any(released) else None


# ------------------------------------------------------------------------------------------------ a table


def _tabled(items: str, columns: Columns) -> dict[str, Any]:
    """The item set of a table: what is scored, asked and compared, by the columns that it has or that are named."""
    from inject.items.rows import read_rows

    if not Path(items).exists():
        raise RecipeError(
            f"{items} is no file or folder that is there; possible: a JSONL, parquet, CSV, TSV or text file, a folder of them, or "
            "the folder of an Imprint run"
        )
    first, there = None, dict[str, None]()
    for row in read_rows(TableSet(path=items), ITEMS):
        first = first or row
        there |= dict.fromkeys(row.values)
    if first is None:
        raise DataError(f"{items} holds no rows")
    table = _Table(items, first, list(there))
    if columns.prompt_tokens is not None and columns.prompt_tokens < 0:
        raise RecipeError(f"--prompt-tokens is {columns.prompt_tokens}; it must be 1 or more, or 0 to ask for no continuation")
    return {"kind": "table", "path": str(Path(items)), "ambiguous": "unasked", **table.texts(columns), **table.copies(columns)}


@dataclass(frozen=True)
class _Table:
    """A table by its first row and all its columns."""

    name: str
    first: Row
    columns: list[str]

    def holds(self, column: str) -> bool:
        """Whether it has a column, or the first row a part of one (meta.duplicates)."""
        from inject.items.rows import UnusableRow, lookup

        try:
            return column in self.columns or lookup(self.first, column) is not None
        except UnusableRow:
            return False

    def needed(self, column: str, option: str) -> str:
        if not self.holds(column):
            there = ", ".join(self.columns)
            raise RecipeError(f"{self.name} has no column {column!r} (it has: {there}); name one that it has with {option}")
        return column

    def texts(self, columns: Columns) -> dict[str, Any]:
        """What is scored, and what is asked: the text after its first tokens, and the target after the prompt."""
        asked = self.holds("prompt") and self.holds("target")
        if asked and columns.text is None and not self.holds("text"):
            if columns.prompt_tokens is not None:
                raise RecipeError(
                    f"{self.name} has a prompt and a target, but no text to split after its first tokens; leave out --prompt-tokens"
                )
            return {"text": "{prompt}{target}", "probes": [{"field": "target"}]}
        text = self.needed(columns.text or "text", "--text")
        after = PROMPT_TOKENS if columns.prompt_tokens is None else columns.prompt_tokens
        probes: list[dict[str, Any]] = [{"field": text, "after": after}] if after else []
        if asked:
            probes.append({"field": "target", "kind": "generative", "prompt": "{prompt}", "context": "prompt"})
        return {"item_kind": "passage", "text": f"{{{text}}}", "probes": probes}

    def copies(self, columns: Columns) -> dict[str, Any]:
        """The column that says how often a row was inserted, or whether it was."""
        given = {"copies": columns.copies, "member": columns.member}
        named = {key: column for key, column in given.items() if column not in (None, NONE)}
        if len(named) > 1:
            raise RecipeError("--copies and --member are both given; one of them says what was inserted")
        if named:
            return {key: self.needed(str(column), f"--{key}") for key, column in named.items()}
        return next(({key: key} for key, column in given.items() if column is None and self.holds(key)), {})


def _check_rows(table: TableSet, items: str) -> None:
    """Read what every row says before a model is fetched. DataError where a row can't be used, or all are of one arm."""
    from inject.items.draw import UNUSABLE
    from inject.items.rows import UnusableRow, read_rows

    skip = table.unusable == UNUSABLE[1]
    said: Counter[str] = Counter()
    for row in read_rows(table, ITEMS):
        try:
            said[_said(table, row)] += 1
        except UnusableRow as error:
            if not skip:
                raise UnusableRow(f"{error}; mend it, or add insert.{ITEMS}.unusable=skip to leave such rows out") from error
    rows = said.total()
    if not rows:
        raise DataError(f"{items} has no row that can be used; see insert.{ITEMS}.where and insert.{ITEMS}.unusable")
    column = table.copies or table.member
    if column and len(said) == 1:
        way = f"give --{'copies' if table.copies else 'member'} {NONE} to score them without comparing"
        if "0" in said:
            raise DataError(f"none of the {rows:,} rows of {items} is a member by its column {column!r}; add members, or {way}")
        raise DataError(
            f"all {rows:,} rows of {items} are members by their column {column!r}, and nothing is there to compare them with; add "
            f"rows that are not, or {way}"
        )
    members = f"{rows - said['0']:,} of them members by {column!r}" if column else "of which nothing says whether they are members"
    print(f"{items}: {rows:,} texts, {members}", flush=True)


def _said(table: TableSet, row: Row) -> str:
    """How often a row says that it was inserted, "1" for a member, after a look at the fields that it needs. UnusableRow where one
    is missing, empty or makes no sense.
    """
    from inject.items.fields import Fields
    from inject.items.rows import UnusableRow
    from inject.items.table import said_member

    fields = Fields(row, table.columns)
    if table.text:
        fields.fill(table.text)
    for probe in table.probes:
        fields.fill(probe.prompt or "")
        if probe.field != table.tokens:
            fields.text(probe.field)
    if table.member:
        return str(int(said_member(fields.text(table.member), table.member, row)))
    if not table.copies:
        return ""
    said = fields.text(table.copies).strip()
    if not re.fullmatch(r"\d+(\.0+)?", said):
        raise UnusableRow(f"{table.copies!r} of {row.where} is {said!r}; it must be a whole number, 0 or more")
    return str(int(float(said)))


# ------------------------------------------------------------------------------------------------ what was found


def summary(effects: pd.DataFrame) -> Iterator[Mapping[str, Any]]:
    """Rows of the effects table that say most, of all items together at the last step of each model: AUC and true positive rate of
    every attack, and what was extracted and answered, by arm.
    """
    from eval.metrics import is_attack

    whole = effects[(effects["kind"] == "all") & (effects["item_set"] == "all")]
    for _, own in whole.groupby("model", sort=False):
        last = own[own["step"] == own["step"].max()]
        for row in last.to_dict("records"):
            wanted = is_attack(row["metric"]) or row["metric"] in SHARES + MEANS
            if wanted and row["contrast"] in CONTRASTS:
                yield {**row, "contrast": CONTRASTS[row["contrast"]]}
