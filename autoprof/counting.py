"""Counting in plain dictionaries from several threads at once.

`counts[key] += n` on an existing key is whole under the GIL. For a new key there is `count_elements`: in C from end to
end, so no other thread's count is lost. Beware of `dict.setdefault` for that: in CPython 3.13.0, when there is no
memory for a larger table, it counts the new entry without writing it, and the next resize copies what lies behind the
table's end (`dict_setdefault_ref_lock_held` of Objects/dictobject.c): a crash, later and elsewhere.
"""

from __future__ import annotations

from _collections import _count_elements  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

count_elements: Callable[[dict[Any, int], Iterable[Any]], None] = _count_elements
"""Add 1 for each element, with new keys where there are none; `collections.Counter`'s own."""
