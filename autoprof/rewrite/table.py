"""What differs between CPython versions in a prologue: opcodes, caches, calling sequence.

Source: `Lib/opcode.py`, `Python/bytecodes.c` and `Objects/frame_layout` of CPython 3.11 to 3.15.
"""

from __future__ import annotations

import sys
from opcode import hasjrel, opmap

OPCODES: dict[str, int] = dict(opmap)
VERSION = sys.version_info[:2]
VERIFIED = ((3, 11), (3, 12), (3, 13), (3, 14), (3, 15))

try:
    from opcode import _inline_cache_entries as _entries  # type: ignore[attr-defined]
except ImportError:  # pragma: no cover - another interpreter: the portable back end is chosen
    _entries = {}


def _cache_units(name: str) -> int:
    # A list by opcode up to 3.12, a mapping by name after (from 3.15 a frozendict, which is no dict).
    if isinstance(_entries, list):
        return int(_entries[OPCODES[name]])
    return int(_entries.get(name, 0))


CACHE_UNITS = {name: _cache_units(name) for name in OPCODES if OPCODES[name] < 256}

PY311 = VERSION == (3, 11)
NULL_LAST = VERSION >= (3, 13)
"""From 3.13 a call wants the callable first and NULL after it; before, NULL first."""

ATTR_SHIFT = 1 if VERSION >= (3, 12) else 0
"""From 3.12 bit 0 of LOAD_ATTR's argument asks for a method lookup."""

Instruction = tuple[str, "int | str"]

if VERSION >= (3, 14):
    CLOSED: tuple[Instruction, ...] = (("POP_TOP", 0), ("POP_ITER", 0))
    OPEN: tuple[Instruction, ...] = (("END_FOR", 0), ("POP_ITER", 0))
elif VERSION == (3, 13):
    CLOSED = (("POP_TOP", 0), ("POP_TOP", 0))
    OPEN = (("END_FOR", 0), ("POP_TOP", 0))
elif VERSION == (3, 12):
    CLOSED = (("END_FOR", 0),)  # takes both
    OPEN = (("END_FOR", 0),)
else:
    CLOSED = (("POP_TOP", 0), ("POP_TOP", 0))
    OPEN = ()

ITERATOR_DONE: tuple[Instruction, ...] = (("POP_ITER", 0),) if VERSION >= (3, 14) else (("POP_TOP", 0),)
"""Takes an iterator off the stack whose value is gone already."""

MAKE_FUNCTION_OVERDRAWS = VERSION in ((3, 12), (3, 13))
"""There MAKE_FUNCTION gives its code object back twice when it finds no memory for the function."""

ITER_NEEDS_NULL = VERSION >= (3, 15)
"""In 3.15 an iterator takes two stack slots."""

if ITER_NEEDS_NULL:
    TAKE_VALUE: tuple[Instruction, ...] = (("SWAP", 3), ("SWAP", 2), ("POP_ITER", 0))
elif VERSION >= (3, 14):
    TAKE_VALUE = (("SWAP", 2), ("POP_ITER", 0))
else:
    TAKE_VALUE = (("SWAP", 2), ("POP_TOP", 0))
"""Takes the iterator from beneath the value that FOR_ITER has pushed."""

SUBTRACT, ADD = ("BINARY_OP", 10), ("BINARY_OP", 0)
if VERSION >= (3, 13):
    AT_LEAST: Instruction = ("COMPARE_OP", 5 << 5 | 16 | 12)
elif VERSION == (3, 12):
    AT_LEAST = ("COMPARE_OP", 5 << 4 | 12)
else:
    AT_LEAST = ("COMPARE_OP", 5)
"""`>=`; from 3.12 the low four bits say which comparisons are true for it (8 equal, 4 greater)."""

JUMP_IF_NONE = "POP_JUMP_FORWARD_IF_NONE" if PY311 else "POP_JUMP_IF_NONE"
JUMP_IF_NOT_NONE = "POP_JUMP_FORWARD_IF_NOT_NONE" if PY311 else "POP_JUMP_IF_NOT_NONE"
JUMP_IF_FALSE = "POP_JUMP_FORWARD_IF_FALSE" if PY311 else "POP_JUMP_IF_FALSE"
LOAD_CELL = "LOAD_FAST" if VERSION >= (3, 13) else "LOAD_CLOSURE"
TUPLE_FROM_LIST: Instruction = ("LIST_TO_TUPLE", 0) if PY311 else ("CALL_INTRINSIC_1", 6)
CALL_EX_FLAG = 1 if VERSION < (3, 14) else 0
"""Up to 3.13 the flag says that a mapping is there; from 3.14 the mapping's slot always is."""

JUMPS = {
    OPCODES[name]: -1 if "BACKWARD" in name else 1
    for name in OPCODES
    if OPCODES[name] in hasjrel and OPCODES[name] < 256
}
"""Opcode of each relative jump → its direction."""

BODY_STARTS = frozenset(
    OPCODES[name] for name in ("MAKE_CELL", "RETURN_GENERATOR", "RESUME") if name in OPCODES
)


def call(argument_count: int) -> list[Instruction]:
    """Return the call of a callable already on the stack."""
    if PY311:
        return [("PRECALL", argument_count), ("CALL", argument_count)]
    return [("CALL", argument_count)]


def callee(*load: Instruction) -> list[Instruction]:
    """Return the loading of a callable, with its NULL on the right side."""
    return [*load, ("PUSH_NULL", 0)] if NULL_LAST else [("PUSH_NULL", 0), *load]


def take_local(index: int) -> list[Instruction]:
    """Return the move of a local to the stack: the outer frame must not keep arguments alive."""
    if PY311:
        return [("LOAD_FAST", index), ("DELETE_FAST", index)]
    return [("LOAD_FAST_AND_CLEAR", index)]
