"""The code objects of the standard library: the material for round trips."""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from zlib import crc32

LEFT_OUT = frozenset(
    (
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "antigravity",
        "distutils",
        "this",
        "ensurepip",
        "site",
    )
)


def modules() -> Iterator[tuple[str, str, CodeType]]:
    """Yield (name, path, code) of the modules of the standard library; nothing is executed."""
    for name in sorted(sys.stdlib_module_names - LEFT_OUT):
        if name.startswith("__"):
            continue
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        if spec is None or spec.loader is None or not hasattr(spec.loader, "get_code"):
            continue
        yield from _code(name, spec.loader)
        if spec.submodule_search_locations:
            yield from _inside(name, list(spec.submodule_search_locations))


def _inside(package: str, path: list[str]) -> Iterator[tuple[str, str, CodeType]]:
    for finder, name, _ in pkgutil.iter_modules(path):
        if name in LEFT_OUT or name.startswith("__"):
            continue
        spec = finder.find_spec(f"{package}.{name}", None)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "get_code"):
            yield from _code(f"{package}.{name}", spec.loader)
            if spec.submodule_search_locations:
                yield from _inside(f"{package}.{name}", list(spec.submodule_search_locations))


def _code(name: str, loader: object) -> Iterator[tuple[str, str, CodeType]]:
    code = loader.get_code(name)  # type: ignore[attr-defined]
    if code is not None:
        yield name, code.co_filename, code


@lru_cache(maxsize=2)
def chosen(every: int) -> tuple[tuple[str, str, CodeType], ...]:
    """Return one in `every` modules, the same ones each time; 1 gives all."""
    return tuple(each for each in modules() if not crc32(each[0].encode()) % every)


def inner_codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and all inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from inner_codes(const)
