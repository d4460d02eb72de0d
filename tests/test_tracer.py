"""The tracer: what it finds in one call, held against cProfile and against known trees."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import os
import pstats
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from autoprof import arbiter, flight, guard, session, testing, tracer
from autoprof.callgraph import MAX_FUNCTIONS, OTHER, Figures, Graph
from autoprof.gate import Gate
from autoprof.probe import Probe
from tests import mechanisms

Found = list[Graph]


class Traced:
    """A module whose function `main` is followed; `graphs` holds what each call gave."""

    def __init__(self, module: Any, graphs: Found) -> None:
        self.module = module
        self.graphs = graphs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    @property
    def probe(self) -> Probe:
        assert session.current is not None
        return session.current.installer.probes[f"{self.module.__name__}:main", "profile"]

    @property
    def graph(self) -> Graph:
        (found,) = self.graphs
        return found

    def calls(self, graph: Graph | None = None) -> dict[str, int]:
        """Calls by name, without the module's own."""
        prefix = f"{self.module.__name__}:"
        found = (graph or self.graph).functions.items()
        return {target.removeprefix(prefix): figures.calls for (target, *_), figures in found}

    def figures(self, name: str) -> Figures:
        """The figures of one function of the module."""
        target = name if ":" in name else f"{self.module.__name__}:{name}"
        (found,) = [each for function, each in self.graph.functions.items() if function[0] == target]
        return found

    def edges(self) -> set[tuple[str, str]]:
        """Who called whom."""
        prefix = f"{self.module.__name__}:"
        return {(a[0].removeprefix(prefix), b[0].removeprefix(prefix)) for a, b in self.graph.edges}


Make = Callable[..., Traced]


@pytest.fixture(params=["spliced_at_import", "decorated_at_import"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    graphs: Found = []
    real = tracer.graph_of

    def graph_of(trace: tracer.Trace) -> Graph:
        graphs.append(real(trace))
        return graphs[-1]

    monkeypatch.setattr(tracer, "graph_of", graph_of)

    def make_traced(source: str, others: str = "", **options: Any) -> Traced:
        name = "subject_traced"
        start = mechanisms.policy(name, str(tmp_path / "out"))
        rule = {"match": f"{name}:main", "policy": "profile", "strategy": "call_graph", "rate": 1.0}
        start["rules"] = [{**rule, **options}]
        if others:
            start["rules"].append({"match": f"{name}:{others}", "policy": "profile", "rate": 1.0})
        return Traced(mechanisms.MECHANISMS[request.param](source, name, start), graphs)

    yield make_traced
    session.stop()
    sys.modules.pop("subject_traced", None)
    assert sys.getprofile() is None and arbiter.holder is None
    assert not guard.internal_errors.pop("tracer", 0)


TREE = """
MS = 1_000_000
def main(clock):
    clock.now_ns += MS
    branch(clock, 10)
    branch(clock, 20)
    leaf(clock, 5)
    return "done"
def branch(clock, ms):
    clock.now_ns += ms * MS
    leaf(clock, 100)
    clock.now_ns += ms * MS
def leaf(clock, ms):
    clock.now_ns += ms * MS
    clock.advance(s=1)
"""


def test_a_tree_of_known_times(make: Make) -> None:
    """The times are exact, and what passes inside our own functions (`advance`) belongs to nobody."""
    traced = make(TREE)
    with testing.FakeClock() as clock:
        assert traced.main(clock) == "done"
    ms = 1_000_000
    main, branch, leaf = (traced.figures(name) for name in ("main", "branch", "leaf"))
    assert (main.calls, main.self_ns, main.cumulative_ns) == (1, 1 * ms, 266 * ms)
    assert (branch.calls, branch.self_ns, branch.cumulative_ns) == (2, 60 * ms, 260 * ms)
    assert (leaf.calls, leaf.self_ns, leaf.cumulative_ns) == (3, 205 * ms, 205 * ms)
    assert traced.graph.total_ns == 266 * ms
    assert traced.edges() == {("main", "branch"), ("main", "leaf"), ("branch", "leaf")}


def test_what_the_hook_costs_is_taken_off_by_kind_of_function(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event of a C function costs less than one of a Python function."""
    monkeypatch.setattr(tracer, "_biases_ns", lambda: (1_000, 10))
    source = "def main(clock):\n    clock.now_ns += 100_000\n    {}"
    took = {}
    for call in ("pass", "leaf()", "abs(1)"):
        traced = make(source.format(call) + "\ndef leaf():\n    pass\n")
        with testing.FakeClock() as clock:
            traced.main(clock)
        took[call] = traced.graphs[-1].total_ns
        session.stop()
    assert took["pass"] == 100_000 - 1_000  # its call; its return comes after it was looked at
    assert took["pass"] - took["abs(1)"] == 10
    assert took["pass"] - took["leaf()"] == 1_000


def test_counts_are_those_of_pstats_with_recursion(make: Make) -> None:
    traced = make(
        "def main(n):\n    return fib(n)\n"
        "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\n"
    )
    assert traced.main(12) == 144
    fib = traced.figures("fib")
    assert (fib.calls, fib.primitive) == (465, 1)
    assert fib.cumulative_ns <= traced.figures("main").cumulative_ns
    (inner,) = [
        f for (a, b), f in traced.graph.edges.items() if a[0].endswith(":fib") and b[0].endswith(":fib")
    ]
    assert (inner.calls, inner.primitive) == (464, 2)


def test_recursion_through_the_target_itself(make: Make) -> None:
    traced = make(
        "def main(n):\n    return other(n - 1) if n else 0\ndef other(n):\n    return main(n) if n >= 0 else 0\n"
    )
    with testing.FakeClock():
        traced.main(5)
    main = traced.figures("main")
    assert (main.calls, main.primitive) == (6, 1)
    assert traced.probe.calls == 6


def test_exceptions_end_calls(make: Make) -> None:
    traced = make(
        "def main():\n"
        "    for _ in range(3):\n"
        "        try: outer()\n"
        "        except KeyError: pass\n"
        "    int.from_bytes(b'')\n"
        "    try: max()\n"
        "    except TypeError: pass\n"
        "    raise ValueError\n"
        "def outer():\n    inner()\n"
        "def inner():\n    raise KeyError\n"
    )
    with pytest.raises(ValueError):
        traced.main()
    calls = traced.calls()
    assert (calls["outer"], calls["inner"], calls["builtins:max"], calls["main"]) == (3, 3, 1, 1)
    assert calls["builtins:int.from_bytes"] == 1
    assert ("main", "outer") in traced.edges() and ("main", "inner") not in traced.edges()
    assert sys.getprofile() is None


def test_c_functions_and_what_they_call(make: Make) -> None:
    traced = make(
        "class Mine(list): pass\n"
        "def main():\n"
        "    m = Mine(); m.append(2); m.append(1); [].append(0)\n"
        "    sorted(m, key=lambda v: v)\n"
        "    return len('x') + abs(-1) + abs(1)\n"
    )
    traced.main()
    calls = traced.calls()
    assert (calls["builtins:list.append"], calls["builtins:sorted"]) == (3, 1)
    assert (calls["builtins:len"], calls["builtins:abs"], calls["main.<locals>.<lambda>"]) == (1, 2, 2)
    assert ("builtins:sorted", "main.<locals>.<lambda>") in traced.edges()


def test_generators_count_once_per_call(make: Make) -> None:
    traced = make(
        "def main():\n"
        "    a = sum(numbers(4))\n"
        "    half = numbers(4); next(half); next(half); half.close()\n"
        "    broken = numbers(4); next(broken)\n"
        "    try: broken.throw(KeyError)\n"
        "    except KeyError: pass\n"
        "    return a\n"
        "def numbers(n):\n"
        "    for i in range(n):\n        yield helper(i)\n"
        "def helper(i):\n    return i\n"
    )
    assert traced.main() == 6
    assert (traced.calls()["numbers"], traced.calls()["helper"]) == (3, 4 + 2 + 1)
    assert ("numbers", "helper") in traced.edges()


def test_a_generator_begun_outside_is_no_call_inside(make: Make) -> None:
    traced = make("def main(made):\n    return list(made)\ndef numbers(n):\n    yield from range(n)\n")
    made = traced.numbers(3)
    next(made)
    assert traced.main(made) == [1, 2]
    assert traced.figures("numbers").calls == 0


def test_only_this_thread(make: Make) -> None:
    traced = make(
        "import threading\n"
        "def main(event, go):\n    go.set(); mine(); event.wait(); return mine()\n"
        "def mine():\n    return 1\n"
        "def theirs():\n    return 2\n"
    )
    event, go = threading.Event(), threading.Event()

    def other() -> None:
        go.wait()
        for _ in range(500):
            traced.theirs()
        event.set()

    thread = threading.Thread(target=other)
    thread.start()
    traced.main(event, go)
    thread.join()
    assert traced.calls()["mine"] == 2 and "theirs" not in traced.calls()


def test_two_threads_one_is_followed_the_other_is_busy(make: Make) -> None:
    traced = make("def main(act):\n    return act()\n")

    def in_another_thread() -> Any:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(traced.main(lambda: "inner")))
        thread.start()
        thread.join()
        return results

    assert traced.main(in_another_thread) == ["inner"]
    assert (traced.probe.calls, traced.probe.profiled, traced.probe.skipped) == (2, 1, {"busy": 1})
    traced.main(lambda: None)
    assert traced.probe.profiled == 2


ASYNC = """
import asyncio
async def main(name, n):
    for i in range(n):
        await step(name, i)
    return name
async def step(name, i):
    await asyncio.sleep(0)
    return globals()["only_" + name](i)
def only_a(i): return i
def only_b(i): return i
async def run_other(n):
    for i in range(n):
        only_b(i)
        await asyncio.sleep(0)
async def run_all():
    return await asyncio.gather(main("a", 3), main("b", 5), run_other(20))
"""


def test_only_this_task(make: Make) -> None:
    traced = make(ASYNC)
    assert asyncio.run(traced.run_all()) == ["a", "b", None]
    assert (traced.probe.calls, traced.probe.profiled, traced.probe.skipped) == (2, 1, {"busy": 1})
    calls = traced.calls()
    assert (calls["main"], calls["step"], calls["only_a"]) == (1, 3, 3)
    assert not {"only_b", "run_other", "run_all"} & set(calls)
    assert sys.getprofile() is None


def test_time_in_which_the_coroutine_waits_is_not_its_own(make: Make) -> None:
    traced = make(
        "import asyncio\n"
        "async def main(clock):\n"
        "    clock.now_ns += 1_000_000; await asyncio.sleep(0); clock.now_ns += 2_000_000; await asyncio.sleep(0)\n"
        "async def run_both(clock):\n"
        "    async def other():\n"
        "        for _ in range(5):\n"
        "            clock.now_ns += 1_000_000_000; await asyncio.sleep(0)\n"
        "    await asyncio.gather(main(clock), other())\n"
    )
    with testing.FakeClock() as clock:
        asyncio.run(traced.run_both(clock))
    assert traced.graph.total_ns == traced.figures("main").cumulative_ns == 3_000_000


def test_a_generator_as_target(make: Make) -> None:
    traced = make(
        "def main(n):\n    for i in range(n):\n        yield inner(i)\ndef inner(i):\n    return i\ndef outer():\n    return 1\n"
    )
    for _ in traced.main(3):
        traced.outer()
    gc.collect()
    assert traced.calls()["main"] == 1 and traced.calls()["inner"] == 3
    assert "outer" not in traced.calls()
    assert sys.getprofile() is None


def test_an_abandoned_generator_lets_go(make: Make) -> None:
    traced = make(
        "def main(n):\n    for i in range(n):\n        yield inner(i)\ndef inner(i):\n    return i\n"
    )
    made = traced.main(3)
    next(made)
    assert arbiter.holder is not None
    del made
    gc.collect()
    assert arbiter.holder is None and sys.getprofile() is None
    assert traced.calls()["inner"] == 1


def test_stopping_autoprof_takes_the_hook_off(make: Make) -> None:
    traced = make("def main(n):\n    for i in range(n):\n        yield i\n")
    made = traced.main(3)
    next(made)
    session.stop()
    assert sys.getprofile() is None and arbiter.holder is None
    assert list(made) == [1, 2]


def test_an_async_generator_and_a_failing_coroutine(make: Make) -> None:
    traced = make(
        "async def main(n):\n    for i in range(n):\n        yield inner(i)\n    raise KeyError\n"
        "def inner(i):\n    return i\n"
        "async def run_it():\n    return [i async for i in main(2)]\n"
    )
    with pytest.raises(KeyError):
        asyncio.run(traced.run_it())
    gc.collect()
    assert (traced.calls()["main"], traced.calls()["inner"]) == (1, 2)


def test_while_a_coroutine_waits_other_probes_measure(make: Make) -> None:
    traced = make(
        "import asyncio\n"
        "async def main():\n    beside(); await asyncio.sleep(0.01); beside()\n"
        "def beside():\n    return 1\n"
        "async def run_both():\n"
        "    async def other():\n        beside(); beside()\n"
        "    await asyncio.gather(main(), other())\n",
        others="beside",
    )
    asyncio.run(traced.run_both())
    assert session.current is not None
    beside = session.current.installer.probes["subject_traced:beside", "profile"]
    assert (beside.calls, beside.profiled, beside.skipped) == (4, 2, {"busy": 2})
    assert traced.calls()["beside"] == 2


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


def test_generator_like_nested_probes_pass_through(make: Make) -> None:
    traced = make(
        "import asyncio\n"
        "def main():\n    return list(nested(3)), asyncio.new_event_loop\n"
        "def nested(n):\n    for i in range(n):\n        yield deeper(i)\n"
        "def deeper(i):\n    return i\n",
        others="nested",
    )
    traced.main()
    assert (traced.calls()["nested"], traced.calls()["deeper"]) == (1, 3)
    assert ("main", "nested") in traced.edges() and ("nested", "deeper") in traced.edges()


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


def test_measuring_stops_after_the_duration(make: Make) -> None:
    traced = make(
        "def main(clock):\n"
        "    early(); clock.now_ns += 8_000_000; late(); clock.now_ns += 8_000_000; never(); never()\n    return 'done'\n"
        "def early(): pass\ndef late(): pass\ndef never(): pass\n",
        duration="10ms",
    )
    with testing.FakeClock() as clock:
        assert traced.main(clock) == "done"
    calls = traced.calls()
    assert (calls["early"], calls["late"]) == (1, 1) and "never" not in calls
    assert traced.graph.total_ns == 10_000_000 and traced.graph.cut == 1
    assert sys.getprofile() is None


def test_deep_recursion_is_still_a_recursion_error(make: Make) -> None:
    traced = make("def main(n):\n    return deep(n)\ndef deep(n):\n    return deep(n + 1)\n")
    with pytest.raises(RecursionError):
        traced.main(0)
    with pytest.raises(RecursionError):
        traced.main(0)
    assert traced.probe.calls == 2
    assert sys.getprofile() is None and arbiter.holder is None


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
    reader, writer = os.pipe()
    child = traced.main(os.fork)
    if child == 0:
        status = 1
        try:
            hook, holder = sys.getprofile(), arbiter.holder
            traced.main(lambda: None)
            said = (hook, holder, len(traced.graphs), traced.probe.profiled)
            os.write(writer, repr(said).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0
    assert said == "(None, None, 1, 1)"
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


PROGRAM = """
import json
def main(text):
    found = json.loads(text)
    out = json.dumps(found, indent=2, sort_keys=True)
    for key in sorted(found): str(key).upper().split("A")
    return parse(out)
def parse(text):
    import re
    return [m.group() for m in re.compile("[0-9]+").finditer(text)]
"""


Key = tuple[str, int, str]


def _counted(graph: Graph) -> dict[Key, tuple[int, int]]:
    """Primitive and all calls, by the key that pstats uses."""
    found: dict[Key, tuple[int, int]] = {}
    for (_, file, line, name), figures in graph.functions.items():
        key = (file or "~", line, name)
        before = found.get(key, (0, 0))
        found[key] = (before[0] + figures.primitive, before[1] + figures.calls)
    return found


def _cprofiled(function: Any, *args: Any) -> dict[Key, tuple[int, int]]:
    profile = cProfile.Profile()
    profile.enable()
    function(*args)
    profile.disable()
    stats: Any = pstats.Stats(profile)
    found: dict[Key, tuple[int, int]] = {}
    for (file, line, name), figures in stats.stats.items():
        key = (
            file,
            line,
            re.sub(r" of type object at 0x\w+", "", name),
        )  # the address of a class whose __new__ it is
        before = found.get(key, (0, 0))
        found[key] = (before[0] + figures[0], before[1] + figures[1])
    del found["~", 0, "<method 'disable' of '_lsprof.Profiler' objects>"]
    return found


DOCUTILS = """
import docutils.core
def main(text):
    settings = {"report_level": 5, "_disable_config": True, "datestamp": None}
    return docutils.core.publish_string(text, writer="html5", settings_overrides=settings)
"""
RST = """
Title
=====

Some *text* with `links <https://example.org>`__ and ``code``.

- one
- two

  1. three

=====  =====
A      B
=====  =====
False  True
=====  =====

.. note:: A directive, with a footnote [#]_.

.. [#] The footnote.
"""


JSON_TEXT = "{" + ", ".join(f'"k{i}": [1, {i}, "v"]' for i in range(50)) + "}"


@pytest.mark.parametrize(
    ("source", "text", "functions", "calls"), [(PROGRAM, JSON_TEXT, 20, 200), (DOCUTILS, RST, 300, 5_000)]
)
def test_counts_equal_cprofiles(make: Make, source: str, text: str, functions: int, calls: int) -> None:
    """Of every function, on every version, in a process in which only one thread runs."""
    pytest.importorskip("docutils")
    plain = mechanisms.plain(source, "subject_plain", {})
    for _ in range(2):  # what is imported, compiled and cached the first time only is then done
        expected = plain.main(text)
    gc.collect()
    gc.disable()
    try:
        theirs = _cprofiled(plain.main, text)
    finally:
        gc.enable()
    del sys.modules["subject_plain"]
    traced = make(source)
    gc.collect()
    gc.disable()  # the test tools' callbacks of the collector are functions like any others
    try:
        assert traced.main(text) == expected
    finally:
        gc.enable()
    ours = {
        (file.replace("subject_traced", "subject_plain"), line, name): counts
        for (file, line, name), counts in _counted(traced.graph).items()
    }
    assert len(ours) > functions and sum(count for _, count in ours.values()) > calls
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    # cProfile counts every resumption of a generator as a call: of these we say less, and of nothing else.
    assert not differing - _resumable(traced.graph)
    assert all(1 <= ours[key][1] < theirs[key][1] for key in differing)


def _resumable(graph: Graph) -> set[Key]:
    """The generator functions among those of a graph, by the key of pstats."""
    places = {function[1:3] for function in graph.functions}
    codes = [each.__code__ for each in gc.get_objects() if isinstance(each, FunctionType)]
    for code in codes:  # and those inside them: generator expressions
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
    found = {
        code for code in codes if code.co_flags & 0x20 and (code.co_filename, code.co_firstlineno) in places
    }
    return {(code.co_filename, code.co_firstlineno, code.co_name) for code in found}


def test_a_call_that_nobody_ends_is_let_go() -> None:
    """An interrupt that strikes in `begin` or `finish` leaves a flight that only the tracer knows."""
    gate = Gate(lambda _: None, lambda *_: None, lambda *_: None)
    for resumable in (False, True):
        gate.generator_like = resumable
        call = flight.Flight()
        call.code, call.gate, call.caller, call.living = (
            test_a_sum_of_graphs_is_bounded.__code__,
            gate,
            None,
            None,
        )
        trace = tracer.follow(call, 10**12)
        assert trace is not None and arbiter.holder is trace and sys.getprofile() is trace.hook
        assert tracer.follow(call, 10**12) is trace
        del call
        assert arbiter.holder is None and sys.getprofile() is None


def test_a_sum_of_graphs_is_bounded() -> None:
    whole = Graph()
    for number in range(MAX_FUNCTIONS + 10):
        other = Graph()
        function = (f"m:f{number}", "f.py", number, f"f{number}")
        other.count(function, Figures(1, 1, 5, 5))
        other.measured = 1
        whole.add(other)
    assert len(whole.functions) == MAX_FUNCTIONS + 1
    assert whole.functions[OTHER].calls == 10
    assert (whole.measured, whole.total_ns) == (MAX_FUNCTIONS + 10, 5 * (MAX_FUNCTIONS + 10))


def test_a_trace_of_ever_new_functions_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "MAX_NODES", 20)
    traced = make(
        "def main(n):\n    for i in range(n):\n        scope = {}\n        exec('def f(): pass', scope)\n        scope['f']()\n"
    )
    traced.main(100)
    assert len(traced.graph.functions) <= 40
    assert traced.graph.functions[OTHER].calls > 50


def test_our_failure_is_not_the_applications(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = make("def main():\n    return inner()\ndef inner():\n    return 1\n")

    def broken(frame: Any) -> Any:
        raise ValueError("ours")

    monkeypatch.setattr("autoprof.naming.python_function", broken)
    assert traced.main() == 1
    assert guard.internal_errors.pop("tracer") == 1
    assert sys.getprofile() is None and arbiter.holder is None
