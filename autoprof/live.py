"""Splice functions that exist already, and give every function its original code back.

One assignment of `f.__code__` ends call-site specialisation for that function on 3.13 and later (31 → 36 ns a call):
what a rule names is spliced at import wherever possible, this is for the rest.
"""

from __future__ import annotations

import sys
import weakref
from types import CodeType, FunctionType

from autoprof import calls, guard, turns
from autoprof import probe as probes
from autoprof.declining import decline
from autoprof.gate import gate_of
from autoprof.rewrite.splice import Unspliceable, splice
from autoprof.rewrite.tree import is_function, rewrite_tree
from autoprof.rewrite.unsplice import unsplice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from autoprof.flight import Flight
    from autoprof.gate import Gate
    from autoprof.installer import Installer
    from autoprof.policy import Decision
    from autoprof.probe import Probe

_spliced: dict[int, tuple[Any, CodeType]] = {}
"""id of an original → (weak reference to it, spliced code): closures decorated one by one share a gate."""

_containers: dict[int, tuple[Any, CodeType]] = {}
"""id of a code whose inner functions were spliced → (weak reference to it, the original)."""


def install(installer: Installer, functions: Sequence[FunctionType]) -> int:
    """Splice what the policy grants among functions that exist already; return how many got new code.

    Functions made by `exec` (a dataclass's `__init__`) are left alone.
    """
    if installer.policy is None:
        return 0
    replaced: dict[int, tuple[CodeType, CodeType]] = {}
    ordered = sorted(functions, key=lambda each: "<locals>" in each.__code__.co_qualname)
    count = 0
    for function in ordered:
        code = current_code(function)
        if code.co_filename.startswith("<") or gate_of(code) is not None:
            continue
        try:
            new = replacement(installer, function.__globals__["__name__"], code, replaced, {})
            if new is not code:
                copy_local_events(code, new)
                function.__code__ = new
                count += 1
        except Exception as error:
            guard.report("live splice", error)
    return count


def replacement(
    installer: Installer,
    module: str,
    code: CodeType,
    replaced: dict[int, tuple[CodeType, CodeType]],
    decisions: dict[tuple[str, str], Decision | None],
) -> CodeType:
    """Return the new code of a function, the same for every closure made of it.

    Args:
        replaced: what was replaced by what already.
        decisions: those that are known, by module and qualified name.
    """
    known = replaced.get(id(code))
    if known is not None:
        return known[1]
    if not is_function(code):
        return code

    def one(inner: CodeType, original: CodeType, qualname: str) -> CodeType | None:
        decision = decisions.get((module, qualname))
        new = installer.splice_granted(inner, original, module, qualname, decision=decision)
        replaced[id(original)] = (original, new or inner)
        return new

    inside = rewrite_tree(code, one)
    new = one(inside, code, code.co_qualname) or inside
    if new is not code and gate_of(new) is None:
        _remember(_containers, new, code)
    return new


def current_code(function: FunctionType) -> CodeType:
    """Return a function's code, after taking off what a session that is over has left on it."""
    gate = gate_of(function.__code__)
    if gate is not None and gate.begin is declines and gate.original is not None:
        function.__code__ = original_of(function.__code__)
    return function.__code__


def declines(gate: Gate) -> Flight | None:
    """Be `begin` of a gate whose session is over: frames of its code may still be alive."""
    return decline(gate)


def forget() -> None:
    """Forget what was spliced for a session that is over, and the session itself."""
    calls.on_first_call, calls.on_roused, calls.on_waken = calls.nobody, calls.nobody_roused, calls.nobody
    _spliced.clear()
    _containers.clear()


def _remember(table: dict[int, tuple[Any, CodeType]], key: CodeType, value: CodeType) -> None:
    number = id(key)
    table[number] = (weakref.ref(key, lambda _: table.pop(number, None)), value)


def _recall(table: dict[int, tuple[Any, CodeType]], key: CodeType) -> CodeType | None:
    known = table.get(id(key))
    return known[1] if known is not None and known[0]() is key else None


def splice_function(installer: Installer, function: FunctionType, granted: Iterable[Probe]) -> None:
    """Put probes on one function that exists already: the decorator's way.

    Raises:
        Unspliceable: its code has a shape that the prologue was not verified on.
    """
    granted = list(granted)
    timed = any(each.policy == probes.IF_SLOW for each in granted)
    code = current_code(function)
    gate = gate_of(code)
    if gate is not None:
        installer.dormant.wake_surely((gate,))
    before = gate
    if (
        gate is not None
        and timed
        and not gate.timed
        and not gate.generator_like
        and gate.original is not None
    ):
        # The stopwatch is in the body: spliced anew, for all the probes.
        code, gate = original_of(code), None
    if gate is None:
        spliced = _recall(_spliced, code)
        if spliced is None or (timed and not _is_timed(spliced)):
            spliced = _splice_alone(installer, function, code, timed)
        gate = gate_of(spliced)
        if gate is None:
            raise Unspliceable("the gate is missing from the new code")
        copy_local_events(code, spliced)
        function.__code__ = spliced
    if before is not None and before is not gate:
        _put_behind(gate, before.probes)
    _put_behind(gate, granted)
    if "<locals>" not in function.__qualname__:
        gate.owner = weakref.ref(function)


def _is_timed(code: CodeType) -> bool:
    gate = gate_of(code)
    return gate is not None and (gate.timed or gate.generator_like)


def _splice_alone(installer: Installer, function: FunctionType, code: CodeType, timed: bool) -> CodeType:
    gate = installer.new_gate(code, function.__module__, function.__qualname__, timed)
    spliced = splice(code, gate)
    gate.code = weakref.ref(spliced)
    if "<locals>" in code.co_qualname:
        # The enclosing function's constants keep the original alive, and the entry goes with it.
        _remember(_spliced, code, spliced)
    return spliced


def _put_behind(gate: Gate, granted: Iterable[Probe]) -> None:
    added = False
    for each in granted:
        if gate not in each.gates:
            each.add(gate)
            added = True
    if added and gate.begin is not calls.first:
        turns.retune(gate)


def copy_local_events(old: CodeType, new: CodeType) -> None:
    """Keep what other tools asked `sys.monitoring` to tell them about this code."""
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None:
        return
    for tool in range(6):
        if monitoring.get_tool(tool) is not None:
            wanted = monitoring.get_local_events(tool, old)
            if wanted:
                monitoring.set_local_events(tool, new, wanted)


def restore(functions: Iterable[FunctionType]) -> int:
    """Give every function among these its original code back; return how many had another."""
    count = 0
    for each in functions:
        code = each.__code__
        original = original_of(code)
        if original is not code:
            gate = gate_of(code)
            if gate is not None:
                gate.withdrawn = True  # before: see `declining.in_place`
            copy_local_events(code, original)
            each.__code__ = original
            count += 1
    return count


def original_of(code: CodeType) -> CodeType:
    """Return the code as it was before us; the very object where it was a function's code then."""
    gate = gate_of(code)
    if gate is not None:
        return (original_behind(gate, code) if gate.code is not None else None) or code
    kept = _recall(_containers, code)
    return kept if kept is not None else rewrite_tree(code, _original_inside)


def original_behind(gate: Gate, code: CodeType | None = None) -> CodeType | None:
    """Return the code that a gate was put in front of, the same object each time; None where there was none.

    Args:
        code: one that has the gate, for when the gate's own is gone.
    """
    kept = gate.original
    if isinstance(kept, int):
        spliced = (gate.code() if gate.code is not None else None) or code
        if spliced is None:
            return None
        kept = gate.original = rewrite_tree(unsplice(spliced, gate, kept), _original_inside)
    return kept


def _original_inside(inner: CodeType, was: CodeType, qualname: str) -> CodeType | None:
    gate = gate_of(was)
    return original_behind(gate, was) if gate is not None else None
