"""Choose how functions are rewritten: splice where it is verified and its self-test passes, else decorate."""

from __future__ import annotations

import sys
from itertools import repeat

from autoprof.inline import RUN, open_countdown
from autoprof.primitives import allocate_lock, start_new_thread
from autoprof.rewrite import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

SPLICE, DECORATE = "splice", "decorate"


class Backend:
    """A back end and why it was chosen, for `doctor` and `status`."""

    __slots__ = ("name", "reason")

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason


class _TrialGate:
    """A gate that opens for every call."""

    __slots__ = (
        "begin",
        "caught",
        "code",
        "countdown",
        "finish",
        "log",
        "lost",
        "missed",
        "park",
        "raised",
        "runs",
        "traced",
        "unwind",
        "watch",
    )

    def __init__(self) -> None:
        self.log: list[str] = []
        self.countdown: Any = open_countdown()
        self.park = repeat(None)
        self.runs: Any = repeat(True, 0)
        self.caught = (RecursionError, MemoryError)
        self.code: CodeType | None = None
        self.missed = self.traced = repeat(True, 9)
        self.watch = repeat(False)
        self.lost: object = None
        self.raised = None
        self.begin = _trial_begin
        self.finish = _trial_finish
        self.unwind = _trial_unwind


class _TrialCall:
    __slots__ = ("code", "function", "gate", "lost")

    code: CodeType | None
    gate: _TrialGate
    function: object


def _trial_begin(gate: _TrialGate) -> _TrialCall:
    call = _TrialCall()
    call.code = gate.code
    call.gate = gate
    gate.log.append("begin")
    gate.countdown.__setstate__(RUN - 1)
    return call


def _trial_finish(call: _TrialCall, result: object) -> None:
    call.gate.log.append("finish")


def _trial_unwind(call: _TrialCall, error: BaseException) -> None:
    call.gate.log.append("unwind")


def _untraced_self_test() -> str:
    """Run the self-test where nobody watches: an open gate would upset a tracer or profiler of this thread.

    Beware: we may be inside an import, whose lock this thread holds: the other one must find everything imported.
    """
    from autoprof.rewrite import splice  # noqa: F401

    if sys.gettrace() is None and sys.getprofile() is None:
        return _self_test()
    problem: list[str] = []
    done = allocate_lock()

    def run() -> None:
        try:
            problem.append(_self_test())
        except Exception as error:
            problem.append(f"{type(error).__name__}: {error}")
        finally:
            done.release()

    done.acquire()
    start_new_thread(run, ())
    done.acquire()
    return problem[0]


def _self_test() -> str:
    """Return what went wrong with a spliced function; empty when nothing did."""
    from autoprof.rewrite.splice import splice

    cell = 5

    def trial(a: int, *rest: int, key: int = 1, **more: int) -> tuple[int, ...]:
        return (a + cell, *rest, key, 1 // more["x"])

    def stream(count: int) -> Any:
        yield count

    gate, stream_gate = _TrialGate(), _TrialGate()
    gate.code = trial.__code__ = splice(trial.__code__, gate)
    stream_gate.code = stream.__code__ = splice(stream.__code__, stream_gate)
    if trial(1, 2, key=3, x=1) != (6, 2, 3, 1) or list(stream(4)) != [4]:
        return "a wrong result"
    try:
        trial(1, x=0)
    except ZeroDivisionError:
        pass
    else:
        return "a lost exception"
    if gate.log != ["begin", "finish", "begin", "unwind"] or stream_gate.log != ["begin", "finish"]:
        return f"wrong order of calls: {gate.log} {stream_gate.log}"
    return ""


def choose(setting: str) -> Backend:
    """Return the back end for a policy's `rewrite` (auto, splice, decorate).

    `splice` falls back too where it can't work: a wrong choice must not crash the application.
    """
    if setting == DECORATE:
        return Backend(DECORATE, "rewrite: decorate")
    if sys.implementation.name != "cpython":
        return Backend(DECORATE, f"{sys.implementation.name} is not CPython")
    if table.VERSION not in table.VERIFIED:
        return Backend(DECORATE, f"Python {table.VERSION[0]}.{table.VERSION[1]} is not in the verified table")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return Backend(DECORATE, "a free-threaded build: the gate's count needs the GIL")
    try:
        problem = _untraced_self_test()
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        return Backend(DECORATE, f"the self-test of the splice failed: {problem}")
    return Backend(SPLICE, f"verified on Python {table.VERSION[0]}.{table.VERSION[1]}")
