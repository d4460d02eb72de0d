"""Fail open in a process of its own: stores that hang, fill up, break; threads that die; receivers that misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")

PREY = """
import asyncio, threading

def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def gen(n):
    for i in range(n):
        yield i

def fails(x):
    raise ValueError(x)

async def coro(x):
    await asyncio.sleep(0)
    return x * 2

def busy(n):
    total = 0
    for i in range(n):
        total += i
    return total
"""

HEAD = """
import json, os, sys, time, threading, asyncio
FOLDER, TOLD, PROFILED = sys.argv[1], sys.argv[2], sys.argv[3] == "profiled"
sys.path.insert(0, os.path.dirname(TOLD))

def wait_for(condition):
    deadline = time.monotonic() + 60
    while PROFILED and not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)

def work(rounds=20):
    import prey
    out = []
    for number in range(rounds):
        out.append(prey.fib(6))
        out.append(list(prey.gen(3)))
        try:
            prey.fails(number)
        except ValueError as error:
            out.append(repr(error))
        out.append(asyncio.run(prey.coro(number)))
        out.append(prey.busy(1000))
    def in_thread():
        out.append(prey.fib(5))
    threads = [threading.Thread(target=in_thread) for _ in range(3)]
    for each in threads: each.start()
    for each in threads: each.join()
    print(out)

if PROFILED:
    from autoprof import guard, session
    off = {"reload": "off", "budget": "off", "load": "off"}
    rules = [
        {"match": "prey:busy", "policy": "profile_if_slow", "threshold": "1us"},
        {"match": "prey:*", "policy": "profile", "rate": 1.0},
    ]
    session.start({"version": 1, "output": FOLDER, **off, "rules": rules})
    flusher = session.current.flusher
else:
    def wait_for(condition): pass
"""

TAIL = """
work()
if PROFILED:
    told = {
        "internal": dict(guard.internal_errors), "last_error": flusher.last_error,
        "states": {each.target: each.state for each in session.status()},
        "profiled": sum(each.profiled for each in session.status()),
    }
    with open(TOLD, "w") as file:
        json.dump(told, file)
"""


class Ran(NamedTuple):
    out: str
    ours: list[str]
    theirs: str
    told: dict[str, Any]


def run(tmp_path: Path, situation: str, how: str) -> Ran:
    (tmp_path / "prey.py").write_text(PREY)
    told = tmp_path / "told.json"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AUTOPROF")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-c", HEAD + situation + TAIL, str(tmp_path / "out"), str(told), how],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines(keepends=True)
    ours = [each for each in lines if OURS in each]
    theirs = "".join(each for each in lines if OURS not in each)
    return Ran(ended.stdout, ours, theirs, json.loads(told.read_text()) if told.exists() else {})


OURS = "autoprof"


def both(tmp_path: Path, situation: str) -> Ran:
    """Run the application plain and profiled, compare what it gives and prints, and return the latter."""
    plain = run(tmp_path, "", "plain")
    profiled = run(
        tmp_path, "if PROFILED:\n" + "\n".join(f"    {each}" for each in situation.splitlines()), "profiled"
    )
    assert profiled.out == plain.out + profiled.out[len(plain.out) :]
    first, *more = profiled.out.splitlines()
    assert all(each == first for each in more)
    assert first == plain.out.strip()
    assert profiled.theirs == plain.theirs
    return profiled


def status(tmp_path: Path) -> str:
    """Return what `autoprof status` shows."""
    ended = subprocess.run(
        [sys.executable, "-m", "autoprof", "status", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return ended.stdout


def test_without_a_fault_nothing_is_told(tmp_path: Path) -> None:
    ran = both(tmp_path, "pass")
    assert ran.ours == []
    assert ran.told["internal"] == {}
    assert ran.told["profiled"] > 50
    assert "failed" not in status(tmp_path)


@pytest.mark.parametrize("where", ["write", "close"])
def test_a_store_that_hangs_stops_neither_the_application_nor_its_exit(tmp_path: Path, where: str) -> None:
    situation = f"""
from autoprof.store import StoreWriter
inside = []
def hang(self, *args, **more):
    inside.append(1)
    if {where!r} == "write":
        with self._lock:
            time.sleep(3600)
    time.sleep(3600)
StoreWriter.{where} = hang
work()
if {where!r} == "write":
    wait_for(lambda: inside)
"""
    ran = both(tmp_path, situation)
    assert any("the store hangs" in each for each in ran.ours), ran.ours


def test_a_locked_database_is_told_and_waited_for(tmp_path: Path) -> None:
    situation = """
import sqlite3
from autoprof import store_writer
store_writer._BUSY_S = 0.3
work()
path = os.path.join(FOLDER, "autoprof-1.db")
wait_for(lambda: os.path.exists(path) and flusher._writer is not None and flusher._writer._process)
other = sqlite3.connect(path, isolation_level=None, timeout=60)
other.execute("BEGIN EXCLUSIVE")
work()
wait_for(lambda: flusher.last_error)
other.execute("ROLLBACK")
other.close()
"""
    ran = both(tmp_path, situation)
    assert "locked" in ran.told["last_error"]
    assert any("measurements stay in memory for now" in each for each in ran.ours)
    assert "prey:fib" in status(tmp_path)  # what was kept came in at the end


def test_a_database_that_breaks_while_running_is_left_aside(tmp_path: Path) -> None:
    situation = """
work()
path = os.path.join(FOLDER, "autoprof-1.db")
wait_for(lambda: flusher._writer is not None and flusher._writer._process)
with flusher._writer._lock:
    flusher._writer._disconnect()
    for each in os.listdir(FOLDER):
        with open(os.path.join(FOLDER, each), "wb") as file:
            file.write(b"no database at all" * 1000)
work()
wait_for(lambda: os.path.exists(os.path.join(FOLDER, "autoprof-1.new1.db")))
"""
    ran = both(tmp_path, situation)
    assert any("was left as it is" in each for each in ran.ours)
    assert "prey:fib" in status(tmp_path)


@pytest.mark.parametrize("then", ["nothing", "a file"])
def test_a_folder_that_vanishes_while_running(tmp_path: Path, then: str) -> None:
    situation = f"""
import shutil
work()
wait_for(lambda: flusher._writer is not None and flusher._writer._process)
with flusher._busy:
    shutil.rmtree(FOLDER)
    if {then!r} == "a file":
        open(FOLDER, "w").close()
work()
if {then!r} == "a file":
    wait_for(lambda: flusher.last_error)
else:
    wait_for(lambda: os.path.isdir(FOLDER))
"""
    ran = both(tmp_path, situation)
    if then == "nothing":
        assert "prey:fib" in status(tmp_path)
    else:
        assert "it is a file, not a folder" in ran.told["last_error"]
        assert any("measurements stay in memory for now" in each for each in ran.ours)


@POSIX
def test_a_full_disk(tmp_path: Path) -> None:
    situation = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
work()
wait_for(lambda: flusher.last_error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    ran = both(tmp_path, situation)
    assert any("measurements stay in memory for now" in each for each in ran.ours)
    assert "prey:fib" in status(tmp_path)  # there is room again at the exit


def test_a_writer_that_fails_in_its_turn_goes_on(tmp_path: Path) -> None:
    situation = """
from autoprof import turns
inner, failures = turns.keep_time, []
def keep_time():
    if len(failures) < 3:
        failures.append(1)
        raise ValueError("a turn\\nof the writer")
    inner()
turns.keep_time = keep_time
work()
wait_for(lambda: len(failures) == 3 and flusher._writer is not None and flusher._writer._process)
assert flusher._thread.running
"""
    ran = both(tmp_path, situation)
    assert ran.told["internal"] == {"flusher": 3}
    assert [each for each in ran.ours if "ValueError: a turn\\u000aof the writer" in each]
    assert len(ran.ours) == 1
    assert "failed" in status(tmp_path)
    assert "internal errors" in status(tmp_path)


def test_a_writer_thread_that_dies_is_told_and_the_exit_writes(tmp_path: Path) -> None:
    situation = """
from autoprof import turns
def keep_time():
    raise SystemExit("dead")
turns.keep_time = keep_time
work()
wait_for(lambda: guard.internal_errors.get("flusher"))
"""
    ran = both(tmp_path, situation)
    assert ran.told["internal"] == {"flusher": 1}
    assert "prey:fib" in status(tmp_path)


def test_a_sampler_that_fails_comes_back(tmp_path: Path) -> None:
    situation = """
from autoprof.sampler import recorder
failures = []
def broken():
    failures.append(1)
    if len(failures) > 2:
        del recorder._interval_ns
    raise OSError("no interval")
recorder._interval_ns = broken
ticks = recorder.ticks
work()
wait_for(lambda: len(failures) >= 3 or recorder.wake())
ticks = recorder.ticks
def ticking():
    work()
    return recorder.ticks > ticks
wait_for(ticking)
"""
    ran = both(tmp_path, situation)
    assert ran.told["internal"] == {"sampler": 3}
    assert "failed" in status(tmp_path)


@pytest.mark.parametrize(
    "error", ['RuntimeError("can\'t start new thread")', "MemoryError()", "OSError(11, 'again')"]
)
def test_without_threads_everything_but_samples_is_there_at_the_exit(tmp_path: Path, error: str) -> None:
    situation = f"""
from autoprof import background
def start_new_thread(*_):
    raise {error}
background.start_new_thread = start_new_thread
"""
    ran = both(tmp_path, situation)
    assert set(ran.told["internal"]) == {"start of the flusher", "start of the sampler"}
    assert ran.told["profiled"] > 50
    shown = status(tmp_path)
    assert "prey:fib" in shown
    assert "start of the sampler" in shown


@pytest.mark.parametrize(
    "error", ["SystemExit(3)", "GeneratorExit()", "MemoryError()", "asyncio.CancelledError()", "Hostile()"]
)
def test_receivers_that_raise(tmp_path: Path, error: str) -> None:
    situation = f"""
from autoprof import signals
class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("no text")
def receiver(sender, **more):
    raise {error}
signals.connect(receiver, weak=False)
"""
    ran = both(tmp_path, situation)
    told = ran.told["internal"]
    assert all(
        told[f"receiver of {name}"] for name in ("start", "stop", "exception", "complete", "slow_operation")
    )
    assert "receiver of stop" in status(tmp_path)


def test_a_receiver_that_blocks_delays_its_own_call_and_is_named(tmp_path: Path) -> None:
    situation = """
from autoprof import signals
blocked = []
def receiver(sender, **more):
    if not blocked:
        blocked.append(1)
        time.sleep(0.2)
signals.connect(receiver, "stop", weak=False)
"""
    ran = both(tmp_path, situation)
    assert any("it runs inside the measured call" in each for each in ran.ours)


@pytest.mark.parametrize("strict", [False, True])
def test_an_error_whose_text_fails_is_counted(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprof import guard

    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    monkeypatch.setattr(guard, "internal_errors", {})
    monkeypatch.setattr(guard, "_logged", set())
    if strict:
        monkeypatch.setenv("AUTOPROF_STRICT", "1")
    guard.count("somewhere", Hostile())
    assert guard.internal_errors == {"somewhere": 1}
