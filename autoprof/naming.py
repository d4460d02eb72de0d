"""What the functions that a tracer meets are called, and which of them are ours.

Beware: this runs in the middle of the application's calls. A metaclass, a module or an object may have its own idea of
`__mro__`, `__hash__`, `__class__` or `__getattr__`; asking it would run the application's code in here.
"""

from __future__ import annotations

import os
from types import MethodDescriptorType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from autoprof.callgraph import Function

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_WRAPPERS = os.path.join(_PACKAGE, "rewrite", "decorate.py")

_mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_dict_of: Callable[[type], Any] = type.__dict__["__dict__"].__get__
_module_of: Callable[[type], Any] = type.__dict__["__module__"].__get__
_qualname_of: Callable[[type], Any] = type.__dict__["__qualname__"].__get__


def is_ours(code: CodeType) -> bool:
    """Tell whether a code object is autoprof's own."""
    return code.co_filename.startswith(_PACKAGE)


def is_wrapper(code: CodeType) -> bool:
    """Tell whether it is a wrapper of the portable back end, which stands for the function inside."""
    return code.co_filename == _WRAPPERS and code.co_name == "wrapper"


def python_function(frame: FrameType) -> Function:
    """Return how a frame's function is shown."""
    code = frame.f_code
    module = dict.get(frame.f_globals, "__name__")
    if type(module) is not str:
        module = os.path.splitext(os.path.basename(code.co_filename))[0]
    elif module == "__mp_main__":
        module = "__main__"
    return (f"{module}:{code.co_qualname}", code.co_filename, code.co_firstlineno, code.co_name)


def home_of(called: Any) -> Any:
    """Return the module or class that a C function was found in."""
    owner = getattr(called, "__self__", None)
    return owner if issubclass(type(owner), (ModuleType, type)) else type(owner)


def definer(home: Any, name: str) -> Any:
    """Return the class that defines a C method found in a class, so that subclasses share it; a module as it is."""
    if not issubclass(type(home), type):
        return home
    for each in (*_mro_of(home), *_mro_of(type(home))):
        if name in _dict_of(each):
            return each
    return home


def c_function(called: Any, home: Any) -> Function:
    """Return how a C function is shown; the name is the one that cProfile gives it."""
    name = called.__name__
    if not issubclass(type(home), type):
        module = called.__module__
        if type(module) is not str:
            module = "builtins"
        return (f"{module}:{name}", "", 0, f"<built-in method {module}.{name}>")
    owner = getattr(called, "__self__", None)
    if owner is None:
        return (f"builtins:{name}", "", 0, f"<built-in method {name}>")
    target = f"{_module_of(home)}:{_qualname_of(home)}.{name}"
    found = _dict_of(home).get(name)
    if type(found) is MethodDescriptorType:
        return (target, "", 0, repr(found))
    return (target, "", 0, f"<built-in method {name}>")
