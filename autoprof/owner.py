"""Find the function that runs a gate's code."""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.gate import Gate

_INNER = {staticmethod: ("__func__",), classmethod: ("__func__",), property: ("fget", "fset", "fdel")}
_DEPTH = 8


def find_owner(gate: Gate) -> FunctionType | None:
    """Return the function of a module or class that carries the gate; None for closures and what can't be found.

    Looks only into modules, classes and the standard library's wrappers, never calls `__getattr__` of others.
    """
    found: Any = sys.modules.get(gate.module)
    for part in gate.qualname.split("."):
        if not isinstance(found, (ModuleType, type)):
            return None
        found = vars(found).get(part)
    return _carrier(found, gate, _DEPTH)


def _carrier(found: Any, gate: Gate, depth: int) -> FunctionType | None:
    if found is None or not depth:
        return None
    if type(found) is FunctionType:
        if any(each is gate for each in found.__code__.co_consts):
            return found
        return _carrier(found.__dict__.get("__wrapped__"), gate, depth - 1)
    names: tuple[str, ...] = _INNER.get(type(found), ())
    if not names and type(found).__module__ == "functools":
        names = ("func", "__wrapped__")
    for name in names:
        carrier = _carrier(getattr(found, name, None), gate, depth - 1)
        if carrier is not None:
            return carrier
    return None
