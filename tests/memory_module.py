"""A module with a memory policy on its functions, through both back ends: what the tests of memory share."""

from __future__ import annotations

import mmap
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import allocations, guard, session
from autoprof.probe import Probe
from autoprof.sampler import recorder
from tests import mechanisms

LINUX = sys.platform == "linux"
OF_LINUX = pytest.mark.skipif(not LINUX, reason="rss from /proc")
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
SIZE = 32 << 20

SOURCE = """
kept = []
class Thing:
    pass
def nothing():
    pass
def keep(make):
    kept.append(make())
def call(act, *given):
    return act(*given)
def fail(error):
    kept.append(error.make())
    raise error
def stream(make):
    kept.append(make())
    yield 1
    yield 2
async def later(make, pause):
    await pause
    kept.append(make())
    return "done"
def things(number):
    kept.append([Thing() for _ in range(number)])
"""


class Subject:
    """A module with a memory policy on its functions."""

    def __init__(self, module: Any, output: Path, kind: str) -> None:
        self.module = module
        self.output = output
        self.kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def probe(self, qualname: str) -> Probe:
        assert session.current is not None
        return session.current.installer.probes[f"{self.module.__name__}:{qualname}", self.kind]

    def files(self) -> list[Path]:
        return sorted(path for path in self.output.glob("**/*") if path.is_file() and ".db" not in path.name)


Make = Callable[..., Subject]
BACK_ENDS = ["spliced_at_import", "decorated_at_import"]


def makes(mechanism: str, tmp_path: Path) -> Iterator[Make]:
    """Be the body of a fixture: gives `make(**options)`, stops everything afterwards."""
    name = "subject_memory"

    def make_subject(**options: Any) -> Subject:
        start = mechanisms.policy(name, str(tmp_path / "out"))
        rule = {"match": f"{name}:*", "policy": "profile_memory", **options}
        start["rules"] = [rule]
        module = mechanisms.MECHANISMS[mechanism](SOURCE, name, start)
        return Subject(module, tmp_path / "out", rule["policy"])

    yield make_subject
    session.stop()
    sys.modules.pop(name, None)
    assert not recorder.deadlines
    assert tracemalloc.start is allocations._start and tracemalloc.stop is allocations._stop
    assert guard.internal_errors == {}


def touched(size_bytes: int = SIZE) -> mmap.mmap:
    """Return fresh memory in which every page was written."""
    fresh = mmap.mmap(-1, size_bytes)
    for start in range(0, size_bytes, mmap.PAGESIZE):
        fresh[start] = 1
    return fresh


class Failure(ValueError):
    """Allocates before it is raised."""

    @staticmethod
    def make() -> mmap.mmap:
        return touched()
