"""What `autoprof.status()` returns."""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from autoprof.dormant import Resting
    from autoprof.probe import Probe

    class _Fields(NamedTuple):
        target: str
        rule: str
        policy: str
        strategy: str
        state: str
        reason: str
        calls: int
        profiled: int
        skipped: int
        discarded: int
        overhead_ns: int
        gate_ns: int

else:
    _Fields = namedtuple(
        "_Fields",
        "target rule policy strategy state reason calls profiled skipped discarded overhead_ns gate_ns",
    )

GATE_NS = 10
"""What a closed gate costs a call; measured by the benchmarks, an estimate here."""


def standing_of(probe: Probe) -> tuple[str, str]:
    """Return a probe's state and the reason, one sentence, as users see them."""
    if probe.paused and probe.state in ("installed", "shed"):
        return "paused", probe.paused
    return probe.state, probe.reason


class ProbeStatus(_Fields):
    """One probe: its state, why, and its numbers.

    `state` is waiting, installed, paused, shed, disabled, failed or removed; `overhead_ns` is what its opened gates
    and stopwatches have cost, `gate_ns` an estimate of what its closed ones have.
    """

    __slots__ = ()

    @classmethod
    def of(cls, probe: Probe) -> ProbeStatus:
        """Return the state of a probe now."""
        calls = probe.calls
        return cls(
            probe.target,
            probe.rule,
            probe.policy,
            probe.strategy_name,
            *standing_of(probe),
            calls,
            probe.profiled,
            probe.skips,
            probe.discarded,
            probe.overhead_ns,
            calls * GATE_NS,
        )

    @classmethod
    def of_resting(cls, one: Resting) -> ProbeStatus:
        """Return the state of a probe that will be made with its function's first call."""
        return cls(
            one.target, one.rule, one.policy, one.strategy_name, one.state, one.reason, 0, 0, 0, 0, 0, 0
        )
