"""The countdown gate: decides per call whether the call is profiled, without a call, a branch or a random number.

The prologue of a timed function, and a wrapper, advance `ticks`, an `itertools.repeat`; exhausted means open. The gap
to the next open call is drawn from the geometric distribution, so every call is an independent Bernoulli trial, and
`operator.length_hint` of the iterator gives the exact number of calls at no cost.

Atomicity: under the GIL, CPython switches threads only at calls, function starts and backward jumps. Every group of
assignments below that must be seen as one is written without any of these in between.

Spliced code without a stopwatch has its countdown elsewhere, see `inline`.
"""

from __future__ import annotations

import functools
import os
import sys
from _random import Random
from itertools import repeat, starmap
from math import inf, log, log1p
from operator import length_hint
from time import perf_counter
from types import FunctionType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType
    from typing import Any
    from weakref import ref

FOREVER = sys.maxsize >> 1
"""More calls than a process makes, and a tick can be added without leaving Py_ssize_t (32 bits in WebAssembly)."""

GENERATOR_LIKE = 0x20 | 0x80 | 0x200
"""Code flags of generators, coroutines and async generators."""

EXHAUSTED: Iterator[bool] = repeat(True, 0)
_random = Random(int.from_bytes(os.urandom(16), "little"))


CLAIMED, LENT = 1, 2
"""What `claim` says; False is neither."""

_STARVED = (RecursionError, MemoryError)
_TRACERS = frozenset((FunctionType, MethodType))


def reseed() -> None:
    """Draw new randomness: a forked child must not sample the same calls as its parent."""
    _random.seed(int.from_bytes(os.urandom(16), "little"))


def draw_gap(scale: float | None) -> int:
    """Return how many calls stay unsampled before the next sampled one.

    Args:
        scale: 1 / log(1 - rate) as given by `gap_scale`; None never samples.
    """
    if scale is None:
        return FOREVER
    if not scale:
        return 0
    gap = log(1.0 - _random.random()) * scale
    return int(gap) if gap < FOREVER else FOREVER


def gap_scale(rate: float) -> float | None:
    """Return the scale of the geometric distribution for a rate: 0.0 for always, None for never."""
    if rate >= 1.0:
        return 0.0
    if rate <= 0.0:
        return None
    return 1.0 / log1p(-rate)


class _Endless:
    """Pickles as an endless iterator of the standard library."""

    def __reduce__(self) -> tuple[Any, ...]:
        return repeat, (True,)  # true: the portable back end looks at the value


class Countdown:
    """What every call looks at, before all else that a gate is: beside its type, in one line of the processor's cache.

    Attributes:
        ticks: the countdown the prologue reads; exhausted = open.
    """

    __slots__ = ("ticks",)

    ticks: Iterator[bool | None]


_SPARE = 4 if sys.version_info >= (3, 12) else 6
"""Words that make a gate four lines of the processor's cache long: of other sizes, a quarter or half of all have their
type in one line and `ticks` in the next. Measured in a web service, where every line is a cold one. An `InlineGate`
keeps things of its own there."""


class Gate(Countdown):
    """One gate in front of one code object.

    Attributes:
        size: how many ticks `ticks` started with.
        used: calls that were counted before `ticks` was put in place.
        scale: of the gap distribution, see `gap_scale`.
        code: weak reference to the spliced code (a strong one would be a cycle that the GC can't see).
        original: the code before splicing; its co_stacksize where `rewrite.unsplice` can make it again; None for the
            wrapper of the portable back end.
        grants: what rules grant, while the probes wait for the first call; see `dormant`.
        owner: weak reference to the function that runs the code, once known; None for closures.
        begin, finish, unwind, raised, caught: what the prologue calls; see `rewrite.splice`. `raised` is None while no
            generator-like call of this gate is being followed.
        missed: counts down the calls that `begin` could not even look at: at the recursion limit, out of memory. The
            same object as `traced` before a gate's first call: to say which were which would take 48 bytes a function.
        traced: counts down the calls that ran in place because somebody traces the thread (`watch` tells).
        lost: chain of calls that must never be freed, see `rewrite.splice`.
        module, qualname: of the function.
        probes: the probes behind the gate, outermost first.
        withdrawn: set before its code is taken off a function again.
    """

    __slots__ = (
        *(f"_spare_{number}" for number in range(_SPARE)),
        "__weakref__",
        "begin",
        "caught",
        "code",
        "finish",
        "generator_like",
        "grants",
        "lost",
        "missed",
        "module",
        "original",
        "owner",
        "probes",
        "qualname",
        "raised",
        "scale",
        "size",
        "traced",
        "unwind",
        "used",
        "withdrawn",
    )

    watch: Iterator[bool] = map(_TRACERS.__contains__, map(type, starmap(sys.gettrace, repeat(()))))
    """True while a debugger or another tracer written in Python is at work: asked in C, which it can't see."""

    timed = False
    timer: Any = None
    tick: bool | None = True
    """What `ticks` yields; None has a prologue with a stopwatch leave the call untimed."""

    caught: tuple[type[BaseException], ...]
    owner: ref[Any] | None

    def __init__(
        self,
        begin: Callable[[Gate], Any],
        finish: Callable[[Any, Any], Any],
        unwind: Callable[[Any, BaseException], Any],
    ) -> None:
        self.ticks = EXHAUSTED
        self.size = 0
        self.used = 0
        self.scale: float | None = None
        self.code: Callable[[], CodeType | None] | None = None
        self.original: CodeType | int | None = None
        self.grants: tuple[Any, ...] = ()
        self.owner = None
        self.begin = begin
        self.finish = finish
        self.unwind = unwind
        self.missed: Iterator[bool] = repeat(True, FOREVER)
        self.traced: Iterator[bool] = repeat(True, FOREVER)
        self.lost: Any = None
        self.raised: Callable[[Gate, BaseException], None] | None = None
        self.caught = _STARVED
        self.probes: tuple[Any, ...] = ()
        self.generator_like = False
        self.withdrawn = False
        self.module = self.qualname = ""

    def __reduce__(self) -> tuple[Any, ...]:
        # A function that travels (cloudpickle, dill) must run where autoprof is not installed: a partial carries the
        # endless ticks as an attribute.
        return functools.partial, (int,), (int, (), {}, {"ticks": _Endless(), "raised": None})

    @property
    def calls(self) -> int:
        """The number of calls so far, exact once no thread is between a swap and its fold."""
        return self.tally()[0]

    def tally(self) -> tuple[int, int]:
        """Return `calls` and `declined`."""
        used = self.used
        size = self.size
        ticks = self.ticks
        traced = self.traced
        missed = self.missed
        declined = FOREVER - length_hint(traced)
        counted = used + size - length_hint(ticks) + declined
        return counted if missed is traced else counted + FOREVER - length_hint(missed), declined

    @property
    def declined(self) -> int:
        """The calls that found the gate open and a tracer on the thread."""
        return FOREVER - length_hint(self.traced)

    def step(self) -> bool:
        """Count a call that does not come through the code in front of the function; False where it is open for it."""
        return next(self.ticks, False) is not False

    def claim(self, lend: bool = False) -> int:
        """Count the call that found the gate open and start the next countdown; the first thing `begin` does.

        Other threads find the gate closed from here on: as long as it stays open, each of their calls would be sampled.

        Args:
            lend: do at once what `lend` does, where that is as good.

        Returns:
            CLAIMED, or LENT where that was done: then the call is not counted yet. False when somebody else (another
            thread, a closing) has put ticks in place first; this call then took one of them, and is one that the gap
            leaves out.
        """
        size = draw_gap(self.scale)
        fresh = repeat(self.tick, size) if size else None
        while True:
            ticks = self.ticks
            if next(ticks, False) is not False:
                return False
            if self.ticks is ticks:
                break
        self.used += self.size + 1
        self.size = size
        # The exhausted ones stay until `lend`: a block freed here would be one more in what the call has allocated.
        if fresh is not None:
            self.ticks = fresh
        return CLAIMED

    def lend(self) -> None:
        """Add the tick that the inner call takes, which counts instead of this one; the last thing `begin` does.

        Between the last look at how many ticks are left and the new ones no thread may be switched. A call of
        `length_hint` lets others in when it returns; `in` has it called by C code, and does not.
        """
        ticks = self.ticks
        left = self.size  # all of them, as a rule: the claim is some microseconds old
        while True:
            fresh = repeat(self.tick, left + 1)
            if (not left or left in map(length_hint, (ticks,))) and self.ticks is ticks:
                self.size += 1
                self.used -= 1
                self.ticks = fresh
                return
            ticks = self.ticks
            left = length_hint(ticks)

    def swap(self, size: int) -> None:
        """Replace the countdown from outside a call and fold the ticks used so far into `used`; 0 opens the gate."""
        ticks = repeat(self.tick, size)
        old, old_size = self.ticks, self.size
        self.size = size
        self.ticks = ticks
        consumed = old_size - length_hint(old)
        self.used += consumed

    def close(self) -> None:
        """Let every call through unmeasured; calls stay counted."""
        self.swap(FOREVER)

    def retune(self, rate: float) -> None:
        """Sample each call with another probability from now on."""
        self.scale = gap_scale(rate)
        self.swap(draw_gap(self.scale))


CLOCK: Iterator[float] = starmap(perf_counter, repeat(()))
"""Seconds of the clock that durations are measured with, one a step; read in C, unseen by tracers."""


timed_at_most = FOREVER
"""Calls that a gate with a stopwatch lets through until somebody looks; the budget sets it."""


class TimedGate(Gate):
    """A gate whose function times each of its calls: see `rewrite.stopwatch`.

    Attributes:
        clock: CLOCK, or EXHAUSTED: nothing is timed; `tick` goes with it.
        threshold: seconds; `slow` and `slow_raised` hear of calls that took at least as long.
        total: seconds that all timed calls took together.
        unseen: counts down the slow calls that ran under a tracer.
        timer: the probe that wants to know.
    """

    __slots__ = ("clock", "slow", "slow_raised", "threshold", "tick", "timer", "total", "unseen")

    timed = True

    def __init__(
        self,
        begin: Callable[[Gate], Any],
        finish: Callable[[Any, Any], Any],
        unwind: Callable[[Any, BaseException], Any],
        slow: Callable[[TimedGate, float, float, Any], None],
        slow_raised: Callable[[TimedGate, float, float, BaseException], None],
    ) -> None:
        super().__init__(begin, finish, unwind)
        self.tick = True
        self.clock: Iterator[float] = CLOCK
        self.threshold = inf
        self.total = 0.0
        self.slow = slow
        self.slow_raised = slow_raised
        self.unseen: Iterator[bool] = repeat(True, FOREVER)
        self.timer: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        make, arguments, state = super().__reduce__()
        attributes = {**state[3], "clock": EXHAUSTED, "threshold": inf, "total": 0.0}
        return make, arguments, (*state[:3], attributes)

    def time_for(self, probe: Any) -> None:
        """Have a probe told of the calls that are slower than its threshold."""
        self.timer = probe
        self.threshold = probe.threshold_ns / 1e9

    def retune(self, rate: float) -> None:
        """Sample each call with another probability; without one, open when too many were timed unseen."""
        super().retune(rate)
        if self.scale is None and self.timer is not None:
            self.allow(timed_at_most)

    def allow(self, calls: int) -> None:
        """Have the gate open after so many calls more; for one that samples none."""
        if calls < FOREVER:
            self.swap(calls)

    def time_calls(self, wanted: bool) -> None:
        """Time each call from now on, or none; those in progress are not told of then."""
        # `tick` is all that most calls see. Beware: whoever makes ticks looks again afterwards whether it has changed.
        self.clock = CLOCK if wanted else EXHAUSTED
        self.tick = True if wanted else None
        self._renew()

    def _renew(self) -> None:
        left = length_hint(self.ticks)
        if left:
            self.swap(left)

    def claim(self, lend: bool = False) -> int:
        """See `Gate.claim`."""
        tick = self.tick
        claimed = super().claim(lend)
        if self.tick is not tick:
            self._renew()
        return claimed

    def lend(self) -> None:
        """See `Gate.lend`."""
        tick = self.tick
        super().lend()
        if self.tick is not tick:
            self._renew()

    def swap(self, size: int) -> None:
        """See `Gate.swap`."""
        while True:
            tick = self.tick
            super().swap(size)
            if self.tick is tick:
                return

    def close(self) -> None:
        """Let every call through unmeasured and untimed; calls stay counted."""
        self.clock, self.tick = EXHAUSTED, None
        super().close()


def gate_of(code: CodeType) -> Gate | None:
    """Return the gate in front of a code object; None when there is none."""
    for const in reversed(code.co_consts):
        if isinstance(const, Gate):
            return const
    return None
