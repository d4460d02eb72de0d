"""What is inside a static method, a property, a partial: find the function there, or put a wrapper around it."""

from __future__ import annotations

from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def wrap_inside(found: Any, wrap: Callable[[Any], Any]) -> Any:
    """Return the found object with the function inside it wrapped: a descriptor stays one of its kind."""
    if isinstance(found, (staticmethod, classmethod)):
        return type(found)(wrap_inside(found.__func__, wrap))
    if isinstance(found, property):
        fget, fset, fdel = [each and wrap(each) for each in (found.fget, found.fset, found.fdel)]
        return type(found)(fget, fset, fdel, found.__doc__)
    if type(found).__name__ in ("cached_property", "partialmethod"):
        found.func = wrap_inside(found.func, wrap)
        return found
    return wrap(found)


def plain_function(function: Any) -> Any:
    """Return the function behind a static, class, property, cached-property, partial or wrapper object.

    Raises:
        TypeError: there is none (a class, a builtin, not a function); names it.
    """
    found = function
    for _ in range(16):
        if isinstance(found, FunctionType):
            return found
        for name in ("__func__", "fget", "func", "__wrapped__"):
            inner = getattr(found, name, None)
            if inner is not None and not isinstance(found, type):
                found = inner
                break
        else:
            break
    name = getattr(function, "__qualname__", None) or repr(function)
    what = "a class" if isinstance(function, type) else f"a {type(function).__name__}"
    raise TypeError(f"autoprof can decorate Python functions and methods only, and {name} is {what}")
