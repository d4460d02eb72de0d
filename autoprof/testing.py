"""For tests of applications that use autoprof: capture events, force measuring, turn the clock.

with autoprof.testing.capture() as events, autoprof.testing.force("shop.pricing:total"):
    total(cart)
assert events.named("stop")[0].target == "shop.pricing:total"
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from autoprof import budget, calls, clock, session, signals, turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from autoprof.probe import Probe

__all__ = ["CapturedEvent", "CapturedEvents", "FakeClock", "capture", "force"]

_CLOCKS = ("monotonic_ns", "wall_ns")


class CapturedEvent(NamedTuple):
    """One signal as a receiver got it; `target` is the sender (`module:qualname`)."""

    name: str
    target: str
    measurements: dict[str, Any]
    metadata: dict[str, Any]


class CapturedEvents(list[CapturedEvent]):
    """The signals of a `capture()`, in the order they were sent."""

    def named(self, name: str, target: str | None = None) -> list[CapturedEvent]:
        """Return the events of one signal, of all targets or of one."""
        return [each for each in self if each.name == name and target in (None, each.target)]

    @property
    def names(self) -> list[str]:
        """The names of the signals, in the order they were sent."""
        return [each.name for each in self]


@contextmanager
def capture(*names: str, sender: str | None = None) -> Iterator[CapturedEvents]:
    """Collect the signals sent while the block runs.

    Args:
        names: of the signals (`"stop"`); all when none is given.
        sender: only those of one target.

    Raises:
        ValueError: no signal has that name.
    """
    caught = CapturedEvents()

    def receive(sender: str, *, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
        name = str(metadata["event"])
        caught.append(CapturedEvent(name, sender, dict(measurements), dict(metadata)))

    signals.connect(receive, *names, sender=sender)
    try:
        yield caught
    finally:
        signals.disconnect(receive, *names, sender=sender)


class force:
    """Make every call of a target measured, from now until the block's end (or `undo`).

    Takes effect at once: `force("shop:total")` alone is enough, `with force(...)` gives the rates back. Also
    holds for probes of the target that are installed meanwhile. Calls inside a measured call of the same
    target stay unmeasured, as always. Load does not pause it meanwhile.

    Args:
        target: `"module:qualname"`, or the function itself.

    Raises:
        LookupError: autoprof is not started, or the target's module is loaded and no probe is on the target.
    """

    def __init__(self, target: str | FunctionType) -> None:
        self.target = target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"
        self._before: list[tuple[Probe, float, int, bool, float]] = []
        self._session = session.awake()
        if self._session is None:
            raise LookupError(f"no probe is on {self.target!r}: autoprof is not started")
        installer = self._session.installer
        installer.dormant.allowed = False
        there = list(installer.probes.values())
        found = [each for each in there if each.target == self.target]
        if not found and self.target.partition(":")[0] in sys.modules:
            others = ", ".join(sorted({each.target for each in there})) or "nothing"
            raise LookupError(f"no probe is on {self.target!r}; probes are on: {others}")
        for each in found:
            self._force(each)
        self._listener = installer.on_installed
        installer.on_installed = self._installed

    def _installed(self, probe: Probe) -> None:
        self._listener(probe)
        if probe.target == self.target:
            self._force(probe)

    def _force(self, probe: Probe) -> None:
        self._before.append((probe, probe.rate, probe.every_ns, probe.check_load, probe.price_ns))
        probe.check_load = False
        if probe.paused:
            turns.hold(probe, "")
        probe.price_ns = 0.0  # the budget leaves it alone
        _unshed(probe)
        _set_rate(probe, 1.0, 0)

    def undo(self) -> None:
        """Give the probes their rates back; a second time does nothing."""
        before, self._before = self._before, []
        governor = self._session.governor if self._session is not None else None
        for probe, rate, every_ns, check_load, price_ns in before:
            probe.check_load, probe.price_ns = check_load, price_ns
            if governor is not None:
                governor.adopt(probe)
            _set_rate(probe, rate, every_ns)
        current, self._session = self._session, None
        if current is not None and getattr(current.installer.on_installed, "__self__", None) is self:
            current.installer.on_installed = self._listener
            current.installer.dormant.allowed = not isinstance(
                getattr(self._listener, "__self__", None), type(self)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


def _unshed(probe: Probe) -> None:
    probe.thinning = 1.0
    if probe.state == "shed":
        probe.state, probe.reason = "installed", ""
        budget.start_timing(probe)


def _set_rate(probe: Probe, rate: float, every_ns: int) -> None:
    probe.rate, probe.every_ns = rate, every_ns
    turns.open_again(probe)
    for gate in probe.gates:
        if gate.begin is not calls.first:  # a gate before its first call takes the rate then
            turns.retune(gate)


class FakeClock:
    """Time that stands still but for `advance`; in force while the block runs.

    Takes the place of `autoprof.clock.monotonic_ns` and `wall_ns` in every module of autoprof: they import
    them by name, to save a look-up in the hot path. Sleeping and waiting stay real.
    """

    def __init__(self, monotonic_ns: int = 1_000_000_000, wall_ns: int = 1_750_000_000_000_000_000) -> None:
        self.now_ns = monotonic_ns
        self.now_wall_ns = wall_ns
        self._real: dict[str, Any] = {}

    def monotonic_ns(self) -> int:
        """Return the faked monotonic time in nanoseconds."""
        return self.now_ns

    def wall_ns(self) -> int:
        """Return the faked nanoseconds since the epoch."""
        return self.now_wall_ns

    def advance(self, *, s: float = 0, ms: float = 0, us: float = 0, ns: int = 0) -> None:
        """Let time pass."""
        span_ns = round(s * 1e9) + round(ms * 1e6) + round(us * 1e3) + ns
        self.now_ns += span_ns
        self.now_wall_ns += span_ns

    def __enter__(self) -> Self:
        self._real = {name: getattr(clock, name) for name in _CLOCKS}
        for name, real in self._real.items():
            _exchange(name, real, getattr(self, name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, real in self._real.items():
            _exchange(name, getattr(self, name), real)


def _exchange(name: str, old: object, new: object) -> None:
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("autoprof."):
            found = getattr(module, "__dict__", {}).get(name)
            # Bound methods are made anew at each look-up: equal, not identical.
            if found is not None and found == old:
                setattr(module, name, new)
