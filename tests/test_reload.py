"""Another policy for a running process: edits of the file, and `autoprof.start` again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import subprocess
import sys
import textwrap
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
from autoprof.reload import Watcher
from tests import mechanisms
from tests.conftest import REPOSITORY, Environment
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


# The file


def watcher(path: Path) -> tuple[Watcher, list[bytes], list[OSError]]:
    changed: list[bytes] = []
    gone: list[OSError] = []

    def take(content: bytes, sure: bool) -> bool:
        changed.append(content if not sure else content + b", surely")
        return b"bad" not in content

    content = path.read_bytes() if path.exists() else None
    return Watcher(str(path), content, 1.0, take, gone.append), changed, gone


def go_on(seconds: float) -> bool:
    return True


def test_every_kind_of_edit_is_seen_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("a")
    watched, changed, gone = watcher(path)
    watched.look(go_on)
    assert changed == []
    path.write_text("b")
    os.utime(path, ns=(1, 1))
    watched.look(go_on)
    watched.look(go_on)
    stat = path.stat()
    other = tmp_path / "other"
    other.write_text("c")  # same size, same time, renamed over
    os.utime(other, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    other.replace(path)
    watched.look(go_on)
    path.unlink()
    watched.look(go_on)
    watched.look(go_on)
    path.write_text("c")
    watched.look(go_on)
    path.write_text("d")
    watched.look(go_on)
    assert changed == [b"b", b"c", b"d"] and len(gone) == 1


def test_what_is_not_liked_is_asked_again_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("a")
    watched, changed, _ = watcher(path)
    path.write_text("bad")
    for _ in range(3):
        watched.look(go_on)
    assert changed == [b"bad", b"bad, surely"]
    path.write_text("bad too")
    watched.look(go_on)
    path.write_text("good")
    watched.look(go_on)
    watched.look(go_on)
    assert changed[2:] == [b"bad too", b"good"]


@pytest.mark.parametrize(("faults", "asked"), [(1, 2), (3, 4), (5, 6), (9, 6)])
def test_faults_of_ours_are_made_up_for_at_later_looks(tmp_path: Path, faults: int, asked: int) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("a")
    asks: list[bytes] = []

    def changed(content: bytes, surely: bool) -> bool:
        asks.append(content)
        if len(asks) <= faults:
            raise MemoryError
        return True

    watched = Watcher(str(path), b"a", 1.0, changed, lambda error: None)
    path.write_text("b")
    for _ in range(10):
        with contextlib.suppress(MemoryError):
            watched.look(go_on)
    assert asks == [b"b"] * asked


def test_a_symlink_swap_as_kubernetes_does_it(tmp_path: Path) -> None:
    for name, text in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(text)
        os.utime(tmp_path / name / "policy.yaml", ns=(1, 1))
    (tmp_path / "..data").symlink_to("one")
    path = tmp_path / "policy.yaml"
    path.symlink_to("..data/policy.yaml")
    watched, changed, _ = watcher(path)
    watched.look(go_on)
    (tmp_path / "..new").symlink_to("two")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    watched.look(go_on)
    assert changed == [b"b"]


def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("a")
    watched, changed, _ = watcher(path)
    watched.look(go_on)
    path.write_text("half")
    writes = iter(["half and", "half and more", None])

    def pause(seconds: float) -> bool:
        text = next(writes, None)
        if text:
            path.write_text(text)
        return True

    watched.look(pause)
    assert changed == [b"half and more"]


APPLICATION = """
import json, os, sys, threading, time
def f(): return 1
def g(): return 2
made = {"f": 0, "g": 0}
print(os.getpid(), flush=True)
for line in sys.stdin:
    command = line.split()
    if command[0] == "call":
        for _ in range(int(command[1])):
            f(); g()
            made["f"] += 1; made["g"] += 1
    import autoprof
    from autoprof import session
    found = {each.target: [each.state, each.calls, each.profiled] for each in autoprof.status()}
    hooks = [type(each).__name__ for each in sys.meta_path if "autoprof" in type(each).__module__]
    gated = [name for name in ("f", "g") if len(globals()[name].__code__.co_consts) > 3 or
             any("Gate" in type(each).__name__ for each in globals()[name].__code__.co_consts)]
    fds = []
    for each in os.listdir("/proc/self/fd"):
        try:
            fds.append(os.readlink(f"/proc/self/fd/{each}"))
        except OSError:
            pass  # another thread has closed it
    tasks = len(os.listdir("/proc/self/task"))
    print(json.dumps({"status": found, "hooks": hooks, "gated": gated, "tasks": tasks,
                      "files": [each for each in fds if "autoprof" in each or ".yaml" in each],
                      "threads": threading.active_count()}), flush=True)
"""


class Application:
    """A program of which the policy file is edited while it runs."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "policy.yaml"
        (folder / "app.py").write_text(APPLICATION)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOPROF_", "PYTHON", "COV"))}
        self.process = subprocess.Popen(
            [environment.python, "app.py"],
            cwd=folder,
            env={**clean, "AUTOPROF_CONFIG": "policy.yaml"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline())

    def ask(self, command: str = "status") -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, self.process.stderr is not None and self.process.stderr.read()
        found: dict[str, Any] = json.loads(line)
        return found

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = self.ask()
            if holds(found):
                return found
            time.sleep(0.05)
        raise AssertionError(found)

    def end(self) -> str:
        assert self.process.stdin is not None and self.process.stderr is not None
        self.process.stdin.close()
        errors = self.process.stderr.read()
        assert self.process.wait(60) == 0
        return errors


def text(*rules: str, settings: str = "reload: 100ms") -> str:
    lines = [f"version: 1\nbudget: off\nload: off\n{settings}\nrules:" + ("" if rules else " []")]
    return "\n".join([*lines, *(f"  - {each}" for each in rules)]) + "\n"


@pytest.fixture
def application(environment: Environment, tmp_path: Path) -> Iterator[Callable[[str | None], Application]]:
    made: list[Application] = []

    def start(content: str | None) -> Application:
        if content is not None:
            (tmp_path / "policy.yaml").write_text(content)
        made.append(Application(environment, tmp_path))
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
        for stream in (each.process.stdin, each.process.stdout, each.process.stderr):
            if stream is not None:
                stream.close()


Start = Callable[["str | None"], Application]
EVERY = "{match: '__main__:%s', policy: profile, rate: 1.0}"
needs_processes = pytest.mark.skipif(WEBASSEMBLY, reason="no processes in WebAssembly")


@needs_processes
def test_edits_of_a_running_program(application: Start) -> None:
    running = application(text(EVERY % "f"))
    assert running.ask("call 10")["status"]["__main__:f"] == ["installed", 10, 10]
    running.path.write_text(text(EVERY % "[fg]"))
    running.until(lambda found: "__main__:g" in found["status"])
    assert running.ask("call 5")["status"] == {
        "__main__:f": ["installed", 15, 15],
        "__main__:g": ["installed", 5, 5],
    }
    running.path.write_text(text("{match: '__main__:g', policy: profile, rate: 0}"))
    found = running.until(lambda found: found["status"]["__main__:f"][0] == "removed")
    assert found["gated"] == ["g"]
    assert running.ask("call 5")["status"]["__main__:g"] == ["installed", 10, 5]
    assert running.end() == ""


@needs_processes
def test_a_bad_edit_says_where_and_changes_nothing(application: Start) -> None:
    running = application(text(EVERY % "f"))
    running.ask("call 10")
    running.path.write_text(text(EVERY % "f", "{match: '__main__:g', polcy: profile}"))
    time.sleep(1)
    running.path.unlink()
    time.sleep(1)
    assert running.ask("call 5")["status"] == {"__main__:f": ["installed", 15, 15]}
    running.path.write_text(text(EVERY % "g"))
    running.until(lambda found: "__main__:g" in found["status"])
    errors = running.end()
    assert errors.count("the policy in force stays") == 2 and "policy.yaml:7:" in errors, errors
    assert "did you mean 'policy'" in errors or "did you mean policy" in errors, errors


@needs_processes
@pytest.mark.parametrize("content", [None, "version: 1\nrules: [{match: x, polic: y}]\n"])
def test_a_file_that_was_missing_or_wrong_at_the_start(application: Start, content: str | None) -> None:
    running = application(content)
    assert running.ask("call 3")["status"] == {}
    running.path.write_text(text(EVERY % "f"))
    running.until(lambda found: "__main__:f" in found["status"])
    assert running.ask("call 2")["status"]["__main__:f"] == ["installed", 2, 2]
    assert running.end().count("autoprof stays off") == 1


@needs_processes
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="/proc is Linux's")
def test_no_rules_is_a_kill_switch(application: Start) -> None:
    running = application(text(EVERY % "*"))
    assert running.ask("call 10")["gated"] == ["f", "g"]
    running.path.write_text(text())
    found = running.until(lambda found: not found["gated"] and found["tasks"] <= 2)
    assert found["hooks"] == [] and found["files"] == [], found
    running.path.write_text(text(settings="reload: off"))
    running.until(lambda found: found["tasks"] == 1)
    assert running.end() == ""


@needs_processes
def test_ten_edits_a_second_end_with_the_last(application: Start) -> None:
    running = application(text(EVERY % "f"))
    for number in range(30):
        running.path.write_text(text(EVERY % ("f" if number % 2 else "g")))
        time.sleep(0.1)
        running.ask("call 10")
    running.path.write_text(text(EVERY % "[fg]"))
    running.until(
        lambda found: [found["status"].get(f"__main__:{each}", [""])[0] for each in "fg"] == ["installed"] * 2
    )
    before = running.ask()["status"]
    after = running.ask("call 7")["status"]
    assert {name: after[name][1] - before[name][1] for name in after} == {"__main__:f": 7, "__main__:g": 7}
    assert running.end() == ""


@needs_processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_looks_for_itself(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(text(EVERY % "f"))
    (tmp_path / "app.py").write_text(
        textwrap.dedent(
            """
            import os, time, autoprof
            def f(): return 1
            f()
            child = os.fork()
            if child == 0:
                with open("new", "w") as file:
                    file.write(open("policy.yaml").read().replace("__main__:f", "__main__:nothing"))
                os.replace("new", "policy.yaml")
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    if [each.state for each in autoprof.status()] == ["removed"]:
                        os._exit(7)
                    time.sleep(0.05)
                os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                f()
                if [each.state for each in autoprof.status()] == ["removed"]:
                    print("the parent too")
                    break
                time.sleep(0.05)
            """
        )
    )
    done = environment.run("app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"}, timeout=150)
    assert (done.stdout, done.stderr) == ("7\nthe parent too\n", "")
    assert REPOSITORY
