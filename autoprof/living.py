"""Find the functions of a running process: one pass over the heap."""

from __future__ import annotations

import builtins
import gc
import sys
from types import CodeType, FunctionType, ModuleType, NoneType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FROZEN_AT_MOST = 1_000
"""CPython 3.12.1 starts with some 400 frozen objects of its own; `gc.freeze` of any application leaves many more."""

_LEAVES = frozenset(map(id, (str, bytes, int, float, complex, bool, NoneType, CodeType)))
"""By identity: a metaclass of the application may have a `__hash__` of its own."""


def functions_of(covers: Callable[[str], bool]) -> list[FunctionType]:
    """Return every living Python function of the covered modules.

    Each function refers to the builtins that its module had: the collector finds these functions in one C call, and
    no list of all objects is made: those of other threads that end meanwhile would die late, and in this thread.

    Source: `func_traverse`, Objects/funcobject.c; `gc.get_referrers`, Modules/gcmodule.c.
    """
    own = {id(builtins.__dict__): builtins.__dict__}
    for name, module in sys.modules.copy().items():
        replaced = _names_in(module).get("__builtins__") if covers(name) else None
        if type(replaced) is dict:
            own[id(replaced)] = replaced
    found = [each for each in gc.get_referrers(*own.values()) if _is_covered(each, covers)]
    if gc.get_freeze_count() <= FROZEN_AT_MOST:
        return found
    known = set(map(id, found))
    return [*found, *[each for each in _reachable(covers) if id(each) not in known]]


def _is_covered(found: Any, covers: Callable[[str], bool]) -> bool:
    if type(found) is not FunctionType:
        return False
    name = found.__globals__.get("__name__")
    return type(name) is str and covers(name)


def _names_in(module: object) -> dict[str, Any]:
    is_module = issubclass(type(module), ModuleType)
    return ModuleType.__getattribute__(module, "__dict__") if is_module else {}


def _reachable(covers: Callable[[str], bool]) -> list[FunctionType]:
    """Return the functions that can be reached from the covered modules: the collector does not show what is frozen."""
    modules = {name: _names_in(module) for name, module in sys.modules.copy().items()}
    seen = set(map(id, modules.values()))
    found: list[FunctionType] = []
    waiting: list[Any] = [names for name, names in modules.items() if covers(name)]
    while waiting:
        for each in gc.get_referents(waiting.pop()):
            # Beware of isinstance, which asks the object for its `__class__`: no code of the application runs here.
            if id(type(each)) in _LEAVES or id(each) in seen or issubclass(type(each), ModuleType):
                continue
            seen.add(id(each))
            waiting.append(each)
            if _is_covered(each, covers):
                found.append(each)
    return found
