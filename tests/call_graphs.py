"""A module with a call graph of its function `work`, through both back ends: what the tests of these strategies share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoprof import arbiter, session, testing
from autoprof.probe import Probe
from tests import mechanisms

SOURCE = """
def work(n=3, act=None, fail=None, clock=None):
    for _ in range(n): step(clock)
    if act: return act()
    if fail: raise fail
    return sorted([3, 1, 2], key=negative)
def step(clock):
    if clock: clock.now_ns += 2_000_000
    return helper(clock)
def helper(clock):
    if clock: clock.now_ns += 1_000_000
    return len("text")
def negative(v):
    return -v
"""


MS = 1_000_000


class Shop:
    """A module with one of the strategies on `work`."""

    def __init__(self, module: Any, output: Path) -> None:
        self.work = module.work
        self.module = module
        self.output = output

    @property
    def probe(self) -> Probe:
        assert session.current is not None
        return session.current.installer.probes[f"{self.module.__name__}:work", "profile"]

    def files(self) -> list[Path]:
        return sorted(path for path in self.output.glob("**/*") if path.is_file() and ".db" not in path.name)

    def text(self) -> str:
        (path,) = self.files()
        return path.read_text()


Make = Callable[..., Shop]
BACK_ENDS = ["spliced_at_import", "decorated_at_import"]


def makes(mechanism: str, tmp_path: Path) -> Iterator[Make]:
    """Be the body of a fixture: gives `make(strategy, **options)`, stops everything afterwards."""

    def make_shop(strategy: str = "call_graph", **options: Any) -> Shop:
        name = "subject_graph"
        start = mechanisms.policy(name, str(tmp_path / "out"))
        rule = {"match": f"{name}:work", "policy": "profile", "strategy": strategy, "rate": 1.0}
        start["rules"] = [{**rule, **options}]
        return Shop(mechanisms.MECHANISMS[mechanism](SOURCE, name, start), tmp_path / "out")

    yield make_shop
    session.stop()
    sys.modules.pop("subject_graph", None)
    assert sys.getprofile() is None and arbiter.holder is None


def measured(shop: Shop, calls: int = 1) -> Shop:
    with testing.FakeClock() as clock:
        for _ in range(calls):
            assert shop.work(clock=clock) == [3, 2, 1]
    return shop
