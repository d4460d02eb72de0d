"""What one probe costs, and how many calls each of its measured ones stands for."""

from __future__ import annotations

from autoprof.costs import prices, purse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof.gate import Gate


class Spending:
    """The part of a probe that the budget looks at.

    Attributes:
        thinning: factor of the rate that the budget leaves: 1.0 = as asked, 0.0 = shed.
        price_ns: what the purse is charged for an opened call; 0 for a probe that the budget leaves alone.
        settled_ns: what those calls have cost that earlier prices hold for, `settled_concluded` and `settled_skips`.
        concluded: opened calls that were measured to their end.
        looked: the same under `profile_if_slow`, where most of them were not slow.
        measured_ns: what strategies, receivers and slow calls have taken, timed each time.
        timed_calls, timed_from: how many calls a stopwatch has timed: counted where it was put on and off.
        weighed_calls, weighed_ns: how many calls, and how much of their time, the measured ones stand for beyond
            themselves, since they were last taken.
    """

    __slots__ = (
        "looked",
        "measured_ns",
        "price_ns",
        "settled_concluded",
        "settled_ns",
        "settled_skips",
        "thinning",
        "timed_calls",
        "timed_from",
        "weighed_calls",
        "weighed_ns",
    )

    if TYPE_CHECKING:
        gates: tuple[Gate, ...]
        _skipped: dict[str, int]

        @property
        def concluded(self) -> int: ...

        @property
        def skips(self) -> int: ...

        @property
        def skipped_calls(self) -> int: ...

    def __init__(self) -> None:
        self.thinning = 1.0
        self.price_ns = prices.open_ns
        self.clear()

    def clear(self) -> None:
        """Count from zero."""
        self.measured_ns = self.looked = self.timed_calls = 0
        self.settled_ns = 0.0
        self.settled_concluded = self.settled_skips = 0
        self.weighed_calls = self.weighed_ns = 0.0
        self.timed_from = sum(each.calls for each in self.gates if each.timer is self)

    @property
    def stopwatch_ns(self) -> float:
        """What timing calls in their own frames has cost."""
        timed = self.timed_calls - self.timed_from
        timed += sum([each.calls for each in self.gates if each.timer is self])
        return timed * prices.stopwatch_ns

    @property
    def opened_ns(self) -> float:
        """What opened gates have cost."""
        return self.measured_ns + self.settled_ns + self._unsettled_ns(self.concluded, self.skips)

    def _unsettled_ns(self, concluded: int, skips: int) -> float:
        opened_ns = (concluded - self.settled_concluded) * prices.open_ns
        return opened_ns + (skips - self.settled_skips) * prices.skip_ns

    def settle(self, declined: int) -> tuple[int, float]:
        """Have what was opened so far cost what it costs now: a price that changes is for later calls.

        Args:
            declined: calls that found their gate open and a tracer on the thread.

        Returns:
            How many calls have found their gate open, and what they have cost in nanoseconds.
        """
        concluded, skips = self.concluded, declined
        if self._skipped:
            skips += self.skipped_calls
        if concluded != self.settled_concluded or skips != self.settled_skips:
            self.settled_ns += self._unsettled_ns(concluded, skips)
            self.settled_concluded, self.settled_skips = concluded, skips
        return concluded + skips, self.measured_ns + self.settled_ns

    @property
    def overhead_ns(self) -> int:
        """What it has cost, closed gates aside."""
        return int(self.opened_ns + self.stopwatch_ns)

    @property
    def weight(self) -> float:
        """How many calls a call drawn now stands for."""
        return 1.0 / (self.thinning or 1.0)

    def charge(self, spent_ns: int) -> None:
        """Write down what a strategy, a receiver or a slow call has taken."""
        self.measured_ns += spent_ns
        if self.price_ns:
            purse.left_ns -= spent_ns

    def weigh(self, weight: float, duration_ns: int) -> None:
        """Count a measured call for as many as it stands for."""
        self.weighed_calls += weight - 1.0
        self.weighed_ns += (weight - 1.0) * duration_ns

    def take_weighed(self) -> dict[str, int]:
        """Return what measured calls stand for beyond themselves since the last time and start anew."""
        calls, self.weighed_calls = self.weighed_calls, 0.0
        total_ns, self.weighed_ns = self.weighed_ns, 0.0
        return {"calls": round(calls), "total_ns": round(total_ns)} if calls else {}
