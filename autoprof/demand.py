"""What probes would cost at their full rates, and how the room there is is shared out among them."""

from __future__ import annotations

from math import inf

from autoprof import gate
from autoprof.costs import prices
from autoprof.probe import IF_SLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprof.probe import Probe

MEMORY_S = 2.0
"""How long the means remember."""

BACK_OFF_S = 10.0


def level_of(demands: Iterable[float], room: float) -> float:
    """Return the level L at which demands cut to at most L fit into the room; infinite when they all fit as they are.

    >>> level_of([1.0, 2.0, 9.0], 6.0)
    3.0
    """
    left = sorted(demands)
    if sum(left) <= room:
        return inf
    remaining = max(room, 0.0)
    for index, each in enumerate(left):
        share = remaining / (len(left) - index)
        if each > share:
            return share
        remaining -= each
    return inf  # rounding


class Account:
    """What the budget knows of one probe.

    Attributes:
        calls_s: calls a second, offered: a mean that rises at once and falls slowly.
        price_ns: of one opened call.
        until_ns: when a shed probe gets its second chance.
        back_off_s: how long it waits the next time.
    """

    __slots__ = (
        "back_off_s",
        "calls",
        "calls_s",
        "opened",
        "opened_ns",
        "price_ns",
        "restored_ns",
        "until_ns",
    )

    def __init__(self) -> None:
        self.calls = self.opened = 0
        self.opened_ns = 0.0
        self.calls_s = 0.0
        self.price_ns = prices.open_ns
        self.until_ns = self.restored_ns = 0
        self.back_off_s = BACK_OFF_S

    def note(self, calls: int, opened: int, opened_ns: float, span_s: float, fade: float) -> None:
        """Take in what was counted since the last time.

        Args:
            fade: what a mean keeps over such a span.
        """
        if calls < self.calls or opened < self.opened:  # the probe was cleared: a forked child
            self.calls = self.opened = 0
            self.opened_ns = 0.0
        now_s = (calls - self.calls) / span_s
        self.calls_s = max(now_s, self.calls_s * fade + now_s * (1.0 - fade))
        new, spent_ns = opened - self.opened, max(opened_ns - self.opened_ns, 0.0)
        if new > 0:
            weight = new / (new + 20.0) if spent_ns < new * self.price_ns * 4 else 0.5
            self.price_ns += (spent_ns / new - self.price_ns) * weight
        self.calls, self.opened, self.opened_ns = calls, opened, opened_ns


def has_stopwatch(probe: Probe) -> bool:
    """Tell whether a probe's code can time its calls, now or when it is tried again."""
    return probe.policy == IF_SLOW and any(each.timed for each in probe.gates)


def is_timed(probe: Probe) -> bool:
    """Tell whether a probe has a stopwatch running."""
    return probe.policy == IF_SLOW and any(each.timer is probe for each in probe.gates)


def stopwatch_demand(probe: Probe, account: Account) -> float:
    """Return what timing every call costs, nanoseconds a second."""
    return account.calls_s * prices.stopwatch_ns


def opened_demand(probe: Probe, account: Account) -> float:
    """Return what a probe's opened calls would cost at its full rate, nanoseconds a second."""
    if probe.policy == IF_SLOW:
        if is_timed(probe):
            opened_s = account.calls_s * probe.rate if probe.strategy is not None else 0.0
        else:
            opened_s = account.calls_s
    else:
        opened_s = account.calls_s * probe.rate
    if probe.every_ns and probe.policy != IF_SLOW:
        opened_s = min(opened_s, 1e9 / probe.every_ns)
    return opened_s * account.price_ns


def demand(probe: Probe, account: Account) -> float:
    """Return what a probe would cost unbounded, nanoseconds a second."""
    if probe.policy != IF_SLOW and probe.state == "installed":
        return opened_demand(probe, account)
    if probe.state == "shed" and probe.thinning == 0.0:
        return 0.0
    return opened_demand(probe, account) + (stopwatch_demand(probe, account) if is_timed(probe) else 0.0)


def allow(probe: Probe, account: Account, level: float) -> None:
    """Set how many calls a stopwatch may time until the next reckoning: a burst must not wait for it."""
    calls = gate.timed_at_most
    if level < inf:
        calls = max(int(2.0 * level / prices.stopwatch_ns), calls // 8)
    for each in probe.gates:
        if each.timer is probe and each.scale is None and (each.used or each.size):
            each.allow(calls)  # type: ignore[attr-defined]
