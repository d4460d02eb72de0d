"""Keep what profiling costs under its share of one core (`budget:`).

The *purse* holds what may still be spent. Each call that finds its gate open pays from it, and where it is empty cuts
the rate of its own probe to an eighth: at once, on its own thread, without asking a clock. About once a second
`Budget.tick` reckons: it fills the purse, and sets every probe's `thinning`, the factor of its rate. It knows what each
probe would cost at its full rate, since calls are counted whether they are sampled or not: so the factor is calculated,
not searched for, and has nothing to oscillate about. What the reckoning gets wrong shows in the purse's level, to which
the next ones lead back. The dearest are cut first, to a common level. A function whose stopwatch alone is above that
level is *shed*: sampled for a while, its stopwatch closed.

Each sampled call carries the factor it was drawn with, and counts for as many in every estimate.

At the start the purse holds three seconds' worth in advance (at 1 %: 1 000 to 3 000 sampled calls), which the first
ten seconds pay back, and a second's worth more: before enough calls were timed they are charged too little. Later it
gathers at most 1.2 seconds' worth.
"""

from __future__ import annotations

from math import exp, inf

from autoprof import clock, gate, telling
from autoprof.costs import prices, purse
from autoprof.demand import (
    BACK_OFF_S,
    MEMORY_S,
    Account,
    allow,
    demand,
    has_stopwatch,
    is_timed,
    level_of,
    opened_demand,
    stopwatch_demand,
)
from autoprof.gate import gap_scale
from autoprof.probe import IF_SLOW
from autoprof.sampler import recorder
from autoprof.turns import combined_rate, retime, retune_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autoprof.gate import Gate
    from autoprof.probe import Probe

ADVANCE_S, PAID_BACK_S = 3.0, 4.0
REPAY_S = 10.0
SAVED_S = 1.2
TARGET_S = 0.5
"""Seconds of budget: the purse at the start and what is paid for it, the time that takes, the purse's size later, and
the level it is led to."""

LOAN_S = 60.0
LEAD_S = 3.0
"""How fast the level is led back; far slower than the ticks, so that it can't swing."""

PERIOD_NS = 900_000_000
SOONEST_NS = 20_000_000
LONGEST_NS = 2_700_000_000
CUT = 0.125
LEAST = 1e-8
LEAST_ROOM = 0.05
SAMPLER_SHARE = 0.35
"""Of what the writer and the reckoning leave, at least `LEAST_REST` of all."""

LEAST_REST = 0.3
STRETCH_MAX = 50.0
WORTH = 0.05
"""Factors nearer to each other than this are left as they are."""

DEAR_S, DEAR = 30.0, 10.0
"""A probe of which one profile takes more than its share of so many seconds is shed, unless it takes little more than a
sampled call: those are thinned, however small the share."""

OWED_S = 5.0
"""Seconds of budget that are owed at most: what writer and reckoning take cannot be cut, and may be more than all."""

BACK_OFF_MAX_S = 600.0


def cut(gate_: Gate) -> None:
    """Have a gate open less often at once: the purse is empty. The next reckoning sets the rate that fits."""
    for each in gate_.probes:
        if each.price_ns and each.thinning > LEAST:
            each.thinning *= CUT
            for other in each.gates:
                if other is not gate_ and (other.used or other.size):
                    other.retune(combined_rate(other))
    gate_.scale = gap_scale(combined_rate(gate_))
    purse.on_empty()


class Budget:
    """The reckoning of one process.

    Args:
        share: of one core; None for no bound: then it only stretches nothing and cuts nothing.
        active: gives the probes that have had a call.
        busy_ns: gives what the writer has used, rendering included.
        wake: has `tick` called soon, on the background thread.
    """

    def __init__(
        self,
        share: float | None,
        active: Callable[[], Sequence[Probe]],
        busy_ns: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self.share = share
        self.accounts: dict[Probe, Account] = {}
        self._active = active
        self._busy_ns = busy_ns
        self._wake = wake
        self._woken = False
        self._open()

    def _open(self) -> None:
        self._started_ns = self._last_ns = clock.monotonic_ns()
        self._background_s = 0.0
        self._sampler_s = 0.0
        self._sampler_before_ns = recorder.busy_ns
        self._writer_started_ns = self._busy_ns()
        self._background_before_ns = recorder.busy_ns + self._writer_started_ns
        self._spent_ns = self._background_before_ns + sum(
            each.opened_ns + each.stopwatch_ns for each in self._active()
        )
        self._cost_ns = 0
        self._costs_ns: tuple[int, ...] = ()
        self._open_ns = prices.open_ns
        self._loan_ns = 0.0
        purse.open()
        gate.timed_at_most = gate.FOREVER
        if self.share is not None:
            purse.left_ns = ADVANCE_S * self.share * 1e9
            gate.timed_at_most = int(purse.left_ns / prices.stopwatch_ns)
            purse.on_empty = self._empty
        self._level_ns = purse.left_ns

    def change(self, share: float | None) -> None:
        """Put another share in force; what was saved or owed is forgotten."""
        if share != self.share:
            self.close()
            self.share = share
            self._open()
            for each in self._active():
                if share is None:
                    self._free(each)

    def _free(self, probe: Probe) -> None:
        if probe.state == "shed":
            probe.state = "installed"
            start_timing(probe)
        if probe.state == "installed" and probe.thinning != 1.0:
            probe.thinning, probe.reason = 1.0, ""
            retune_all(probe)

    def close(self) -> None:
        """Bound nothing any more."""
        purse.open()
        gate.timed_at_most = gate.FOREVER
        recorder.stretch = 1.0

    def in_child(self) -> None:
        """Start anew in a forked child: its probes count from zero, and the budget is per process."""
        self.accounts.clear()
        self._woken = False
        self._open()

    def _empty(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake()

    def due(self) -> bool:
        """Tell whether it is time to reckon; cheap. An empty purse can wait, too: its gates were cut at once."""
        if self.share is None:
            return False
        urgent_ns = max(SOONEST_NS, 5 * self._cost_ns / self.share)  # each refills the purse
        wait_ns = urgent_ns if self._woken else max(PERIOD_NS, self._wait_ns)
        return clock.monotonic_ns() - self._last_ns >= wait_ns

    @property
    def _wait_ns(self) -> float:
        fifth_ns = 5 * self._cost_ns / (self.share or inf)  # so that reckoning takes a fifth of the budget
        return max(fifth_ns, min(2 * fifth_ns, LONGEST_NS))

    def tick(self) -> None:
        """Reckon, when it is time to."""
        if not self.due():
            return
        used_ns = clock.thread_ns()
        now_ns = clock.monotonic_ns()
        span_s = (now_ns - self._last_ns) / 1e9
        self._last_ns = now_ns
        self._woken = False
        room_ns = self._settle(span_s, now_ns)
        self._allot(room_ns, now_ns)
        self._stretch()
        self._costs_ns = (*self._costs_ns[-2:], clock.thread_ns() - used_ns)
        # The first finds everything cold, and a collection of the application's heap may fall into any.
        self._cost_ns = min(self._costs_ns) if len(self._costs_ns) > 1 else 0

    def _settle(self, span_s: float, now_ns: int) -> float:
        """Add up what was spent, fill the purse, return how many nanoseconds a second the gates may cost."""
        share_ns = (self.share or 0.0) * 1e9
        spent_ns = 0.0
        self._reprice()
        fade = exp(-span_s / MEMORY_S)
        for each in self._active():
            account = self.accounts.get(each)
            if account is None:
                account = self.accounts[each] = Account()
                if each.price_ns:  # it was made when another price held
                    each.price_ns = prices.open_ns
            calls, declined = each.tally()
            opened, opened_ns = each.settle(declined)
            account.note(calls, opened, opened_ns, span_s, fade)
            if each.price_ns:
                spent_ns += opened_ns
                if each.policy == IF_SLOW:
                    spent_ns += each.stopwatch_ns
        sampler_ns, writer_ns = recorder.busy_ns, self._busy_ns()
        background_ns = sampler_ns + writer_ns
        if not self._loan_ns and writer_ns > self._writer_started_ns:
            # Loading the writer and making its file cannot be cut, so it is lent, and paid back in a minute.
            self._loan_ns = float(writer_ns - self._writer_started_ns)
            self._spent_ns += self._loan_ns
            self._background_before_ns += writer_ns - self._writer_started_ns
        new_s = max(background_ns - self._background_before_ns, 0) / span_s
        self._background_s = self._background_s * fade + new_s * (1.0 - fade)
        new_s = max(sampler_ns - self._sampler_before_ns, 0) / span_s
        self._sampler_s = self._sampler_s * fade + new_s * (1.0 - fade)
        self._background_before_ns, self._sampler_before_ns = background_ns, sampler_ns
        spent_ns += background_ns
        age_s = (now_ns - self._started_ns) / 1e9
        income_ns = share_ns * _earned_s(age_s - span_s, age_s)
        paid_back_ns = min(self._loan_ns * span_s / LOAN_S, income_ns / 2)
        self._level_ns += income_ns - paid_back_ns - max(spent_ns - self._spent_ns, 0.0)
        self._spent_ns = spent_ns
        most_s = max(SAVED_S, ADVANCE_S - age_s * (ADVANCE_S - SAVED_S) / REPAY_S)
        self._level_ns = max(min(self._level_ns, most_s * share_ns), -OWED_S * share_ns)
        room_ns = (income_ns - paid_back_ns) / span_s - self._background_s
        room_ns += (self._level_ns - TARGET_S * share_ns) / LEAD_S
        room_ns = max(room_ns, LEAST_ROOM * share_ns)
        # Also in debt: the factors are set for this room, and the purse is for what they did not foresee.
        purse.left_ns = max(self._level_ns, 2.0 * room_ns)
        return room_ns

    def _reprice(self) -> None:
        """Have the calls since the last reckoning, whose spans these mostly are, and later ones cost what they took."""
        before_ns = self._open_ns
        prices.follow()
        self._open_ns = prices.open_ns
        if self._open_ns == before_ns:
            return
        for each, account in self.accounts.items():
            account.price_ns += self._open_ns - before_ns
            if each.price_ns:
                each.price_ns = self._open_ns

    def _allot(self, room_ns: float, now_ns: int) -> None:
        demands = {
            each: demand(each, account)
            for each, account in self.accounts.items()
            if each.price_ns and each.state in ("installed", "shed")
        }
        level = level_of(demands.values(), room_ns)
        dear_ns = max(DEAR_S * level, DEAR * prices.open_ns)
        for each, asked_ns in demands.items():
            account = self.accounts[each]
            fits = asked_ns <= level
            if each.policy != IF_SLOW and each.state == "installed" and (fits or account.price_ns <= dear_ns):
                self._thin(each, 1.0 if fits else max(level / asked_ns, LEAST))  # as nearly all are
                continue
            if each.state == "shed" and not account.until_ns and not self._fits(each, account, level):
                self._shed(each, account, now_ns, stopwatch_demand(each, account), level)
            elif each.state == "shed":
                if now_ns >= account.until_ns:
                    self._try_again(each, account, level, now_ns)
            elif is_timed(each) and stopwatch_demand(each, account) > level * 1.1:
                self._shed(each, account, now_ns, stopwatch_demand(each, account), level)
            elif asked_ns > level and account.price_ns > dear_ns:
                self._shed(each, account, now_ns, asked_ns, level)
            if each.state == "shed" and each.thinning == 0.0:
                continue
            if is_timed(each):
                allow(each, account, level)
            asked_ns = opened_demand(each, account)
            left = level - (stopwatch_demand(each, account) if is_timed(each) else 0.0)
            self._thin(each, 1.0 if asked_ns <= left else max(left / asked_ns, LEAST))

    def _thin(self, probe: Probe, thinning: float) -> None:
        before = probe.thinning
        if before == thinning or (thinning != 1.0 and abs(thinning - before) <= WORTH * before):
            return
        probe.thinning = thinning
        if probe.state == "installed":
            share = f"{thinning:.2g}" if thinning < 1.0 else ""
            probe.reason = share and f"the budget leaves {share} of the calls that its rate asks for"
        retune_all(probe)

    def _shed(self, probe: Probe, account: Account, now_ns: int, asked_ns: float, level: float) -> None:
        timed = has_stopwatch(probe)
        if account.restored_ns and now_ns - account.restored_ns > 4e9 * account.back_off_s:
            account.back_off_s = BACK_OFF_S
        wait_s = account.back_off_s
        account.until_ns = now_ns + int(wait_s * 1e9)
        account.back_off_s = min(2 * wait_s, BACK_OFF_MAX_S)
        probe.state = "shed"
        share = f"{asked_ns / 1e7:.2g}% of a core"
        if timed:
            what = (
                f"timing its {account.calls_s:,.0f} calls a second would take {share}; it is sampled instead"
            )
            stop_timing(probe)
            probe.thinning = LEAST
        else:
            what = (
                f"one profile takes {account.price_ns / 1e6:,.0f} ms, at its rate {share}; its gate is closed"
            )
            probe.thinning = 0.0
            retune_all(probe)
        probe.reason = f"{what}; tried again after {wait_s:.0f}s"
        measurements = {
            "calls_per_s": account.calls_s, "cost_ns_per_s": int(asked_ns), "allowed_ns_per_s": int(level),
            "budget": self.share,
        }  # fmt: skip
        telling.send_shed(probe, measurements, probe.reason)

    def _fits(self, probe: Probe, account: Account, level: float) -> bool:
        return not has_stopwatch(probe) or stopwatch_demand(probe, account) <= 0.8 * level

    def _try_again(self, probe: Probe, account: Account, level: float, now_ns: int) -> None:
        timed = has_stopwatch(probe)
        if not self._fits(probe, account, level):
            account.until_ns = now_ns + int(account.back_off_s * 1e9)
            account.back_off_s = min(2 * account.back_off_s, BACK_OFF_MAX_S)
            return
        account.restored_ns, account.until_ns = now_ns, 0
        probe.state, probe.reason = "installed", ""
        probe.thinning = 1.0
        account.price_ns = prices.open_ns
        if timed:
            start_timing(probe)
        retune_all(probe)

    def _stretch(self) -> None:
        """Have the sampler look less often when its looks alone take too much of the budget."""
        whole = (self.share or 1.0) * 1e9
        rest = whole - (self._background_s - self._sampler_s) + min(self._level_ns, 0.0) / LEAD_S
        allowed = SAMPLER_SHARE * max(rest, LEAST_REST * whole)
        wanted = recorder.stretch * self._sampler_s / allowed
        # Half-way each time: the mean it is calculated from lags behind.
        stretch = recorder.stretch * (wanted / recorder.stretch) ** 0.5 if wanted > 0 else 1.0
        recorder.stretch = min(max(stretch, 1.0), STRETCH_MAX)


def _earned_s(from_s: float, to_s: float) -> float:
    """Return how many seconds' worth of budget a span of the process's life earns: the first pay the advance back."""
    early_s = max(min(to_s, REPAY_S) - min(from_s, REPAY_S), 0.0)
    return to_s - from_s - early_s * PAID_BACK_S / REPAY_S


def run_out(gate_: Gate) -> None:
    """Close a stopwatch at once: it has timed all the calls it may; the next reckoning decides about it."""
    probe = gate_.timer
    if probe.price_ns:
        stop_timing(probe)
        probe.thinning = LEAST
        probe.state = "shed"
        probe.reason = "timing its calls would take more than the budget; it is sampled instead"
        purse.on_empty()


def stop_timing(probe: Probe) -> None:
    """Close a probe's stopwatches; its calls are sampled from here on."""
    for each in probe.gates:
        if each.timer is not probe:
            continue
        calls = each.calls
        each.timer = None
        each.time_calls(False)  # type: ignore[attr-defined]
        probe.timed_calls += calls
        if probe not in each.probes:
            each.probes = (*each.probes, probe)


def start_timing(probe: Probe) -> None:
    """Have a probe's stopwatches run again."""
    for each in probe.gates:
        if not each.timed or each.timer is not None:
            continue
        if probe.strategy is None:
            each.probes = tuple([other for other in each.probes if other is not probe])
        probe.timed_calls -= each.calls
        each.time_for(probe)  # type: ignore[attr-defined]
        retime(each)
