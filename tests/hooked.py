"""Modules that a test imports through hooks of its own: what the tests of the import hook share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from autoprof import guard, importhook
from tests.fake_rewriter import FakeRewriter

Write = Callable[[Mapping[str, str]], Path]
FUNCTION = 'def f():\n    return "PLAIN"\n'


@pytest.fixture(params=["splice", "decorate"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both ways of rewriting go through every test."""
    return str(request.param)


@pytest.fixture
def hook(backend: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeRewriter]]:
    """Give a function that installs a rewriter for some modules; undone afterwards."""
    handles: list[importhook.Handle] = []
    modules = set(sys.modules)
    failures = dict(guard.internal_errors)

    def install(*covers: str, fails: bool = False) -> FakeRewriter:
        rewriter = FakeRewriter(covers, backend, fails)
        handles.append(importhook.install(rewriter))  # type: ignore[arg-type]
        return rewriter

    yield install
    for handle in reversed(handles):
        handle.uninstall()
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("shop", "plainmod", "other", "zipped", "space"):
            del sys.modules[name]
    guard.internal_errors.clear()
    guard.internal_errors.update(failures)


@pytest.fixture
def modules(write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package `shop` and an uncovered module `plainmod` that can be imported; return their folder."""
    root = write(
        {
            "shop/__init__.py": FUNCTION,
            "shop/orders.py": FUNCTION
            + "class C:\n    def m(self):\n        def inner(): return 'PLAIN'\n        return inner()\n",
            "shop/data.txt": "text\n",
            "plainmod.py": FUNCTION,
        }
    )
    monkeypatch.syspath_prepend(str(root))
    return root


def load(name: str) -> Any:
    """Import a module by name."""
    return importlib.import_module(name)
