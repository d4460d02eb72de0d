"""Put another policy in force on functions that are spliced, wrapped or neither already.

What a rule merely retunes keeps its probe and its code; what changes gets new code from its original; what no rule
names any more gets its original back. Old gates stay behind their probes: calls that entered by them stay counted.
"""

from __future__ import annotations

from time import monotonic
from types import CodeType, FunctionType

from autoprof import calls, guard, live, living, turns
from autoprof.gate import GENERATOR_LIKE, Gate, TimedGate, gate_of
from autoprof.primitives import nap
from autoprof.probe import IF_SLOW
from autoprof.rewrite.tree import is_function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from autoprof.installer import Installer
    from autoprof.policy import Decision, Policy
    from autoprof.probe import Probe

SLICE_S = 0.02
REST_S = 0.001
"""After so much work of ours, which the GIL's own switching has cut in pieces, the others get it for so long."""

UNREACHED = "the portable back end reaches what is imported already at the next start only"


class Pace:
    """Lets other threads go on in between."""

    def __init__(self) -> None:
        self._since = monotonic()

    def step(self) -> None:
        """Rest, if it is time."""
        if monotonic() - self._since >= SLICE_S:
            nap(REST_S)
            self._since = monotonic()

    def over(self, gates: Iterable[Gate], wanted: Callable[[Gate], bool]) -> Iterator[Gate]:
        """Yield the gates that are wanted, at this pace."""
        for each in gates:
            if wanted(each):
                yield each
            self.step()


def apply(installer: Installer, policy: Policy) -> list[Probe]:
    """Change what is installed into what `policy` grants; return the probes that are gone.

    Other threads may import and call meanwhile: from the first line on imports go by the new policy.
    """
    dormant = installer.dormant
    allowed, dormant.allowed = dormant.allowed, False
    try:
        return _apply(installer, policy, Pace(), allowed)
    finally:
        dormant.allowed = allowed


def _apply(installer: Installer, policy: Policy, pace: Pace, may_rest: bool) -> list[Probe]:
    old_policies = (*installer.unfinished, installer.policy)
    same_functions = all(_matches(each) == _matches(policy) for each in old_policies)
    dormant = installer.dormant
    dormant.wake_surely(pace.over(dormant.gates.copy(), lambda gate: dormant.changes(gate, policy)))
    installer.begin_change(policy)
    dormant.allowed = may_rest
    dormant.wake_surely(pace.over(dormant.gates.copy(), lambda gate: not dormant.regrant(gate, policy)))
    gates = installer.known_gates()
    for each in gates:
        _regrant(installer, each)
        pace.step()
    if not same_functions or any(each.begin is live.declines for each in gates):
        decorated = {target.partition(":")[0] for target in installer.decorations}
        _recode(
            installer,
            pace,
            lambda name: (
                policy.covers(name) or name in decorated or any(_covered(each, name) for each in old_policies)
            ),
        )
    return installer.end_change()


def _covered(policy: Policy | None, module: str) -> bool:
    return policy is not None and policy.covers(module)


def _matches(policy: Policy | None) -> object:
    """Return what decides which functions get which kinds: equal for two policies that differ in options alone."""
    if policy is None:
        return None
    return [
        (each.policy, [str(glob.text) for glob in each.match], [str(glob.text) for glob in each.excepts])
        for each in policy.active_rules
    ]


def _regrant(installer: Installer, gate: Gate) -> None:
    """Give a gate the probes that the new policy wants behind it."""
    wanted = installer.wanted(gate.module, gate.qualname)
    before = gate.probes
    timer = next((each for each in wanted if each.policy == IF_SLOW), None) if gate.timed else None
    gate.probes = tuple([each for each in wanted if each is not timer or each.strategy is not None])
    for each in wanted:
        if gate not in each.gates:
            each.stand_behind(gate)
    if isinstance(gate, TimedGate):
        _retime(gate, timer)
    if not wanted:
        _retire(gate)
    elif gate.begin is live.declines:
        gate.withdrawn = False
        gate.begin = calls.first
        gate.swap(0)
    elif gate.begin is not calls.first and (before != gate.probes or gate.used or gate.size):
        turns.retune(gate)
    if wanted and gate.begin is not calls.first:
        calls.on_first_call(gate)


def _retime(gate: TimedGate, timer: Probe | None) -> None:
    before = gate.timer
    if before is not timer:
        # As `budget.stop_timing` and `start_timing` count them.
        if before is not None:
            before.timed_calls += gate.calls
        if timer is not None:
            timer.timed_calls -= gate.calls
    if timer is None:
        gate.threshold, gate.timer = float("inf"), None
        gate.time_calls(False)
    else:
        gate.time_for(timer)
        turns.retime(gate)


def _retire(gate: Gate) -> None:
    gate.close()
    gate.begin = live.declines


def _recode(installer: Installer, pace: Pace, covers: Callable[[str], bool]) -> None:
    """Give every living function the code that its decisions ask for."""
    functions = living.functions_of(covers)
    functions.sort(key=lambda each: "<locals>" in each.__code__.co_qualname)
    if installer.backend != "splice":
        _report_unreached(installer, functions)
        return
    work = Recoding(installer)
    for each in functions:
        try:
            work.recode(each)
        except Exception as error:
            guard.report("reload", error)
        pace.step()
    for gate in work.left_behind:
        gate.withdrawn = True
        _retire(gate)


class Recoding:
    """One pass over the living functions.

    Attributes:
        left_behind: gates of code that functions no longer have.
    """

    def __init__(self, installer: Installer) -> None:
        self.left_behind: list[Gate] = []
        self._installer = installer
        self._replaced: dict[int, tuple[CodeType, CodeType]] = {}
        self._plain: dict[int, tuple[CodeType, CodeType]] = {}
        self._wanted: dict[int, tuple[CodeType, tuple[int, ...]]] = {}
        self._decisions: dict[tuple[str, str], Decision | None] = {}

    def recode(self, function: FunctionType) -> None:
        """Replace a function's code, unless its gates are those it should have."""
        code = function.__code__
        if code.co_filename.startswith("<") or not is_function(code):
            return
        module = function.__globals__["__name__"]
        here = list(_gates_in(code))
        plain = self._plain_of(code) if here else code
        wanted = self._wanted_in(module, plain)
        if len(wanted) == len(here) and id(plain) not in self._replaced and _satisfied(wanted, here):
            return
        new = plain
        if wanted:
            new = live.replacement(self._installer, module, plain, self._replaced, self._decisions)
        if new is code:
            return
        for gate in here:
            if gate.code is not None and gate.code() is code:
                gate.withdrawn = True  # before: see `declining.in_place`
        live.copy_local_events(code, new)
        function.__code__ = new
        self.left_behind += here

    def _plain_of(self, code: CodeType) -> CodeType:
        known = self._plain.get(id(code))
        if known is None:
            known = self._plain[id(code)] = (code, live.original_of(code))
        return known[1]

    def _wanted_in(self, module: str, plain: CodeType) -> tuple[int, ...]:
        """Return which functions of a code, itself included, should have a gate: twice their ids, 1 more if timed."""
        known = self._wanted.get(id(plain))
        if known is None:
            found = [
                2 * id(each) + _needs_watch(kinds, each)
                for each in _functions_in(plain)
                if (kinds := self._kinds_on(module, each.co_qualname))
            ]
            known = self._wanted[id(plain)] = (plain, tuple(found))
        return known[1]

    def _kinds_on(self, module: str, qualname: str) -> list[str]:
        decision = self._decisions[module, qualname] = self._installer.decide(module, qualname)
        return self._installer.kinds_on(module, qualname, decision)


def _satisfied(wanted: tuple[int, ...], here: list[Gate]) -> bool:
    """Tell whether the gates are those that are wanted, or time more than is."""
    if not wanted:
        return True
    present = {
        2 * id(live.original_behind(each)) + each.timed for each in here if each.begin is not live.declines
    }
    return all(each in present or each | 1 in present for each in wanted)


def _needs_watch(kinds: list[str], code: CodeType) -> bool:
    return not code.co_flags & GENERATOR_LIKE and IF_SLOW in kinds


def _functions_in(code: CodeType) -> Iterator[CodeType]:
    if is_function(code):
        yield code
    for const in code.co_consts:
        if type(const) is CodeType:
            yield from _functions_in(const)


def _gates_in(code: CodeType) -> Iterator[Gate]:
    gate = gate_of(code)
    if gate is not None:
        yield gate
    for const in code.co_consts:
        if type(const) is CodeType:
            yield from _gates_in(const)


def _report_unreached(installer: Installer, functions: list[Any]) -> None:
    for each in functions:
        code = each.__code__
        if not is_function(code) or code.co_filename.startswith("<"):
            continue
        for granted in installer.wanted(each.__globals__["__name__"], code.co_qualname):
            if not granted.gates:
                granted.state, granted.reason = "waiting", UNREACHED
