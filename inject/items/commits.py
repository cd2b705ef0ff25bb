"""Which commits of the hub the items of a recipe are made of: its branches move, and items made of others are others."""

from __future__ import annotations

from collections.abc import Mapping

from configs.insert import ItemSet, RowSet, TrapSet
from inject.hub import pinned_model
from inject.items.rows import hub_commit


def commits(insert: Mapping[str, ItemSet]) -> dict[str, str]:
    """The commit of each data set, and the name@commit of each model, that items are made of, by setting; local ones have none.

    DataError where the hub has to be asked for one and can't be.
    """
    found: dict[str, str] = {}
    for name, settings in insert.items():
        if isinstance(settings, RowSet) and (commit := hub_commit(settings, name)):
            found[f"insert.{name}.hub"] = commit
        if isinstance(settings, TrapSet) and settings.model and (model := pinned_model(settings.model)) != settings.model:
            found[f"insert.{name}.model"] = model
    return found
