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
    """Have this call run unmeasured; the last thing `begin` does, as `Gate.arm` is.

    A plain function's body runs in place. That of a generator-like one must not: RETURN_GENERATOR makes room by the
    function's code (`make_gen`, Objects/genobject.c), and another thread may have given the function a smaller one
    while we were in Python code. It runs in a call of its own instead, of a function that nobody else knows.
    """
    call = stand_in(gate_) if gate_.generator_like else None
    if call is not None and has_gate(call.code, gate_):
        if not gate_.arm(1):
            gate_.used -= 1
    else:
        gate_.arm(0)
    return call


def stand_in(gate_: Gate) -> Flight | None:
    """Return what the prologue takes for a call in flight, to run a generator-like body unmeasured.

    It runs the code that the function has by now; None if that has another signature than the prologue expects.
    """
    if gate_.original is None:
        return None  # a wrapper of the portable back end: nothing is made in place there
    owner = gate_.owner() if gate_.owner is not None else None
    code = owner.__code__ if owner is not None else gate_.code() if gate_.code is not None else None
    if code is None or _signature(code) != _signature(gate_.original):
        return None
    call = Flight()
    call.code = code
    call.gate = gate_
    call.probes = ()
    call.ident = call.started_ns = call.entered_ns = call.samples = call.limit_ns = 0
    call.generation = flight.generation
    call.caller = call.function = call.living = call.watches = call.states = call.result = call.stacks = None
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


def overtaken(gate_: Gate) -> Flight | None:
    """Run the body with the tick that this call has: another thread found the gate open too and was faster."""
    call = stand_in(gate_) if gate_.generator_like else None
    if call is not None and has_gate(call.code, gate_):
        gate_.used -= 1  # the inner call takes a tick of its own
    return call
