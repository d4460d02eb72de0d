"""Which functions a module defines, from its source alone: nothing is imported or executed."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType
    from typing import Any

_FUNCTION_FLAGS = 0x3  # CO_OPTIMIZED | CO_NEWLOCALS: class and module bodies have neither
_MAX_MODULES = 20_000
_MAX_DEPTH = 20
_TROUBLE = (ImportError, OSError, ValueError, RecursionError, MemoryError, UnicodeError)


class Function:
    """One function in a source file."""

    __slots__ = ("line", "module", "path", "qualname")

    def __init__(self, module: str, qualname: str, path: str, line: int) -> None:
        self.module = module
        self.qualname = qualname
        self.path = path
        self.line = line

    def __repr__(self) -> str:
        return f"Function({self.module}:{self.qualname}, line {self.line})"


class Unreadable(Exception):
    """A module can't be looked into; the text says why."""


def find(name: str) -> ModuleSpec:
    """Return where a module would be imported from, without importing its packages.

    Raises:
        Unreadable: there is no such module on the path or in the current folder.
    """
    search: list[str] | None = None
    spec = None
    parts = name.split(".")
    if not all(parts):
        raise Unreadable(f"{name} is not the name of a module")
    for count in range(1, len(parts) + 1):
        full = ".".join(parts[:count])
        spec = _find_in(full, search)
        if spec is None:
            raise Unreadable(f"no module {full} on the path or in the current folder")
        search = _locations(spec)
        if not search and count < len(parts):
            raise Unreadable(f"{full} is not a package, so there is no module {name}")
    if spec is None:
        raise Unreadable(f"no module {name}")
    return spec


def _find_in(name: str, search: list[str] | None) -> ModuleSpec | None:
    if search is None:
        spec = PathFinder.find_spec(name, [os.getcwd(), *sys.path])
        if spec is not None:
            return spec
    for finder in list(sys.meta_path):
        owner = getattr(finder, "__module__", None) or type(finder).__module__
        if str(owner).startswith("autoprof."):
            continue
        try:
            spec = finder.find_spec(name, search, None)
        except Exception:  # a foreign finder that wants the parent imported
            continue
        if spec is not None:
            return spec
    return _namespace(name, search or ())


def _namespace(name: str, search: Iterable[str]) -> ModuleSpec | None:
    """Return a nested namespace package; Python's own finder wants its parent imported."""
    tail = name.rpartition(".")[2]
    folders = [folder for place in search if os.path.isdir(folder := os.path.join(place, tail))]
    if not folders:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = folders
    return spec


def _locations(spec: ModuleSpec) -> list[str]:
    return list(spec.submodule_search_locations or ())


def siblings(name: str) -> list[str]:
    """Return the names of the modules beside one: those of its package; none for a top-level module."""
    package = name.rpartition(".")[0]
    try:
        places = _locations(find(package)) if package else []
    except Unreadable:
        return []
    return [f"{package}.{inner}" for inner in _names_in(places)]


def modules(name: str) -> list[tuple[str, ModuleSpec]]:
    """Return a module and, for a package, every module below it, with where they come from.

    Raises:
        Unreadable: there is no such module.
    """
    waiting = [(name, find(name))]
    found: list[tuple[str, ModuleSpec]] = []
    while waiting and len(found) < _MAX_MODULES:
        module, spec = waiting.pop(0)
        found.append((module, spec))
        places = _locations(spec)
        if module.count(".") < _MAX_DEPTH:  # a link to a folder above never ends
            specs = [
                (f"{module}.{inner}", _find_in(f"{module}.{inner}", places)) for inner in _names_in(places)
            ]
            waiting += [(inner, inner_spec) for inner, inner_spec in specs if inner_spec is not None]
    return found


def _names_in(places: list[str]) -> list[str]:
    """Return what may be modules in the folders of a package; folders without `__init__` are namespaces."""
    from pkgutil import iter_modules  # walk_packages would import the packages

    names = [info.name for info in iter_modules(places)] if places else []
    for place in places:
        try:
            inner = sorted(entry.name for entry in os.scandir(place) if entry.is_dir())
        except OSError:  # inside an archive, or not ours to read
            continue
        names += [name for name in inner if name.isidentifier() and name != "__pycache__"]
    return list(dict.fromkeys(names))


def functions(name: str, spec: ModuleSpec) -> list[Function]:
    """Return the functions a module defines, methods and nested ones included, in the order of the source.

    Raises:
        Unreadable: no source, or source that does not compile.
    """
    code = _code(name, spec)
    if code is None:
        return []
    path = spec.origin or code.co_filename
    found = [Function(name, inner.co_qualname, path, inner.co_firstlineno) for inner in _walk(code)]
    found.sort(key=lambda function: function.line)
    return found


def source(name: str, spec: ModuleSpec) -> bytes | str | None:
    """Return a module's source; None for a namespace package, and where there is none.

    Raises:
        Unreadable: it can't be read.
    """
    loader: Any = spec.loader
    if loader is None or spec.origin is None or not hasattr(loader, "get_source"):
        return None
    try:
        text: str | None = loader.get_source(name)
        if text is None or not hasattr(loader, "get_data"):
            return text
        data: bytes = loader.get_data(spec.origin)
        return data
    except SyntaxError as error:
        raise Unreadable(f"{name} does not compile: line {error.lineno}: {error.msg}") from None
    except _TROUBLE as error:
        raise Unreadable(f"{name} can't be read: {type(error).__name__}: {error}") from None


def _code(name: str, spec: ModuleSpec) -> CodeType | None:
    loader: Any = spec.loader
    if loader is None or spec.origin is None:  # a namespace package
        return None
    data = source(name, spec)
    try:
        if data is not None:
            return _compile(data, spec.origin)
        code: CodeType | None = loader.get_code(name) if hasattr(loader, "get_code") else None
    except SyntaxError as error:
        raise Unreadable(f"{name} does not compile: line {error.lineno}: {error.msg}") from None
    except _TROUBLE as error:
        raise Unreadable(f"{name} can't be read: {type(error).__name__}: {error}") from None
    if code is None:
        raise Unreadable(f"{name} is compiled: there is no Python source to look into")
    return code


def _compile(data: bytes | str, path: str) -> CodeType:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the module's own business
        return compile(data, path, "exec", dont_inherit=True)


def _walk(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of functions, without recursion (sources nest deeper than stacks)."""
    waiting = [code]
    while waiting:
        outer = waiting.pop()
        for inner in outer.co_consts:
            if hasattr(inner, "co_consts"):
                waiting.append(inner)
                if inner.co_flags & _FUNCTION_FLAGS == _FUNCTION_FLAGS:
                    yield inner
