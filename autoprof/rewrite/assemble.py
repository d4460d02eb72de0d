"""Bytes of a code object: instructions, exception table, location table.

Source: `Objects/exception_handling_notes.txt`, `Objects/locations.md` of CPython.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoprof.rewrite.table import CACHE_UNITS, OPCODES, Instruction

LABEL = "label"
_EXTENDED = OPCODES["EXTENDED_ARG"]

ExceptionEntry = tuple[int, int, int, int]
"""Start, length, target (in units of two bytes), and depth << 1 | keep-last-instruction."""


def _argument_units(argument: int) -> int:
    return 1 if argument < 256 else (argument.bit_length() + 7) >> 3


def _layout(instructions: Sequence[Instruction], sizes: list[int]) -> tuple[dict[str, int], list[int]]:
    labels: dict[str, int] = {}
    ends: list[int] = []
    position = 0
    for (name, argument), size in zip(instructions, sizes, strict=True):
        if name == LABEL:
            labels[str(argument)] = position
        position += size
        ends.append(position)
    return labels, ends


def assemble(instructions: Sequence[Instruction]) -> tuple[bytes, dict[str, int], list[int]]:
    """Return the bytes of the instructions, the unit of each label, and the unit after each instruction.

    A string argument is a forward jump to that label; jumps and arguments of any length get their
    EXTENDED_ARGs (sizes only grow, so the relaxation ends).
    """
    sizes = []
    for name, argument in instructions:
        if name == LABEL:
            sizes.append(0)
        else:
            sizes.append(CACHE_UNITS[name] + (1 if isinstance(argument, str) else _argument_units(argument)))
    while True:
        labels, ends = _layout(instructions, sizes)
        grown = False
        for index, (name, argument) in enumerate(instructions):
            if name != LABEL and isinstance(argument, str):
                needed = CACHE_UNITS[name] + _argument_units(labels[argument] - ends[index])
                if needed > sizes[index]:
                    sizes[index] = needed
                    grown = True
        if not grown:
            break
    out = bytearray()
    for (name, argument), size, end in zip(instructions, sizes, ends, strict=True):
        if name == LABEL:
            continue
        value = labels[argument] - end if isinstance(argument, str) else argument
        cache = CACHE_UNITS[name]
        for place in range(size - cache - 1, 0, -1):
            out += bytes((_EXTENDED, (value >> (8 * place)) & 255))
        out += bytes((OPCODES[name], value & 255)) + b"\0\0" * cache
    return bytes(out), labels, ends


def parse_exception_table(table: bytes) -> list[ExceptionEntry]:
    """Return the entries of an exception table."""
    if not table:
        return []
    values: list[int] = []
    value = 0
    for byte in table:
        value = value << 6 | byte & 63
        if not byte & 64:
            values.append(value)
            value = 0
    return list(zip(values[0::4], values[1::4], values[2::4], values[3::4], strict=True))


def _varint(value: int, out: bytearray, mark: int) -> None:
    shift = 0
    while value >> (shift + 6):
        shift += 6
    while shift:
        out.append(mark | 64 | value >> shift & 63)
        mark = 0
        shift -= 6
    out.append(mark | value & 63)


def build_exception_table(entries: Sequence[ExceptionEntry]) -> bytes:
    """Return the table of entries that are sorted by start; the first byte of each is marked."""
    out = bytearray()
    for start, length, target, depth in entries:
        _varint(start, out, 128)
        _varint(length, out, 0)
        _varint(target, out, 0)
        _varint(depth, out, 0)
    return bytes(out)


def shift_exception_table(table: bytes, units: int) -> bytes:
    """Return the table of a body that `units` were put in front of."""
    entries = parse_exception_table(table)
    return build_exception_table(
        [(start + units, size, target + units, depth) for start, size, target, depth in entries]
    )


def blank_locations(units: int) -> bytes:
    """Return location entries of the kind "no location" (15), at most 8 units each."""
    whole, rest = divmod(units, 8)
    return b"\xff" * whole + (bytes((0xF8 | rest - 1,)) if rest else b"")
