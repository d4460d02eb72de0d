"""What rewriting costs at import, and what modules pay that no rule names."""

from __future__ import annotations

import argparse
import inspect
import tarfile
import time
import types
import typing
import unittest.mock
from collections.abc import Iterator

from autoprof import config, importhook, session
from autoprof.rewrite.tree import is_function, rewrite_tree
from tests.benchmarks.measure import ROUNDS, Figure, median_of

_MODULES: tuple[types.ModuleType, ...] = (argparse, inspect, tarfile, typing, unittest.mock)


def figures() -> Iterator[Figure]:
    """Measure microseconds a function, and a finder's no."""
    yield _rewriting()
    yield _uncovered()


def _codes() -> list[tuple[str, types.CodeType]]:
    out = []
    for module in _MODULES:
        path = inspect.getsourcefile(module)
        assert path is not None
        with open(path, encoding="utf-8") as file:
            out.append((module.__name__, compile(file.read(), path, "exec")))
    return out


def _count(code: types.CodeType) -> int:
    found = 0

    def one(inner: types.CodeType, original: types.CodeType, qualname: str) -> None:
        nonlocal found
        found += is_function(original)

    rewrite_tree(code, one)
    return found


def _rewriting() -> Figure:
    rules = [{"match": [f"{module.__name__}:*" for module in _MODULES], "policy": "profile"}]
    rounds = []
    for _ in range(ROUNDS):
        session.start(config.from_mapping({"version": 1, "rules": rules}, env={}))
        assert session.current is not None
        installer = session.current.installer
        codes = _codes()
        began = time.perf_counter_ns()
        for name, code in codes:
            installer.rewrite_code(code, name)
        took_ns = time.perf_counter_ns() - began
        functions = sum(_count(code) for _, code in codes)
        rounds.append(took_ns / functions / 1000)
        session.stop()
    return Figure("rewriting, a function", median_of(rounds), "us", 25.0, note=f"{functions} functions")


def _uncovered() -> Figure:
    rules = [{"match": "nothing.at.all:*", "policy": "profile"}]
    session.start(config.from_mapping({"version": 1, "rules": rules}, env={}))
    try:
        import sys

        finder = sys.meta_path[0]
        assert isinstance(finder, importhook.Finder)
        names = [f"package.module_{number}" for number in range(2_000)]
        rounds = []
        for attempt in range(ROUNDS):
            wanted = [f"{name}_{attempt}" for name in names]
            began = time.perf_counter_ns()
            for name in wanted:
                finder.find_spec(name, None, None)
            rounds.append((time.perf_counter_ns() - began) / len(wanted) / 1000)
    finally:
        session.stop()
    return Figure("a module that no rule names, in the finder", median_of(rounds), "us", 2.0)
