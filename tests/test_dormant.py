"""Functions that were never called: probes are made with the first call, and until then all is told as if they were."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import autoprof
from autoprof import calls, dormant, guard, session, testing
from autoprof.gate import Gate, gate_of
from autoprof.rewrite import table
from autoprof.store import StoreReader
from tests import mechanisms

pytestmark = pytest.mark.skipif(table.VERSION not in table.VERIFIED, reason="the splice is not verified here")

SOURCE = """\
def f(x=1): return x
def g(): return f(2)
class A:
    @property
    def p(self): return 1
    @p.setter
    def p(self, value): pass
def gen(n):
    yield from range(n)
"""
Start = Callable[..., mechanisms.Loaded]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[str] = []

    def one(source: str = SOURCE, *rules: dict[str, Any], name: str = "", **settings: Any) -> Any:
        name = name or f"subject_dormant_{len(made)}"
        policy = mechanisms.policy(name, str(tmp_path / "out")) | settings
        if rules:
            policy["rules"] = [{"match": f"{name}:*", **each} for each in rules]
        made.append(name)
        return mechanisms.Loaded(mechanisms.spliced_at_import(source, name, policy))

    yield one
    session.stop()
    for each in made:
        sys.modules.pop(each, None)


def installer() -> Any:
    assert session.current is not None
    return session.current.installer


def test_a_function_that_was_never_called_has_no_probe(start: Start) -> None:
    loaded = start()
    assert installer().made == {}
    gate = gate_of(loaded.f.__code__)
    assert gate is not None and gate.probes == () and gate in installer().dormant.gates
    assert loaded.g() == 2
    assert {target for target, _ in installer().made} == {f"{loaded.name}:{each}" for each in ("f", "g")}
    assert gate not in installer().dormant.gates
    assert (loaded.probe("f").calls, loaded.probe("f").profiled, loaded.probe("g").profiled) == (1, 1, 1)


def test_status_and_store_list_them_as_if_they_had_one(start: Start, tmp_path: Path) -> None:
    loaded = start(SOURCE, {"policy": "profile", "rate": 1.0, "name": "mine"})
    loaded.f()
    rows = {each.target.partition(":")[2]: each for each in autoprof.status()}
    assert set(rows) == {"f", "g", "A.p", "gen"}, "a setter beside a getter is one target"
    assert rows["g"][:6] == (
        f"{loaded.name}:g",
        "mine",
        "profile",
        "sample",
        "installed",
        "waiting for its first call",
    )
    assert (rows["f"].reason, rows["f"].calls, rows["g"].calls) == ("", 1, 0)
    assert len(installer().made) == 1, "asking makes none"
    assert session.current is not None
    session.current.flusher.flush()
    states = {state.target.partition(":")[2]: state.reason for state in _stored(tmp_path).states}
    assert states == {"f": "", **dict.fromkeys(("g", "A.p", "gen"), "waiting for its first call")}


def _stored(tmp_path: Path) -> Any:
    return StoreReader([str(tmp_path / "out")]).select()


def test_the_signal_comes_with_the_import_and_not_again(start: Start) -> None:
    start("def before(): pass\n")
    with testing.capture("probe_installed") as events:
        installer().dormant.allowed = True  # `capture` has probes made at once
        module = sys.modules[(loaded := start()).name]
        told = sorted(each.target for each in events)
        assert told == sorted(f"{loaded.name}:{each}" for each in ("f", "g", "A.p", "A.p", "gen"))
        module.g()
        assert len(events) == len(told)


def test_both_functions_of_a_property_count_for_one_probe(start: Start) -> None:
    loaded = start()
    made = loaded.A()
    assert made.p == 1
    made.p = 3
    made.p = 4
    assert loaded.probe("A.p").calls == 3 and len(loaded.probe("A.p").gates) == 2


@pytest.mark.parametrize(
    "rule",
    [
        {"policy": "profile_if_slow", "threshold": "1ms", "env": ["dev"]},
        {"policy": "profile", "rate": 1.0, "enabled": False},
    ],
)
def test_what_can_not_wait_is_made_at_once(start: Start, rule: dict[str, Any]) -> None:
    loaded = start(SOURCE, rule)
    assert not installer().dormant.gates
    assert f"{loaded.name}:f" in {each.target for each in autoprof.status()} or not rule.get("enabled", True)


def test_several_policies_on_one_function(start: Start) -> None:
    loaded = start(SOURCE, {"policy": "profile", "rate": 1.0}, {"policy": "profile_memory"})
    assert len([each for each in autoprof.status() if each.target.endswith(":f")]) == 2
    assert loaded.f(5) == 5
    assert {kind for _, kind in installer().made} == {"profile", "profile_memory"}
    assert [each.profiled for each in installer().made.values()] == [1, 1]


def test_an_edit_takes_them_over(start: Start, tmp_path: Path) -> None:
    loaded = start()
    policy = mechanisms.policy(loaded.name, str(tmp_path / "out"))
    policy["rules"][0]["rate"] = 0.0
    with testing.capture("probe_removed") as events:
        session.start(policy)
        assert loaded.f() == 1 and loaded.probe("f").profiled == 0 and loaded.probe("f").calls == 1
        session.start(policy | {"rules": []})
    assert sorted(each.target.partition(":")[2] for each in events) == ["A.p", "f", "g", "gen"]
    assert gate_of(loaded.g.__code__) is None and loaded.g() == 2


def test_stop_gives_an_equal_code_back(start: Start) -> None:
    loaded = start()
    plain = {}
    exec(compile(SOURCE, loaded.f.__code__.co_filename, "exec", dont_inherit=True), plain)
    kept = loaded.f.__code__
    session.stop()
    for name in ("f", "g", "gen"):
        assert (
            getattr(loaded, name).__code__ == plain[name].__code__
            and gate_of(getattr(loaded, name).__code__) is None
        )
    assert loaded.g() == 2
    loaded.f.__code__ = kept
    assert loaded.f(7) == 7, "a call of code that somebody has kept"


def test_a_rule_whose_time_is_over_before_the_first_call(start: Start) -> None:
    with testing.FakeClock() as clock:
        loaded = start(SOURCE, {"policy": "profile", "rate": 1.0, "for": "1m"})
        clock.advance(s=61)
        assert {(each.state, each.reason) for each in autoprof.status()} == {
            ("disabled", "its time is over (for: 1m)")
        }
        loaded.f()
        assert (loaded.probe("f").state, loaded.probe("f").profiled) == ("disabled", 0)


def test_threads_that_come_first_together_make_one_probe(start: Start) -> None:
    source = "".join(f"def f{each}(x):\n    return x\n" for each in range(60))
    loaded = start(source)
    functions = [getattr(loaded, f"f{each}") for each in range(60)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(6)

    def work() -> None:
        for each in functions:
            barrier.wait()
            for number in range(20):
                assert each(number) == number

    threads = [threading.Thread(target=work) for _ in range(6)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not guard.internal_errors
    assert not installer().dormant.gates
    assert {loaded.probe(f"f{each}").calls for each in range(60)} == {120}
    assert all(len(each.gates) == 1 for each in installer().made.values())
    before_once_more = [loaded.probe(f"f{each}").profiled for each in range(60)]
    for each in functions:
        each(1)
    assert [loaded.probe(f"f{each}").profiled for each in range(60)] == [
        each + 1 for each in before_once_more
    ]


def test_a_first_call_at_the_recursion_limit_is_made_good_by_the_next(start: Start) -> None:
    loaded = start("def f(x):\n    return x\n")

    def down() -> int:
        try:
            return down()
        except RecursionError:
            return 0

    def dive(levels: int) -> Any:
        return loaded.f(levels) if not levels else dive(levels - 1)

    down()
    limit = sys.getrecursionlimit()
    failed = 0
    for levels in range(limit, limit - 120, -1):
        try:
            assert dive(levels) == 0
        except RecursionError:
            failed += 1
    assert failed
    assert loaded.f(3) == 3
    probe = loaded.probe("f")
    assert probe.calls == 120 - failed + 1 and probe.profiled >= 1
    assert not guard.internal_errors


def test_a_fault_while_the_probe_is_made_leaves_the_call_alone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = start()

    def fails(*_: object) -> None:
        raise ValueError("no probe")

    monkeypatch.setattr(dormant.Dormant, "_probes_for", fails)
    assert loaded.f(4) == 4 and list(loaded.gen(2)) == [0, 1]
    assert guard.internal_errors["first call"] == 2
    guard.internal_errors.clear()


def test_under_a_debugger_the_calls_are_counted_before_there_is_a_probe(start: Start) -> None:
    loaded = start()
    sys.settrace(lambda *_: None)
    try:
        for _ in range(3):
            loaded.f()
    finally:
        sys.settrace(None)
    (row,) = [each for each in autoprof.status() if each.target.endswith(":f")]
    assert (row.calls, row.skipped, row.profiled) == (3, 3, 0)
    loaded.f()
    assert (loaded.probe("f").calls, loaded.probe("f").profiled) == (4, 1)


def test_a_child_forked_in_the_middle_makes_what_the_parent_was_about_to_make(start: Start) -> None:
    loaded = start()
    gate = gate_of(loaded.f.__code__)
    assert gate is not None and session.current is not None
    making = installer().dormant._making
    making.acquire()  # another thread of the parent is in `wake`
    assert loaded.f() == 1 and installer().made == {} and gate.calls == 1, (
        "declined: the next call tries again"
    )
    session.current.in_child()
    assert loaded.f() == 1 and loaded.probe("f").profiled == 1
    making.release()


def test_an_edit_out_of_a_signal_handler_that_struck_while_probes_are_made(
    start: Start, tmp_path: Path
) -> None:
    """The making is this very thread's: it is waited for once, not once a function, and the edit is in force."""
    loaded = start("".join(f"def f{each}():\n    return {each}\n" for each in range(60)))
    policy = mechanisms.policy(loaded.name, str(tmp_path / "out"))
    policy["rules"][0]["rate"] = 0.0
    making = installer().dormant._making
    making.acquire()
    began_s = time.monotonic()
    try:
        session.start(
            policy | {"rules": [*policy["rules"], policy["rules"][0] | {"policy": "profile_memory"}]}
        )
        assert len(autoprof.status()) >= 60
    finally:
        making.release()
    assert time.monotonic() - began_s < 5.0, "60 functions, a tenth of a second each"
    assert [loaded.f0(), loaded.f59()] == [0, 59]
    kinds = {kind for target, kind in installer().made if target.endswith(":f59")}
    assert kinds == {"profile", "profile_memory"} and loaded.probe("f59").profiled == 0


def test_a_call_does_not_wait_for_the_making_of_another(start: Start) -> None:
    """A finalizer that runs while probes are made, on the same thread, calls a function for the first time."""
    loaded = start()
    ran: list[int] = []
    real = dormant.Dormant._probes_for

    def probes_for(self: dormant.Dormant, gate: Gate) -> Any:
        if gate.qualname == "g":
            ran.append(loaded.f(9))
        return real(self, gate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dormant.Dormant, "_probes_for", probes_for)
        assert loaded.g() == 2 and ran == [9]
    assert loaded.probe("f").calls == 2 and loaded.probe("g").profiled == 1


def test_a_call_that_came_meanwhile_is_told_as_skipped(start: Start) -> None:
    module = start()
    dormant = installer().dormant
    dormant._making.acquire()
    try:
        assert module.f() == 1
        dormant.account()
        assert len(calls.turned_away) == 1, "nobody to count it for as yet"
    finally:
        dormant._making.release()
    assert module.f() == 1
    assert session.current is not None
    session.current.flusher.flush()
    (probe,) = [each for each in installer().made.values() if each.target.endswith(":f")]
    assert (probe.calls, probe.profiled, probe.skipped) == (2, 1, {"busy": 1})
    assert not calls.turned_away


def test_the_gates_of_dropped_modules_are_kept_with_their_counts_alone(start: Start) -> None:
    loaded = start()
    loaded.f()
    probe = loaded.probe("f")
    gate = gate_of(loaded.f.__code__)
    assert gate is not None and gate.code is not None
    del sys.modules[loaded.name], loaded
    gc.collect()
    assert gate.code() is None and probe.calls == 1


def test_forked_children_wake_on_their_own(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("def f(): return 1\n")
    program = """
import os, sys
import autoprof
autoprof.start({"version": 1, "output": "out", "load": "off", "budget": "off",
                "rules": [{"match": "work:*", "policy": "profile", "rate": 1.0}]})
import work
pid = os.fork()
for _ in range(3 if pid else 5): work.f()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    from autoprof.session import current
    print([each.calls for each in autoprof.status()])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=_environment(tmp_path),
    )
    assert (done.stdout, done.stderr) == ("[3]\n", "")
    assert _stored(tmp_path).probes[0].calls == 8


def _environment(tmp_path: Path) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), root))}
