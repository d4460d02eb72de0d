"""The end of processes, threads and interpreters with gates open."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import pytest

from .arena import attack, balance, probe


def leaf(x: int, *, k: int = 1) -> int:
    return x


def napping(x: int) -> int:
    time.sleep(0.0005)
    return x


def work(x: int) -> int:
    for _ in range(50):
        leaf(x, k=2)
    return x


def stream(n: int) -> Any:
    for each in range(n):
        yield leaf(each)


def splice_all() -> list[Any]:
    return [probe(each) for each in (leaf, napping, work, stream)]


class Finalised:
    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        if leaf(1, k=2) != 1 or work(3) != 3 or list(stream(2)) != [0, 1]:
            os._exit(41)


@attack
def test_daemon_threads_are_inside_at_the_end() -> None:
    import atexit

    splice_all()

    def loop() -> None:
        while True:
            work(1)
            napping(1)
            list(stream(3))

    for _ in range(6):
        threading.Thread(target=loop, daemon=True).start()
    time.sleep(0.3)
    sys.modules["kept by sys"] = Finalised()  # type: ignore[assignment]
    atexit.register(work, 2)


@attack
def test_finalisers_run_at_the_very_end() -> None:
    import builtins

    import autoprof

    splice_all()
    globals()["kept"] = [Finalised() for _ in range(100)]
    for place in (builtins, sys, autoprof, threading):
        place.kept_to_the_end = Finalised()  # type: ignore[attr-defined]


@attack
def test_suspended_generators_and_coroutines_are_left_at_the_end() -> None:
    async def waiting() -> None:
        await Pause()

    class Pause:
        def __await__(self) -> Any:
            yield

    probe(waiting)
    splice_all()
    kept = []
    for _ in range(50):
        generator = stream(5)
        next(generator)
        coroutine = waiting()
        coroutine.send(None)
        kept.append((generator, coroutine))
    globals()["kept"] = kept


def leave(x: int) -> None:
    sys.exit(x)


@attack(status=7)
def test_sys_exit_inside_an_open_call() -> None:
    seen = probe(leave)
    splice_all()
    with pytest.raises(SystemExit) as caught:
        leave(3)
    assert caught.value.code == 3
    assert balance(seen) == (1, 1) and not seen.busy
    threading.Thread(target=lambda: [work(1) for _ in range(200)]).start()
    leave(7)


@attack(status=9)
def test_os_exit_inside_an_open_call() -> None:
    def gone() -> None:
        os._exit(9)

    probe(gone)
    gone()


@attack
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore")
def test_fork_inside_an_open_call_with_threads_running() -> None:
    import warnings

    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: threads and fork; it is the attack

    def forking(x: int) -> tuple[str, int]:
        child = os.fork()
        if child == 0:
            for each in range(100):
                work(each)
            return "child", x
        _, status = os.waitpid(child, 0)
        assert status == 0
        return "parent", x

    seen = probe(forking)
    others = splice_all()
    ended = threading.Event()

    def loop() -> None:
        while not ended.is_set():
            work(1)

    threads = [threading.Thread(target=loop) for _ in range(3)]
    for each in threads:
        each.start()
    for turn in range(20):
        side, value = forking(turn)
        if side == "child":
            # The parent's measurements are the parent's: this one is not finished here, and the next is its own.
            fine = value == turn and seen.profiled == 0 and not seen.busy and napping(1) == 1
            os._exit(0 if fine else 3)
    ended.set()
    for each in threads:
        each.join()
    assert balance(seen) == (20, 20) and seen.profiled == 20
    assert all(not each.busy for each in others)


INTERPRETER = """
import sys
sys.path[:0] = {path!r}
import autoprof
def function(x, *rest, k=1):
    return x
def stream(n):
    yield n
plain = function.__code__, stream.__code__
assert autoprof.profile(rate=1.0)(function) is function and autoprof.profile(stream) is stream
for each in range(2000):
    assert function(each, 2, k=3) == each
    assert list(stream(each)) == [each]
assert autoprof.status() == [] and (function.__code__, stream.__code__) == plain
import gc; gc.collect()
autoprof.stop()
"""


@attack
def test_nothing_happens_in_subinterpreters() -> None:
    interpreters = pytest.importorskip(
        "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    )
    mine = splice_all()
    work(1)
    before = [each.calls for each in mine]
    for _ in range(4):
        # With the GIL shared: with its own, 3.12's sqlite3 corrupts the heap by itself.
        made = (
            interpreters.create("legacy")
            if sys.version_info >= (3, 13)
            else interpreters.create(isolated=False)
        )
        run = interpreters.exec if sys.version_info >= (3, 13) else interpreters.run_string
        problem = run(made, INTERPRETER.format(path=sys.path))
        assert not problem, problem
        interpreters.destroy(made)
    assert [each.calls for each in mine] == before
    assert work(2) == 2


@attack
@pytest.mark.skipif(sys.version_info < (3, 13), reason="functions can be passed from 3.13 on")
def test_a_function_passed_to_a_subinterpreter_needs_its_original_code() -> None:
    """A limit: it travels by marshal, which knows no gates."""
    import _interpreters  # type: ignore[import-not-found]

    from .arena import unprobe

    def nothing() -> None:
        return None

    made = _interpreters.create()
    assert _interpreters.exec(made, nothing) is None
    probe(nothing)
    with pytest.raises(ValueError, match="unmarshallable"):
        _interpreters.exec(made, nothing)
    unprobe(nothing)
    assert _interpreters.exec(made, nothing) is None
    _interpreters.destroy(made)
