"""Functions that were never called: their gates remember what the rules grant, and probes are made with the first call.

A large application calls a small part of what a wide rule names, and a probe for each would take more memory than all
else that autoprof keeps of a function.
"""

from __future__ import annotations

from itertools import repeat

from autoprof import calls, strategies, turns
from autoprof.clock import monotonic_ns
from autoprof.gate import FOREVER
from autoprof.policy import target_of
from autoprof.primitives import allocate_lock
from autoprof.probe import IF_SLOW, WAITING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from autoprof.gate import Gate
    from autoprof.installer import Installer
    from autoprof.policy import Decision, Grant, Policy
    from autoprof.probe import Probe


WAIT_S = 0.1


class Resting:
    """What a probe would be, for lists and events: names and meanings are a probe's."""

    __slots__ = ("policy", "reason", "rule", "state", "strategy_name", "target")

    def __init__(self, target: str, grant: Grant, state: str = "installed", reason: str = WAITING) -> None:
        self.target = target
        self.rule = grant.rule.label
        self.policy = grant.kind
        self.strategy_name = strategies.named_in(grant.kind, grant.options)
        self.state = state
        self.reason = reason


def _place(gate: Gate) -> tuple[str, str]:
    return gate.module, gate.qualname


class Dormant:
    """The gates of one installer that have no probes yet.

    Attributes:
        gates: those that no call has come to.
        allowed: set to false while every new probe is to be made at once.
        paused: says why load keeps everything from measuring; "" while it does not.
    """

    def __init__(self, installer: Installer) -> None:
        self.gates: set[Gate] = set()
        self.allowed = True
        self.paused: Callable[[], str] = str
        self._installer = installer
        self._shared: dict[tuple[int, ...], tuple[Grant, ...]] = {}
        self._making = allocate_lock()
        self._arrivals: list[Gate] = []

    def grants_of(self, decision: Decision) -> tuple[Grant, ...]:
        """Return what a function's gate is to remember; () when its probes must be made at once.

        They must where the target has a probe or had one, or is decorated in the code, and under `profile_if_slow`:
        its calls are timed from the first one on, by options of the probe.
        """
        installer = self._installer
        if not self.allowed or decision.none or not decision.grants:
            return ()
        if installer.decorations and decision.target in installer.decorations:
            return ()
        key = tuple([each.rule.index for each in decision.grants])
        known = self._shared.get(key)
        if known is None:
            known = self._shared[key] = decision.grants if self._can_wait(decision.grants) else ()
        for each in known:
            if installer.knows(decision.target, each):
                return ()
        return known

    def _can_wait(self, grants: tuple[Grant, ...]) -> bool:
        for each in grants:
            key = strategies.key_for(each.kind, each.options)
            if each.kind == IF_SLOW or not strategies.is_built(key) or each.options.get("enabled") is False:
                return False
        for each in grants:
            self._installer.meet(each)
        return True

    def rest(self, gate: Gate, target: str, grants: tuple[Grant, ...]) -> None:
        """Let a gate wait for its first call."""
        gate.grants = grants
        gate.begin = calls.waken
        gate.missed = gate.traced
        self._arrivals.append(gate)
        gate.scale = 0.0  # calls that come while another thread makes the probes leave it open
        self.gates.add(gate)
        for each in grants:
            self._installer.on_resting(target, each)

    def wake(self, gate: Gate, wait_s: float = 0.0) -> bool:
        """Make the probes of a gate that rests; while others are being made, do nothing: the next call comes again.

        Args:
            wait_s: how long to wait for that instead. Not in a call: a finalizer may make one where probes are made.

        Returns:
            False when others are being made: by another thread, or by this one beneath a signal handler.
        """
        if gate not in self.gates:
            return True
        if not self._making.acquire(wait_s > 0.0, wait_s or -1.0):
            return False
        try:
            if gate in self.gates:
                self._make(gate)
        finally:
            self._making.release()
        return True

    def wake_surely(self, gates: Iterable[Gate]) -> None:
        """Make the probes of those that rest; waits once at most: what it waits for may be this thread's."""
        for each in gates:
            if not self.wake(each, WAIT_S):
                return

    def _make(self, gate: Gate) -> None:
        for each in self._probes_for(gate):
            each.stand_from_birth(gate)
        if gate.missed is gate.traced:
            gate.missed = repeat(True, FOREVER)
        gate.begin = calls.first
        gate.grants = ()
        self.gates.discard(gate)

    def _probes_for(self, gate: Gate) -> list[Probe]:
        if gate.grants not in self._shared.values():
            # An earlier policy's: it is made while that is being replaced.
            return self._installer.wanted(gate.module, gate.qualname)
        target = self._target_of(gate)
        return [self._installer.awaken(target, each) for each in gate.grants]

    def account(self) -> None:
        """Count the calls as skipped that came while another thread made their probes."""
        for _ in range(len(calls.turned_away)):
            gate = calls.turned_away.popleft()
            if gate in self.gates:
                calls.turned_away.append(gate)
            for each in gate.probes:
                each.skip("busy")

    def decide(self, gate: Gate, policy: Policy) -> Decision:
        """Return what a policy says of the function of a gate."""
        return policy.decide(gate.module, gate.qualname, self._installer.aliases.get(gate.module, ()))

    def changes(self, gate: Gate, policy: Policy) -> bool:
        """Tell whether another policy puts other kinds of probes on the function of a gate."""
        return self.decide(gate, policy).kinds != tuple([each.kind for each in gate.grants])

    def regrant(self, gate: Gate, policy: Policy) -> bool:
        """Have a gate rest on by the policy that has come into force; False when its probes must be made."""
        grants = self.grants_of(self.decide(gate, policy))
        if grants and gate.grants:
            gate.grants = grants
        return bool(grants)

    def _target_of(self, gate: Gate) -> str:
        return target_of(gate.module, gate.qualname, self._installer.aliases.get(gate.module, ()))

    def wake_all(self) -> None:
        """Make the probes of all gates."""
        self.wake_surely(self.gates.copy())

    def wake_counted(self) -> None:
        """Make the probes of the gates that have counted calls nevertheless: under a debugger `begin` is not asked."""
        self.wake_surely([each for each in self.gates.copy() if each.calls])

    def minding_load(self) -> int:
        """Return how many probes would pause under load."""
        return sum([each.options["check_load"] for gate in self.gates.copy() for each in gate.grants])

    def begin_change(self) -> None:
        """Forget what is shared: it is an earlier policy's."""
        self._shared = {}

    def in_child(self) -> None:
        """Have a forked child make what another thread of the parent was about to make."""
        self._making = allocate_lock()
        calls.turned_away.clear()

    def forget(self) -> None:
        """Let go of all gates: the session is over."""
        self.gates.clear()
        self._shared = {}
        self._arrivals = []
        calls.turned_away.clear()

    def take_arrivals(self) -> list[Gate]:
        """Return the gates that have come to rest since the last time."""
        taken, self._arrivals = self._arrivals, []
        return taken

    def over(self) -> int:
        """Return how many rules no longer measure."""
        policy = self._installer.policy
        return sum([self._is_over(each.for_ns) for each in policy.active_rules]) if policy is not None else 0

    def _is_over(self, for_ns: int | None) -> bool:
        policy = self._installer.policy
        return policy is not None and for_ns is not None and policy.loaded_ns + for_ns <= monotonic_ns()

    def listed(self, gates: list[Gate] | None = None) -> Iterator[Resting]:
        """Yield what the probes of gates, or of all, would be: each target and policy once, without those made."""
        seen: set[tuple[str, str]] = set()
        installer = self._installer
        for gate in sorted(self.gates.copy() if gates is None else gates, key=_place):
            target = self._target_of(gate)
            for each in gate.grants:
                key = target, each.kind
                if key not in seen and key not in installer.made:
                    seen.add(key)
                    yield Resting(target, each, *self._standing(each))

    def _standing(self, grant: Grant) -> tuple[str, str]:
        for_ns = grant.rule.for_ns
        if for_ns is not None and self._is_over(for_ns):
            return "disabled", turns.over(for_ns)
        paused = self.paused() if grant.options["check_load"] else ""
        return ("paused", paused) if paused else ("installed", WAITING)
