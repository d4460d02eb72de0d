"""What profiling costs: the prices of what is done too often to be timed each time, and what is left to spend.

Reading the processor time of a thread takes 300 ns, a tenth of a sampled call, and the wall clock also counts the
time in which others have the GIL. So calls are counted, which costs nothing, and multiplied by a price. What a
strategy or a receiver does is of every length, so that is timed.

`calibration` measures it once in a process, in a loop, where all that a sampled call needs is in the processor's
caches. Between the application's own calls it is not, and the same steps take several times as long; a call that has
to wake the sampler takes fifty microseconds. So of one call in eight the parts with a clock at both ends are timed (its
`span`), and the price follows what the latest take beyond their time in the loop.
"""

from __future__ import annotations

from collections import deque
from math import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


NOT_LOOKED_AT = 0x700
"""Bits of the nanoseconds at a call's end, as random as dice: of calls that have none of them set, a span is kept."""

SPANS, FEWEST = 128, 8

WORTH = 0.05
"""A price nearer to the old one than this leaves it."""

SKIPPED = 0.4
"""What a call that is not measured costs, as a share of one that is."""

UNSEEN = 2.5
"""What a sampled call is charged, in those of a loop, before enough of them were timed: the first are cold ones."""

BEYOND = 2.4
"""What a sampled call costs beyond one in a loop, in what its span takes beyond one in a loop.

More than 1: what has no clock around it is slow for the same reason, and so is the application after it: the call has
driven its lines out of the caches.
"""

spans: deque[int] = deque(maxlen=SPANS)
"""Nanoseconds that the timed parts of sampled calls took, since the price was set by them."""


class Prices:
    """Nanoseconds of processor time of one core.

    Attributes:
        open_ns: one call that is sampled, beyond what its strategy and receivers take.
        skip_ns: one call that found its gate open and is not measured.
        stopwatch_ns: one call that is timed in its own frame (`profile_if_slow`).
        rounds, timed_rounds: how often `open_ns` and `stopwatch_ns` were measured here; 0 = the usual figures.
        span_ns: what the timed parts of sampled calls have taken lately; 0 before enough were timed.
        warm_ns, warm_span_ns: of a sampled call in a loop: what it costs, and the part of it that `spans` has.
    """

    __slots__ = (
        "open_ns",
        "rounds",
        "skip_ns",
        "span_ns",
        "stopwatch_ns",
        "timed_rounds",
        "warm_ns",
        "warm_span_ns",
    )

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Go back to the usual figures."""
        self.stopwatch_ns = 150.0
        self.rounds = self.timed_rounds = 0
        self.warm_span_ns = self.span_ns = 0.0
        self.warm_ns = 3_000.0
        self.charge(10_000.0)  # until somebody has looked: the first calls of a process are cold ones
        spans.clear()

    def charge(self, open_ns: float) -> None:
        """Take so much for a sampled call from now on."""
        self.open_ns = open_ns
        self.skip_ns = SKIPPED * open_ns

    def follow(self) -> None:
        """Set the prices by what sampled calls have taken lately among those of the application."""
        if not self.rounds:
            return
        self._take()
        open_ns = self.warm_ns
        if self.warm_span_ns and self.span_ns:
            open_ns += max(self.span_ns - self.warm_span_ns, 0.0) * BEYOND
        else:
            open_ns *= UNSEEN
        if abs(open_ns - self.open_ns) > WORTH * self.open_ns:
            self.charge(open_ns)

    def _take(self) -> None:
        """Take in the spans since the last time. Rare calls cost ten times what frequent ones do, so old ones fade."""
        if len(spans) < FEWEST:
            return
        taken = sorted(spans.copy())
        spans.clear()
        # The longest are those in which others had the GIL or the core.
        whole = taken[: -(len(taken) // 8)]
        mean_ns = sum(whole) / len(whole)
        weight = len(taken) / (len(taken) + FEWEST) if self.span_ns else 1.0
        self.span_ns += (mean_ns - self.span_ns) * weight


class Purse:
    """What opened gates may still cost until the budget is reckoned again.

    Attributes:
        left_ns: infinite where nothing bounds it; below 0 every call that finds its gate open cuts its probes' rates.
        on_empty: called then, on the application's thread: it must only wake somebody.
    """

    __slots__ = ("left_ns", "on_empty")

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Bound nothing."""
        self.left_ns = inf
        self.on_empty: Callable[[], None] = nothing


def nothing() -> None:
    """Stand in where nobody reckons."""


prices = Prices()
purse = Purse()
