"""How a setting of a recipe is declared: with its default, meaning and unit, and whether it changes results."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: Any, meaning: str, unit: str = "", execution: bool = False) -> Any:
    """A dataclass field that carries its own documentation."""
    metadata = {"meaning": meaning, "unit": unit, "execution": execution}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type, meaning: str, execution: bool = False) -> Any:
    """A field that holds a group of settings."""
    return field(default_factory=kind, metadata={"meaning": meaning, "unit": "", "execution": execution})
