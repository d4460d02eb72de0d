"""What profiling costs: the prices of what is done too often to be timed each time, and what is left to spend.

Reading the processor time of a thread takes 300 ns, a tenth of a sampled call, and the wall clock also counts the
time in which others have the GIL. So calls are counted, which costs nothing, and multiplied by a price that
`calibration` measures once in a process. What a strategy or a receiver does is of every length, so that is timed.
"""

from __future__ import annotations

from math import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Prices:
    """Nanoseconds of processor time of one core.

    Attributes:
        open_ns: one call that is sampled, beyond what its strategy and receivers take.
        skip_ns: one call that found its gate open and is not measured.
        stopwatch_ns: one call that is timed in its own frame (`profile_if_slow`).
        rounds: how often they were measured here; 0 while these are the usual figures.
    """

    __slots__ = ("open_ns", "rounds", "skip_ns", "stopwatch_ns")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Go back to the usual figures."""
        self.open_ns, self.skip_ns, self.stopwatch_ns = 3_000.0, 1_200.0, 150.0
        self.rounds = 0


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
