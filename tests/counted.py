"""A module with `profile_calls` on its functions, through both back ends: what the tests of that policy share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import arbiter, entries, guard, session
from autoprof.probe import Probe
from tests import mechanisms

SOURCE = """
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
def work(act=None, fail=None):
    helper(); helper()
    if act: act()
    if fail: raise fail
    return len("abc")
def helper():
    return 1
"""


class Counted:
    """A module with profile_calls on all functions that a glob names."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def probe(self, name: str) -> Probe:
        assert session.current is not None
        return session.current.installer.probes[f"{self.module.__name__}:{name}", "profile_calls"]

    def figures(self, name: str) -> tuple[int, int, dict[str, int]]:
        probe = self.probe(name)
        return probe.calls, probe.profiled, probe.skipped


Make = Callable[..., Counted]
BACK_ENDS = ["spliced_at_import", "decorated_at_import"]


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Give `make(names, source, **options)`; everything is stopped afterwards."""

    def make_counted(names: str = "*", source: str = SOURCE, **options: Any) -> Counted:
        name = "subject_calls"
        start = mechanisms.policy(name, str(tmp_path / "out"))
        start["rules"] = [
            {"match": f"{name}:{names}", "except": f"{name}:run*", "policy": "profile_calls", **options}
        ]
        return Counted(mechanisms.MECHANISMS[request.param](source, name, start))

    yield make_counted
    session.stop()
    sys.modules.pop("subject_calls", None)
    assert sys.getprofile() is None and arbiter.holder is None
    assert not entries._active and entries._tool_id is None
    assert not guard.internal_errors
