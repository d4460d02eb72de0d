"""The tracer in company: other probes, the application's own profilers, its classes, forks and greenlets."""

from __future__ import annotations

import cProfile
import os
import pstats
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import arbiter, session
from tests import mechanisms
from tests.forked import told_by_child
from tests.traced import BACK_ENDS, Make, makes


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from makes(request.param, tmp_path, monkeypatch)


def test_nested_probes_are_declined_and_counted(make: Make) -> None:
    traced = make(
        "def main(n):\n    for i in range(n): nested(i)\ndef nested(i):\n    return deeper(i)\ndef deeper(i):\n    return i\n",
        others="*e*ed*",
    )
    traced.main(7)
    assert session.current is not None
    probe = session.current.installer.probes["subject_traced:nested", "profile"]
    assert (probe.calls, probe.profiled, probe.skipped) == (7, 0, {"busy": 7})
    calls = traced.calls()
    assert (calls["nested"], calls["deeper"]) == (7, 7)
    assert ("main", "nested") in traced.edges() and ("nested", "deeper") in traced.edges()
    assert not [name for name in calls if name.startswith("autoprof")]
    traced.nested(1)
    assert probe.profiled == 1


def test_the_application_profiles_itself(make: Make) -> None:
    traced = make("def main():\n    return inner()\ndef inner():\n    return 1\n")
    profile = cProfile.Profile()
    profile.enable()
    try:
        assert traced.main() == 1
    finally:
        profile.disable()
    assert traced.probe.skipped == {"other_profiler": 1} and not traced.graphs
    stats: Any = pstats.Stats(profile)
    assert {name: figures[1] for (_, _, name), figures in stats.stats.items()}["inner"] == 1
    traced.main()
    assert traced.probe.profiled == 1


def test_the_application_profiles_itself_inside(make: Make) -> None:
    traced = make(
        "import cProfile\n"
        "def main(profile):\n"
        "    before()\n"
        "    profile.enable()\n"
        "    for _ in range(5): inner()\n"
        "    profile.disable()\n"
        "def before(): pass\n"
        "def inner(): pass\n"
    )
    profile = cProfile.Profile()
    traced.main(profile)
    stats: Any = pstats.Stats(profile)
    assert {name: figures[1] for (_, _, name), figures in stats.stats.items()}["inner"] == 5
    assert traced.calls()["before"] == 1


def test_the_application_may_set_a_hook_and_give_ours_back(make: Make) -> None:
    traced = make(
        "import sys\n"
        "def main(seen):\n"
        "    inner(); old = sys.getprofile(); sys.setprofile(lambda *event: seen.append(event)); inner()\n"
        "    sys.setprofile(old); inner(); inner()\n"
        "def inner(): pass\n"
    )
    seen: list[Any] = []
    traced.main(seen)
    assert [event for frame, event, _ in seen if frame.f_code.co_name == "inner"] == ["call", "return"]
    assert traced.calls()["inner"] == 3


def test_hostile_classes_are_not_asked(make: Make) -> None:
    traced = make(
        "asked = []\n"
        "class Meta(type):\n"
        "    def __getattribute__(cls, name):\n        asked.append(name); return type.__getattribute__(cls, name)\n"
        "    def __hash__(cls):\n        asked.append('hash'); return 1\n"
        "    def __eq__(cls, other):\n        asked.append('eq'); return True\n"
        "class Odd(list, metaclass=Meta):\n"
        "    def __getattribute__(self, name):\n        asked.append(name); return list.__getattribute__(self, name)\n"
        "def main(odd):\n"
        "    append = list.append\n"
        "    append(odd, 1); append(odd, 2)\n"
        "    return list.pop(odd)\n"
    )
    odd = traced.Odd()
    traced.asked.clear()
    assert traced.main(odd) == 2
    assert traced.asked == []
    assert traced.calls()["builtins:list.append"] == 2


def test_the_applications_objects_die_when_they_would(make: Make) -> None:
    traced = make(
        "import weakref\n"
        "class Thing: pass\n"
        "def main():\n"
        "    held = hold(Thing())\n"
        "    assert held() is None\n"
        "    made = gen(Thing()); seen = next(made); del made\n"
        "    return seen()\n"
        "def hold(thing):\n    return weakref.ref(thing)\n"
        "def gen(thing):\n    yield weakref.ref(thing)\n"
    )
    assert traced.main() is None


COLLECTED = """
import gc, sys
from autoprof import session
from tests import mechanisms
source = '''
def leaf(x): return [x]
def gen(n):
    for i in range(n): yield leaf(i)
def run(n):
    for _ in range(n):
        made = gen(3); next(made)
        cycle = [made]; cycle.append(cycle)
        del made, cycle
        leaf(1)
'''
name = "subject_collected"
start = mechanisms.policy(name, sys.argv[1])
start["rules"] = [{"match": f"{name}:gen", **RULE}]
module = mechanisms.spliced_at_import(source, name, start)
gc.set_threshold(3)
module.run(5000)
gc.set_threshold(700)
probe, = session.current.installer.probes.values()
assert probe.profiled + probe.discarded > 1000, (probe.profiled, probe.skipped)
session.stop()
print("lived", sys.getprofile())
"""


@pytest.mark.parametrize(
    "rule",
    [
        {"policy": "profile", "strategy": "call_graph", "rate": 1.0, "threshold": "10s"},
        {"policy": "profile_calls", "callees": True, "env": None},
        {"policy": "profile_calls", "callees": False, "env": None},
    ],
)
def test_the_collector_may_end_a_call_while_the_hook_is_called(rule: dict[str, Any], tmp_path: Path) -> None:
    """3.11 calls a hook that it holds no reference to, after an allocation that can take it off."""
    rule = {key: value for key, value in rule.items() if value is not None}
    program = COLLECTED.replace("RULE", repr(rule)).replace("sys.argv[1]", repr(str(tmp_path)))
    done = mechanisms.python(program)
    assert (done.returncode, done.stdout) == (0, "lived None\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_inside_is_not_followed(make: Make) -> None:
    traced = make("def main(act):\n    found = act(); inner(); return found\ndef inner(): pass\n")

    def in_child() -> object:
        hook, holder = sys.getprofile(), arbiter.holder
        traced.main(lambda: None)
        return hook, holder, len(traced.graphs), traced.probe.profiled

    assert told_by_child(lambda: traced.main(os.fork), in_child) == "(None, None, 1, 1)"
    assert traced.calls()["inner"] == 1


def test_greenlets_are_told_apart(make: Make) -> None:
    greenlet = pytest.importorskip("greenlet")
    traced = make(
        "def main(other):\n    mine(); other.switch(); mine(); other.switch(); return mine()\n"
        "def mine():\n    return 1\n"
        "def theirs():\n    return 2\n"
    )

    def run() -> None:
        while True:
            traced.theirs()
            greenlet.getcurrent().parent.switch()

    other = greenlet.greenlet(run)
    assert traced.main(other) == 1
    calls = traced.calls()
    assert calls["mine"] == 3 and "theirs" not in calls and calls["main"] == 1
