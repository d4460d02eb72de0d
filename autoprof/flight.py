"""The calls being measured right now, by thread: written by probes, read by the sampler."""

from __future__ import annotations

from sys import getrefcount
from time import perf_counter
from weakref import ref

from autoprof import primitives
from autoprof.primitives import current_greenlet, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

    from autoprof.gate import Gate


UNKNOWN = object()


class Flight:
    """One call that is being measured; the `p` of the prologue.

    Attributes:
        ident: of the strand that makes the call, see `primitives.strand_ident`.
        code: the code to run, held so that it can't die between `begin` and the making of the inner function.
        function: the inner function of a generator-like call, put here by the prologue.
        caller: the frame that made the call; tells the sampler where this call's own stack ends.
        generation: of the process (forks count up): a child does not finish its parent's measurements.
        result: the class of a generator-like call's object.
        stacks: labels, root first → [samples, weight in nanoseconds], of a call that may yet be thrown away.
        weights: of the probes whose rates the budget had cut when the call was drawn: how many calls it stands for.
        living: the generator-like object, as a weak reference; None for plain functions and before it is made.
        suspended_ns: how long a generator was seen between two resumptions: its consumer's time. Like `function`,
            `result` and `watches` only there for generator-like calls.
        returned: what a plain function has returned, while the strategies stop; UNKNOWN while they are at work; only
            there where there are any.
    """

    __slots__ = (
        "__weakref__",
        "caller",
        "code",
        "done",
        "entered_ns",
        "function",
        "gate",
        "generation",
        "ident",
        "limit_ns",
        "living",
        "lost",
        "probes",
        "result",
        "returned",
        "samples",
        "stacks",
        "started_ns",
        "states",
        "suspended_ns",
        "watches",
        "weights",
    )

    code: CodeType
    function: Any
    gate: Gate
    caller: FrameType | None
    probes: tuple[Any, ...]
    stacks: dict[tuple[str, ...], list[int]] | None
    states: Any
    suspended_ns: int
    ident: int
    generation: int
    entered_ns: int
    started_ns: int
    limit_ns: int
    samples: int
    living: Any
    result: type | None
    returned: Any
    watches: Any
    done: bool
    weights: dict[Any, float] | None


def has_ended(flight: Flight | None) -> bool:
    """Tell whether a call is over, also when an interrupt kept anybody from noticing; None is one that died."""
    return flight is None or flight.done or (flight.living is not None and flight.living() is None)


in_flight: dict[int, list[Flight]] = {}
"""Strand (thread or greenlet) → its open calls, outermost first. Only the strand itself writes its list.

Where it counts, say `flight.in_flight.get`: of a name that is imported, 3.12 on makes a bound method for each such call
(`is_import_originated`, Python/compile.c), which takes four times as long.
"""

greenlets: dict[int, tuple[ref[Any], int]] = {}
"""Strand → weak reference to its greenlet, and the thread that runs it; empty where greenlets are not in use."""

afloat: dict[int, Flight] = {}
"""id of the flight → coroutines, generators and async generators between their call and their end."""

generation = 0
born_s = 0.0
"""When this process was forked, by the stopwatch's clock: what began before is the parent's."""


def push(flight: Flight) -> None:
    """Make a call visible to the sampler."""
    ident = flight.ident
    stack = in_flight.get(ident)
    if stack is not None:
        stack.append(flight)
        return
    if primitives.getcurrent is not None:
        greenlet = current_greenlet()
        if greenlet is not None:
            greenlets[ident] = ref(greenlet), get_ident()
    in_flight[ident] = [flight]


def drop(flight: Flight) -> None:
    """Take a call out again; the top is only the usual place: an interrupt may have left another there."""
    ident = flight.ident
    stack = in_flight.get(ident)
    if not stack:
        return
    if stack[-1] is flight:
        if len(stack) == 1:
            in_flight.pop(ident, None)  # `forget`, without a call: this is the usual end
            if greenlets:
                greenlets.pop(ident, None)
        else:
            del stack[-1]
    elif flight in stack:
        stack.remove(flight)


def _abandoned(flights: list[Flight], references: int) -> list[Flight]:
    return [each for each in flights if getrefcount(each) <= references]


_ONLY_LISTED = next(count for count in range(9) if _abandoned([Flight()], count))


def drop_abandoned(ident: int) -> None:
    """Forget calls of a thread that nobody else knows of: their prologue is gone and can't end them any more.

    The prologue keeps an open call at the bottom of its stack, so one that only the list holds is none.
    """
    stack = in_flight.get(ident)
    if not stack:
        return
    for each in _abandoned(stack, _ONLY_LISTED):
        try:
            stack.remove(each)
        except ValueError:
            pass  # the other of the sampler and the thread itself was faster
    if not stack:
        forget(ident)


def leaf_of(ident: int, frames: dict[int, FrameType]) -> FrameType | None:
    """Return the innermost frame of a strand, also of a greenlet that waits; None when it is no more.

    Args:
        frames: of the threads, from `sys._current_frames()`.
    """
    known = greenlets.get(ident)
    if known is None:
        return frames.get(ident)
    greenlet = known[0]()
    if greenlet is None or greenlet.dead:
        return None
    waiting: FrameType | None = greenlet.gr_frame
    return waiting if waiting is not None else frames.get(known[1])


def forget(ident: int) -> None:
    """Let go of a strand that has no open call, or is no more."""
    in_flight.pop(ident, None)
    greenlets.pop(ident, None)


def forget_all() -> None:
    """Start clean in a forked child: the parent's calls are the parent's."""
    global generation, born_s
    generation += 1
    born_s = perf_counter()
    in_flight.clear()
    greenlets.clear()
    afloat.clear()
