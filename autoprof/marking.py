"""Keep `types.coroutine` right for generator functions that have a gate.

It puts a changed copy of the code into the function, and the copy carries the same gate. Where the code it was made of
lives on, as it does for every closure, an open gate would run that one: a generator that can't be awaited. While gates
are in front of generator functions, the code of `types.coroutine` is ours and gives the copy a gate of its own; the
function object stays, so references taken earlier are covered too.
"""

from __future__ import annotations

import types
import weakref
from _functools import partial  # type: ignore[import-not-found]
from types import CodeType, FunctionType

from autoprof import calls, guard
from autoprof.gate import Gate, gate_of
from autoprof.inline import InlineGate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CO_ITERABLE_COROUTINE = 0x100
_HOOK = "hook"
_plain: CodeType | None = None
_copies: dict[int, tuple[Any, CodeType]] = {}
"""id of a code object → (weak reference to it, its marked copy with a gate of its own)."""


def install() -> None:
    """Watch over `types.coroutine`; again: nothing happens."""
    global _plain
    function: Any = types.coroutine
    if _plain is not None or type(function) is not FunctionType or function.__code__.co_freevars:
        return
    plain = function.__code__
    marker = FunctionType(plain, function.__globals__, plain.co_name, function.__defaults__)
    hook = partial(_mark, marker)
    template = _template.__code__
    function.__code__ = template.replace(
        co_consts=tuple([hook if each == _HOOK else each for each in template.co_consts]),
        co_name=plain.co_name,
        co_qualname=plain.co_qualname,
        co_filename=plain.co_filename,
        co_firstlineno=plain.co_firstlineno,
    )
    _plain = plain


def uninstall() -> None:
    """Give `types.coroutine` its code back, unless somebody else has changed it since."""
    global _plain
    function: Any = types.coroutine
    if _plain is not None and any(type(each) is partial for each in function.__code__.co_consts):
        function.__code__ = _plain
    _plain = None
    _copies.clear()


def _template(func: Any) -> Any:
    hook: Any = "hook"
    return hook(func)


def _mark(marker: Any, function: Any) -> Any:
    """Be `types.coroutine`: apply it, then see that the function runs what it was given."""
    code = function.__code__ if type(function) is FunctionType else None
    gate = gate_of(code) if code is not None else None
    marked = marker(function)
    if gate is not None and code is not None and function.__code__ is not code:
        try:
            function.__code__ = _with_own_gate(gate, code, function.__code__)
        except Exception as error:
            guard.report("types.coroutine", error)
    return marked


def _with_own_gate(gate: Gate, code: CodeType, copy: CodeType) -> CodeType:
    """Return the copy with a gate of its own and the same probes; one for all closures of a code object."""
    known = _copies.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    if gate.begin is calls.waken:
        calls.on_waken(gate)
    original = gate.original  # always kept of what is generator-like
    measures = gate.begin is calls.first or gate.begin is calls.begin
    if not measures or not isinstance(gate, InlineGate) or not isinstance(original, CodeType):
        return copy
    fresh = InlineGate(calls.first, gate.finish, gate.unwind)
    fresh.original = original.replace(co_flags=original.co_flags | CO_ITERABLE_COROUTINE)
    fresh.module, fresh.qualname = gate.module, gate.qualname
    fresh.generator_like = True
    swapped = {id(gate): fresh, id(gate.countdown): fresh.countdown}
    gated = copy.replace(co_consts=tuple([swapped.get(id(each), each) for each in copy.co_consts]))
    fresh.code = weakref.ref(gated)
    for each in gate.probes:
        each.add(fresh)
    key = id(code)
    _copies[key] = (weakref.ref(code, lambda _: _copies.pop(key, None)), gated)
    return gated
