"""Stacks of the calls in progress in functions that the stopwatch times, from each call's beginning.

Nothing is done when such a call begins: the sampler finds its frame on the threads' stacks. It keeps what it sees by
the frame, until the call turns out slow and asks for it, or the frame is gone.
"""

from __future__ import annotations

import weakref
from operator import length_hint

from autoprof import guard
from autoprof.frames import DEPTH_MAX, label_of, reservoir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from autoprof.gate import TimedGate

CALLS_FOLLOWED = 2_000
"""Calls in progress at a time, over all threads; more are timed, but have no stacks."""

LOOKS_KEPT = 2_000
"""Looks at one call; a longer call keeps every second, then every fourth …"""

GATES_POLLED = 200

Look = tuple[int, int, "tuple[str, ...]"]
"""When (ns), the time it stands for (ns), and the labels, leaf first."""


class Call:
    """One call in progress: `ident` is its thread; of `looks` one in `step` is kept."""

    __slots__ = ("ident", "looks", "step", "turn")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.looks: list[Look] = []
        self.step = self.turn = 1

    def add(self, look: Look) -> None:
        """Keep a look, if it is its turn."""
        self.turn -= 1
        if self.turn > 0:
            return
        self.turn = self.step
        self.looks.append(look)
        if len(self.looks) >= LOOKS_KEPT:
            self.step *= 2
            self.looks = [(when, 2 * weight, labels) for when, weight, labels in self.looks[::2]]


class Watch:
    """Which code to look for, and the calls in progress."""

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self._codes: dict[int, weakref.ref[CodeType]] = {}
        self._gates: list[weakref.ref[TimedGate]] = []
        self._counted = -1

    def __bool__(self) -> bool:
        return bool(self._codes)

    def add(self, gate: TimedGate) -> None:
        """Look for the calls of a gate's code from now on."""
        code = gate.code() if gate.code is not None else None
        if code is None or id(code) in self._codes:
            return
        key = id(code)
        self._codes[key] = weakref.ref(code, lambda _: self._codes.pop(key, None))
        self._gates.append(weakref.ref(gate, self._gates_changed))

    def retain(self, wanted: Callable[[TimedGate], bool]) -> None:
        """Look no more for the calls of gates that are not wanted."""
        kept = []
        for each in list(self._gates):
            gate = each()
            if gate is None or wanted(gate):
                kept.append(each)
            elif gate.code is not None:
                self._codes.pop(id(gate.code()), None)
        self._gates[:] = kept
        if not self._codes:
            self.calls.clear()  # nobody looks after them now, and ids of frames are used again

    def _gates_changed(self, gone: weakref.ref[TimedGate]) -> None:
        try:
            self._gates.remove(gone)
        except ValueError:
            pass

    def clear(self) -> None:
        """Forget all of it."""
        self.__init__()  # type: ignore[misc]

    def moved(self) -> bool:
        """Tell whether there may be something to see: a call in progress, or a new one since the last time.

        With more than GATES_POLLED gates asking them costs more than looking.
        """
        if not self._codes:
            return False
        if self.calls or len(self._gates) > GATES_POLLED:
            return True
        counted = 0
        for each in list(self._gates):
            gate = each()
            if gate is not None:
                counted += length_hint(gate.ticks) - gate.used - gate.size
        before, self._counted = self._counted, counted
        return counted != before

    def look(self, frames: dict[int, FrameType], now_ns: int, weight_ns: int) -> None:
        """Look once at every thread; forget the calls that have ended."""
        threads, scale = reservoir([item for item in frames.items() if item[0] not in guard.suppressed])
        weight_ns = int(weight_ns * scale)
        looked_at = {ident for ident, _ in threads}
        seen: set[int] = set()
        for ident, leaf in threads:
            self._look_at(ident, leaf, now_ns, weight_ns, seen)
        for key, call in self.calls.copy().items():
            if key not in seen and (call.ident in looked_at or call.ident not in frames):
                self.calls.pop(key, None)

    def _look_at(self, ident: int, leaf: FrameType, now_ns: int, weight_ns: int, seen: set[int]) -> None:
        codes = self._codes
        hits: list[tuple[int, int]] = []
        frame: FrameType | None = leaf
        depth = 0
        while frame is not None and depth < DEPTH_MAX:
            depth += 1
            if id(frame.f_code) in codes:
                hits.append((id(frame), depth))
            frame = frame.f_back
        if not hits:
            return
        labels: list[str] = []
        frame = leaf
        for _ in range(hits[-1][1]):
            assert frame is not None
            labels.append(label_of(frame))
            frame = frame.f_back
        for key, length in hits:
            seen.add(key)
            call = self.calls.get(key)
            if call is None:
                if len(self.calls) >= CALLS_FOLLOWED:
                    continue
                call = self.calls[key] = Call(ident)
            call.add((now_ns, weight_ns, tuple(labels[:length])))

    def take(self, frame: FrameType, since_ns: int) -> tuple[dict[tuple[str, ...], list[int]], int]:
        """Return the stacks of the call that runs in a frame (root first → samples, ns), and how many samples.

        Args:
            since_ns: when it began: what is older was another call, whose frame had the same address.
        """
        call = self.calls.pop(id(frame), None)
        stacks: dict[tuple[str, ...], list[int]] = {}
        count = 0
        for when, weight_ns, labels in call.looks if call is not None else ():
            if when < since_ns:
                continue
            count += 1
            stack = tuple([each for each in reversed(labels) if each])
            sums = stacks.get(stack)
            if sums is None:
                stacks[stack] = [1, weight_ns]
            else:
                sums[0] += 1
                sums[1] += weight_ns
        return stacks, count
