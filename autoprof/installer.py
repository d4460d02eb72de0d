"""Give functions their probes: decide by the policy, make gates, splice or decorate."""

from __future__ import annotations

import weakref
from types import CodeType, FunctionType, ModuleType

from autoprof import calls, compiled, ends, guard, marking, stopwatch, strategies, turns
from autoprof.dormant import Dormant
from autoprof.gate import GENERATOR_LIKE, Gate, TimedGate, gate_of
from autoprof.inline import InlineGate
from autoprof.probe import IF_SLOW, Probe
from autoprof.wrapped import plain_function, wrap_inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Literal

    from autoprof.policy import Decision, Grant, Policy
    from autoprof.rewrite.backend import Backend

DECORATOR = "decorator"
REMOVED_LISTED = 1_000
MEASURING = ("installed", "shed")
SPLICE = "splice"
_UNFINISHED_KEPT = 8
"""Edits in a row that faults of ours may cut short before functions are forgotten that only the first of them named."""


class Installer:
    """Makes probes and gates for one policy.

    Attributes:
        made: (target, kind) → probe, in the order of installation.
        dormant: the gates whose probes are made with their first call.
        removed: probes that no rule of the policy in force names any more; the latest of them.
        decorations: target → kind → options of the decorators in the code.
        matched_rules: indexes of the rules that matched a function so far.
        blocked: targets whose decorators a `policy: none` switches off.
        unfinished: the policies that were in force before, while a change from them has not come to its end.
        on_installed: called with each new probe.
        on_resting: called with the target and the grant of a probe that waits for its first call.
        on_woken: called with a probe made then.
        on_met: called with a grant, the first time that functions wait with it.
    """

    def __init__(
        self, policy: Policy | None, choose: Callable[[], Backend], strategy: Callable[[str], Any]
    ) -> None:
        self.policy = policy
        self._choose = choose
        self._chosen: Backend | None = None
        self.made: dict[tuple[str, str], Probe] = {}
        self.dormant = Dormant(self)
        self.removed: dict[tuple[str, str, int], Probe] = {}
        self.decorations: dict[str, dict[str, dict[str, Any]]] = {}
        self._before: dict[tuple[str, str], Probe] = {}
        self._left_over: list[Probe] = []
        self.unfinished: tuple[Policy | None, ...] = ()
        self.aliases: dict[str, tuple[str, ...]] = {}
        self.matched_rules: set[int] = set()
        self.blocked: set[str] = set()
        self.on_installed: Callable[[Probe], None] = _nothing
        self.on_woken: Callable[[Probe], None] = _nothing
        self.on_resting: Callable[[str, Grant], None] = _nothing
        self.on_met: Callable[[Grant], None] = _nothing
        self._strategy = strategy
        self._wrapped: dict[tuple[str, int, int], Gate] = {}

    @property
    def chosen(self) -> Backend:
        """How functions are rewritten, and why; chosen when there is something to rewrite: that takes milliseconds."""
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen

    @property
    def backend(self) -> Literal["splice", "decorate"]:
        """The name of the chosen back end."""
        return "splice" if self.chosen.name == SPLICE else "decorate"

    def covers(self, module: str) -> bool:
        """Tell whether a rule may name a function of this module."""
        return self.policy is not None and self.policy.covers(module)

    def rewrite_code(self, code: CodeType, module: str, aliases: tuple[str, ...] = ()) -> CodeType:
        """Return a module's code with the chosen functions spliced; called before it is executed."""
        if self.policy is None:
            return code
        from autoprof.rewrite.tree import rewrite_tree

        if aliases:
            self.aliases[module] = aliases

        def one(inner: CodeType, original: CodeType, qualname: str) -> CodeType | None:
            return self.splice_granted(inner, original, module, qualname, at_import=True)

        return rewrite_tree(code, one)

    def splice_granted(
        self, code: CodeType, original: CodeType, module: str, qualname: str,
        *, at_import: bool = False, decision: Decision | None = None,
    ) -> CodeType | None:  # fmt: skip
        """Return the function's code with a gate for what is wanted there; None when nothing is.

        Args:
            at_import: nobody has the original yet, and none is kept that can be made again.
            decision: what `decide` has said just now.
        """
        decision = decision or self.decide(module, qualname)
        resting = self.dormant.grants_of(decision) if decision is not None else ()
        granted = [] if resting else self.wanted(module, qualname, decision)
        if not granted and not resting:
            return None
        from autoprof.rewrite.splice import Unspliceable, splice

        gate = self.new_gate(original, module, qualname, any(each.policy == IF_SLOW for each in granted))
        try:
            spliced = splice(code, gate)
        except Unspliceable as problem:
            for each in granted or self.wanted(module, qualname, decision):
                each.state, each.reason = "failed", f"can't be rewritten: {problem}"
            return None
        gate.code = weakref.ref(spliced)
        if at_import and not gate.timed and not gate.generator_like:
            gate.original = code.co_stacksize
        for each in granted:
            each.add(gate)
        if resting and decision is not None:
            self.dormant.rest(gate, decision.target, resting)
        return spliced

    def new_gate(self, code: CodeType | None, module: str, qualname: str, timed: bool = False) -> Gate:
        """Make a gate for a code to be spliced, a timed one only where it can hold the stopwatch, or for a wrapper."""
        if timed and code is not None and not code.co_flags & GENERATOR_LIKE:
            begins = (calls.first, ends.finish, ends.unwind)
            gate: Gate = TimedGate(*begins, stopwatch.slow, stopwatch.slow_raised)
        else:
            gate = (Gate if code is None else InlineGate)(calls.first, ends.finish, ends.unwind)
        gate.original = code
        gate.module, gate.qualname = module, qualname
        gate.generator_like = bool(code is not None and code.co_flags & GENERATOR_LIKE)
        if gate.generator_like:
            marking.install()
        return gate

    def decide(self, module: str, qualname: str) -> Decision | None:
        """Return what the policy grants a function; None where there is none."""
        return self.policy.decide(module, qualname, self.aliases.get(module, ())) if self.policy else None

    def kinds_on(self, module: str, qualname: str, decision: Decision | None) -> list[str]:
        """Return the policies of the probes that rules and decorators put on a function, outermost first."""
        resting = self.dormant.grants_of(decision) if decision is not None else ()
        if resting:
            return [each.kind for each in resting]
        return [each.policy for each in self.wanted(module, qualname, decision)]

    def probes_for(self, decision: Decision) -> list[Probe]:
        """Return the probes a decision grants that can measure; the others are only listed."""
        if decision.none:
            self.blocked.add(decision.target)
        return [
            each
            for grant in decision.grants
            if (each := self._probe(decision.target, grant)) is not None and each.state in MEASURING
        ]

    def wanted(self, module: str, qualname: str, decision: Decision | None = None) -> list[Probe]:
        """Return the probes that rules and decorators put on a function, outermost first."""
        if decision is None:
            decision = self.decide(module, qualname)
        if decision is None:
            kinds: tuple[str, ...] = ()
            found: list[Probe] = []
            none = False
        else:
            kinds, none = decision.kinds, decision.none
            found = self.probes_for(decision)
        decorated = self.decorations.get(f"{module}:{qualname}") if self.decorations else None
        if not decorated or none:
            return found
        for kind, options in decorated.items():
            if kind not in kinds:
                made = self._get(f"{module}:{qualname}", DECORATOR, kind, options)
                found += [made] if made.state in MEASURING else []
        return found

    def _probe(self, target: str, grant: Grant) -> Probe | None:
        self.matched_rules.add(grant.rule.index)
        return self._get(target, grant.rule.label, grant.kind, grant.options)

    def _get(self, target: str, rule: str, kind: str, options: dict[str, Any]) -> Probe:
        return self.made.get((target, kind)) or self.new_probe(target, rule, kind, options)

    def new_probe(self, target: str, rule: str, kind: str, options: dict[str, Any]) -> Probe:
        """Make and list a probe, or take over that of the policy before.

        One that can't measure yet is listed as disabled with the reason.
        """
        key = strategies.key_for(kind, options)
        built = strategies.is_built(key)
        strategy = self._strategy(key) if built else None
        known = self._taken_over(target, kind, strategy)
        if known is not None:
            made = known
            made.adopt(rule, options)
        else:
            made = Probe(target, rule, kind, strategy, options)
        if not built:
            made.state, made.reason = "disabled", f"{key} is not active in this version"
        elif options.get("enabled") is False:
            made.state, made.reason = "disabled", "enabled: false"
        self._limit(made)
        self.made[target, kind] = made
        if made.state == "installed" and made is not known:
            self.on_installed(made)
        return made

    def _limit(self, made: Probe) -> None:
        for_ns = made.options.get("for_ns")
        if for_ns is not None and self.policy is not None and made.state == "installed":
            turns.expire_at(made, self.policy.loaded_ns + for_ns)

    def meet(self, grant: Grant) -> None:
        """Make ready for probes of a grant, which are made later."""
        self.matched_rules.add(grant.rule.index)
        self.on_met(grant)

    def awaken(self, target: str, grant: Grant) -> Probe:
        """Return the probe of a function that has rested; one thread at a time asks."""
        made = self.made.get((target, grant.kind))
        if made is None:
            strategy = self._strategy(strategies.key_for(grant.kind, grant.options))
            made = Probe(target, grant.rule.label, grant.kind, strategy, grant.options)
            self._limit(made)
            self.made[target, grant.kind] = made
            self.on_woken(made)
        return made

    @property
    def probes(self) -> dict[tuple[str, str], Probe]:
        """Every probe; those of functions that were never called are made for it."""
        self.dormant.wake_all()
        return self.made

    def knows(self, target: str, grant: Grant) -> bool:
        """Tell whether there is a probe already, or one of an earlier policy that may have to be taken over."""
        if (target, grant.kind) in self.made or (target, grant.kind) in self._before:
            return True
        if not self.removed:
            return False
        key = strategies.key_for(grant.kind, grant.options)
        return (target, grant.kind, id(self._strategy(key))) in self.removed

    def _taken_over(self, target: str, kind: str, strategy: Any) -> Probe | None:
        """Return the probe that did the same under an earlier policy, if any."""
        before = self._before.get((target, kind)) if self._before else None
        if before is not None and before.strategy is strategy:
            return self._before.pop((target, kind), None)
        return self.removed.pop((target, kind, id(strategy)), None) if self.removed else None

    def begin_change(self, policy: Policy | None) -> None:
        """Go by another policy from here on; the probes there are wait to be taken over."""
        # Other threads import meanwhile: what they make from here on is the new policy's.
        self.dormant.begin_change()
        # What a change that a fault of ours cut short has left is still to be taken over, or to end.
        self._left_over += [each for key, each in self._before.items() if key in self.made]
        self.unfinished = (*self.unfinished, self.policy)[-_UNFINISHED_KEPT:]
        self._before, self.made = {**self._before, **self.made}, {}
        self.matched_rules = set()
        self.blocked = set()
        self.policy = policy

    def end_change(self) -> list[Probe]:
        """Let go of the probes that nothing has taken over; return them."""
        gone = [*self._left_over, *self._before.values()]
        for each in gone:
            turns.end(each, "no rule of the policy in force names it")
            self.removed[each.target, each.policy, id(each.strategy)] = each
        self._left_over, self._before, self.unfinished = [], {}, ()
        while len(self.removed) > REMOVED_LISTED:
            self.removed.pop(next(iter(self.removed)), None)
        return gone

    def known_gates(self) -> list[Gate]:
        """Return every gate there is, those without a probe included where a wrapper keeps them."""
        found = {id(each): each for each in self._wrapped.values()}
        for probe in [*self.made.values(), *self._before.values(), *self._left_over]:
            for each in probe.gates:
                found[id(each)] = each
        return list(found.values())

    def rewrite_source(
        self, source: bytes | str, path: str, module: str, aliases: tuple[str, ...] = ()
    ) -> CodeType | None:
        """Return a module's code with the portable decorator on the chosen functions; None when none is."""
        from autoprof.rewrite.decorate import decorate_source

        policy = self.policy
        if policy is None:
            return None
        granted: dict[tuple[str, int], list[Probe]] = {}

        def wanted(qualname: str, line: int) -> bool:
            found = self.probes_for(policy.decide(module, qualname, aliases))
            if found:
                granted[qualname, line] = found
            return bool(found)

        def decorator(qualname: str, line: int) -> Callable[[Any], Any]:
            return lambda function: self._wrap_site(function, module, qualname, line, granted[qualname, line])

        code = decorate_source(source, path, wanted, decorator)
        return code if granted else None

    def module_executed(self, module: ModuleType) -> None:
        """Splice a module that its own loader executed (pytest's rewriting, typeguard), wrap what is written in C."""
        if type(module) is ModuleType and compiled.kind_of(module):
            name = module.__name__
            compiled.install(
                self,
                module,
                lambda found, qualname, granted: self._wrap_site(found, name, qualname, -2, granted),
            )
            return
        if self.backend != SPLICE:
            return
        from autoprof import live, living

        name = module.__name__
        live.install(self, living.functions_of(lambda each: each == name))

    def _wrap_site(self, found: Any, module: str, qualname: str, line: int, granted: Sequence[Probe]) -> Any:
        """Wrap what was found at a place; every closure made there shares the gate."""
        from autoprof.rewrite.decorate import is_generator_like, wrap

        def wrap_function(function: Any) -> Any:
            like = is_generator_like(function)
            code = getattr(function, "__code__", None) or _no_code.__code__
            key = f"{module}:{qualname}", line, id(code)
            gate = self._wrapped.get(key)
            if gate is None:
                gate = self.new_gate(None, module, qualname)
                gate.code = lambda: code
                gate.generator_like = like
                self._wrapped[key] = gate
            for each in granted:
                if each not in gate.probes:
                    each.add(gate)
            return wrap(function, gate)

        try:
            return wrap_inside(found, wrap_function)
        except Exception as error:
            guard.report("decorate", error)
            return found

    def decorate(self, function: Any, kind: str, options: dict[str, Any]) -> Any:
        """Be the decorator in the code: probe the function, return the same object where it can be spliced."""
        inner = plain_function(function)
        target = f"{inner.__module__}:{inner.__qualname__}"
        self.decorations.setdefault(target, {})[kind] = options
        gate = gate_of(inner.__code__) if isinstance(inner, FunctionType) else None
        if gate is not None:
            self.dormant.wake_surely((gate,))
        decision = self.policy.decide(inner.__module__, inner.__qualname__) if self.policy else None
        if decision is not None and (decision.none or any(each.kind == kind for each in decision.grants)):
            if decision.none and not any(each.kind == kind for each in decision.grants):
                return function
            if self.made.get((target, kind)) is not None:
                return function
        made = self.made.get((target, kind)) or self.new_probe(target, DECORATOR, kind, options)
        if made.state != "installed":
            return function
        if self.backend == SPLICE and isinstance(inner, FunctionType):
            from autoprof import live

            live.splice_function(self, inner, [made])
            return function
        return self._wrap_site(function, inner.__module__, inner.__qualname__, -1, [made])

    def all_gates(self) -> list[Gate]:
        """Return every gate that a probe of this installer stands behind."""
        seen: dict[int, Gate] = {}
        for each in list(self.made.values()):
            for gate in each.gates:
                seen[id(gate)] = gate
        for gate in self.dormant.gates.copy():
            seen[id(gate)] = gate
        return list(seen.values())


def _no_code() -> None:
    """Stand in for the function of a wrapper around C: strategies look for its code and find none."""


def _nothing(*what: object) -> None:
    """Stand in for the session's listener."""
