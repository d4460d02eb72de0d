"""Another policy for a running process: what `autoprof.start` again does to its functions."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autoprof
from autoprof import session, testing
from autoprof.gate import gate_of
from autoprof.live import original_behind, original_of
from tests import mechanisms
from tests.mechanisms import Loaded

Load = Callable[..., Loaded]
WEBASSEMBLY = sys.platform == "emscripten"
SOURCE = """
import functools
def f(x=1): return x
def g(x=1): return f(x) + 1
def outer(k):
    def inner(x):
        return x * k
    return inner
class A:
    def m(self): return 2
    @property
    def p(self): return 3
    @staticmethod
    def s(): return 4
def gen(n):
    for each in range(n): yield each
async def co(wait):
    await wait
    return 5
routes = {"f": f, "partial": functools.partial(f, 7), "inner": outer(3)}
"""


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    yield from mechanisms.loads(tmp_path)


def put(loaded: Loaded, tmp_path: Path, *rules: dict[str, Any], rewrite: str = "splice") -> None:
    """Put other rules in force; `match` is a glob of qualified names."""
    whole = [{"policy": "profile", "rate": 1.0, **rule} for rule in rules]
    made = [
        {
            **{key: value for key, value in rule.items() if value is not None},
            "match": f"{loaded.name}:{rule['match']}",
        }
        for rule in whole
    ]
    off = {"reload": "off", "budget": "off", "load": "off"}
    autoprof.start({"version": 1, "output": str(tmp_path / "out"), "rewrite": rewrite, **off, "rules": made})


def states() -> dict[tuple[str, str, str], int]:
    """Return (name, policy, state) → calls of every probe listed."""
    return {
        (each.target.partition(":")[2], each.policy, each.state): each.calls for each in autoprof.status()
    }


def test_retuning_changes_the_gate_alone(load: Load, tmp_path: Path) -> None:
    loaded = load("spliced_at_import", SOURCE)
    code, probe = loaded.f.__code__, loaded.probe("f")
    for _ in range(10):
        loaded.f()
    put(loaded, tmp_path, {"match": "*", "rate": 0.0, "metadata": {"k": "v"}})
    for _ in range(10):
        loaded.f()
    assert loaded.f.__code__ is code and loaded.probe("f") is probe
    assert (probe.calls, probe.profiled, probe.rate) == (20, 10, 0.0)
    put(loaded, tmp_path, {"match": "*", "rate": 1.0})
    loaded.f()
    assert (probe.calls, probe.profiled) == (21, 11)


@pytest.mark.parametrize("mechanism", ["spliced_at_import", "spliced_live"])
def test_removed_functions_get_their_code_back(load: Load, tmp_path: Path, mechanism: str) -> None:
    plain = load("plain", SOURCE)
    loaded = load(mechanism, SOURCE)
    gates = {name: gate_of(getattr(loaded, name).__code__) for name in ("f", "g", "outer")}
    originals = {name: original_behind(gate) for name, gate in gates.items() if gate}
    assert len(originals) == 3
    loaded.f()
    put(loaded, tmp_path, {"match": "g"})
    assert loaded.f.__code__ is originals["f"] and loaded.outer.__code__ is originals["outer"]
    assert gate_of(loaded.g.__code__) is gates["g"]
    assert gate_of(loaded.routes["inner"].__code__) is None and gate_of(loaded.A.m.__code__) is None
    assert loaded.f.__code__ == plain.f.__code__.replace(co_filename=loaded.f.__code__.co_filename)
    assert loaded.routes["f"]() == 1 and loaded.g() == 2
    assert states()["f", "profile", "removed"] == 1
    put(loaded, tmp_path)
    assert loaded.g.__code__ is originals["g"]
    assert loaded.g() == 2 and states()["g", "profile", "removed"] == 1


def test_added_functions_are_reached_wherever_they_are_held(load: Load, tmp_path: Path) -> None:
    loaded = load("spliced_at_import", SOURCE)
    held = loaded.A().m
    put(loaded, tmp_path, {"match": "g"})
    put(loaded, tmp_path, {"match": "*"})
    loaded.routes["f"]()
    loaded.routes["partial"]()
    assert loaded.routes["inner"](2) == 6 and loaded.outer(4)(2) == 8
    assert held() == 2 and loaded.A().p == 3 and loaded.A.s() == 4
    assert list(loaded.gen(3)) == [0, 1, 2]
    found = {key[0]: calls for key, calls in states().items() if key[2] == "installed"}
    assert found == {
        "f": 2,
        "outer.<locals>.inner": 2,
        "outer": 2,
        "A.m": 1,
        "A.p": 1,
        "A.s": 1,
        "gen": 1,
        "g": 0,
        "co": 0,
    }


def test_another_kind_on_the_same_functions(load: Load, tmp_path: Path) -> None:
    loaded = load("spliced_at_import", SOURCE)
    loaded.f()
    put(loaded, tmp_path, {"match": "*", "policy": "profile_if_slow", "threshold": "0ms", "env": ["dev"]})
    with testing.capture("slow_operation") as events:
        loaded.f()
        loaded.routes["inner"](1)
        list(loaded.gen(2))
    assert [each.target.partition(":")[2] for each in events] == ["f", "outer.<locals>.inner", "gen"]
    assert states()["f", "profile_if_slow", "installed"] == 1
    assert states()["f", "profile", "removed"] == 1
    put(loaded, tmp_path, {"match": "*"})
    loaded.f()
    assert states()["f", "profile", "installed"] == 2  # as before, and goes on


def test_calls_in_flight_end_by_the_policy_they_began_under(load: Load, tmp_path: Path) -> None:
    loaded = load("spliced_at_import", SOURCE)
    generator = loaded.gen(3)
    assert next(generator) == 0

    async def change() -> int:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(loaded.co(waiting))
        await asyncio.sleep(0)
        put(loaded, tmp_path)
        waiting.set_result(None)
        result: int = await task
        return result

    assert asyncio.run(change()) == 5
    assert list(generator) == [1, 2]
    found = states()
    assert found["gen", "profile", "removed"] == 1 and found["co", "profile", "removed"] == 1
    put(loaded, tmp_path, {"match": "*"})
    assert list(loaded.gen(3)) == [0, 1, 2]
    assert states()["gen", "profile", "installed"] == 2


def test_a_decorator_comes_back_when_the_rule_is_gone(load: Load, tmp_path: Path) -> None:
    loaded = load("decorator_in_code", "#@\ndef f(): return 1\n")
    loaded.f()
    assert loaded.probe("f").rule == "decorator"
    put(loaded, tmp_path, {"match": "f", "rate": 0.5, "name": "mine"})
    assert loaded.probe("f").rule == "mine" and loaded.probe("f").rate == 0.5
    put(loaded, tmp_path, {"match": "f", "policy": "none", "rate": None})
    loaded.f()
    assert gate_of(loaded.f.__code__) is None
    put(loaded, tmp_path)
    loaded.f()
    assert loaded.probe("f").rule == "decorator" and loaded.probe("f").calls == 2


def test_the_portable_back_end_retunes_closes_and_opens_again(load: Load, tmp_path: Path) -> None:
    loaded = load("decorated_at_import", SOURCE)
    loaded.f()
    put(loaded, tmp_path, {"match": "g"}, rewrite="decorate")
    loaded.f()
    assert states()["f", "profile", "removed"] == 1
    put(loaded, tmp_path, {"match": "[fg]"}, rewrite="decorate")
    loaded.f()
    assert states()["f", "profile", "installed"] == 2, "the one while it was removed is nobody's"


def test_the_portable_back_end_says_what_it_cannot_reach(load: Load, tmp_path: Path) -> None:
    loaded = load("plain", SOURCE)
    put(loaded, tmp_path, rewrite="decorate")
    put(loaded, tmp_path, {"match": "f"}, rewrite="decorate")
    (status,) = autoprof.status()
    assert status.state == "waiting" and "at the next start" in status.reason


def test_a_bad_policy_changes_nothing(load: Load, tmp_path: Path) -> None:
    loaded = load("spliced_at_import", SOURCE)
    before = session.current
    with pytest.raises(autoprof.PolicyErrors if hasattr(autoprof, "PolicyErrors") else Exception):
        autoprof.start({"version": 1, "rules": [{"match": "x:*", "policy": "nonsense"}]})
    assert session.current is before
    loaded.f()
    assert states()["f", "profile", "installed"] == 1


RULES = st.lists(
    st.fixed_dictionaries(
        {
            "match": st.sampled_from(
                ["*", "f", "[fg]", "A.*", "outer*", "outer.<locals>.*", "gen", "nothing"]
            ),
            "policy": st.sampled_from(["profile", "profile_production", "profile_calls", "none"]),
        }
    ),
    max_size=3,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(RULES, min_size=1, max_size=5))
def test_any_sequence_of_edits_ends_like_a_fresh_start(load: Load, tmp_path: Path, edits: list[Any]) -> None:
    loaded = load("spliced_at_import", SOURCE)
    originals = {name: original_of(getattr(loaded, name).__code__) for name in ("f", "g", "outer")}
    names = ("f", "g", "outer", "outer.<locals>.inner", "gen", "A.m", "A.p", "A.s", "co")
    counted = {("outer", "profile"): 1}  # by the module's body
    for rules in edits:
        made = [
            {**rule, "env": ["dev"]} if rule["policy"] == "profile_calls" else dict(rule) for rule in rules
        ]
        for each in made:
            if each["policy"] == "none":
                each["rate"] = None
            elif each["policy"] == "profile_production":
                each |= {"rate": None, "sample_rate": 0.5}
        put(loaded, tmp_path, *made)
        assert session.current is not None and session.current.policy is not None
        kinds = {name: set(session.current.policy.decide(loaded.name, name).kinds) for name in names}
        for _ in range(3):
            loaded.f(), loaded.g(), loaded.outer(2)(3), list(loaded.gen(2)), loaded.A().m()
        # `g` calls `f`.
        for name, calls in (
            ("f", 6),
            ("g", 3),
            ("outer", 3),
            ("outer.<locals>.inner", 3),
            ("gen", 3),
            ("A.m", 3),
        ):
            for kind in ("profile", "profile_production", "profile_calls"):
                if kind in kinds[name]:
                    counted[name, kind] = counted.get((name, kind), 0) + calls
        live = {
            (each.target.partition(":")[2], each.policy): each.calls
            for each in autoprof.status()
            if each.state == "installed"
        }
        assert live == {key: counted.get(key, 0) for key in live}
        assert {name: {kind for other, kind in live if other == name} for name in names} == kinds
        for name, original in originals.items():
            inside = name == "outer" and kinds["outer.<locals>.inner"]
            if not kinds[name] and not inside:
                assert getattr(loaded, name).__code__ is original
    autoprof.stop()
    assert all(getattr(loaded, name).__code__ is original for name, original in originals.items())


@pytest.mark.skipif(WEBASSEMBLY, reason="no threads")
def test_a_storm_of_edits_while_threads_call(load: Load, tmp_path: Path) -> None:
    loaded = load("spliced_at_import", SOURCE)
    wrong: list[Any] = []
    made = [0] * 4
    over = threading.Event()

    def work(number: int) -> None:
        inner = loaded.outer(number)
        while not over.is_set():
            found = (loaded.g(number), inner(2), list(loaded.gen(2)), loaded.A().m(), loaded.routes["f"](5))
            made[number] += 1
            if found != (number + 1, 2 * number, [0, 1], 2, 5):
                wrong.append(found)
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    draw = random.Random(5)
    try:
        for _ in range(60):
            rules = [{"match": "g", "rate": draw.choice([0.0, 0.5, 1.0])}]
            names = draw.sample(["f", "outer*", "gen", "A.*", "*"], 2)
            kinds = draw.choices(["profile", "profile_calls"], k=2)
            rules += [
                {"match": name, "policy": kind, "env": ["dev"]}
                for name, kind in zip(names, kinds, strict=True)
            ]
            put(loaded, tmp_path, *rules)
            time.sleep(draw.random() * 0.02)
    finally:
        over.set()
        for each in threads:
            each.join(60)
    assert not wrong and not any(each.is_alive() for each in threads)
    assert loaded.probe("g").calls == sum(made)
    autoprof.stop()
    gc.collect()


@pytest.mark.skipif(WEBASSEMBLY, reason="no threads")
@pytest.mark.usefixtures("no_flushes")  # by the thread: on a slow machine one comes before there is a receiver
@pytest.mark.parametrize("act", ["another output", "stop", "another back end"])
def test_a_receiver_may_wait_for_who_asks_for_the_status(load: Load, tmp_path: Path, act: str) -> None:
    """`sample` goes out with the last flush: no lock of ours may be held then."""
    from autoprof import signals

    loaded = load("spliced_at_import", "import time\ndef f(): time.sleep(0.1)\n", interval="1ms")
    mine, inside, done = threading.Lock(), threading.Event(), threading.Event()

    def receive(sender: str, **_: Any) -> None:
        inside.set()
        with mine:
            pass

    def change() -> None:
        if act == "stop":
            autoprof.stop()
        elif act == "another output":
            put(loaded, tmp_path / "elsewhere", {"match": "f"})
        else:
            put(loaded, tmp_path, {"match": "f"}, rewrite="decorate")
        done.set()

    assert session.current is not None
    session.current.flusher.rest(5)  # the change is what flushes
    loaded.f()
    session.current.flusher.rest(5)
    with signals.sample.connected_to(receive):
        with mine:
            thread = threading.Thread(target=change)
            thread.start()
            assert inside.wait(60)
            asked = threading.Thread(target=autoprof.status, daemon=True)
            asked.start()
            asked.join(60)
            assert not asked.is_alive()
        assert done.wait(60)
        thread.join(60)
