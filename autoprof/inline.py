"""The gate of spliced code: its countdown is a constant of the code itself, so a closed call looks at nothing else.

The countdown is an iterator over a tuple that all gates share: RUN times True, then None for the rest. A closed call
takes a True; a call that gets None steps on `runs`, which winds the countdown back by a RUN in C code, and is closed,
too; where `runs` is at its end the gate is open. `__setstate__` winds the countdown to any place: `gap % RUN` steps and
`gap // RUN` runs make a gap.

How many calls there were is where the two stand. Beyond the RUN-th item the countdown is open. A call that `begin` did
not see (`missed`, `traced`) moves it by one there until `park` winds it back, which is not counted here. Should it ever
come to its end, it is spent: its code then counts every call as `missed`, and no more is measured there.

Atomicity: as in `gate`. What must be seen as one reads and sets the countdown through C iterators (`map`) in `for`
loops that are left by `return` or `break`: between their steps no thread is switched, which a call would allow.

Measured (`benchmarks gates`: a Flask service, 3.11, 3.12, 3.13): a closed call costs 56, 42, 74 ns; 86, 81, 149 with an
`itertools.repeat` as the countdown, an attribute of the gate. Runs of 64, or such that `begin` winds up, lose the gain.
"""

from __future__ import annotations

from itertools import repeat, starmap
from operator import length_hint
from sys import gettrace

from autoprof.gate import CLAIMED, EXHAUSTED, FOREVER, LENT, Gate, _Endless, draw_gap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    class _Countdown(Protocol):
        """An iterator over `_STEPS`."""

        def __iter__(self) -> Iterator[bool | None]: ...
        def __next__(self) -> bool | None: ...
        def __setstate__(self, place: int, /) -> None: ...


RUN = 512
SPARE = 8192
"""Calls that a function may have under a tracer that came later than its gate and before its first other call."""


class _Steps(tuple[bool | None, ...]):
    """What countdowns run over; pickles as nothing, for a function that travels."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ()


_STEPS = _Steps((True,) * RUN + (None,) * SPARE)
_LENGTH = RUN + SPARE
_NEVER: Iterator[Any] = EXHAUSTED
_NO_RUNS: tuple[Iterator[bool], Iterator[object]] = (EXHAUSTED, EXHAUSTED)
_TO_OPEN: Iterator[tuple[int]] = repeat((RUN,))
_TO_RUN: Iterator[tuple[int]] = repeat((1,))
"""Not 0: `lend` takes a step back."""


def open_countdown() -> _Countdown:
    """Return a countdown that is open; `__setstate__(RUN - n)` leaves n closed calls."""
    countdown: _Countdown = iter(_STEPS)  # type: ignore[assignment]
    countdown.__setstate__(RUN)
    return countdown


class InlineGate(Gate):
    """One gate in front of spliced code that times no calls.

    Attributes:
        countdown: the constant.
        placed: where it stood when it was last wound from outside.
        runs: an iterator: each step winds the countdown back by RUN calls; at its end it leaves it there, too.
        rest: counts the steps of `runs` that are left, of `size - 1`.
        park: an endless iterator: each step winds the countdown to where it is open. For a function that was never
            called it would be a tenth of the gate's memory, and is one without a step, unless a tracer is at work.
    """

    __slots__ = ()

    # In words that all gates have for the sake of their size; `ticks` is not used.
    countdown: _Countdown = Gate._spare_0  # type: ignore[attr-defined]
    park: Iterator[None] = Gate._spare_1  # type: ignore[attr-defined]
    placed: int = Gate._spare_2  # type: ignore[attr-defined]
    runs: Iterator[object] = Gate._spare_3  # type: ignore[attr-defined]
    rest: Iterator[bool] = Gate.ticks  # type: ignore[assignment]

    def __init__(self, *handlers: Any) -> None:
        super().__init__(*handlers)
        self.countdown = open_countdown()
        self.placed = 0  # of a `size` of 0 one run too few has begun
        self.runs = self.rest = EXHAUSTED
        self.park = _NEVER
        if gettrace() is not None:  # its calls alone would spend the countdown
            self._park()

    def _park(self) -> Iterator[None]:
        """Return `park`, made when it is not there."""
        if self.park is _NEVER:
            self.park = starmap(self.countdown.__setstate__, _TO_OPEN)
        return self.park

    def __reduce__(self) -> tuple[Any, ...]:
        # Where autoprof is not installed the countdown is at its end: calls are only counted.
        make, arguments, state = super().__reduce__()
        return make, arguments, (*state[:3], {**state[3], "missed": _Endless()})

    def _runs(self, count: int) -> tuple[Iterator[bool], Iterator[object]]:
        """Return new `rest` and `runs`."""
        if not count:
            return _NO_RUNS
        rest: Iterator[bool] = repeat(True, count)
        # The winding first: where it fails, at the recursion limit of 3.11, no run is used up.
        return rest, zip(starmap(self.countdown.__setstate__, _TO_RUN), rest, strict=False)

    def tally(self) -> tuple[int, int]:
        """See `Gate.tally`."""
        traced = self.traced
        missed = self.missed
        while True:
            rest = self.rest
            looking = map(length_hint, (self.countdown, rest))
            for more in looking:
                for left in looking:
                    if self.rest is rest:
                        begun = self.size - 1 - left
                        stands = _LENGTH - more if more > SPARE else RUN
                        counted = self.used + begun * RUN + stands - self.placed
                        # Calls, and so other threads, only from here on.
                        declined = FOREVER - length_hint(traced)
                        counted += declined
                        if missed is not traced:
                            counted += FOREVER - length_hint(missed)
                        return counted, declined
                    break
                break

    def place(self) -> tuple[int, int, int, int]:
        """Return `used`, which changes where a call opens the gate, and what moves by one with each other call.

        That is: how far the countdown is (up), and what is left of `traced` and of `missed` (down).
        """
        while True:
            rest = self.rest
            # Unpacking is no call: from its first look to the return no thread is switched.
            more, left, traced, missed = map(length_hint, (self.countdown, rest, self.traced, self.missed))
            if self.rest is rest:
                return self.used, (_LENGTH - more if more > SPARE else RUN) - left * RUN, traced, missed

    def step(self) -> bool:
        """See `Gate.step`."""
        # Loops and no `next`: this call may come in between wherever a thread may be switched, and no more often.
        for step in self.countdown:
            if step:
                return True
            for _ in self.runs:
                return True
            for _ in self.park:
                break
            return False
        return True

    def claim(self, lend: bool = False) -> int:
        """See `Gate.claim`.

        A gap of a RUN and more lends at once: where the call then isn't measured, it takes that step itself. Of a short
        one other threads may take all steps meanwhile, and the inner call would find the gate open.
        """
        gap = draw_gap(self.scale)
        at, size, claimed = RUN, 1, CLAIMED
        rest, runs = _NO_RUNS
        winding: Iterator[None] = self.park
        if winding is _NEVER:
            winding = self._park()
        countdown = self.countdown
        if gap:
            stands = at = RUN - gap % RUN
            if gap >= RUN:
                size = gap // RUN + 1
                rest, runs = self._runs(size - 1)
                if lend:
                    stands -= 1
                    claimed = LENT
            winding = map(countdown.__setstate__, (stands,))
        for step in countdown:
            if step:
                return False
            for _ in self.runs:
                return False
            for _ in winding:
                self.used += self.size * RUN + 1 - self.placed
                self.placed = at
                self.size = size
                self.rest = rest
                self.runs = runs
                return claimed
        self.used += 1
        return False

    def lend(self) -> None:
        """Take back a step, for the inner call, which is counted instead of this one; the last thing `begin` does."""
        at = self.placed  # as a rule: the claim is some microseconds old
        if at:
            countdown = self.countdown
            winding = map(countdown.__setstate__, (at - 1,))
            for more in map(length_hint, (countdown,)):
                if more + at == _LENGTH:
                    for _ in winding:
                        return
                break
        while True:
            more = length_hint(self.countdown)
            at = (_LENGTH - more if more > SPARE else RUN) - 1
            if at < 0:
                self.used -= 1  # too many lent at once: the inner call takes one of the gap
                return
            winding = map(self.countdown.__setstate__, (at,))
            for now in map(length_hint, (self.countdown,)):
                if now == more:
                    for _ in winding:
                        return
                break

    def swap(self, size: int) -> None:
        """See `Gate.swap`."""
        at = RUN - size % RUN
        size = size // RUN + 1
        rest, runs = self._runs(size - 1)
        self._park()
        while True:
            before = self.rest
            winding = map(self.countdown.__setstate__, (at,))
            looking = map(length_hint, (self.countdown, before, self.countdown))
            for more in looking:
                for left in looking:
                    if self.rest is not before:
                        break
                    for _ in winding:
                        for now in looking:
                            begun = self.size - 1 - left
                            stands = _LENGTH - more if more > SPARE else RUN
                            self.used += begun * RUN + stands - self.placed
                            self.placed = at if now else RUN  # one that is spent can't be wound
                            self.size = size
                            self.rest = rest
                            self.runs = runs
                            return
                break
