"""Rewrite the functions inside a module's code object before it is executed."""

from __future__ import annotations

from types import CodeType

from autoprof.rewrite.prologue import CO_NEWLOCALS, CO_OPTIMIZED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FUNCTION = CO_OPTIMIZED | CO_NEWLOCALS
_NEVER = frozenset(("__annotate__",))


def is_function(code: CodeType) -> bool:
    """Tell whether a code object is a function that a rule may name.

    Module and class bodies, annotation and type-parameter scopes are not.
    """
    if code.co_flags & _FUNCTION != _FUNCTION:
        return False
    name = code.co_name
    return name not in _NEVER and not name.startswith("<generic parameters of")


def rewrite_tree(code: CodeType, rewrite: Callable[[CodeType, CodeType, str], CodeType | None]) -> CodeType:
    """Return the code with every function in it replaced that `rewrite` gives something else for.

    Args:
        code: of a module, class or function; itself not replaced, only what is inside.
        rewrite: called with a function's code whose own inner functions are done already, its code as it was, and
            its qualified name.
    """
    changed: list[object] | None = None
    for index, const in enumerate(code.co_consts):
        if type(const) is not CodeType:
            continue
        inner = rewrite_tree(const, rewrite)
        if is_function(const):
            inner = rewrite(inner, const, const.co_qualname) or inner
        if inner is not const:
            if changed is None:
                changed = list(code.co_consts)
            changed[index] = inner
    return code if changed is None else code.replace(co_consts=tuple(changed))
