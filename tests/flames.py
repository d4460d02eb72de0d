"""A module with a flame graph on its functions, through both back ends: what the tests of flame graphs share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoprof import session
from autoprof.probe import Probe
from tests import mechanisms

SOURCE = """
from time import perf_counter
def work(seconds=0.03, act=None, fail=None):
    run_spin(seconds)
    if act: return act()
    if fail: raise fail
    return "done"
def run_spin(seconds):
    end = perf_counter() + seconds
    while perf_counter() < end: pass
"""


class Shop:
    """A module with `flame_graph` on `work`."""

    def __init__(self, module: Any, output: Path) -> None:
        self.module = module
        self.output = output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    @property
    def probe(self) -> Probe:
        return self.probe_of("work")

    def probe_of(self, name: str) -> Probe:
        """Return the one probe on a function."""
        assert session.current is not None
        target = f"{self.module.__name__}:{name}"
        (found,) = [each for each in session.current.installer.probes.values() if each.target == target]
        return found

    def strategy(self) -> Any:
        """Return the strategy that measures."""
        return self.probe.strategy

    def files(self) -> list[Path]:
        return sorted(path for path in self.output.glob("**/*") if path.is_file() and ".db" not in path.name)

    def stacks(self) -> dict[tuple[str, ...], int]:
        """Return the stacks of the only file, a speedscope one: names without places, root first → nanoseconds."""
        (path,) = self.files()
        document = json.loads(path.read_text())
        names = [each["name"].partition(" (")[0] for each in document["shared"]["frames"]]
        profile = document["profiles"][0]
        out: dict[tuple[str, ...], int] = {}
        for sample, weight_ns in zip(profile["samples"], profile["weights"], strict=True):
            stack = tuple([names[each] for each in sample])
            out[stack] = out.get(stack, 0) + weight_ns
        return out


Make = Callable[..., Shop]


BACK_ENDS = ["spliced_at_import", "decorated_at_import"]


def makes(mechanism: str, tmp_path: Path) -> Iterator[Make]:
    """Be the body of a fixture: gives `make(source, **options)`, stops everything afterwards."""

    def make_shop(source: str = SOURCE, **options: Any) -> Shop:
        name = "subject_flame"
        start = mechanisms.policy(name, str(tmp_path / "out"))
        start["rules"] = [{"match": f"{name}:work*", "policy": "flame_graph", "every": "0s", **options}]
        return Shop(mechanisms.MECHANISMS[mechanism](source, name, start), tmp_path / "out")

    yield make_shop
    session.stop()
    sys.modules.pop("subject_flame", None)
    assert sys.getprofile() is None
