"""Gates that open always, never, or decline, in front of functions: what the tests of the splice share."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import repeat, starmap
from typing import Any

from autoprof.inline import RUN, open_countdown
from autoprof.rewrite.splice import splice


class Call:
    __slots__ = ("code", "function", "gate")

    code: Any
    function: Any
    gate: Any


class Gate:
    """A gate that always opens, never opens, or opens and declines; notes what is asked of it."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.log: list[Any] = []
        self.code: Any = None
        self.countdown: Any = open_countdown()
        self.runs: Any = repeat(True, 0 if mode != "closed" else sys.maxsize >> 1)
        self.park: Any = starmap(self.countdown.__setstate__, repeat((RUN,)))
        self.caught = (RecursionError, MemoryError)
        self.missed: Any = repeat(True, 99)
        self.traced: Any = repeat(True, 99)
        self.watch: Any = repeat(False)
        self.begin, self.finish, self.unwind, self.raised = _begin, _finish, _unwind, None


def _begin(gate: Gate) -> Call | None:
    gate.log.append("begin")
    if gate.mode == "declined":
        return None
    call = Call()
    call.code = gate.code()
    call.gate = gate
    gate.countdown.__setstate__(RUN - 1)
    return call


def _finish(call: Call, result: object) -> None:
    call.gate.log.append(("finish", type(result).__name__))


def _unwind(call: Call, error: BaseException) -> None:
    call.gate.log.append(("unwind", type(error).__name__))


def call_from_threads(function: Callable[[int], object], threads: int, calls: int) -> None:
    """Call a function so often from each of some threads, which are switched as often as can be."""

    def work() -> None:
        for number in range(calls):
            function(number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = [threading.Thread(target=work) for _ in range(threads)]
        for each in running:
            each.start()
        for each in running:
            each.join()
    finally:
        sys.setswitchinterval(before)


MODES = ("closed", "open", "declined")
Put = Callable[..., Gate]


def puts(mode: str) -> Iterator[Put]:
    """Be the body of a fixture: gives a function that puts gates of this mode before functions and gives the last."""
    kept = []

    def put_before(*functions: Any) -> Gate:
        for function in functions:
            gate = Gate(mode)
            code = splice(function.__code__, gate)
            gate.code = weakref.ref(code)
            function.__code__ = code
            kept.append(code)
        return gate

    yield put_before
