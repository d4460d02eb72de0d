"""Gates that open always, never, or decline, in front of functions: what the tests of the splice share."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

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
        self.ticks: Any = repeat(True, 0 if mode != "closed" else sys.maxsize >> 1)
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
    gate.ticks = repeat(True, 1)
    return call


def _finish(call: Call, result: object) -> None:
    call.gate.log.append(("finish", type(result).__name__))


def _unwind(call: Call, error: BaseException) -> None:
    call.gate.log.append(("unwind", type(error).__name__))


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
