"""A module whose session pauses when the test says so: what the tests of the governor share."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import autoprof
from autoprof import load, session, testing
from autoprof.governor import Governor
from autoprof.load import PAUSED_NS
from tests import mechanisms
from tests.mechanisms import Loaded

SOURCE = textwrap.dedent("""
    def f(x=1, act=None):
        if act: act()
        return x
    def other(): pass
    async def co(): return 5
    def gen(): yield 6
""")

HEAVY = load.NOTHING._replace(cpu=0.95, memory=0.2)
LIGHT = load.NOTHING._replace(cpu=0.1, memory=0.2)


class Pressure:
    """What stands in for the machine: says what the test wants."""

    reading = LIGHT

    def read(self, now_ns: int) -> load.Reading:
        return self.reading

    def woke(self, late_ns: int) -> None: ...

    def waited_ns(self) -> int:
        return 0

    def cpu_of(self) -> str:
        return "the machine's 2 CPUs"

    memory_of = cpu_of


class Subject:
    """A loaded module whose session's governor looks when the test says so."""

    def __init__(self, module: Loaded, clock: testing.FakeClock, threads: bool) -> None:
        assert session.current is not None
        self.module, self.clock = module, clock
        self.governor: Governor = session.current.governor
        self.pressure = Pressure()
        limits: Any = SimpleNamespace(load_cpu=0.8, load_memory=0.9)
        self.governor.retarget(limits)
        self.governor.prepare()
        self.governor.meter = self.pressure  # type: ignore[assignment]
        if not threads:
            self.governor.start = lambda: None  # type: ignore[method-assign]

    def probe(self, qualname: str = "f") -> Any:
        assert session.current is not None
        name = f"{self.module.name}:{qualname}"
        return next(each for key, each in session.current.installer.probes.items() if key[0] == name)

    def status(self, qualname: str = "f") -> autoprof.ProbeStatus:
        return next(each for each in session.status() if each.target == f"{self.module.name}:{qualname}")

    def pause(self) -> None:
        self.pressure.reading = HEAVY
        self.governor.look()

    def resume(self) -> None:
        self.pressure.reading = LIGHT
        self.clock.advance(ns=PAUSED_NS)
        self.governor.look()


Make = Callable[..., Subject]


def makes(way: str, load_as: Any, clock: testing.FakeClock) -> Make:
    """Return `make(**options)`, which loads a module in this way."""

    def make(threads: bool = False, source: str = SOURCE, **options: Any) -> Subject:
        return Subject(load_as(way, source, **options), clock, threads)

    return make


def makes_slow(way: str, load_as: Any, clock: testing.FakeClock) -> Make:
    """Return `make(**options)`, which loads a module of which slow calls are profiled."""
    made = makes(way, load_as, clock)
    return lambda **options: made(policy="profile_if_slow", threshold="10ms", **{"rate": 1.0, **options})


@pytest.fixture
def clock() -> Iterator[testing.FakeClock]:
    with testing.FakeClock() as clock:
        yield clock


@pytest.fixture
def load_as(tmp_path: Path) -> Iterator[Callable[..., Loaded]]:
    yield from mechanisms.loads(tmp_path)


@pytest.fixture(params=["spliced_at_import", "decorated_at_import"])
def make(request: pytest.FixtureRequest, load_as: Any, clock: testing.FakeClock) -> Make:
    return makes(request.param, load_as, clock)
