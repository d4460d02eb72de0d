"""When gates open and close: retuning, load's pauses, the end of an `every` and of a rule's `for`."""

from __future__ import annotations

from autoprof import gate
from autoprof.clock import monotonic_ns
from autoprof.importing import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof.gate import Gate
    from autoprof.probe import Probe

NEVER_FREE: list[None] = []
"""The turn of a probe without `every`."""


def retune(gate_: Gate) -> None:
    """Set a gate to what its probes want: open when any of them wants the call."""
    gate_.retune(combined_rate(gate_))


def retime(gate_: Gate) -> None:
    """Let a stopwatch run if its probe wants that, else stop it; calls that it is timing stay untold then."""
    timer: Probe | None = gate_.timer
    if timer is not None:
        gate_.time_calls(not timer.paused and timer.state == "installed")  # type: ignore[attr-defined]


def hold(probe: Probe, reason: str) -> None:
    """Close a probe's gates and stop its stopwatches because of load; with "" let it measure again."""
    probe.paused = reason
    retune_all(probe)
    for each in probe.gates:
        retime(each)


def combined_rate(gate_: Gate) -> float:
    """Return the probability that at least one of a gate's probes wants a call."""
    none_wants = 1.0
    for each in gate_.probes:
        none_wants *= 1.0 - each.rate_at(gate_)
    return 1.0 - none_wants


def chosen(gate_: Gate, probes: tuple[Probe, ...]) -> tuple[Probe, ...]:
    """Draw which of several probes want this call, given that at least one does.

    Each call is a Bernoulli trial per probe; the gate opens at the combined rate, so the draw is conditional.
    """
    wanted: list[Probe] = []
    for index, each in enumerate(probes):
        rate = each.rate_at(gate_)
        if not rate:
            continue
        if not wanted:
            none_wants = 1.0
            for other in probes[index:]:
                none_wants *= 1.0 - other.rate_at(gate_)
            rate = rate / (1.0 - none_wants)
        if rate >= 1.0 or gate._random.random() < rate:
            wanted.append(each)
    return tuple(wanted)


reopen: dict[Probe, int] = {}
"""Probes whose gates wait for the end of their `every`, with that moment."""

expiring: set[Probe] = set()
"""Probes whose rule has a `for` that is not over yet."""


def close_for(probe: Probe, span_ns: int) -> bool:
    """Close a probe's gates for a while; False when another thread's call has done so first.

    `keep_time` opens them again.
    """
    until_ns = monotonic_ns() + span_ns
    try:
        probe.turn.pop()
    except IndexError:
        return False
    reopen[probe] = until_ns
    probe.closed_until_ns = until_ns
    for each in probe.gates:
        each.scale = gate.gap_scale(combined_rate(each))
    return True


def open_again(probe: Probe) -> None:
    """Let the next call close a probe for its `every` again."""
    probe.closed_until_ns = 0
    reopen.pop(probe, None)
    if probe.turn is not NEVER_FREE:
        probe.turn[:] = (None,)


def expire_at(probe: Probe, moment_ns: int) -> None:
    """Let a probe measure up to a moment of the monotonic clock."""
    probe.expires_ns = moment_ns
    expiring.add(probe)


def expire(probe: Probe) -> None:
    """End a probe whose rule's `for` is over; its calls stay counted."""
    expiring.discard(probe)
    if probe.state in ("installed", "shed"):
        probe.state = "disabled"
        probe.reason = over(probe.options["for_ns"])
        retune_all(probe)


def over(for_ns: int) -> str:
    """Return the sentence for a rule that no longer measures."""
    return f"its time is over (for: {load('autoprof.units').format_duration(for_ns)})"


def keep_time() -> None:
    """Open the gates whose `every` is over, close those whose `for` is; only one thread may be in here."""
    now_ns = monotonic_ns()
    for each, until_ns in reopen.copy().items():
        if until_ns <= now_ns and reopen.get(each) is until_ns:
            open_again(each)
            retune_all(each)
    expire_due()


def end(probe: Probe, reason: str) -> None:
    """Let go of a probe that measures no longer; what it counted stays."""
    expiring.discard(probe)
    reopen.pop(probe, None)
    probe.state, probe.reason = "removed", reason
    probe.leave()


def expire_due() -> None:
    """End the probes whose rule's `for` is over."""
    for each in list(expiring):
        if each.expires_ns <= monotonic_ns():
            expire(each)


def next_turn_ns() -> int | None:
    """Return the moment of the monotonic clock at which `keep_time` has something to do; None: never."""
    moments = [*reopen.values(), *[each.expires_ns for each in list(expiring)]]
    return min(moments) if moments else None


def forget_time() -> None:
    """Let go of what waits for its time: the session has ended."""
    for each in list(reopen):
        open_again(each)
    expiring.clear()


def retune_all(probe: Probe) -> None:
    """Set all gates of a probe to what their probes want."""
    for each in probe.gates:
        # A gate before its first call takes the rate then: it must come to `first`, which wakes the session.
        if each.used or each.size:
            retune(each)
