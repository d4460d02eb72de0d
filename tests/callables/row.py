"""One kind of callable."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One kind of callable.

    Attributes:
        calls: qualified name → calls that one `run()` makes.
        nested: how many of them happen inside a measured call of the same target.
    """

    name: str
    source: str
    calls: dict[str, int]
    nested: dict[str, int] = field(default_factory=dict)
