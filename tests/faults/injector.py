"""Every function and method of the package is made to raise while an application runs; what does it notice?"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import pkgutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import autoprof
from autoprof import guard, session

LEFT_OUT = {
    "__main__", "advice", "bootstrap", "cli", "comparison", "config", "decorators", "doctor", "document", "errors",
    "explain", "guard", "launcher", "mainhook", "policy", "run", "schema", "session", "testing", "units", "validate",
    "values", "yamltext",
}  # fmt: skip
"""Commands, reading a policy (raises by contract), and the guard itself, which is the last line."""
ENTRIES = {
    "background.Background._run", "calls.begin", "calls.first", "ends._end_noticed", "ends.finish", "ends.unwind",
    "flusher.Flusher.flush",
}  # fmt: skip
"""What the application, a thread or the interpreter calls: these hold the guards, so faults are injected below them."""
ERRORS: dict[str, type[BaseException]] = {
    "Exception": Exception,
    "MemoryError": MemoryError,
    "OSError": OSError,
}

WORKLOAD = """
import asyncio
def plain(x):
    return x + 1
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
def gen(n):
    for i in range(n):
        got = yield i
        if got: yield got
def fails(x):
    raise ValueError(x)
async def coro(x):
    await asyncio.sleep(0)
    return x * 2
async def agen(n):
    for i in range(n):
        yield i
"""


class Site(NamedTuple):
    module: str
    name: str
    original: Any


class Result(NamedTuple):
    """One injection: how often it struck, whether the application noticed, whether we counted it."""

    site: str
    error: str
    nth: int
    fired: int
    identical: bool
    counted: bool
    noticed: str


def _modules(left_out: set[str], inner: bool) -> Iterator[str]:
    for each in pkgutil.iter_modules(autoprof.__path__):
        if not each.ispkg and each.name not in left_out:
            yield each.name
    for package in ("rewrite", "strategies") if inner else ():
        path = importlib.import_module(f"autoprof.{package}").__path__
        yield from (f"{package}.{each.name}" for each in pkgutil.iter_modules(path))


def sites(left_out: set[str] = LEFT_OUT, inner: bool = False) -> Iterator[Site]:
    """Find every Python function and method of the package.

    Args:
        left_out: modules to pass over.
        inner: those of `rewrite` and `strategies` too.
    """
    for short in _modules(left_out, inner):
        module = importlib.import_module(f"autoprof.{short}")
        for name, value in sorted(vars(module).items()):
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value):
                yield Site(short, name, value)
            elif inspect.isclass(value) and not issubclass(value, BaseException):
                for method, function in sorted(vars(value).items()):
                    if (
                        isinstance(function, FunctionType)
                        and function.__code__.co_filename == module.__file__
                    ):
                        yield Site(short, f"{name}.{method}", function)


def places(original: Any) -> Iterator[tuple[Any, str]]:
    """Find every name in the package that is bound to a function."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "autoprof":
            continue
        for key, value in list(vars(module).items()):
            if value is original:
                yield module, key
            elif inspect.isclass(value) and value.__module__ == name:
                yield from ((value, k) for k, v in list(vars(value).items()) if v is original)


def work(module: ModuleType) -> list[Any]:
    """Be the application: functions, recursion, generators, coroutines, exceptions, threads."""
    seen: list[Any] = []

    def note(action: Callable[[], Any]) -> None:
        try:
            seen.append(action())
        except BaseException as error:
            seen.append(f"{type(error).__name__}: {error}")

    async def all_of(n: int) -> list[int]:
        return [i async for i in module.agen(n)]

    for _ in range(3):
        note(lambda: module.plain(1))
        note(lambda: module.fib(6))
        note(lambda: list(module.gen(4)))
        note(lambda: module.fails(7))
        note(lambda: asyncio.run(module.coro(3)))
        note(lambda: asyncio.run(all_of(3)))
    thread = threading.Thread(target=note, args=(lambda: module.fib(5),))
    thread.start()
    thread.join()
    return seen


@contextlib.contextmanager
def failing(site: Site, error: str, nth: int) -> Iterator[list[str]]:
    """Have a function raise at its n-th call, and nothing counted before; gives a list that has an entry if it did."""
    guard.internal_errors.clear()
    guard._logged.clear()
    calls = 0
    fired: list[str] = []

    def faulty(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            fired.append(error)
            raise ERRORS[error]("injected")
        return site.original(*args, **kwargs)

    changed = list(places(site.original))
    for owner, name in changed:
        setattr(owner, name, faulty)
    try:
        yield fired
    finally:
        for owner, name in changed:
            setattr(owner, name, site.original)


def inject(site: Site, error: str, nth: int, options: dict[str, Any], folder: str) -> Result:
    """Run the application under a policy with a function that raises from its n-th call on... once."""
    plain = ModuleType("prey")
    exec(compile(WORKLOAD, "/nowhere/prey.py", "exec"), plain.__dict__)
    expected = work(plain)
    off = {"reload": "off", "budget": "off", "load": "off"}
    rule = {"match": "prey:*", "policy": "profile", "rate": 1.0, **options}
    session.start({"version": 1, "output": folder, **off, "rules": [rule]})
    assert session.current is not None
    module = ModuleType("prey")
    code = compile(WORKLOAD, "/nowhere/prey.py", "exec")
    sys.modules["prey"] = module
    exec(session.current.installer.rewrite_code(code, "prey"), module.__dict__)
    with failing(site, error, nth) as fired:
        got = work(module)
        noticed = next((f"{a!r} became {b!r}" for a, b in zip(expected, got, strict=False) if a != b), "")
        try:
            session.current.flusher.flush()
        except BaseException as escaped:
            if "injected" not in str(escaped):
                raise
    counted = bool(guard.internal_errors)
    session.stop()
    return Result(f"{site.module}.{site.name}", error, nth, len(fired), got == expected, counted, noticed)


def chosen(found: Iterable[Site], part: slice, names: list[str] | None) -> list[Site]:
    """Return a part of the places, or those of these names."""
    return [each for each in found if names is None or f"{each.module}.{each.name}" in names][part]


def run(
    options: dict[str, Any], nths: tuple[int, ...], errors: list[str], part: slice, names: list[str] | None = None
) -> Iterator[Result]:
    """Inject everywhere, one fresh session each."""
    with tempfile.TemporaryDirectory() as folder:
        found = [each for each in sites() if f"{each.module}.{each.name}" not in ENTRIES]
        for site in chosen(found, part, names):
            for nth in nths:
                for error in errors:
                    yield inject(site, error, nth, options, folder)
