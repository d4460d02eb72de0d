"""Calls that found the gate open and are not measured: how their body runs all the same."""

from __future__ import annotations

from autoprof import flight
from autoprof.flight import Flight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

    from autoprof.gate import Gate

_SIGNATURE_FLAGS = 0x4 | 0x8 | 0x20 | 0x80 | 0x200
"""`*args`, `**kwargs`, and what kind of generator-like function it is."""


def decline(gate_: Gate) -> Flight | None:
    """Have a call that has not been counted yet run unmeasured; the last thing `begin` does."""
    gate_.claim()
    return run_in_place(gate_)


def run_in_place(gate_: Gate) -> Flight | None:
    """Run the body of a call that is counted: as one of the gap, or by `Gate.claim`."""
    return in_place(gate_) if gate_.generator_like else None


def in_place(gate_: Gate) -> Flight | None:
    """Return None if a generator-like body may run in place, else what makes it run in a call of its own.

    RETURN_GENERATOR makes room by the *function's* code (`make_gen`, Objects/genobject.c). While we were in Python code
    another thread may have given the function a smaller one: the generator would then write behind its end. The last
    line looks, and nothing switches threads between it and RETURN_GENERATOR.
    """
    owner = gate_.owner() if gate_.owner is not None else None
    code = gate_.code() if gate_.code is not None else None
    call = stand_in(gate_)
    if call is None:
        return None
    tick = int(has_gate(call.code, gate_))
    gate_.used -= tick  # the inner call counts, not this one; taken back if there is none
    if not gate_.withdrawn and (owner is None or owner.__code__ is code):
        gate_.used += tick
        return None
    return call


def stand_in(gate_: Gate) -> Flight | None:
    """Return what the prologue takes for a call in flight, to run a generator-like body unmeasured.

    It runs the code that the function has by now; None if that has another signature than the prologue expects.
    """
    original = gate_.original
    if original is None:
        return None  # a wrapper of the portable back end: nothing is made in place there
    owner = gate_.owner() if gate_.owner is not None else None
    code = owner.__code__ if owner is not None else gate_.code() if gate_.code is not None else None
    if code is None or isinstance(original, int) or _signature(code) != _signature(original):
        return None
    call = Flight()
    call.code = code
    call.gate = gate_
    call.probes = ()
    call.ident = call.started_ns = call.entered_ns = call.samples = call.suspended_ns = call.limit_ns = 0
    call.generation = flight.generation
    call.caller = call.function = call.living = call.watches = call.states = call.result = call.stacks = None
    call.weights = None
    call.done = True
    return call


def _signature(code: CodeType) -> tuple[object, ...]:
    kinds = code.co_flags & _SIGNATURE_FLAGS
    named = code.co_argcount + code.co_kwonlyargcount
    return (code.co_argcount, code.co_kwonlyargcount, kinds, code.co_varnames[:named], code.co_freevars)


def has_gate(code: CodeType, gate_: Gate) -> bool:
    """Tell whether a code object has this gate in front."""
    for each in code.co_consts:  # noqa: SIM110 - a generator expression is one level of recursion more
        if each is gate_:
            return True
    return False
