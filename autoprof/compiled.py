"""Functions written in C or Cython: a stand-in behind a gate takes their place in their module, as it is imported.

Only in extension modules imported after the policy came into force, before anybody could take a function out of them.
Functions of the interpreter's own modules and methods of C classes stay, and are listed with the reason.
"""

from __future__ import annotations

import sys
from types import BuiltinFunctionType, ModuleType

from autoprof import guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from autoprof.installer import Installer
    from autoprof.probe import Probe

_CYTHON = "cython_function_or_method"
_METHODS = ("method_descriptor", "classmethod_descriptor", _CYTHON)
_LISTED = 100
"""Functions of one module that are listed as failed: numpy has thousands."""

_KINDS = {"ExtensionFileLoader": "extension", "BuiltinImporter": "builtin"}
_BUILTIN = "part of the interpreter: others may have taken it from there already"
_EARLY = "was imported before autoprof: others may have taken it from its module already"
_METHOD = "is a method of a class written in C, which can't be replaced"
_FOLLOW_PYTHON = ("call_graph", "fprof", "eprof", "cprof", "flame_graph")


def kind_of(module: ModuleType) -> str:
    """Return `extension` or `builtin` for a module in machine code, "" for all others."""
    loader = getattr(vars(module).get("__spec__"), "loader", None)
    return _KINDS.get((loader if isinstance(loader, type) else type(loader)).__name__, "")


class StandIn:
    """Stands for a C function; unlike a Python function, it doesn't become a method where a class holds it.

    Pickled as `module:name`, so that it loads where autoprof is not and after it was stopped.
    """

    # C code that calls the object calls what the slot holds: no frame of ours in between.
    __slots__ = ("__call__", "__dict__", "__weakref__")

    def __init__(self, function: Any, call: Callable[..., Any]) -> None:
        self.__call__ = call
        self.__dict__.update(
            __wrapped__=function, __name__=function.__name__, __qualname__=function.__qualname__,
            __module__=function.__module__, __doc__=function.__doc__, __self__=function.__self__,
            __text_signature__=function.__text_signature__,
        )  # fmt: skip

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # isinstance() and inspect see the kind of function it stands for
        return type(self.__dict__["__wrapped__"])

    def __eq__(self, other: object) -> bool:
        return other is self or other is self.__dict__["__wrapped__"]

    def __hash__(self) -> int:
        return hash(self.__dict__["__wrapped__"])

    def __repr__(self) -> str:
        return repr(self.__dict__["__wrapped__"])

    def __copy__(self) -> StandIn:
        return self

    def __deepcopy__(self, memo: object) -> StandIn:
        return self

    def __reduce__(self) -> Any:
        from pkgutil import resolve_name

        return resolve_name, (f"{self.__dict__['__module__']}:{self.__dict__['__name__']}",)


_standing: list[tuple[ModuleType, str, object, object]] = []
"""(module, name, stand-in, original), to be put back."""


def install(
    installer: Installer, module: ModuleType, wrap: Callable[[Any, str, Sequence[Probe]], Any]
) -> None:
    """Put the probes that the policy grants on the functions of a module in machine code that was just imported.

    Args:
        wrap: gives a Python function behind a gate: (function, name, probes).
    """
    if kind_of(module) == "builtin":
        report(installer, module, _BUILTIN)
        return
    for name, function in _functions(module):
        granted = _measurable(_granted(installer, module, name))
        if granted:
            try:
                _replace(module, name, function, wrap(function, name, granted))
            except Exception as error:
                guard.report("wrapping a C function", error)
                for each in granted:
                    each.state, each.reason = (
                        "failed",
                        f"{each.target} can't be wrapped: {type(error).__name__}",
                    )
    _report(installer, module, _methods(module), _METHOD)


def report(installer: Installer, module: ModuleType, reason: str) -> None:
    """List what the policy grants in a module in machine code as failed, with the reason."""
    _report(installer, module, (name for name, _ in _functions(module)), f"is written in C and {reason}")
    _report(installer, module, _methods(module), _METHOD)


def report_imported(installer: Installer, names: Sequence[str]) -> None:
    """List what the policy names in modules in machine code that were imported before it came into force."""
    for name in names:
        module = sys.modules.get(name)
        if type(module) is ModuleType and (kind := kind_of(module)):
            report(installer, module, _BUILTIN if kind == "builtin" else _EARLY)


def restore() -> None:
    """Give every module its own functions back."""
    while _standing:
        module, name, stand_in, original = _standing.pop()
        if vars(module).get(name) is stand_in:
            vars(module)[name] = original


def _functions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield what is defined in the module, under its own name."""
    for name, value in vars(module).copy().items():
        if type(value) is not BuiltinFunctionType and type(value).__name__ != _CYTHON:
            continue
        own = value.__name__ == name and getattr(value, "__module__", None) == module.__name__
        if own and not name.startswith("__"):
            yield name, value


def _methods(module: ModuleType) -> Iterator[str]:
    for value in list(vars(module).values()):
        if isinstance(value, type) and value.__module__ == module.__name__:
            for name, method in vars(value).copy().items():
                if type(method).__name__ in _METHODS:
                    yield f"{value.__qualname__}.{name}"


def _replace(module: ModuleType, name: str, function: Any, wrapper: Any) -> None:
    # Cython's functions do become methods, as the wrapper does.
    stand_in = StandIn(function, wrapper) if type(function) is BuiltinFunctionType else wrapper
    vars(module)[name] = stand_in
    _standing.append((module, name, stand_in, function))


def _granted(installer: Installer, module: ModuleType, qualname: str) -> list[Probe]:
    policy = installer.policy
    return installer.probes_for(policy.decide(module.__name__, qualname)) if policy is not None else []


def _measurable(granted: Sequence[Probe]) -> list[Probe]:
    """Return the probes that can measure a C function; the others are listed as failed."""
    kept = []
    for each in granted:
        if each.strategy_name in _FOLLOW_PYTHON:
            _fail(
                [each],
                f"is written in C, and {each.strategy_name} follows Python code: sample and memory measure it",
            )
        else:
            kept.append(each)
    return kept


def _report(installer: Installer, module: ModuleType, names: Iterable[str], reason: str) -> None:
    listed = 0
    for name in names:
        granted = _granted(installer, module, name)
        _fail(granted, reason)
        listed += bool(granted)
        if listed == _LISTED:
            return


def _fail(granted: Sequence[Probe], reason: str) -> None:
    for each in granted:
        if not each.gates:
            each.state, each.reason = "failed", f"{each.target} {reason}"
