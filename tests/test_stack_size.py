"""The data stack of a rewritten function: as deep as its deepest place, by the compiler's own reckoning, and no deeper.

Too small a stack is silent until a frame ends where a chunk of the data stack ends; too large a one makes every call of
every rewritten function touch more of the processor's cache.
"""

from __future__ import annotations

import itertools
import sys
from _opcode import stack_effect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest

from autoprof import calls, ends, stopwatch
from autoprof.gate import Gate, TimedGate
from autoprof.inline import InlineGate
from autoprof.rewrite.assemble import parse_exception_table
from autoprof.rewrite.splice import Unspliceable, splice
from autoprof.rewrite.table import CACHE_UNITS, JUMPS, OPCODES
from tests import stdlib_codes

if sys.version_info >= (3, 12):
    from opcode import hasarg
else:
    from opcode import HAVE_ARGUMENT

    hasarg = range(HAVE_ARGUMENT, 256)

NAMES = {number: name for name, number in OPCODES.items()}
ENDS = ("RETURN_VALUE", "RETURN_CONST", "RERAISE", "RAISE_VARARGS", "JUMP_FORWARD", "JUMP_BACKWARD")
ENDS += ("JUMP_BACKWARD_NO_INTERRUPT", "INTERPRETER_EXIT")
NEVER_FALLS_THROUGH = {OPCODES[name] for name in ENDS if name in OPCODES}


def instructions(code: CodeType) -> dict[int, tuple[int, int, int]]:
    """Return first unit → opcode, argument, unit after it."""
    raw = code.co_code
    found: dict[int, tuple[int, int, int]] = {}
    unit = first = extended = 0
    while unit < len(raw) >> 1:
        opcode, argument = raw[2 * unit], raw[2 * unit + 1] | extended
        unit += 1
        if opcode == OPCODES["EXTENDED_ARG"]:
            extended = argument << 8
            continue
        unit += CACHE_UNITS.get(NAMES[opcode], 0)
        found[first] = opcode, argument, unit
        first, extended = unit, 0
    return found


def deepest(code: CodeType) -> int:
    """Return how many values the stack holds at most, following every jump and every handler."""
    found = instructions(code)
    entries = parse_exception_table(code.co_exceptiontable)
    depths: dict[int, int] = {}
    waiting = [(0, 0)]
    most = 0
    while waiting:
        unit, depth = waiting.pop()
        if depth <= depths.get(unit, -1):
            continue
        depths[unit] = depth
        opcode, argument, after = found[unit]
        given = argument if opcode in hasarg else None
        most = max(most, depth, depth + stack_effect(opcode, given))
        for start, length, target, kept in entries:
            if start < after and unit < start + length:
                waiting.append((target, (kept >> 1) + (kept & 1) + 1))
        if opcode in JUMPS:
            waiting.append((after + JUMPS[opcode] * argument, depth + stack_effect(opcode, given, jump=True)))
        if opcode not in NEVER_FALLS_THROUGH:
            waiting.append((after, depth + stack_effect(opcode, given, jump=False)))
    return most


def gate_for(kind: str) -> Gate:
    if kind == "timed":
        return TimedGate(calls.begin, ends.finish, ends.unwind, stopwatch.slow, stopwatch.slow_raised)
    return InlineGate(calls.begin, ends.finish, ends.unwind)


def shaped(args: int, keywords: int, star: bool, starstar: bool, free: int, body: str = "pass") -> CodeType:
    """Return the code of a function of a signature."""
    parameters = [f"a{number}" for number in range(args)]
    if star or keywords:
        parameters.append("*rest" if star else "*")
    parameters += [f"k{number}" for number in range(keywords)]
    if starstar:
        parameters.append("**more")
    cells = [f"c{number}" for number in range(free)]
    lines = [f"def outer({', '.join(cells)}):", f"    def f({', '.join(parameters)}):", f"        {body}"]
    lines += [f"        {cell}" for cell in cells]
    namespace: dict[str, Any] = {}
    exec("\n".join([*lines, "    return f"]), namespace)
    made: FunctionType = namespace["outer"](*cells)
    return made.__code__


SIGNATURES = list(
    itertools.product((0, 1, 2, 3, 6), (0, 1, 2, 5), (False, True), (False, True), (0, 1, 2, 11))
)


@pytest.mark.parametrize("kind", ["plain", "generator", "timed"])
def test_the_stack_is_as_deep_as_the_signature_needs(kind: str) -> None:
    for signature in SIGNATURES:
        code = shaped(*signature, "yield 1" if kind == "generator" else "pass")
        new = splice(code, gate_for(kind))
        needed = deepest(new)
        assert needed <= new.co_stacksize <= needed + 4, (signature, needed, new.co_stacksize)


def functions() -> Iterator[CodeType]:
    """Yield functions of every kind of body."""
    for _, _, module in stdlib_codes.chosen(7):
        for code in stdlib_codes.inner_codes(module):
            if code.co_flags & 0x3 == 0x3 and not code.co_flags & 0x2A0:
                yield code


@pytest.mark.skipif(sys.platform == "emscripten", reason="no sources of the standard library in WebAssembly")
@pytest.mark.parametrize("kind", ["plain", "timed"])
def test_no_body_of_the_standard_library_gets_too_small_a_stack(kind: str) -> None:
    seen = 0
    for code in functions():
        own = deepest(code)
        assert own <= code.co_stacksize <= own + 1, f"the reckoning here is not the compiler's: {code}"
        try:
            new = splice(code, gate_for(kind))
        except Unspliceable:
            continue
        seen += 1
        assert deepest(new) <= new.co_stacksize, code
        assert new.co_stacksize <= max(code.co_stacksize + (kind == "timed"), deepest(new) + 4), code
    assert seen > 500
