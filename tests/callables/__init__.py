"""The kinds of callables that every way of rewriting must leave as they are: one row each.

A row is a module's source with a function `run()` that uses the callables and returns something comparable.
`#@` stands where the way "decorator in the code" puts its decorator: innermost, on its own line.
"""

from __future__ import annotations

from tests.callables import bodies, classes, functions, suspending
from tests.callables.row import Row

__all__ = ["ROWS", "Row"]

ROWS = [*functions.ROWS, *classes.ROWS, *suspending.ROWS, *bodies.ROWS]
