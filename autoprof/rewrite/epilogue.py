"""Tell the gate of an exception that leaves a generator-like body.

The prologue is over when a coroutine or generator has been made; how its body ends is seen from outside only for
returns (the inner function object dies with the frame). For exceptions a handler stands behind the body's own: it
covers what no other handler covers, asks `gate.raised`, which is None unless a call of this gate is being followed,
and raises on with the last instruction as it was. No instruction of the body changes.
"""

from __future__ import annotations

from autoprof.rewrite import table
from autoprof.rewrite.assemble import LABEL, ExceptionEntry, assemble
from autoprof.rewrite.table import CACHE_UNITS, OPCODES, Instruction

_LAST_INSTRUCTION_KEPT = 1
_RESUME = OPCODES["RESUME"]
_CACHES = {OPCODES[name]: units for name, units in CACHE_UNITS.items()}


def handler(const: int, name: int) -> tuple[bytes, dict[str, int]]:
    """Return the handler's bytes and labels: [last instruction, exception] → the same exception again.

    Args:
        const: index of the gate among the constants.
        name: index of `raised` among the names.
    """
    swap: list[Instruction] = [("PUSH_NULL", 0)] if table.NULL_LAST else [("PUSH_NULL", 0), ("SWAP", 2)]
    code, labels, _ = assemble(
        [
            ("PUSH_EXC_INFO", 0),
            ("LOAD_CONST", const),
            ("LOAD_ATTR", name << table.ATTR_SHIFT),
            ("COPY", 1),
            (table.JUMP_IF_NONE, "nobody"),
            (LABEL, "telling"),
            *swap,
            ("LOAD_CONST", const),
            ("COPY", 4),
            *table.call(2),
            ("NOP", 0),
            (LABEL, "nobody"),
            ("POP_TOP", 0),
            ("SWAP", 2),
            ("POP_EXCEPT", 0),
            ("RERAISE", 1),
            (LABEL, "failed"),
            ("SWAP", 2),
            ("POP_EXCEPT", 0),
            ("RERAISE", 1),
        ]
    )
    return code, labels


def first_resume(raw: bytes) -> int | None:
    """Return the unit of a body's first RESUME; None when there is none."""
    unit = 0
    while 2 * unit < len(raw):
        opcode = raw[2 * unit]
        if opcode == _RESUME:
            return unit
        unit += 1 + _CACHES.get(opcode, 0)
    return None


def fill_gaps(
    entries: list[ExceptionEntry], start: int, end: int, target: int, depth: int = 0
) -> list[ExceptionEntry]:
    """Return the entries plus ones to `target` for every unit from `start` to `end` that none of them covers.

    Args:
        entries: sorted by start, without overlap, as the compiler writes them.
        depth: of the stack that the handler finds.
    """
    kept = depth << 1 | _LAST_INSTRUCTION_KEPT
    filled: list[ExceptionEntry] = []
    position = start
    for entry in entries:
        if entry[0] > position:
            filled.append((position, entry[0] - position, target, kept))
        filled.append(entry)
        position = max(position, entry[0] + entry[1])
    if end > position:
        filled.append((position, end - position, target, kept))
    return filled


def failing_entry(labels: dict[str, int], base: int) -> ExceptionEntry:
    """Return the entry for an interrupt inside `raised`: the stack keeps [last instruction, previous exception]."""
    return (base + labels["telling"], labels["nobody"] - labels["telling"], base + labels["failed"], 2 << 1)
