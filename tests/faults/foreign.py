"""`python -m tests.faults.foreign`: what we call of others (os, sqlite3, clocks, threads, …) fails; what is noticed?

Each name is replaced in our own module alone: the application's use of the same function stays whole.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from autoprof import guard, session
from tests.faults.injector import WORKLOAD, Result, work

MODULES = (
    "arbiter", "artefacts", "background", "callgraph", "calls", "clock", "ends", "flusher", "frames", "sampler", "signals",
    "stopwatch", "store_batch", "store_bounds", "store_file", "store_writer", "strategies.call_graph", "strategies.calls",
    "strategies.flame_graph", "strategies.memory", "strategies.profile_memory", "telling", "tracer", "watching",
)  # fmt: skip
"""What works while the application runs; the reading of policies and the commands raise by contract."""
NEVER_FAIL = {
    "get_ident",
    "_getframe",
    "getrefcount",
    "monotonic_ns",
    "len",
    "gettrace",
    "getprofile",
    "allocate_lock",
}
"""They read a field of the interpreter or the machine; in entry points they stand before the guard for that reason."""
ERRORS: tuple[type[BaseException], ...] = (Exception, MemoryError, OSError)
KINDS: dict[str, dict[str, Any]] = {
    "profile": {"policy": "profile", "rate": 1.0},
    "profile_if_slow": {"policy": "profile_if_slow", "threshold": "1us", "rate": 1.0},
    "profile_production": {"policy": "profile_production", "sample_rate": 1.0},
    "flame_graph": {"policy": "flame_graph", "rate": 1.0},
    "profile_memory": {"policy": "profile_memory", "rate": 1.0},
    "profile_calls": {"policy": "profile_calls", "rate": 1.0},
}


class Fault(Exception):
    """So that an Exception of ours is told apart from the application's."""


class Place(NamedTuple):
    """A foreign function as one of our modules names it; `attribute` is "" for a name that was imported itself."""

    module: str
    name: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}: {self.name}{'.' if self.attribute else ''}{self.attribute}"


class Proxy(ModuleType):
    """A module with one function replaced."""

    def __init__(self, of: ModuleType, attribute: str, value: Any) -> None:
        super().__init__(of.__name__)
        self.__dict__.update(vars(of))
        self.__dict__[attribute] = value


def _names(code: CodeType) -> set[str]:
    found = set(code.co_names)
    for each in code.co_consts:
        if isinstance(each, CodeType):
            found |= _names(each)
    return found


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    for value in vars(module).values():
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            yield value
        elif isinstance(value, type) and value.__module__ == module.__name__:
            yield from (each for each in vars(value).values() if isinstance(each, FunctionType))


def places() -> list[Place]:
    """Find every foreign function that our modules call by a name of theirs."""
    found = []
    for short in MODULES:
        module = importlib.import_module(f"autoprof.{short}")
        used = set().union(*(_names(each.__code__) for each in _functions(module)))
        for name, value in sorted(vars(module).items()):
            if name not in used or name.startswith("__") or name in NEVER_FAIL:
                continue
            if isinstance(value, ModuleType) and not value.__name__.startswith("autoprof"):
                attributes = (
                    each for each in sorted(used & set(vars(value))) if _is_function(vars(value)[each])
                )
                found += [Place(short, name, each) for each in attributes if each not in NEVER_FAIL]
            elif _is_function(value) and not str(getattr(value, "__module__", "")).startswith("autoprof"):
                found.append(Place(short, name, ""))
    return [*found, *(Place("store_file", "sqlite3", each) for each in ("execute", "executemany", "close"))]


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)


def _failing_connection(method: str, fail: Callable[[], None]) -> Callable[..., sqlite3.Connection]:
    def failing(self: sqlite3.Connection, *args: Any) -> Any:
        fail()
        return getattr(sqlite3.Connection, method)(self, *args)

    kind = type("Connection", (sqlite3.Connection,), {method: failing})
    return lambda *args, **more: sqlite3.connect(*args, factory=kind, **more)


@contextmanager
def failing(place: Place, fail: Callable[[], None]) -> Iterator[None]:
    """Have a place call `fail` first, which may raise."""
    module = importlib.import_module(f"autoprof.{place.module}")
    before = getattr(module, place.name)
    if place.attribute in ("execute", "executemany", "close"):
        changed = Proxy(before, "connect", _failing_connection(place.attribute, fail))
    else:
        original = getattr(before, place.attribute) if place.attribute else before

        def faulty(*args: Any, **more: Any) -> Any:
            fail()
            return original(*args, **more)

        changed = Proxy(before, place.attribute, faulty) if place.attribute else faulty  # type: ignore[assignment]
    setattr(module, place.name, changed)
    try:
        yield
    finally:
        setattr(module, place.name, before)


def start(kind: str, folder: str) -> ModuleType:
    """Put a policy of one kind in force and return the application."""
    off = {"reload": "off", "budget": "off", "load": "off"}
    session.start({"version": 1, "output": folder, **off, "rules": [{"match": "prey:*", **KINDS[kind]}]})
    assert session.current is not None
    module = ModuleType("prey")
    sys.modules["prey"] = module
    code = compile(WORKLOAD, "/nowhere/prey.py", "exec")
    exec(session.current.installer.rewrite_code(code, "prey"), module.__dict__)
    return module


def attempt(kind: str, folder: str, place: Place, fail: Callable[[], None]) -> tuple[list[Any], bool]:
    """Run the application, flush and stop while a place may fail; tell too whether a call counts as an error."""
    module = start(kind, folder)
    try:
        with failing(place, fail):
            got = work(module)
            assert session.current is not None
            session.current.flusher.flush()
            probes = session.current.installer.probes.values()
            session.stop()
    finally:
        session.stop()
    return got, any(each.skipped.get("error") for each in probes)


def expected() -> list[Any]:
    """Return what the application gives without us."""
    plain = ModuleType("prey")
    exec(compile(WORKLOAD, "/nowhere/prey.py", "exec"), plain.__dict__)
    return work(plain)


def inject(kind: str, place: Place, error: type[BaseException], nth: int, right: list[Any]) -> Result:
    """Let the nth call of a place fail; every session begins with a folder of its own."""
    calls = fired = 0

    def fail() -> None:
        nonlocal calls, fired
        calls += 1
        if calls == nth:
            fired = 1
            raise (Fault if error is Exception else error)("injected")

    heard: list[str] = []
    handler = _Listener(heard)
    logging.getLogger("autoprof").addHandler(handler)
    guard.internal_errors.clear()
    guard._logged.clear()
    noticed, skipped = "", False
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            got, skipped = attempt(kind, folder, place, fail)
            noticed = next((f"{a!r} became {b!r}" for a, b in zip(right, got, strict=True) if a != b), "")
    except BaseException as escaped:
        noticed = f"{type(escaped).__name__}: {escaped} left start, flush or stop"
    finally:
        logging.getLogger("autoprof").removeHandler(handler)
    counted = bool(guard.internal_errors or heard or skipped)
    return Result(str(place), error.__name__, nth, fired, not noticed, counted, noticed)


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record.getMessage())


def called(kind: str, found: list[Place]) -> dict[Place, int]:
    """Return how often each place is called in one run."""
    counts = dict.fromkeys(found, 0)
    from contextlib import ExitStack

    def counter(place: Place) -> Callable[[], None]:
        def count() -> None:
            counts[place] += 1

        return count

    # One session for each module: its proxies would hide one another otherwise.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        module = start(kind, folder)
        for each in found:
            if each.attribute not in ("execute", "executemany", "close"):
                stack.enter_context(failing(each, counter(each)))
        work(module)
        assert session.current is not None
        session.current.flusher.flush()
        session.stop()
    for each in found:
        if each.attribute in ("execute", "executemany", "close"):
            counts[each] = 3
    return {place: count for place, count in counts.items() if count}


def run(
    kinds: list[str], every: int = 1, first: int = 0, thorough: bool = True
) -> Iterator[tuple[str, Result]]:
    """Inject at the first and a middle call of each place that a kind of policy calls.

    Args:
        every, first: of all injections only each `every`-th.
        thorough: each error at each place; else the errors take turns.
    """
    right = expected()
    number = 0
    for kind in kinds:
        for index, (place, count) in enumerate(called(kind, places()).items()):
            for nth in sorted({1, count // 2 + 1}):
                for error in ERRORS if thorough else (ERRORS[index % len(ERRORS)],):
                    number += 1
                    if number % every == first:
                        yield kind, inject(kind, place, error, nth, right)


def main() -> int:
    """Print a line for each kind of policy, and each fault that was noticed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the errors take turns")
    parser.add_argument("kinds", nargs="*")
    asked = parser.parse_args()
    logging.getLogger("autoprof").propagate = False
    logging.getLogger("autoprof").addHandler(logging.NullHandler())
    broken = 0
    print(
        "| policy | foreign functions | faults | results identical | counted or told |\n|---|---|---|---|---|"
    )
    for kind in asked.kinds or list(KINDS):
        sites, fired, identical, counted = set(), 0, 0, 0
        for _, each in run([kind], asked.every, asked.first, not asked.quick):
            if not each.fired:
                continue
            sites.add(each.site)
            fired, identical, counted = fired + 1, identical + each.identical, counted + each.counted
            if not each.identical:
                print(
                    f"NOTICED {kind} {each.site} {each.error} call {each.nth}: {each.noticed[:200]}",
                    flush=True,
                )
            elif not each.counted:
                print(f"silent {kind} {each.site} {each.error} call {each.nth}", file=sys.stderr, flush=True)
        broken += fired - identical
        print(f"| {kind} | {len(sites)} | {fired} | {identical} | {counted} |", flush=True)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
